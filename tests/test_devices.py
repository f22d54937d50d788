"""Several processes: together they compute what one computes with their batches joined, and they leave one complete run."""
import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dnerf.core import InputError
from dnerf.nerf.batches import RayBatches
from dnerf.nerf.config import compose_config
from dnerf.nerf.cue import Cue
from dnerf.nerf.playback import render_frames
from dnerf.nerf.portrait import build_portrait
from dnerf.nerf.losses import LossWeights
from dnerf.nerf.run import load_run
from dnerf.nerf.training import train
from dnerf.subject import Subject, toy_subject
from toys import MLP, keep_speech, speech_of, stopping_at

PRESETS = {"tiny": "data.frames=3 checks=1", "paper": f"{MLP} portrait.attention_start=2 checks=1"}


def portrait_and_batches(folder, preset, overrides):
    "The same portrait in every process, and its batches."
    toy = Subject(folder)
    config = compose_config(preset, overrides, subject="toy")
    batches = RayBatches(toy, speech_of(toy), config)
    torch.manual_seed(0)
    return build_portrait(toy, config, 3).initialise(toy), batches


def loss_of(portrait, b):
    "The sum of a batch's losses, without jitter and noise: those differ by process."
    recipe = getattr(portrait, "module", portrait).recipe
    return sum(recipe.terms(portrait(b.cue, b.pixels), b, LossWeights(mask=0.1)).values())


def joined(batches):
    "One batch of the frames of several."
    first, tensors = batches[0], ("pixels", "rgb", "mask")
    cue = {f.name: torch.cat([getattr(b.cue, f.name) for b in batches]) for f in fields(Cue) if getattr(first.cue, f.name) is not None}
    return replace(first, cue=Cue(**cue), **{name: torch.cat([getattr(b, name) for b in batches]) for name in tensors})


def gradients(portrait, loss):
    portrait.zero_grad()
    loss.backward()
    return {n: None if p.grad is None else p.grad.clone() for n, p in portrait.named_parameters()}


def print_line(*words):
    "Write a line in one call, so that the output of the two processes does not mix within it."
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def in_each_process():
    "What both processes do: four runs, one of them in two parts, then gradients in the group that Lightning has made."
    toy = Subject.load("toy")

    def run(preset, overrides, **more):
        config = compose_config(preset, f"{overrides} trainer.devices=2 keep_last=true", subject="toy", audio="made", **more)
        return train(toy, toy.embedding("made"), config, show=False)

    print_line("folder", run("tiny", PRESETS["tiny"], steps=8))
    print_line("folder", run("paper", PRESETS["paper"] + " save_every=0.02", minutes=0.03))
    print_line("folder", run("adnerf", PRESETS["paper"], steps=5))
    with stopping_at(5):
        run("tiny", PRESETS["tiny"], steps=8, name="parts")
    print_line("folder", run("tiny", PRESETS["tiny"], steps=8, name="parts"))
    seen = {}
    for preset, overrides in PRESETS.items():
        portrait, batches = portrait_and_batches(toy.folder, preset, overrides)
        ddp = torch.nn.parallel.DistributedDataParallel(portrait, broadcast_buffers=False, find_unused_parameters=preset != "tiny")
        batches.start, batches.rank = 7, torch.distributed.get_rank()
        seen[preset] = gradients(portrait, loss_of(ddp, next(iter(batches))))
    if torch.distributed.get_rank() == 0:
        torch.save(seen, toy.folder / "gradients.pt")
    torch.distributed.barrier()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "A project home in which two processes, started as from a shell, have done all of the above, and what they printed."
    home = tmp_path_factory.mktemp("two")
    keep_speech(toy_subject(home / "data" / "toy"))
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
        assert not torch.equal(both[0].pixels, both[1].pixels)
        one = gradients(portrait, loss_of(portrait, joined(both)))
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
    assert (folder / "subject" / "kept.json").is_file()
    assert [n for n in names if not re.match(r"tensorboard|\.?subject", n)] == FILES
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
    runs, names = home / "runs" / "toy", ["made-adnerf", "made-paper", "made-tiny", "parts"]
    assert sorted(line.split()[1] for line in out.splitlines() if line.startswith("folder")) == sorted([str(runs / n) for n in names] * 2)
    assert sorted(p.name for p in runs.iterdir() if not p.name.startswith(".")) == names
    assert complete(runs / "made-tiny")["steps"] == 8 and complete(runs / "made-adnerf")["steps"] == 5
    assert complete(runs / "made-paper")["steps"] > 2
    assert torch.load(runs / "made-paper" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["portrait.condition.smoothing"]
    monkeypatch.setenv("DNERF_HOME", str(home))
    (_, image), = render_frames(load_run(runs / "made-tiny"), [40])
    assert np.isfinite(image).all()


def test_two_that_were_stopped_go_on_where_they_were(two):
    "A run in two parts ends with the weights and the optimiser of the run in one."
    home, out = two
    assert out.count("going on at step 5") == 1
    folder = home / "runs" / "toy"
    whole, parts = (torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("made-tiny", "parts"))
    assert whole["global_step"] == parts["global_step"] == 8
    for k, v in whole["state_dict"].items():
        assert torch.allclose(v, parts["state_dict"][k], atol=1e-6), k
    moments, others = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (whole, parts))
    for i, m in moments.items():
        assert torch.allclose(m["exp_avg"], others[i]["exp_avg"], atol=1e-7) and m["step"] == others[i]["step"] == 8
    assert json.loads((folder / "parts" / "state.json").read_text())["steps"] == 8


def test_impossible_numbers_of_devices_are_refused():
    with pytest.raises(InputError, match="devices is 0, not a whole number from 1"):
        compose_config("cpu", "trainer.devices=0")
    with pytest.raises(InputError, match="trainer"):
        compose_config("cpu", "trainer.gpus=2")


def test_several_machines_need_something_that_connects_them(dnerf_home, monkeypatch):
    "Refused before anything is written; one process ignores what a cluster has started around it."
    toy, runs = keep_speech(toy_subject(dnerf_home / "data" / "toy")), dnerf_home / "runs"
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "NODE_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def trained(overrides):
        return train(toy, toy.embedding("made"), compose_config("tiny", overrides, subject="toy", audio="made", steps=1), show=False)

    with pytest.raises(InputError, match="trainer.num_nodes=2, but nothing tells the machines of each other"):
        trained("trainer.num_nodes=2")
    for name, value in (("JOB_ID", 7), ("NTASKS", 4), ("JOB_NAME", "x"), ("PROCID", 0), ("LOCALID", 0), ("NODEID", 0), ("NNODES", 1)):
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    with pytest.raises(InputError, match="2 processes on each of 1 machines cannot be trained here .*agree with what was started"):
        trained("trainer.devices=2")
    assert not runs.exists()
    assert (trained("") / "state.json").is_file()
