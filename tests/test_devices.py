"""Several processes: together they compute what one computes with their batches joined, and they leave one complete run."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dnerf.core import InputError
from dnerf.nerf.batches import RayBatches
from dnerf.nerf.config import compose_config
from dnerf.nerf.playback import render_frames
from dnerf.nerf.portrait import build_portrait
from dnerf.nerf.run import load_run
from dnerf.nerf.training import train
from dnerf.nerf.training? import Watch, losses
from dnerf.subject import Subject, toy_subject

SMALL = "portrait.torso.resolutions=[8] portrait.torso.channels=[4] data.rays=64 val_frames=1 checks=1"
PRESETS = {
    "cpu": f"field.resolutions=[8,16] field.channels=[4,4] field.density_resolution=16 field.width=16 data.frames=3 {SMALL}",
    "paper": "field.width=16 field.depth=3 field.skip=1 "
             f"portrait.n_coarse=6 portrait.n_fine=6 portrait.attention_start=2 {SMALL}",
}


def speech_of(toy):
    return np.random.default_rng(0).normal(size=(toy.n_frames, 16, 3)).astype(np.float32)


def portrait_and_batches(folder, preset, overrides):
    "The same portrait in every process, and its batches."
    toy = Subject(folder)
    config = compose_config(preset, overrides, subject="toy")
    batches = RayBatches(toy, speech_of(toy), config)
    torch.manual_seed(0)
    return build_portrait(toy, config, 3).initialise(toy), batches


def loss_of(portrait, b):
    "The sum of a batch's losses, without jitter and noise: those differ by process."
    return sum(losses(portrait(b["c2w"], b["pixels"], b["window"], b["upper_face"], b["torso"]), b, 0.1).values())


def gradients(portrait, loss):
    portrait.zero_grad()
    loss.backward()
    return {n: None if p.grad is None else p.grad.clone() for n, p in portrait.named_parameters()}


class Stop(Exception):
    "What ends a run half-way in the test."


def stop_at(step):
    "Let every run save and end at a step; returns what undoes it."
    ordinary = Watch.on_train_batch_end

    def end(self, trainer, *args):
        ordinary(self, trainer, *args)
        if trainer.global_step == step:
            self.save(trainer)
            raise Stop

    Watch.on_train_batch_end = end
    return lambda: setattr(Watch, "on_train_batch_end", ordinary)


def print_line(*words):
    "Write a line in one call, so that the output of the two processes does not mix within it."
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def in_each_process():
    "What both processes do: four runs, one of them in two parts, then gradients in the group that Lightning has made."
    toy = Subject.load("toy")

    def run(preset, overrides, **more):
        config = compose_config(preset, f"{overrides} trainer.devices=2", subject="toy", audio="made", **more)
        return train(toy, toy.embedding("made"), config, show=False)

    print_line("folder", run("cpu", PRESETS["cpu"], steps=8))
    print_line("folder", run("paper", PRESETS["paper"] + " save_every=0.02", minutes=0.03))
    print_line("folder", run("adnerf", PRESETS["paper"], steps=5))
    undo = stop_at(5)
    try:
        run("cpu", PRESETS["cpu"], steps=8, name="parts")
    except Stop:
        undo()
    print_line("folder", run("cpu", PRESETS["cpu"], steps=8, name="parts"))
    seen = {}
    for preset, overrides in PRESETS.items():
        portrait, batches = portrait_and_batches(toy.folder, preset, overrides)
        ddp = torch.nn.parallel.DistributedDataParallel(portrait, broadcast_buffers=False, find_unused_parameters=preset != "cpu")
        batches.start, batches.rank = 7, torch.distributed.get_rank()
        seen[preset] = gradients(portrait, loss_of(ddp, next(iter(batches))))
    if torch.distributed.get_rank() == 0:
        torch.save(seen, toy.folder / "gradients.pt")
    torch.distributed.barrier()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "A project home in which two processes, started as from a shell, have done all of the above, and what they printed."
    home = tmp_path_factory.mktemp("two")
    toy = toy_subject(home / "data" / "toy")
    (toy.folder / "embeddings").mkdir()
    np.save(toy.folder / "embeddings" / "made.npy", speech_of(toy))
    (home / "go.py").write_text("from test_devices import in_each_process; in_each_process()")
    of_a_launcher = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "IN_TEST")
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {k: v for k, v in os.environ.items() if k not in of_a_launcher}
    env |= {"DNERF_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, str(home / "go.py")], cwd=home, capture_output=True, text=True, timeout=280, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return home, done.stdout


def test_gradients_of_two_are_those_of_one_with_twice_the_batch(two):
    folder = two[0] / "data" / "toy"
    seen = torch.load(folder / "gradients.pt")
    for preset, overrides in PRESETS.items():
        portrait, batches = portrait_and_batches(folder, preset, overrides)
        both = [batches.batch(7, rank) for rank in (0, 1)]
        assert not torch.equal(both[0]["pixels"], both[1]["pixels"])
        one = gradients(portrait, loss_of(portrait, {k: torch.cat([b[k] for b in both]) for k in both[0]}))
        for name, g in one.items():
            other = seen[preset][name]
            assert (g is None) == (other is None), name
            if g is not None:
                assert torch.allclose(other, g, rtol=1e-4, atol=1e-7), (preset, name, (other - g).abs().max())
        assert max(g.abs().max() for g in one.values() if g is not None) > 1e-4


FILES = ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "inputs.json", "metrics.csv", "state.json"]


def complete(folder):
    "The state of a run, once its folder is found complete."
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "events" not in p.name)
    assert [n for n in names if "tensorboard" not in n] == FILES
    assert len(list((folder / "tensorboard").glob("events*"))) == 1
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert len({row.split(",")[0] for row in rows}) == len(rows), rows                       # no step twice
    state = json.loads((folder / "state.json").read_text())
    assert state["devices"] == 2 and state["val_psnr"] > 5
    return state


def test_training_on_two_leaves_complete_runs(two, monkeypatch):
    """A budget in steps; one in minutes, on which both processes must agree; a preset that trains the head first and the torso after it.

    In the run by minutes attention begins during the training, and a checkpoint is written every few steps.
    """
    home, out = two
    runs, names = home / "runs" / "toy", ["made-adnerf", "made-cpu", "made-paper", "parts"]
    assert sorted(line.split()[1] for line in out.splitlines() if line.startswith("folder")) == sorted([str(runs / n) for n in names] * 2)
    assert sorted(p.name for p in runs.iterdir() if not p.name.startswith(".")) == names
    assert complete(runs / "made-cpu")["steps"] == 8 and complete(runs / "made-adnerf")["steps"] == 5
    assert complete(runs / "made-paper")["steps"] > 2
    assert torch.load(runs / "made-paper" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["portrait.smoothing"]
    monkeypatch.setenv("DNERF_HOME", str(home))
    (_, image), = render_frames(load_run(runs / "made-cpu"), [40])
    assert np.isfinite(image).all()


def test_two_that_were_stopped_go_on_where_they_were(two):
    "A run in two parts ends with the weights and the optimiser of the run in one."
    home, out = two
    assert out.count("going on at step 5") == 1
    folder = home / "runs" / "toy"
    whole, parts = (torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("made-cpu", "parts"))
    assert whole["global_step"] == parts["global_step"] == 8
    for k, v in whole["state_dict"].items():
        assert torch.allclose(v, parts["state_dict"][k], atol=1e-6), k
    moments, others = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (whole, parts))
    for i, m in moments.items():
        assert torch.allclose(m["exp_avg"], others[i]["exp_avg"], atol=1e-7) and m["step"] == others[i]["step"] == 8
    assert json.loads((folder / "parts" / "state.json").read_text())["steps"] == 8


def test_impossible_numbers_of_devices_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        compose_config("cpu", "trainer.devices=0")
    with pytest.raises(InputError, match="trainer"):
        compose_config("cpu", "trainer.gpus=2")
