"""Whose video a subject is, endings of cameras, names in other scripts, and names that look like something else."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dnerf.core import DnerfError, InputError, MissingError, read_json, sha256, write_json
from dnerf.subject import Subject, subject_name, toy_subject, write_wav
from dnerf.video import prepare as module
from dnerf.video.media import count_frames, read_audio, write_video
from dnerf.video.prepare import METHOD, prepare
from dnerf.video.sources import open_subject


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", np.zeros((60, 64, 64, 3), np.uint8), wav=np.zeros(60 * 640))


@pytest.fixture
def home(dnerf_home, monkeypatch):
    "A home in which preparing a video writes a toy subject that says of which file it was made."

    def make(folder, video, info, name, want, asked, digest, *rest):
        toy_subject(folder, n=44)
        about = read_json(folder / "subject.json")
        write_json(folder / "subject.json", about | dict(name=name, source=dict(file=video.name, sha256=digest),
                                                         prepare=dict(method=METHOD, asked=asked, crop=[0, 0, 32])))
        return {}

    monkeypatch.setattr(module, "_make_files", make)
    monkeypatch.setattr(module, "report_text", lambda report: "prepared")
    return dnerf_home


def person(film, path, k=0):
    "A film of its own for each person: a byte behind the end, which players do not look at, makes another file."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(film.read_bytes() + bytes([k]))
    return path


def test_another_video_of_the_same_name_does_not_replace_a_subject(film, home, capsys):
    ann, ben = person(film, home / "a" / "me.mp4"), person(film, home / "b" / "me.mp4", 1)
    before = sha256(prepare(ann).folder / "subject.json")
    with pytest.raises(InputError, match="'me' already, and it was prepared from another video, 'me.mp4'; give .*--subject.*--force"):
        prepare(ben)
    with pytest.raises(InputError, match="another video"):
        prepare(ben, "me", size=64)
    assert sha256(home / "data" / "me" / "subject.json") == before
    prepare(ann)
    assert "already prepared" in capsys.readouterr().out
    assert prepare(ann, size=64).protocol["prepare"]["asked"] == 64        # the same person in another way
    assert prepare(ben, "ben").name == "ben"
    assert prepare(ben, force=True).protocol["source"]["sha256"] == sha256(ben)


def test_a_damaged_subject_is_prepared_again_from_its_own_video_only(film, home):
    ann, ben = person(film, home / "a" / "me.mp4"), person(film, home / "b" / "me.mp4", 1)
    folder = prepare(ann).folder
    for path, damage in (("frames.npy", b""), ("audio.wav", b"x"), ("subject.json", None)):
        if damage is None:
            write_json(folder / path, read_json(folder / path) | dict(focal=0))
        else:
            (folder / path).write_bytes(damage)
        with pytest.raises(DnerfError, match="prepare the subject again"):
            Subject.load("me")
        with pytest.raises(InputError, match="another video"):
            prepare(ben)
        assert prepare(ann).n_frames == 44
    (folder / "subject.json").write_text("{")
    with pytest.raises(InputError, match="is damaged, so that nobody knows"):
        prepare(ann)
    assert prepare(ann, force=True).n_frames == 44
    (folder / "notes").symlink_to("/etc")
    with pytest.raises(InputError, match="notes in .* is a link that leads out"):
        prepare(ann, size=64)


def test_an_outdated_subject_is_made_again_from_its_own_video_only(film, home):
    video = person(film, home / "data" / "me.mp4")
    made = open_subject("me")
    write_json(made.folder / "subject.json", made.protocol | dict(prepare=dict(method=1, asked=None, crop=[0, 0, 32])))
    person(film, video, 1)
    assert open_subject("me").protocol["prepare"]["method"] == 1           # as it is: the video is another
    person(film, video, 0)
    assert open_subject("me").protocol["prepare"]["method"] == METHOD


@pytest.mark.parametrize("file", ["IMG_1.MOV", "00001.MTS", "clip.m2ts", "GX010001.MP4", "a.b.3gp"])
def test_videos_of_cameras_are_found_by_name(film, home, file):
    person(film, home / "data" / file)
    name = file.rpartition(".")[0]
    assert open_subject(name).name == name
    shutil.rmtree(home / "data" / name)
    (home / "data" / name).mkdir()
    (home / "data" / file).rename(home / "data" / name / f"video.{file.rpartition('.')[2]}")
    assert open_subject(name).name == name


def test_names_in_other_scripts_are_other_subjects(film, home):
    stems = ["张三", "李四", "Владимир", "ملک", "Ann 张", "x" * 246, "y" * 246, os.fsdecode(b"caf\xe9"), "-x"]
    files = [f"{stem}.mp4" for stem in stems]
    names = {prepare(person(film, home / "in" / file, k)).name for k, file in enumerate(files)}
    assert len(names) == len(files) and all(len(name) <= 100 and name.isascii() for name in names)
    with pytest.raises(MissingError, match="to be prepared first, by dnerf prepare: 王五.mp4"):
        person(film, home / "data" / "王五.mp4")
        open_subject("wang")
    assert subject_name(home / "ann.mp4") == "ann"


ODD = "take:2.wav", "-x.wav", "~me.wav", "~.wav", "http:x.wav", "concat:a|b.wav", "%03d.wav", "a\nb.wav", "[x].wav", "x" * 250 + ".wav"


@pytest.mark.parametrize("name", [*ODD, "张三.wav", os.fsdecode(b"caf\xe9.wav")], ids=ascii)
def test_a_file_is_a_file_whatever_its_name(tmp_path, monkeypatch, name):
    "As a relative path, which FFmpeg would take for an address, an option or a pattern."
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "a.wav", np.zeros(16000))
    os.rename("a.wav", name)
    for path in (name, f"./{name}", tmp_path / name):
        assert len(read_audio(path)) == 16000


@pytest.mark.parametrize("name", ["take:2.mp4", "-x.mp4", "http:x.mp4", "%03d.mp4", "x" * 250 + ".mp4", "张三.mp4"], ids=ascii)
def test_a_video_is_written_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(Path(name), np.zeros((5, 32, 32, 3), np.uint8), wav=np.zeros(3200, np.float32))
    assert count_frames(Path(name)) == 5 and os.listdir() == [name]
