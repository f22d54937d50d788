"""What can go wrong with a training: each fault is one sentence, and what was there before is still whole."""
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from dnerf.core import InputError, MissingError
from dnerf.evaluation.report import evaluate_run
from dnerf.nerf.config import compose_config
from dnerf.nerf.run import load_run
from dnerf.nerf.training import train
from dnerf.subject import Subject, toy_subject
from toys import MLP, keep_speech, stopping_at

PRESETS = {"tiny": "data.frames=3 checks=1", "paper": f"{MLP} checks=1"}


def config_of(preset="tiny", steps=4, overrides="", **more):
    return compose_config(preset, f"{PRESETS[preset]} {overrides}", subject="toy", audio="made", steps=steps, **more)


def made(home, n=44):
    "The toy subject with n frames, its speech features kept as `made`."
    return keep_speech(toy_subject(home / "data" / "toy", n=n), seed=n)


def run(toy, *args, **more):
    return train(toy, toy.embedding("made"), config_of(*args, **more), show=False)


def stopped(toy, *args, at=2, **more):
    "The folder of a run that was saved and stopped at a step."
    with stopping_at(at, validate=True) as stop:
        run(toy, *args, **more)
    return stop.value.args[0]


def one_sentence(error):
    return "\n" not in str(error.value) and ";" in str(error.value)


BUDGETS = [dict(minutes=0), dict(minutes=-1), dict(minutes=math.nan), dict(minutes=math.inf), dict(minutes="soon"),
           dict(steps=-5), dict(steps=math.nan), dict(steps=2.5)]


@pytest.mark.parametrize("settings", BUDGETS)
def test_impossible_budgets(settings):
    "As a setting; typed as an override Hydra reads the same."
    with pytest.raises(InputError, match="(minutes|steps) is|settings cannot be used"):
        compose_config("cpu", **settings)


def test_a_checkpoint_of_another_run_is_not_gone_on_with(dnerf_home):
    "Neither of another preset nor of the same on another subject, nor with other settings; and the folder is as it was."
    toy = made(dnerf_home)
    other = stopped(toy, "paper") / "checkpoints"
    wider = stopped(toy, name="wider", overrides="optim.lr_net=0.001") / "checkpoints"
    shutil.move(dnerf_home / "data" / "toy", dnerf_home / "data" / "first")
    toy = made(dnerf_home, n=48)
    folder = stopped(toy) / "checkpoints"
    whole = {name: (folder / name).read_bytes() for name in ("last.ckpt", "best.ckpt")}
    elsewhere = dnerf_home / "runs" / "elsewhere"
    shutil.copytree(folder, elsewhere)
    for name in whole:
        for foreign, said in ((other, "paper"), (wider, "other settings")):
            shutil.copy(foreign / name, folder / name)
            with pytest.raises(InputError, match=f"{name} is of another run.*{said}.*delete") as e:
                run(toy)
            assert one_sentence(e)
        (folder / name).write_bytes(whole[name])
    assert sorted(p.name for p in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    finished = run(toy)
    assert json.loads((finished / "state.json").read_text())["steps"] == 4
    shutil.copy(other / "best.ckpt", finished / "checkpoints" / "best.ckpt")
    with pytest.raises(InputError, match="best.ckpt is of another run.*delete .*made-tiny and train again"):
        load_run("toy/made-tiny")


def test_a_damaged_checkpoint_is_named(dnerf_home):
    toy = made(dnerf_home)
    folder = stopped(toy) / "checkpoints"
    for name in ("best.ckpt", "last.ckpt"):
        data = (folder / name).read_bytes()
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 16                                   # one bit of one weight
        for damaged in (data[: len(data) // 2], b"", b"not a checkpoint", bytes(flipped)):
            (folder / name).write_bytes(damaged)
            with pytest.raises(InputError, match=f"{name} is damaged; delete .*{name} and train again") as e:
                run(toy)
            assert one_sentence(e)
        (folder / name).write_bytes(data)
    (folder / "last.ckpt").unlink()                                    # as the sentence says: from the beginning
    done = run(toy)
    steps = [row.split(",")[0] for row in (done / "metrics.csv").read_text().splitlines()[1:]]
    assert len(set(steps)) == len(steps), steps
    (done / "checkpoints" / "best.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match="damaged; delete .*made-tiny and train again"):
        load_run("toy/made-tiny")
    (done / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(MissingError, match="incomplete .checkpoints/best.ckpt missing.*delete .*made-tiny and train again"):
        load_run("toy/made-tiny")


def nothing_written(home):
    return not (home / "runs").exists()


def test_a_subject_with_one_frame(dnerf_home):
    with pytest.raises(InputError, match="1 frames are too few"):
        toy_subject(dnerf_home / "data" / "single", n=1)
    assert not (dnerf_home / "data" / "single" / "subject.json").exists()
    toy = made(dnerf_home)                                              # and one whose protocol was written by hand
    for name in toy.arrays:
        np.save(toy.folder / f"{name}.npy", np.array(toy._array(name)[:1]))
    np.save(toy.folder / "embeddings" / "made.npy", np.zeros((1, 16, 3), np.float32))
    by_hand = {**toy.protocol, "n_frames": 1, "splits": dict(train=[0, 0], val=[0, 0], test=[0, 1])}
    (toy.folder / "subject.json").write_text(json.dumps(by_hand))
    for preset in PRESETS:
        with pytest.raises(InputError, match="no training frame.*longer video") as e:
            run(Subject.load("toy"), preset)
        assert one_sentence(e)
    assert nothing_written(dnerf_home)


@pytest.mark.parametrize("name, frame", [("poses", 43), ("poses", 0), ("landmarks", 7), ("blendshapes", 9), ("embedding", 43)])
def test_one_number_that_is_none(dnerf_home, name, frame):
    "In whichever split: a test frame would only be missed after the training."
    toy = made(dnerf_home)
    path = toy.folder / ("embeddings/made.npy" if name == "embedding" else f"{name}.npy")
    array = np.load(path)
    array[frame].flat[1] = np.nan
    np.save(path, array)
    with pytest.raises(InputError, match=f"{'made' if name == 'embedding' else name}.*not finite.*frame {frame}") as e:
        run(toy)
    assert one_sentence(e) and nothing_written(dnerf_home)


def test_masks_without_a_head(dnerf_home):
    toy = made(dnerf_home)
    np.save(toy.folder / "masks.npy", np.minimum(toy.masks, 1))
    for preset in PRESETS:
        with pytest.raises(InputError, match="has a head in its mask") as e:
            run(toy, preset)
        assert one_sentence(e)
    assert nothing_written(dnerf_home)


def test_frames_that_are_missing_or_cut(dnerf_home):
    toy = made(dnerf_home)
    finished = run(toy, steps=1)
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    frames = toy.folder / "frames.npy"
    data = frames.read_bytes()
    frames.write_bytes(data[: len(data) // 2])
    for what in (lambda: Subject.load("toy"), lambda: evaluate_run("toy/made-tiny"), lambda: run(toy, steps=2)):
        with pytest.raises(InputError, match="frames.npy is damaged.*prepare the subject again"):
            what()
    frames.unlink()
    for what in (lambda: Subject.load("toy"), lambda: evaluate_run("toy/made-tiny"), lambda: run(toy, steps=2)):
        with pytest.raises(MissingError, match="frames.npy is missing; prepare the subject again") as e:
            what()
        assert one_sentence(e)
    load_run("toy/made-tiny")                                           # which needs no frame
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    assert not (dnerf_home / "runs/toy/made-tiny-2/checkpoints").exists()


CHILD = """
import json, math, resource, signal
from dnerf.nerf.watch import Checkpoints
from dnerf.subject import Subject
from test_train_faults import run, stopped

def limit(n):
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))

toy = Subject.load("toy")
for name, file in (("a", "last.ckpt"), ("b", "best.ckpt")):
    path, ordinary = stopped(toy, name=name) / "checkpoints" / file, Checkpoints.on_train_batch_end
    before = path.read_bytes()

    def end(self, trainer, module, *rest):
        self.validation.best = -math.inf
        limit(len(before) // 2)
        self.save(trainer) if file == "last.ckpt" else self.validation.validate(trainer, module)

    Checkpoints.on_train_batch_end = end
    try:
        run(toy, name=name)
    except Exception as e:
        said = f"{type(e).__name__}: {e}"
    finally:
        limit(resource.RLIM_INFINITY)
        Checkpoints.on_train_batch_end = ordinary
    print(file, path.read_bytes() == before, sorted(p.name for p in path.parent.iterdir()), said)
    print("steps", json.loads((run(toy, name=name) / "state.json").read_text())["steps"])
signal.signal(signal.SIGINT, signal.default_int_handler)
run(toy, steps=4000)
"""


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    "A process that meets a full disk twice and then a Ctrl-C: its project home, exit status, output and errors."
    if sys.platform == "win32":
        pytest.skip("limits of a file's size are of Unix")
    home = tmp_path_factory.mktemp("child")
    made(home)
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "DNERF_HOME": str(home), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-u", "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    deadline = time.monotonic() + 280
    while not (home / "runs/toy/made-tiny/metrics.csv").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return home, process.returncode, out, err


def test_a_disk_that_takes_no_more(child):
    "The system itself refuses to write a checkpoint to its end: the one before is whole, and the run goes on when there is room."
    _, _, out, err = child
    said = [line for line in out.splitlines() if line.startswith(("last.ckpt", "best.ckpt"))]
    assert len(said) == 2, err[-3000:]
    for line, name in zip(said, ("last.ckpt", "best.ckpt")):
        assert line.startswith(f"{name} True ['best.ckpt', 'last.ckpt'] StorageError: could not write") and "raise the limit" in line
    assert out.count("steps 4\n") == 2 and out.count("going on at step 2\n") == 4


def test_ctrl_c_saves_and_says_where(child, monkeypatch, capsys):
    home, status, out, err = child
    folder = home / "runs" / "toy" / "made-tiny"
    said = [line for line in out.splitlines() if line.startswith("stopped at step")]
    assert status not in (0, None) and len(said) == 1, out + err[-3000:]
    assert str(folder) in said[0] and "run the same command again" in said[0]
    step = int(said[0].split()[3].rstrip(";"))
    last = folder / "checkpoints" / "last.ckpt"
    assert 0 < step < 4000 and torch.load(last, weights_only=True)["global_step"] == step
    assert not (folder / "state.json").exists() and [p.name for p in last.parent.iterdir()] == ["last.ckpt"]
    monkeypatch.setenv("DNERF_HOME", str(home))
    assert stopped(Subject.load("toy"), steps=4000, at=step + 2) == folder
    assert f"going on at step {step}" in capsys.readouterr().out
    assert torch.load(last, weights_only=True)["global_step"] == step + 2
