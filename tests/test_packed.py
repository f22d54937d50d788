"""A portrait in one file: driven without its run and its subject, and opened safely whatever it holds."""
import hashlib
import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest

from dnerf.audio.embedding import embed_subject
from dnerf.audio.mel import synthetic_speech
from dnerf.cli import main
from dnerf.core import DnerfError, InputError, sha256
from dnerf.evaluation.report import evaluate_run
from dnerf.nerf import packed
from dnerf.nerf.config import compose_config
from dnerf.nerf.packed import open_portrait, pack_run
from dnerf.nerf.run import load_run
from dnerf.nerf.training import train
from dnerf.subject import Subject, toy_subject, write_wav
from dnerf.video.media import iter_frames
from toys import home_of_a_module

TEXTS = "--licence", "CC0", "--consent", "nobody is shown"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A run with SpeechSplit's codes, its portrait, new speech and the film of the run; then neither subject nor run are there any more."
    with home_of_a_module(tmp_path_factory, "packed") as home:
        toy = toy_subject(home / "data" / "toy", n=60)
        write_wav(toy.folder / "audio.wav", synthetic_speech(60 / 25)[0])
        toy = Subject(toy.folder)
        audio = "speechsplit+mel"
        size = dict(channels=16, convs=1, layers=1, units=1)
        small = dict(content=size, rhythm=size, pitch=size, decoder_units=8)
        embedding = embed_subject(toy, audio, config=small, steps=2, bar=False)
        config = compose_config("tiny", subject="toy", audio=audio, steps=2, name="kept")
        train(toy, embedding, config, named=True, show=False)
        write_wav(home / "hello.wav", synthetic_speech(0.6, seed=3)[0])
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(home)
            assert main(["pack", "toy", "--quiet", *TEXTS]) == 0
            assert main(["drive", "toy", "hello.wav", "--out", "before.mp4"]) == 0
        shutil.rmtree(home / "data")
        shutil.rmtree(home / "runs")
        yield home


def test_a_portrait_is_driven_anywhere(home, tmp_path, monkeypatch, capsys):
    "The same pictures to the last bit, in another home; the film goes into the working folder, and nothing else is left anywhere."
    shutil.copy(home / "toy.portrait", tmp_path / "me.portrait")
    monkeypatch.setenv("DNERF_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["drive", "me.portrait", str(home / "hello.wav")]) == 0
    said = capsys.readouterr().out
    assert "me.portrait: toy/kept; licence: CC0; consent: nobody is shown\n" in said and said.endswith("me-hello.mp4\n")
    assert np.array_equal(*(np.stack(list(iter_frames(p))) for p in (tmp_path / "me-hello.mp4", home / "before.mp4")))
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and not p.name.startswith(".")) == ["me-hello.mp4", "me.portrait"]
    assert main(["evaluate", "me.portrait"]) == 1
    assert "me.portrait is a portrait that was passed on, without the recorded frames" in capsys.readouterr().err
    assert main(["drive", "me.portrait", str(home / "hello.wav"), "--out", "me.portrait"]) == 1


def test_the_same_request_has_the_same_key(home):
    "So an interrupted film goes on: the weights on disk are the same to the last byte each time."
    runs = [open_portrait(home / "toy.portrait", "cpu") for _ in range(2)]
    for name in ("checkpoints/best.ckpt", "subject/speechsplit.ckpt", "inputs.json"):
        assert len({sha256(run.folder / name) for run in runs}) == 1
    folder = runs[0].folder
    del runs
    assert not folder.exists()


def test_what_is_in_a_portrait(home):
    with zipfile.ZipFile(home / "toy.portrait") as archive:
        names = archive.namelist()
        about = json.loads(archive.read("portrait.json"))
    assert not [n for n in names if n.endswith((".ckpt", ".pt", ".pkl")) or "frames" in n]
    assert {"best.safetensors", "subject/speechsplit.safetensors"} <= set(names)
    assert (about["subject"], about["licence"], about["consent"]) == ("toy", "CC0", "nobody is shown")


def members(path):
    "Name -> bytes."
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path, content, listed=True):
    "A portrait of other members, whose list agrees with them."
    if listed:
        about = json.loads(content["portrait.json"])
        about["files"] = {k: hashlib.sha256(v).hexdigest() for k, v in content.items() if k != "portrait.json"}
        content = content | {"portrait.json": json.dumps(about).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def pickle_bomb():
    "A file of PyTorch's that makes a file when it is unpickled."
    import torch

    class Bomb:
        def __reduce__(self):
            return os.mkdir, ("unpickled",)

    data = io.BytesIO()
    torch.save(Bomb(), data)
    return data.getvalue()


def changed(content, name, **entries):
    return content | {name: json.dumps(json.loads(content[name]) | entries).encode()}


HOSTILE = {
    "a path outside": (lambda c: c | {"../evil": b"x"}, "holds '../evil', which belongs in no portrait"),
    "an absolute path": (lambda c: c | {"/evil": b"x"}, "which belongs in no portrait"),
    "a path in a subject": (lambda c: c | {"subject/../../evil": b"x"}, "which belongs in no portrait"),
    "a checkpoint": (lambda c: c | {"checkpoints/best.ckpt": pickle_bomb()}, "which belongs in no portrait"),
    "a pickle as weights": (lambda c: c | {"best.safetensors": pickle_bomb()}, "is not a table of weights"),
    "a pickle as an array": (lambda c: c | {"subject/poses.npy": pickle_bomb()}, "poses.npy is damaged"),
    "no weights": (lambda c: {k: v for k, v in c.items() if k != "best.safetensors"}, "does not hold the members that it lists"),
    "other weights": (lambda c: c | {"best.safetensors": c["subject/speechsplit.safetensors"]}, "has no entry 'portrait'"),
    "a newer version": (lambda c: changed(c, "portrait.json", schema=2, version="9.1"), "newer version of dnerf (9.1), and this is"),
    "another kind of file": (lambda c: changed(c, "portrait.json", format="zip"), "get the file again"),
    "a name with a path": (lambda c: changed(c, "portrait.json", subject="../x"), "cannot be a folder name"),
    "a terminal's escape": (lambda c: changed(c, "portrait.json", consent="\x1b[2J"), "printable characters"),
    "no portrait.json": (lambda c: {k: v for k, v in c.items() if k != "portrait.json"}, "is not a whole portrait"),
    "hostile settings": (lambda c: c | {"config.yaml": b"a: !!python/object/apply:os.mkdir [unpickled]"}, "holds no settings"),
    "a subject of another size": (lambda c: changed(c, "subject/subject.json", size=10**9), "subject.json: size is 1000000000"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_stranger_s_file_is_refused_in_one_sentence(home, tmp_path, monkeypatch, capsys, kind):
    change, sentence = HOSTILE[kind]
    content = change(members(home / "toy.portrait"))
    path = written(tmp_path / "x.portrait", content, listed="portrait.json" in content and kind != "no weights")
    monkeypatch.chdir(tmp_path)
    assert main(["drive", "x.portrait", str(home / "hello.wav")]) == 1
    err = capsys.readouterr().err
    assert sentence in err and err.startswith("dnerf: ") and err.count("\n") == 1 and len(err) < 700, err
    assert "x.portrait" in err and "dnerf-portrait-" not in err, "the file that was given, not where it was unpacked"
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and not os.path.exists("/evil")


def test_a_cut_or_changed_file_is_refused(home, tmp_path, monkeypatch):
    data = (home / "toy.portrait").read_bytes()
    path = tmp_path / "x.portrait"
    with zipfile.ZipFile(home / "toy.portrait") as archive:
        largest = max(archive.infolist(), key=lambda member: member.compress_size)
    at = largest.header_offset + largest.compress_size // 2
    for spoiled in (b"", b"hello", data[:-1], data[:len(data) // 2], data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]):
        path.write_bytes(spoiled)
        with pytest.raises(InputError, match="get the file again from who made it") as e:
            open_portrait(path)
        assert "\n" not in str(e.value)
    content = members(home / "toy.portrait")
    with pytest.raises(InputError, match="poses.npy in .*x.portrait is not what was packed"):
        open_portrait(written(path, content | {"subject/poses.npy": content["subject/blendshapes.npy"]}, listed=False))
    monkeypatch.setattr(packed, "_MOST", 10_000)
    with pytest.raises(InputError, match="would take .* GB, and a portrait at most"):
        open_portrait(home / "toy.portrait")


@pytest.mark.parametrize("words, sentence", [
    (["toy"], "there is no trained run 'toy'"), (["absent.portrait"], "there is no portrait absent.portrait"),
    (["toy.portrait", "again.portrait", *TEXTS], "copy the file as it is"), (["toy.portrait", *TEXTS], "toy.portrait is there already")])
def test_what_cannot_be_packed(home, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["pack", *words, *TEXTS[:0 if TEXTS[0] in words else 4]]) == 1
    assert sentence in capsys.readouterr().err
    if words == ["toy"]:
        assert main(["pack", "toy.portrait", "--licence", "CC0"]) == 1 and "the consent of a portrait" in capsys.readouterr().err
        with pytest.raises(DnerfError):
            evaluate_run(load_run("toy.portrait"))
        with pytest.raises(InputError, match="the licence of a portrait to pass on is empty"):
            pack_run("toy.portrait")
