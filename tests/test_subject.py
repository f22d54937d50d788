"""A prepared subject that was damaged, edited by hand, or made by someone else: each deviation is one sentence when it is opened."""
import io
import json
import os
import shutil
import wave
import zlib

import numpy as np
import PIL.Image
import pytest

from dnerf.core import DnerfError, InputError, MissingError, StorageError, data_dir
from dnerf.subject import Subject, toy_subject


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return toy_subject(tmp_path_factory.mktemp("made") / "toy").folder


@pytest.fixture
def toy(dnerf_home, made):
    return Subject(shutil.copytree(made, dnerf_home / "data" / "toy"))


def refused(folder, match=None):
    "Opening ends in one sentence."
    with pytest.raises(DnerfError, match=match) as e:
        Subject.load(folder)
    assert str(e.value).isprintable() and len(str(e.value)) < 600
    return str(e.value)


def change(toy, **entries):
    "Other entries in subject.json; `...` takes one away."
    path = toy.folder / "subject.json"
    about = {k: v for k, v in (json.loads(path.read_text()) | entries).items() if v is not ...}
    path.write_text(json.dumps(about))


def splits(train=(0, 37), val=(38, 40), test=(40, 44)):
    return dict(train=train, val=val, test=test)


NONE_OF_THEM = ..., None, "x\0y", -1, float("nan"), True
WRONG = [(k, v) for k in ("schema", "name", "n_frames", "fps", "size", "focal", "splits", "lost", "blendshape_names", "source")
         for v in NONE_OF_THEM]
WRONG += [(k, {"a": 1}) for k in ("schema", "name", "n_frames", "fps", "size", "focal", "splits", "lost", "blendshape_names")]
WRONG += [(k, []) for k in ("schema", "name", "n_frames", "fps", "size", "focal", "splits", "source", "prepare")]
WRONG += [("name", v) for v in ("../../escaped", "/escaped", "a\\b", "~root", "a\nb", "a\0", "x" * 300, "<b>", "", "C:x")]
WRONG += [("n_frames", v) for v in (44.0, 10**30, "44", 0)] + [("size", v) for v in (10**9, 32.5, "32")]
WRONG += [("focal", v) for v in (0, 1e-4, 1e300, float("inf"), "64", 1e5)] + [("fps", 30), ("sample_rate", 44100)]
WRONG += [("lost", v) for v in ([[0, 99]], [[5, 2]], [[0, 1, 2]], [3], [["a", "b"]])]
WRONG += [("blendshape_names", v) for v in (["a"] * 52, [1] * 52, ["a\x1b[2J"] * 52)]
WRONG += [("source", {"file": 5}), ("prepare", {"method": "x"}), ("prepare", {"method": 4, "crop": [1, 2]})]
WRONG += [("prepare", {"method": 4, "crop": v}) for v in ([0, 0, 0], [-1, 0, 32], [0, 0, 10**6], [0, 0.5, 32], ["a", 0, 32])]
WRONG += [("source", {"width": 64, "height": 64} | v) for v in (
    {"width": 10**9}, {"width": "wide"}, {"height": 0}, {"height": None}, {"bytes": -1}, {"mtime_ns": 0.5})]
WRONG += [("adnerf", 3), ("tracking", "x")]
WRONG += [("splits", v) for v in (
    dict(train=[0, 30], val=[30, 36]), splits([0, 40]), splits(test=[10, 20]), splits(test=[40, 45]), splits(test=[44, 40]),
    splits(test=[40, 40]), splits([-1, 30]), splits("0-38"), splits([0, 0]), splits([0.0, 30.0]), splits([0, 10**30]))]


@pytest.mark.parametrize("key, value", WRONG, ids=lambda v: ascii(v)[:30])
def test_a_wrong_entry_is_one_sentence(tmp_path, made, key, value):
    about = json.loads((made / "subject.json").read_text()) | {key: value}
    (tmp_path / "subject.json").write_text(json.dumps({k: v for k, v in about.items() if v is not ...}))
    sentence = refused(tmp_path)
    assert key in sentence or (key == "schema" and "another version" in sentence), sentence


def test_a_crop_lies_in_the_picture(toy):
    for crop, good in (([8, 0, 56], True), ([9, 0, 56], False), ([0, 30, 35], False), ([5000, 5000, 256], False)):
        change(toy, source={"width": 64, "height": 64}, prepare={"crop": crop})
        if good:
            Subject.load(toy.folder)
        else:
            refused(toy.folder, r"prepare.crop is .* which is no square in a picture of 64x64 pixels; prepare")


def test_a_split_may_not_be_longer_than_the_recording(toy):
    change(toy, n_frames=43)
    refused(toy.folder, match=r"splits.test is \[40, 44\], not a range of its 43 frames")


DEEP = "[" * 500 + "]" * 500


TEXTS = "", "[1]", "null", "3", '"toy"', "{", DEEP, "[" * 100_000, "\xff", '{"schema": 1}', f'{{"schema": {DEEP}}}'


@pytest.mark.parametrize("content", TEXTS, ids=lambda v: ascii(v)[:20])
def test_a_protocol_that_is_none(toy, content):
    (toy.folder / "subject.json").write_bytes(content.encode("latin-1"))
    refused(toy.folder, match="subject.json|another version")


def test_more_entries_and_newer_ones_are_no_fault(toy):
    "What a later version adds, and what an earlier one did not write."
    change(toy, later={"a": [1]}, versions=..., prepare={"method": 1, "asked": None, "crop": [3, 0, 40], "new": 1})
    assert Subject.load("toy").protocol["later"] == {"a": [1]}


ARRAYS = "frames", "masks", "poses", "landmarks", "blendshapes", "torso", "torso_modes", "torso_shape", "embeddings/mel"


def put(toy, name, array):
    (toy.folder / "embeddings").mkdir(exist_ok=True)
    np.save(toy.folder / f"{name}.npy", array)


@pytest.fixture
def full(toy):
    "The toy subject with the arrays that it may lack, and an embedding."
    rng = np.random.default_rng(0)
    for name, shape in {"torso": (44, 2, 3), "torso_modes": (2, 16, 16, 2), "torso_shape": (44, 2), "embeddings/mel": (44, 16, 5)}.items():
        put(toy, name, rng.normal(size=shape).astype(np.float32))
    return Subject(toy.folder)


def spoil(array, how):
    "The bytes of an array file with one fault."
    out = io.BytesIO()
    rows = dict(fewer=array[:-1], more=np.concatenate([array, array[:1]]), flat=array.reshape(len(array), -1), other=array[..., :-1],
                wide=array.astype("float64"), whole=array.astype("int32"), swapped=array.astype(array.dtype.newbyteorder(">")))
    if how == "pickled":
        np.save(out, array.astype(object), allow_pickle=True)
    elif how == "archive":
        np.savez(out, array)
    else:
        np.save(out, rows.get(how, array))
    data = out.getvalue()
    return dict(empty=b"", text=b"not an array\n" * 99, cut=data[:-1], half=data[: len(data) // 2], header=data[:40]).get(how, data)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_damaged_array_is_named_when_the_subject_is_opened(full, name):
    path = full.folder / f"{name}.npy"
    array, good = np.load(path), path.read_bytes()

    def check(what):
        with pytest.raises(DnerfError) as e:
            Subject.load("toy").embedding("mel")
        assert path.name in str(e.value) and ("again" in str(e.value)) and str(e.value).isprintable(), what

    for how in "empty text cut half header pickled archive fewer more flat other wide whole swapped".split():
        if (how in ("fewer", "more") and name == "torso_modes" or how == "other" and name in ("torso_shape", "embeddings/mel")
                or how == "swapped" and name in ("frames", "masks") or how == "flat" and array.ndim == 2):
            continue                                         # no fault of this array, or not one that a file can show
        path.write_bytes(spoil(array, how))
        check(how)
    if array.dtype == np.float32:
        for value in (np.nan, np.inf):
            put(full, name, array)
            np.load(path, mmap_mode="r+")[-1:].flat[3 % array[-1:].size] = value
            check(value)
    path.unlink()
    path.mkdir()
    check("a folder")
    path.rmdir()
    if name not in full.may_lack:
        with pytest.raises(MissingError):
            Subject.load("toy").embedding("mel")
    path.write_bytes(good)
    Subject.load("toy").embedding("mel")


def test_matrices_that_are_no_poses(toy):
    for matrix in (np.zeros((4, 4)), np.diag([2, 2, 2, 1]), np.diag([-1, 1, 1, 1]), np.ones((4, 4))):
        poses = np.array(toy.poses)
        poses[7] = matrix
        put(toy, "poses", poses)
        refused(toy.folder, match="matrix of frame 7 .*prepare the subject again")


def test_deformations_of_the_torso_that_do_not_belong_together(full):
    put(full, "torso_shape", np.zeros((44, 3), np.float32))
    refused(full.folder, match="3 deformations, but torso_modes.npy has 2")
    (full.folder / "torso_shape.npy").unlink()
    refused(full.folder, match="0 deformations")


def riff(channels=1, width=2, rate=16000, n=44 * 640):
    "The bytes of a WAV file."
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(channels)
        f.setsampwidth(width)
        f.setframerate(rate)
        f.writeframes(bytes(n * channels * width))
    return out.getvalue()


SOUNDS = dict(
    empty=b"", text=b"no sound\n" * 99, cut=riff()[:-1], half=riff()[:9000], header=riff()[:40], stereo=riff(2), cd=riff(2, rate=44100),
    fast=riff(rate=44100), slow=riff(rate=1), wide=riff(width=3), short=riff(n=44 * 640 - 1), long=riff(n=45 * 640), none=riff(n=0),
    float32=riff().replace(b"\1\0\1\0", b"\3\0\1\0", 1), no_channel=riff().replace(b"\1\0\1\0", b"\1\0\0\0", 1))


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_that_is_not_the_speech_of_these_frames(toy, kind):
    (toy.folder / "audio.wav").write_bytes(SOUNDS[kind])
    sentence = refused(toy.folder, match="audio.wav.*prepare the subject again")
    assert kind not in ("stereo", "cd", "fast", "slow", "wide") or "convert it" in sentence


def png(toy, mode="RGB", size=(32, 32)):
    image = PIL.Image.new(mode, size)
    image.save(toy.folder / "background.png", format="PNG")
    return (toy.folder / "background.png").read_bytes()


def test_a_background_that_cannot_be_used(toy):
    path, good = toy.folder / "background.png", png(toy)
    flipped = bytearray(good)
    flipped[-20] ^= 4
    head = good[12:16] + (60000).to_bytes(4, "big") * 2 + good[24:29]
    bomb = good[:12] + head + zlib.crc32(head).to_bytes(4, "big") + good[33:]
    kinds = dict(empty=b"", text=b"a wall", cut=good[:-20], header=good[:30], flipped=bytes(flipped), bomb=bomb,
                 wide=png(toy, size=(33, 32)), deep=png(toy, "I;16"))
    for kind, content in kinds.items():
        path.write_bytes(content)
        assert "background.png" in refused(toy.folder, match="prepare the subject again"), kind
    for mode in ("RGBA", "L", "P"):
        png(toy, mode)
        assert Subject.load("toy").background.shape == (32, 32, 3)
    for name in ("background.png", "audio.wav"):
        (toy.folder / name).unlink()
        with pytest.raises(MissingError, match=f"{name} is missing"):
            Subject.load("toy")
        (toy.folder / name).mkdir()
        refused(toy.folder, match=name)
        (toy.folder / name).rmdir()
        shutil.copy(toy.folder / "masks.npy", toy.folder / name)
        refused(toy.folder, match=name)
        png(toy)


def test_links_and_pipes_in_a_subject_are_not_followed(toy, tmp_path):
    "Neither to read a file elsewhere nor to write there; the folder itself, and its video, may be links."
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("subject.json", "frames.npy", "audio.wav", "background.png", "poses.npy"):
        (toy.folder / name).rename(elsewhere / name)
        (toy.folder / name).symlink_to(elsewhere / name)
        refused(toy.folder, match=f"{name} in .* is a link that leads out")
        (toy.folder / name).unlink()
        os.mkfifo(toy.folder / name)
        refused(toy.folder, match="no prepared subject" if name == "subject.json" else "neither a file nor a folder")
        (toy.folder / name).unlink()
        (elsewhere / name).rename(toy.folder / name)
    for name in ("embeddings", "f0", "torso.npy", "speechsplit.ckpt"):
        for target in (elsewhere, "../../../elsewhere", name):
            (toy.folder / name).symlink_to(target)
            refused(toy.folder, match=f"{name} in .* is a link that leads")
            (toy.folder / name).unlink()
    (toy.folder / "video.mp4").symlink_to(elsewhere / "film.mp4")
    toy.folder.rename(elsewhere / "moved")
    toy.folder.symlink_to(elsewhere / "moved")
    assert Subject.load("toy").size == 32


def test_an_embedding_is_named_not_found_by_a_path(full):
    np.save(full.folder.parent / "secret.npy", np.zeros((44, 16, 2), np.float32))
    for name in ("../../secret", "../frames", str(full.folder.parent / "secret"), "a\0b", "..\\secret", "x" * 300):
        with pytest.raises(InputError, match="not the name of a file inside"):
            full.embedding(name)


def test_a_damaged_embedding_is_made_again_but_not_one_that_was_imported(toy):
    from dnerf.audio.embedding import embed_speech, embed_subject

    array, note = (toy.folder / "embeddings" / f"mel.{end}" for end in ("npy", "json"))
    good = np.array(embed_subject(toy, "mel"))
    about = json.loads(note.read_text())
    notes = "", "[]", "null", "{", json.dumps(about | dict(mean="x")), json.dumps(about | dict(std=[0])), json.dumps(about | dict(key=3))
    for path, content in [(array, b""), (array, array.read_bytes()[:-1]), *((note, text.encode()) for text in notes)]:
        path.write_bytes(content)
        if path == note:
            with pytest.raises(InputError, match="mel.json"):
                embed_speech(toy, "mel", toy.wav)
        assert np.array_equal(embed_subject(toy, "mel"), good)
    note.write_text(json.dumps(about | dict(mean=[0.0], std=[1.0])))
    with pytest.raises(InputError, match="has not 80 means"):
        embed_speech(toy, "mel", toy.wav)
    note.write_text(json.dumps(about))
    change(toy, adnerf=dict(features="mel"))
    array.write_bytes(b"")
    with pytest.raises(InputError, match="mel.npy is damaged"):
        embed_subject(Subject.load("toy"), "mel")


def test_a_damaged_pitch_track_is_made_again(toy, monkeypatch):
    from dnerf.audio import f0

    track = np.arange(111, dtype=np.float32)
    monkeypatch.setattr(f0, "estimate_f0", lambda *args: (track, track > 0))
    arguments = toy.folder / "f0", toy.wav, 16000, (50.0, 600.0)
    assert np.array_equal(f0.cached_f0(*arguments)[0], track)
    (path,) = (toy.folder / "f0").glob("*.npy")
    for wrong in (track[:-1], track.astype(int), track * np.nan, track[None]):
        np.save(path, wrong)
        assert np.array_equal(f0.cached_f0(*arguments)[0], track)
    path.write_bytes(b"text")
    assert np.array_equal(f0.cached_f0(*arguments)[0], track) and np.array_equal(np.load(path), track)


def test_a_copied_folder_is_a_person_of_its_name(dnerf_home):
    toy_subject(dnerf_home / "data" / "toy")
    shutil.copytree(dnerf_home / "data" / "toy", dnerf_home / "data" / "twin")
    assert [Subject.load(name).name for name in ("toy", "twin")] == ["toy", "twin"]


def test_a_home_that_is_a_link_to_itself(tmp_path, monkeypatch):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    monkeypatch.setenv("DNERF_HOME", str(tmp_path / "circle"))
    with pytest.raises(StorageError, match="remove the link"):
        data_dir()
