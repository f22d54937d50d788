"""Sweeps: one command, many runs, each in a folder of its own, started by every launcher that is here."""
import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from dnerf.core import InputError, check_name
from dnerf.nerf import sweeps
from dnerf.nerf.config import compose_config
from dnerf.subject import toy_subject

TWO_SEEDS = ["--multirun", "subject=toy", "audio=mel", "seed=0,1", "preset=tiny", "steps=3", "checks=1"]


def weights(home, run):
    return torch.load(home / "runs" / run / "checkpoints" / "best.ckpt", weights_only=True)["portrait"]


def complete(home, rows):
    "Two different runs, each complete, with its validation PSNR as result."
    assert {row["overrides"][2] for row in rows} == {"seed=0", "seed=1"} and len({row["run"] for row in rows}) == 2
    assert rows[0]["val_psnr"] >= rows[1]["val_psnr"] > 5
    for row in rows:
        state = json.loads((home / "runs" / row["run"] / "state.json").read_text())
        assert state["steps"] == 3 and state["val_psnr"] == row["val_psnr"]
    a, b = (weights(home, row["run"]) for row in rows)
    assert any(not torch.equal(a[k], b[k]) for k in a)
    assert {p.name for p in (home / "runs").iterdir()} == {"sweeps", "toy"}


@pytest.fixture
def elsewhere(dnerf_home, tmp_path_factory, monkeypatch):
    "The working directory of a sweep on the toy subject; nothing may appear in it."
    toy_subject(dnerf_home / "data" / "toy", n=88)
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == []


def test_a_sweep_and_the_same_command_again(dnerf_home, elsewhere):
    "Hydra's own launcher. The second time, from a shell, it trains nothing and gives the same results."
    sweeps.main(*TWO_SEEDS)
    rows = sweeps.sweep_results()
    complete(dnerf_home, rows)
    written = {p: p.stat().st_mtime_ns for p in (dnerf_home / "runs" / "toy").rglob("*")}
    again = dnerf_home / "runs" / "sweeps" / "again"
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dnerf.nerf.sweeps", *TWO_SEEDS, f"hydra.sweep.dir={again}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and done.stdout.count("already trained") == 2, done.stderr[-3000:]
    assert sweeps.sweep_results(again) == rows
    assert written == {p: p.stat().st_mtime_ns for p in (dnerf_home / "runs" / "toy").rglob("*")}


@pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="the extra `sweeps` (hydra-submitit-launcher) is not installed")
def test_a_sweep_in_processes_of_their_own(dnerf_home, elsewhere, monkeypatch):
    "Submitit starts both jobs at once; both need the subject's embedding, which is made once."
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sweeps.main(*TWO_SEEDS, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    complete(dnerf_home, sweeps.sweep_results())
    assert [p.name for p in (dnerf_home / "data/toy/embeddings").glob("*.npy")] == ["mel.npy"]
    logs = "".join(p.read_text() for p in (dnerf_home / "runs" / "sweeps").rglob("*_log.out"))
    assert logs.count("on the validation split") == 2


def test_a_name_for_every_combination():
    config = compose_config("cpu", audio="mel")
    config.name = ""
    lists = [["steps=3"], ["steps=4"], ["steps=3", "data.rays=9"], ["field.resolutions=[8]"], ["field.resolutions=[8,8]"], ["name=a"]]
    names = {sweeps.sweep_name(config, ["subject=toy", "seed=0", *o]) for o in lists}
    assert len(names) == len(lists) and "mel-cpu-seed0-steps=3" in names and "mel-cpu-seed0" in names
    assert all(check_name(name) for name in names)


def test_wrong_jobs_are_refused_before_any_run(dnerf_home, elsewhere, capsys):
    cases = {"data.rayz=1,2": "rayz", "preset=fastest": "fastest", "steps=-1": "steps is -1", "subject=nobody": "nobody.mp4"}
    for wrong, message in cases.items():
        with pytest.raises(SystemExit):
            sweeps.main("--multirun", "subject=toy", "audio=mel", wrong)
        assert message in capsys.readouterr().err, wrong
    assert {p.name for p in (dnerf_home / "runs").iterdir()} <= {"sweeps"}


def test_several_devices_need_a_launcher_that_starts_them(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    def job(kind):
        return SimpleNamespace(overrides=SimpleNamespace(task=["trainer.devices=2"]), launcher=SimpleNamespace(_target_=kind))
    def config():
        return compose_config("cpu", "trainer.devices=2", audio="mel")
    with pytest.raises(InputError, match="one device"):
        sweeps._settings(config(), job("hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"))
    assert sweeps._settings(config(), job("hydra._internal.core_plugins.basic_launcher.BasicLauncher")).trainer.devices == 2
