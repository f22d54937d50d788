"""Files of a run and of an embedding that are damaged, of other kinds, or made to harm: one sentence, quickly, or they work."""
import errno
import json
import os
import time

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dnerf.audio.embedding import embed_subject, speech_steps
from dnerf.audio.speechsplit import load_speechsplit, new_speechsplit, save_speechsplit
from dnerf.checkpoint import load_sealed, save_sealed
from dnerf.core import DnerfError, InputError, StorageError
from dnerf.nerf.config import compose_config
from dnerf.nerf.run import load_run, read_config
from dnerf.nerf.training import train
from dnerf.subject import Subject, toy_subject
from toys import copied_home, home_of_a_module, keep_speech, stopping_at


def resume(steps=4):
    toy = Subject.load("toy")
    small = "field.blend_resolution=4 field.moves=4 portrait.mouth_reader=linear checks=1"
    config = compose_config("tiny", small, subject="toy", audio="made", steps=steps, name=f"steps-{steps}")
    return train(toy, toy.embedding("made"), config, named=True, show=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A home with a finished run of 2 steps and one that was stopped at 2 of 4."
    with home_of_a_module(tmp_path_factory, "made") as home:
        keep_speech(toy_subject(home / "data" / "toy"))
        resume(2)
        with stopping_at(2, validate=True):
            resume(4)
        yield home


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    return copied_home(made, tmp_path, monkeypatch)


def one_sentence(action):
    start = time.monotonic()
    with pytest.raises(DnerfError) as e:
        action()
    assert "\n" not in str(e.value) and ";" in str(e.value) and len(str(e.value)) < 700, str(e.value)
    assert time.monotonic() - start < 20
    return str(e.value)


BOMB = "a: &a [x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
CONFIGS = dict(
    list="- 1\n- 2\n", text="just words", empty="", binary=b"\xff\xfe\x00\x01" * 50, bomb=BOMB, deep="[" * 50000, long="a: " + "x" * 200000,
    python="subject: !!python/object/apply:os.system ['touch ran']\n", reference="subject: ${oc.env:HOME}\n", missing="subject: ???\n",
    types="subject: toy\nseed: many\nfield: {kind: fast}\n", field="subject: toy\nfield: [1, 2]\n",
    other="subject: toy\nfield: {kind: voxels}\n",
    unknown="subject: toy\nfrobnicate: 3\nfield: {kind: fast}\n", name="subject: ../../etc\nfield: {kind: fast}\n",
    audio="subject: toy\naudio: ../../x\nfield: {kind: fast}\n",
    twice="subject: toy\nseed: 1\nseed: 2\nfield: {kind: fast}\n",
    documents="subject: toy\n---\nsubject: toy\n", key="subject: toy\n? [a, b]\n: 3\n",
    group="subject: toy\nportrait: 7\nfield: {kind: fast}\n")


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_that_is_none(home, kind):
    path = home / "runs" / "toy" / "steps-2" / "config.yaml"
    content = CONFIGS[kind]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert "config.yaml" in one_sentence(lambda: load_run("toy/steps-2", "cpu"))
    assert not os.path.exists("ran")


def test_configurations_of_earlier_versions_are_read_as_they_were(home):
    folder = home / "runs" / "toy" / "steps-2"
    assert OmegaConf.to_container(read_config(folder)) == OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))


def test_a_run_opens_whatever_it_was_trained_with(home, monkeypatch):
    "Ranges of what only training needs, and the memory that it took, are not asked again."
    path = home / "runs" / "toy" / "steps-2" / "config.yaml"
    config = OmegaConf.load(path)
    OmegaConf.update(config, "optim.lr_grid", 1e30)
    OmegaConf.update(config, "data.rays", 10**9)
    OmegaConf.save(config, path)
    monkeypatch.setattr("dnerf.nerf.config.memory_of", lambda device: 1)
    with pytest.raises(InputError, match="GB of memory"):
        compose_config("tiny")
    assert read_config(path.parent).data.rays == 10**9
    OmegaConf.update(config, "field.code_dim", 10**9)
    OmegaConf.save(config, path)
    assert "field.code_dim" in one_sentence(lambda: read_config(path.parent))


@pytest.mark.parametrize("spoil", [lambda w: w * float("nan"), lambda w: w.double(), lambda w: w.to(torch.complex64)])
def test_weights_that_are_no_single_precision_numbers(home, spoil):
    path = home / "runs" / "toy" / "steps-2" / "checkpoints" / "best.ckpt"
    saved = load_sealed(path, "")
    saved["portrait"]["head.field.density_grid"] = spoil(saved["portrait"]["head.field.density_grid"])
    save_sealed(path, saved)
    assert "density_grid" in one_sentence(lambda: load_run("toy/steps-2", "cpu"))


def test_a_folder_of_others_is_no_place_for_a_run(home):
    mine = home / "runs" / "toy" / "mine"
    mine.mkdir()
    (mine / "metrics.csv").write_text("my numbers")
    config = compose_config("tiny", subject="toy", audio="made", name="mine", steps=2)
    toy = Subject.load("toy")
    said = one_sentence(lambda: train(toy, np.zeros((toy.n_frames, 16, 3), "float32"), config, show=False, named=True))
    assert "other files" in said and (mine / "metrics.csv").read_text() == "my numbers"


@pytest.mark.parametrize("name", ["state.json", "inputs.json", "subject/kept.json"])
@pytest.mark.parametrize("content", ["null", "[]", "3", "", "{", "{}", '{"steps": null, "subject": 3, "inputs": {}}', "[" * 99999])
def test_tables_that_are_none(home, name, content):
    path = home / "runs" / "toy" / "steps-2" / name
    path.write_text(content)
    assert path.name in one_sentence(lambda: load_run("toy/steps-2", "cpu"))


def test_a_copy_that_names_files_outside(home):
    path = home / "runs" / "toy" / "steps-2" / "subject" / "kept.json"
    kept = json.loads(path.read_text())
    for name in ("../../../../data/toy/poses.npy", "/etc/passwd"):
        path.write_text(json.dumps(kept | dict(files=kept["files"] | {name: "0" * 64})))
        assert "not the name of a file inside" in one_sentence(lambda: load_run("toy/steps-2"))


CHECKPOINTS = dict(
    list=[1, 2], tensor=torch.zeros(3), empty={}, text="words", number=3, without=("global_step",), unknown_time=("seconds",),
    no_weights=("state_dict",), no_optimizer=("optimizer_states",), no_loops=("loops",), no_schedulers=("lr_schedulers",))


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_last_checkpoint_that_is_none(home, kind):
    "Sealed or not: the seal says only that the file is as it was written."
    last = home / "runs" / "toy" / "steps-4" / "checkpoints" / "last.ckpt"
    content = CHECKPOINTS[kind]
    if isinstance(content, tuple):
        saved = load_sealed(last, "")
        save_sealed(last, {k: v for k, v in saved.items() if k not in content})
    else:
        torch.save(content, last)
    assert "last.ckpt" in one_sentence(lambda: resume(4))


def wrong_step(saved):
    saved["global_step"] = "many"


def endless(saved):
    saved["seconds"] = float("nan")


def other_shape(saved):
    name = next(iter(saved["state_dict"]))
    saved["state_dict"][name] = torch.zeros(1, 2, 3)


def other_moments(saved):
    saved["optimizer_states"] = [dict(state={}, param_groups=[])]


def other_loops(saved):
    saved["loops"] = {"fit_loop": {"state_dict": 3}}


@pytest.mark.parametrize("change", [wrong_step, endless, other_shape, other_moments, other_loops])
def test_a_last_checkpoint_with_another_content(home, change):
    last = home / "runs" / "toy" / "steps-4" / "checkpoints" / "last.ckpt"
    saved = load_sealed(last, "")
    change(saved)
    save_sealed(last, saved)
    assert "last.ckpt" in one_sentence(lambda: resume(4))


@pytest.mark.parametrize("content", [b"", b"step,seconds\n3", b"\xff\xfe\x00", b"\n\n", b"step,seconds,rays_per_second\n1,2,3\n2,", "gap"])
def test_curves_that_are_empty_or_torn(home, content):
    "A log is no reason not to go on; what can be read of it stays."
    path = home / "runs" / "toy" / "steps-4" / "metrics.csv"
    before = path.read_text()
    path.write_bytes(before[:-7].encode() if content == "gap" else content)
    folder = resume(4)
    rows = path.read_text().splitlines()
    assert rows[0].startswith("step,") and rows[-1].startswith("4,") and (folder / "state.json").is_file()


def test_a_speechsplit_that_is_none(tmp_path):
    path, model = tmp_path / "speechsplit.ckpt", new_speechsplit(dict(decoder_units=8))
    save_speechsplit(path, model)
    good = load_sealed(path, "")
    for content in ([1], "text", torch.zeros(2), {}, good | dict(weights=3), good | dict(config=7), good | dict(f0_stats={}),
                    good | dict(f0_stats=dict(mean=float("nan"), std=1.0, low=50.0, high=600.0)),
                    good | dict(config=good["config"] | dict(decoder_units=10**9)), good | dict(weights=dict(w=torch.zeros(2)))):
        torch.save(content, path)
        assert "speechsplit.ckpt" in one_sentence(lambda: load_speechsplit(path))


def bit(data):
    at = next(k for k in range(len(data) // 2, len(data)) if data[k] in b"0123456789" or b"NUMPY" in data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]           # of text another digit


def half(data):
    return data[: len(data) // 2]


def null(data):
    return b"null"


def nothing(data):
    return b""


@pytest.mark.parametrize("damage", [bit, half, null, nothing])
@pytest.mark.parametrize("name", ["mel.npy", "mel.json"])
def test_an_embedding_that_is_damaged_is_made_again(tmp_path, name, damage):
    toy = toy_subject(tmp_path / "toy")
    good = np.array(embed_subject(toy, "mel", bar=False))
    path = toy.folder / "embeddings" / name
    path.write_bytes(damage(path.read_bytes()))
    if name == "mel.json":
        one_sentence(lambda: speech_steps(toy, "mel", toy.wav))
    assert np.array_equal(embed_subject(toy, "mel", bar=False), good)
    assert np.isfinite(speech_steps(toy, "mel", toy.wav)).all()


def test_new_speech_under_another_python(tmp_path):
    "The bytecode of a function is another there; its weights and its method decide. Of the same Python the bytecode itself does."
    toy = toy_subject(tmp_path / "toy")
    embed_subject(toy, "mel+whisper", bar=False)
    path = toy.folder / "embeddings" / "mel+whisper.json"
    note = json.loads(path.read_text())
    expected = speech_steps(toy, "mel+whisper", toy.wav)
    elsewhere = {k: v for k, v in note.items() if k != "seal"} | dict(key="0" * 64, python="cpython-399")
    path.write_text(json.dumps(elsewhere))
    assert np.array_equal(speech_steps(toy, "mel+whisper", toy.wav), expected)
    for other in (dict(python=note["python"]), dict(method=1), dict(audio="0" * 64), dict(identities=dict(whisper="other weights"))):
        path.write_text(json.dumps(elsewhere | other))
        assert "by another function" in one_sentence(lambda: speech_steps(toy, "mel+whisper", toy.wav))
    first = {k: note[k] for k in ("name", "key", "dims", "model", "mean", "std")}     # as versions up to 0.3 wrote it
    path.write_text(json.dumps(first))
    assert np.array_equal(speech_steps(toy, "mel+whisper", toy.wav), expected)
    embed_subject(toy, "mel+whisper", bar=False)
    assert json.loads(path.read_text())["identities"] == note["identities"]


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, "Input/output error")], ids=["memory", "disk"])
def test_a_system_that_fails_is_no_damage(home, monkeypatch, error):
    "Nobody is told to delete good work, and nothing begins anew over it."
    from dnerf.audio.speechsplit_training import _resumable
    from dnerf.evaluation.subject_syncnet import _read

    checkpoints = home / "runs" / "toy" / "steps-4" / "checkpoints"

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "load", fails)
    for action in (lambda: load_run("toy/steps-2"), lambda: resume(4), lambda: _read(checkpoints / "last.ckpt"),
                   lambda: _resumable(checkpoints / "last.ckpt", "")):
        before = {p: p.read_bytes() for p in checkpoints.iterdir()}
        with pytest.raises(StorageError) as e:
            action()
        assert "delete" not in str(e.value) and before == {p: p.read_bytes() for p in checkpoints.iterdir()}
