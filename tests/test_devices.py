"""Several processes: together they compute what one computes with their batches joined, and they leave one complete run."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from dnerf.core import InputError
from dnerf.nerf.training import RayBatches, build_portrait, compose_config, losses
from dnerf.subject import Subject, toy_subject

PRESETS = {
    "cpu": "field.resolutions=[8,16] field.channels=[4,4] field.density_resolution=16 field.width=16 portrait.torso.resolutions=[8] portrait.torso.channels=[4] data.frames=3 data.rays=64 val_frames=1 checks=1",
    "paper": "field.width=16 field.depth=3 field.skip=1 portrait.n_coarse=6 portrait.n_fine=6 data.rays=64 val_frames=1 checks=1 portrait.torso.resolutions=[8] portrait.torso.channels=[4] portrait.attention_start=2",
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


def one_of_two(rank, folder):
    "A process of the test below."
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    seen = {}
    for preset, overrides in PRESETS.items():
        portrait, batches = portrait_and_batches(folder, preset, overrides)
        together = torch.nn.parallel.DistributedDataParallel(portrait, broadcast_buffers=False, find_unused_parameters=preset != "cpu")
        batches.start = 7
        seen[preset] = gradients(portrait, loss_of(together, next(iter(batches))))
    if rank == 0:
        torch.save(seen, folder / "gradients.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_gradients_of_two_are_those_of_one_with_twice_the_batch(dnerf_home):
    folder = toy_subject(dnerf_home / "data" / "toy").folder
    torch.multiprocessing.spawn(one_of_two, (folder,), nprocs=2)
    seen = torch.load(folder / "gradients.pt")
    for preset, overrides in PRESETS.items():
        portrait, batches = portrait_and_batches(folder, preset, overrides)
        both = [batches.batch(7, rank) for rank in (0, 1)]
        assert not torch.equal(both[0]["pixels"], both[1]["pixels"])
        one = gradients(portrait, loss_of(portrait, {k: torch.cat([b[k] for b in both]) for k in both[0]}))
        for name, g in one.items():
            assert (g is None) == (seen[preset][name] is None), name
            if g is not None:
                assert torch.allclose(seen[preset][name], g, rtol=1e-4, atol=1e-7), (preset, name, (seen[preset][name] - g).abs().max())
        assert max(g.abs().max() for g in one.values() if g is not None) > 1e-4


SCRIPT = """
import sys, numpy as np
from dnerf.subject import Subject
from dnerf.nerf.training import compose_config, train
s = Subject.load('toy')
for preset, overrides, settings in eval(sys.argv[1]):
    config = compose_config(preset, overrides + ' trainer.devices=2', subject='toy', audio='made', **settings)
    print('folder', train(s, s.embedding('made'), config, show=False))
"""


def train_on_two(home, *runs):
    "Train the toy with two processes, as a shell would; what they print."
    (home / "go.py").write_text(SCRIPT)
    clean = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "IN_TEST")}
    done = subprocess.run([sys.executable, str(home / "go.py"), repr(runs)], cwd=home, capture_output=True, text=True, timeout=240,
                          env={**clean, "DNERF_HOME": str(home), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def complete(folder):
    "The state of a run, after a look at its folder."
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "events" not in p.name)
    assert [n for n in names if "tensorboard" not in n] == ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "inputs.json", "metrics.csv", "state.json"]
    assert len(list((folder / "tensorboard").glob("events*"))) == 1
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert len({row.split(",")[0] for row in rows}) == len(rows), rows                       # no step twice
    state = json.loads((folder / "state.json").read_text())
    assert state["devices"] == 2 and state["val_psnr"] > 5
    return state


def test_training_on_two_leaves_complete_runs(dnerf_home):
    "One of four steps; one by the clock, which the two must read alike, with attention that begins on the way and a checkpoint every few steps; one whose head and torso take turns."
    toy = toy_subject(dnerf_home / "data" / "toy")
    (toy.folder / "embeddings").mkdir()
    np.save(toy.folder / "embeddings" / "made.npy", speech_of(toy))
    out = train_on_two(dnerf_home, ("cpu", PRESETS["cpu"], dict(steps=4)), ("paper", PRESETS["paper"] + " save_every=0.02", dict(minutes=0.03)), ("adnerf", PRESETS["paper"], dict(steps=5)))
    runs = dnerf_home / "runs" / "toy"
    assert sorted(out.split()) == sorted(["folder", str(runs / "made-cpu"), "folder", str(runs / "made-paper"), "folder", str(runs / "made-adnerf")] * 2)
    assert sorted(p.name for p in runs.iterdir() if not p.name.startswith(".")) == ["made-adnerf", "made-cpu", "made-paper"]
    assert complete(runs / "made-cpu")["steps"] == 4 and complete(runs / "made-adnerf")["steps"] == 5 and complete(runs / "made-paper")["steps"] > 2
    assert torch.load(runs / "made-paper" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["portrait.smoothing"]
    from dnerf.nerf.training import load_run, render_frames

    (_, image), = render_frames(load_run(runs / "made-cpu"), [toy.split("test")[0]])
    assert np.isfinite(image).all()


def test_impossible_numbers_of_devices_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        compose_config("cpu", "trainer.devices=0")
    with pytest.raises(InputError, match="trainer"):
        compose_config("cpu", "trainer.gpus=2")
