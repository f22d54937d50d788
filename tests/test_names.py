"""Whose video a subject is, endings of cameras, names in other scripts, and names that look like something else."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dnerf.cli import main
from dnerf.core import DnerfError, InputError, MissingError, read_json, sha256, write_json
from dnerf.subject import Subject, subject_name, toy_subject, write_wav
from dnerf.video import prepare as module
from dnerf.video import sources
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
    with pytest.raises(InputError, match="'me' already, and it was prepared from another video, 'me.mp4'; prepare .*--subject.*--force"):
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
    with pytest.raises(InputError, match="is damaged, so that its video cannot be told"):
        prepare(ann)
    assert prepare(ann, force=True).n_frames == 44
    (folder / "notes").symlink_to("/etc")
    with pytest.raises(InputError, match="notes in .* is a link that leads out"):
        prepare(ann, size=64)


def test_an_outdated_subject_is_made_again_from_its_own_video(film, home):
    person(film, home / "data" / "me.mp4")
    made = open_subject("me")
    write_json(made.folder / "subject.json", made.protocol | dict(prepare=dict(method=1, asked=None, crop=[0, 0, 32])))
    assert open_subject("me").protocol["prepare"]["method"] == METHOD


@pytest.mark.parametrize("stamped", [True, False])
def test_a_subject_whose_video_was_replaced_is_not_opened_as_if_it_were_the_new_one(film, home, stamped):
    "Size and time of the file are compared first, where the subject has them; else its content."
    video = person(film, home / "data" / "me.mp4")
    made = open_subject("me")
    if stamped:
        write_json(made.folder / "subject.json", made.protocol | dict(source=made.protocol["source"] | sources.file_stamp(video)))
    before = sha256(made.folder / "subject.json")
    assert open_subject("me").name == "me"
    os.utime(video, (1, 1))                                                # copied
    assert open_subject("me").name == "me"
    for k, more in ((1, b""), (0, b"more")):
        video.write_bytes(person(film, video, k).read_bytes() + more)
        with pytest.raises(InputError, match="another video, 'me.mp4'; prepare .*--subject.*--force.* or move it away to go on"):
            open_subject("me")
    assert sha256(made.folder / "subject.json") == before
    video.unlink()
    assert open_subject("me").name == "me"


def test_a_video_that_did_not_change_is_not_read_again(film, home, monkeypatch):
    video = person(film, home / "data" / "me.mp4")
    made = open_subject("me")
    write_json(made.folder / "subject.json", made.protocol | dict(source=made.protocol["source"] | sources.file_stamp(video)))
    monkeypatch.setattr(sources, "sha256", None)
    assert open_subject("me").name == "me"


def test_a_subject_that_came_without_a_video_is_opened_beside_one(film, home):
    toy_subject(home / "data" / "toy")
    person(film, home / "data" / "toy.mp4")
    assert open_subject("toy").n_frames == 44
    with pytest.raises(InputError, match="'toy' already, and it was not prepared from a video; prepare"):
        prepare(home / "data" / "toy.mp4")


def test_of_two_videos_of_one_name_it_is_said_which_is_used(film, home, capsys):
    person(film, home / "data" / "me.mov"), person(film, home / "data" / "me.mp4", 1)
    assert open_subject("me").protocol["source"]["file"] == "me.mp4"
    assert "me: me.mp4 is used, not me.mov; move away what is not meant" in capsys.readouterr().out
    (home / "data" / "me.mp4").unlink()
    with pytest.raises(InputError, match="another video, 'me.mp4'"):
        open_subject("me")
    prepare(home / "data" / "me.mov", force=True)
    person(film, home / "data" / "me.mp4", 1)
    capsys.readouterr()
    assert open_subject("me").protocol["source"]["file"] == "me.mov"       # the subject's own, though the other ending comes first
    assert "me: me.mov, of which the subject was prepared, is used, not me.mp4" in capsys.readouterr().out


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


@pytest.mark.parametrize("words", [("{a}/me.mp4",), ("ann", "--video", "{a}/me.mp4"), ("data/me.mp4",), ("me.mp4",), ("~/me.MOV",)])
def test_a_video_is_trained_on_by_its_path(film, home, monkeypatch, capsys, words):
    "Wherever it lies, under the name of the file or under one of its own; the same words again find the subject."
    asked, a = [], home / "a"
    monkeypatch.setattr("dnerf.api.embed_subject", lambda *args, **more: None)
    monkeypatch.setattr("dnerf.api.train_portrait", lambda subject, embedding, config, named, show: asked.append((subject, config.subject)))
    monkeypatch.setattr("dnerf.evaluation.report.evaluate_run", lambda *args, **more: None)
    monkeypatch.setattr("dnerf.evaluation.report.summary", lambda *args: "summary")
    monkeypatch.setenv("HOME", str(home / "user"))
    monkeypatch.chdir(home)
    place = {"~/me.MOV": home / "user" / "me.MOV", "{a}/me.mp4": a / "me.mp4", "--video": a / "me.mp4"}
    person(film, next((path for word, path in place.items() if word in words), home / "data" / "me.mp4"))
    name = "ann" if "ann" in words else "me"
    for _ in range(2):
        assert main(["train", *(word.format(a=a) for word in words)]) == 0, capsys.readouterr().err
        subject, named = asked.pop()
        assert (subject.name, named) == (name, name) and (home / "data" / name / "subject.json").is_file()


@pytest.mark.parametrize("words, sentence", [
    (("b/me.mp4",), "there is a subject 'me' already, and it was prepared from another video, 'me.mp4'; prepare b/me.mp4 under a name"),
    (("me", "--video", "b/me.mp4"), "there is a subject 'me' already"),
    (("a/me.mp4", "--size", "64"), "subject 'me' is prepared at 32 pixels, not at 64; leave size out"),
    (("c/me.mp4",), "there is no video c/me.mp4; give the path of one, or the name of a subject (prepared are: me)"),
    (("absent.mp4",), "there is no subject 'absent.mp4', and no video of that name here or in"),
    (("ann", "--video", "absent.mp4"), "there is no video absent.mp4; give the path of one"),
    (("a/me.mp4", "--video", "b/me.mp4"), "a/me.mp4 is a video too; give one"),
    (("a",), "there is no subject 'a': put a portrait video")])
def test_nothing_is_replaced_by_a_path(film, home, monkeypatch, capsys, words, sentence):
    prepare(person(film, home / "a" / "me.mp4"))
    person(film, home / "b" / "me.mp4", 1)
    before = sha256(home / "data" / "me" / "subject.json")
    monkeypatch.chdir(home)
    capsys.readouterr()
    assert main(["train", *words]) == 1
    err = capsys.readouterr().err
    assert err.startswith("dnerf: ") and sentence in err and err.count("\n") == 1
    assert sha256(home / "data" / "me" / "subject.json") == before
