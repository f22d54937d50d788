"""Whole runs: papermill on a tiny budget, a killed training that goes on, a full disk, and wrong requests."""
import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import torch

from dnerf.audio.embedding import embed_subject
from dnerf.audio.mel import synthetic_speech
from dnerf.core import InputError, MissingError, StorageError, asset, locked
from dnerf.nerf.config import compose_config
from dnerf.nerf.playback import render_frames
from dnerf.nerf.run import load_run
from dnerf.nerf.training import PortraitTraining, train
from dnerf.subject import Subject, toy_subject, write_wav
from dnerf.video.media import count_frames, iter_frames, probe, read_audio, write_video
from dnerf.video.sources import open_subject
from notebooks import papermill
from toys import speech_of


def short_clip(path, seconds):
    "The first seconds of the bundled demo clip, picture and sound."
    demo = asset("demo.mp4")
    return write_video(path, islice(iter_frames(demo), int(25 * seconds)), wav=read_audio(demo)[: int(16000 * seconds)])


def test_papermill_from_a_video_to_an_mp4(dnerf_home):
    short_clip(dnerf_home / "data" / "short.mp4", 5)
    settings = dict(audio="mel", steps=12, size=64, preset="tiny", overrides="keep_last=true")
    done = papermill("train", dnerf_home / "out.ipynb", subject="short", **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    run = dnerf_home / "runs" / "short" / "mel-tiny"
    for name in ("config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv", "video.mp4"):
        assert (run / name).is_file(), name
    assert all((run / "figures" / name).is_file() for name in ("loss.png", "comparison.png"))
    metrics = json.loads((run / "metrics.json").read_text())
    assert all(5 < metrics["psnr"][k] < 60 for k in ("frame", "head", "face", "eyes", "lips"))
    assert metrics["lpips"] is None and metrics["reasons"]["lpips"]
    info, test = probe(run / "video.mp4"), Subject.load(dnerf_home / "data" / "short").split("test")
    assert info.has_audio and count_frames(run / "video.mp4") == len(test)
    assert "metrics.json" in "".join(done.stderr.strip().splitlines()[-6:])


def test_a_wrong_request_ends_in_one_sentence(dnerf_home):
    toy_subject(dnerf_home / "data" / "toy")
    done = papermill("train", dnerf_home / "out.ipynb", steps=1, subject="toy", audio="telepathy")
    assert done.returncode != 0
    last = [line for line in done.stderr.splitlines() if line.strip()][-1]
    assert "known" in last, last
    assert not (dnerf_home / "runs").exists()


def test_wrong_names_and_settings_are_named(dnerf_home):
    with pytest.raises(InputError, match="folder name"):
        open_subject("../nobody")
    with pytest.raises(InputError, match="rayz"):
        compose_config("cpu", "data.rayz=3", subject="toy")


EMBEDDINGS = ["rhythm", "pitch", "content", "speechsplit", "speechsplit-full", "mel", "phones", "silence", "shuffled",
              "content+pitch", "mel+speechsplit"]


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_every_embedding_drives_a_portrait(dnerf_home, name):
    "By name, as `-p audio NAME` does; SpeechSplit is trained for two steps."
    if "phones" in name:
        pytest.importorskip("pocketsphinx", reason="the optional package pocketsphinx is not installed")
    toy = toy_subject(dnerf_home / "data" / "toy", n=88)
    write_wav(toy.folder / "audio.wav", synthetic_speech(3.52)[0])
    speech = embed_subject(toy, name, steps=2, bar=False)
    run = load_run(train(toy, speech, compose_config("tiny", subject="toy", audio=name, steps=2), show=False))
    (_, image), = render_frames(run, [toy.split("test")[0]])
    assert image.shape == (32, 32, 3) and np.isfinite(image).all()


def start_training(home, steps):
    "A process that trains the toy subject; it prints the run's folder at its end."
    code = ("import numpy as np; from dnerf.nerf.config import compose_config; from dnerf.nerf.training import train;"
            "from dnerf.subject import Subject; s = Subject.load('toy');"
            f"config = compose_config('tiny', 'save_every=0.01', subject='toy', steps={steps});"
            "print(train(s, np.zeros((s.n_frames, 16, 3), 'float32'), config, show=False))")
    env = {**os.environ, "DNERF_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def test_killed_training_goes_on(dnerf_home):
    toy_subject(dnerf_home / "data" / "toy")
    first = start_training(dnerf_home, 60)
    last = dnerf_home / "runs/toy/speechsplit-tiny/checkpoints/last.ckpt"
    deadline = time.time() + 120
    while not last.exists() and time.time() < deadline and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert last.exists() and not (last.parents[1] / "state.json").exists()
    out, err = start_training(dnerf_home, 60).communicate(timeout=300)
    assert "going on at step" in out, err[-2000:]
    assert json.loads((last.parents[1] / "state.json").read_text())["steps"] == 60
    assert [p.name for p in last.parent.iterdir()] == ["best.ckpt"]  # nothing reads the other one any more
    out, _ = start_training(dnerf_home, 60).communicate(timeout=300)
    assert "is already trained with these settings" in out and not last.exists()


def test_full_disk_keeps_the_previous_checkpoint(dnerf_home, monkeypatch):
    toy = toy_subject(dnerf_home / "data" / "toy")
    speech = np.zeros((toy.n_frames, 16, 3), np.float32)
    config = compose_config("tiny", "save_every=0.0 checks=2", subject="toy", steps=8)
    real, writes = torch.save, []

    def full_after_four(*args, **kwargs):
        writes.append(1)
        if len(writes) > 4:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full_after_four)
    monkeypatch.setattr("lightning.fabric.utilities.cloud_io.torch.save", full_after_four)
    with pytest.raises((StorageError, OSError), match="disk is full"):
        train(toy, speech, config, show=False)
    folder = dnerf_home / "runs/toy/speechsplit-tiny/checkpoints"
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] >= 1
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []
    monkeypatch.undo()
    monkeypatch.setenv("DNERF_HOME", str(dnerf_home))
    config = compose_config("tiny", "save_every=0.0 checks=2", subject="toy", steps=8)
    assert (train(toy, speech, config, show=False) / "state.json").exists()


def test_two_processes_do_not_share_a_run(dnerf_home):
    toy = toy_subject(dnerf_home / "data" / "toy")
    with locked(dnerf_home / "runs/toy/speechsplit-tiny", "the run"):
        with pytest.raises(StorageError, match="another process"):
            train(toy, np.zeros((toy.n_frames, 16, 3), np.float32), compose_config("tiny", subject="toy", steps=2), show=False)


def test_nan_poses_and_empty_masks_are_refused(dnerf_home):
    toy = toy_subject(dnerf_home / "data" / "toy")
    speech = np.zeros((toy.n_frames, 16, 3), np.float32)
    np.save(toy.folder / "poses.npy", np.full((toy.n_frames, 4, 4), np.nan, np.float32))
    with pytest.raises(InputError, match="not finite"):
        train(toy, speech, compose_config("tiny", subject="toy", steps=2), show=False)
    toy = toy_subject(dnerf_home / "data" / "toy")
    np.save(toy.folder / "masks.npy", np.zeros((toy.n_frames, 32, 32), np.uint8))
    with pytest.raises(InputError, match="has a head in its mask"):
        train(toy, speech, compose_config("tiny", subject="toy", steps=2), show=False)


def test_a_torso_that_deforms_is_trained_and_rendered(dnerf_home):
    toy = toy_subject(dnerf_home / "data" / "toy")
    np.save(toy.folder / "torso_modes.npy", np.random.default_rng(0).normal(size=(3, 16, 16, 2)).astype(np.float32) * 0.05)
    np.save(toy.folder / "torso_shape.npy", np.random.default_rng(1).normal(size=(toy.n_frames, 3)).astype(np.float32))
    (toy.folder / "embeddings").mkdir()
    speech = np.zeros((toy.n_frames, 16, 3), np.float32)
    np.save(toy.folder / "embeddings" / "speechsplit.npy", speech)
    images = {}
    for on in (True, False):
        config = compose_config("tiny", f"portrait.torso_motion={on}", subject="toy", steps=4)
        run = load_run(train(toy, speech, config, show=False))
        images[on] = np.stack([image for _, image in render_frames(run, [1, 2])])
        assert np.isfinite(images[on]).all()
    assert not np.allclose(images[True], images[False])


def test_a_slow_start_is_not_counted_in_the_minutes(dnerf_home, monkeypatch, capsys):
    """Beginning and first step take longer than the whole budget, as where functions are compiled on a slow machine; the next ones have all
    of it. A machine that is slow at every step says how few they were."""
    toy, ordinary, waits = toy_subject(dnerf_home / "data" / "toy"), PortraitTraining.training_step, []

    def slow(self, batch, batch_idx):
        time.sleep(waits[min(self.global_step, len(waits) - 1)])
        return ordinary(self, batch, batch_idx)

    monkeypatch.setattr(PortraitTraining, "training_step", slow)
    for name, waits[:] in (("start", (2., 0.)), ("all", (0., 2.))):
        config = compose_config("tiny", "checks=1", subject="toy", audio="made", name=name, minutes=0.5 / 60)
        folder = train(toy, speech_of(toy), config)
        state = json.loads((folder / "state.json").read_text())
        if name == "start":
            assert state["steps"] > 2 and 0.5 <= state["train_seconds"]
        else:
            assert state["steps"] == 2 and state["train_seconds"] >= 2
        assert f"only {state['steps']} steps in 0.0 minutes: the picture will be poor" in capsys.readouterr().out or state["steps"] >= 100


def test_unknown_run_lists_the_known(dnerf_home):
    with pytest.raises(MissingError, match="known are"):
        load_run("toy/none")
