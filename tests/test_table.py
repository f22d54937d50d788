"""Table 1 in reduced form: a cell is a run that is skipped when present, goes on when it was killed, and is compared only with its like."""
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dnerf.core import InputError, MissingError
from dnerf.evaluation import table as room
from dnerf.evaluation.statistics import findings, verdict
from dnerf.evaluation.table import Table, run_side_by_side
from dnerf.subject import Subject, toy_subject
from notebooks import papermill

ASK = dict(subject="toy", rows="mel silence deepspeech", seeds="0 1", preset="tiny", steps=3, overrides="checks=1")


@pytest.fixture
def toy(dnerf_home, monkeypatch):
    "The toy subject on a machine without DeepSpeech's weights."
    monkeypatch.setenv("DNERF_DEEPSPEECH", str(dnerf_home / "absent.pb"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return toy_subject(dnerf_home / "data" / "toy", n=88)


def a_table(toy, **changed):
    "The table of `ASK`, its embeddings made."
    ask = {k: v for k, v in ASK.items() if k != "subject"} | changed
    table = Table(toy, **ask)
    table.embed(show=False)
    return table


def runs(home):
    "When each file of the table's runs was written, but for the locks."
    return {p: p.stat().st_mtime_ns for p in (home / "runs" / "toy").glob("table1-*/**/*") if p.is_file()}


def plant(table, decibels):
    "Errors of 100 test frames for each cell, as an evaluation writes them: rows so many dB apart."
    difficulty = np.exp(np.random.default_rng(0).normal(size=100))
    for row, dB in decibels.items():
        for seed in table.seeds:
            mse = 10 ** (-dB / 10) * difficulty * np.exp(0.1 * np.random.default_rng([seed, len(row)]).normal(size=100))
            lines = ["index,mse.frame,mse.lips", *(f"{80 + i},{e},{e}" for i, e in enumerate(mse))]
            (table.run(row, seed) / "frames.csv").write_text("\n".join(lines) + "\n")


def test_papermill_then_again(dnerf_home, toy):
    "Run again, nothing is trained and the results are the same; then errors a known distance apart are significant."
    done = papermill("table1", dnerf_home / "out.ipynb", **ASK)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = dnerf_home / "runs" / "toy" / "table1"
    made = json.loads((folder / "table1.json").read_text())
    assert {r: sorted(row["runs"]) for r, row in made["rows"].items()} == {"deepspeech": [], "mel": ["0", "1"], "silence": ["0", "1"]}
    assert made["rows"]["mel"]["summary"]["lips"]["n"] == 2 and made["protocol"]["steps_trained"] == [3, 3]
    missing = made["rows"]["deepspeech"]
    assert "DeepSpeech weights" in missing["reason"] and missing["paper"] == [24.98, 5.355]
    assert {"table1.json", "table1.csv", "table1.md", "psnr.png", "lips.png"} <= {p.name for p in folder.iterdir()}
    assert f"results: {folder}" in done.stderr and "4 to do, 2 cannot be had" in done.stderr
    table, written = a_table(toy), runs(dnerf_home)
    table.fill()
    table.results()
    assert runs(dnerf_home) == written and json.loads((folder / "table1.json").read_text()) == made
    plant(table, dict(mel=26.0, silence=25.0))
    found = table.results()["rows"]["mel"]["against"]["silence"]["lips"]
    assert found["told"] and 0.5 < found["low"] < 1 < found["high"] < 1.5 and verdict(found, "silence") == "better than silence"
    plant(table, dict(mel=25.0, silence=25.0))
    assert "mel cannot be told from silence around the lips: it has not learned from the audio." in findings(table.results())


def test_other_settings_are_other_cells(dnerf_home, toy):
    "Two cells in two processes; another budget, setting or subject does not find them, another order of seeds does."
    a_table(toy, rows="mel+silence", seeds="0 1").fill(jobs=2, show=False)
    assert a_table(toy, rows="mel+silence", seeds="1 0").todo() == []
    for changed in (dict(steps=4), dict(overrides="checks=1 data.rays=63"), dict(steps=0, minutes=0.01)):
        assert len(a_table(toy, rows="mel+silence", **changed).todo()) == 2, changed
    about = json.loads((toy.folder / "subject.json").read_text())
    (toy.folder / "subject.json").write_text(json.dumps(about | {"note": "prepared anew"}))
    assert a_table(Subject.load("toy"), rows="mel+silence").todo() == [], "the content is the same"
    poses = np.load(toy.folder / "poses.npy")
    poses[:, 0, 3] += 0.01
    np.save(toy.folder / "poses.npy", poses)
    assert len(a_table(Subject.load("toy"), rows="mel+silence").todo()) == 2


def test_mixed_protocols_are_refused(dnerf_home, toy):
    table = a_table(toy, rows="mel+silence", seeds="0 1")
    with pytest.raises(MissingError, match="no cell of the table is measured yet: not trained yet"):
        table.results()
    table.fill(show=False)
    table.results()
    path = table.run("mel+silence", 1) / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["protocol"]["psnr"] = "mean of the frames' PSNR"
    metrics["protocol"]["split"]["frames"] = 3
    path.write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"different protocols \(split\.frames, psnr\)"):
        table.results()


def test_a_killed_table_goes_on(dnerf_home, toy, capsys):
    "Killed while its second cell trains: the first is kept, the second goes on at its checkpoint."
    slow = dict(rows="mel", seeds="0 1", steps=60, overrides="checks=1 save_every=0.01")
    code = ("from dnerf.evaluation.table import Table; from dnerf.subject import Subject;"
            f"t = Table(Subject.load('toy'), preset='tiny', **{slow!r}); t.embed(show=False); t.fill(show=False)")
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    def found():
        return list((dnerf_home / "runs" / "toy").glob("table1-mel-tiny-seed1*/checkpoints/last.ckpt"))
    deadline = time.time() + 120
    while not found() and time.time() < deadline and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    table = a_table(toy, **slow)
    assert table.todo() == [("mel", 1)] and found()
    kept = {p: t for p, t in runs(dnerf_home).items() if "seed0" in str(p)}
    capsys.readouterr()
    table.fill(show=False)
    assert "going on at step" in capsys.readouterr().out
    assert table.todo() == [] and kept == {p: t for p, t in runs(dnerf_home).items() if "seed0" in str(p)}
    assert json.loads((table.run("mel", 1) / "state.json").read_text())["steps"] == 60


def spoil(config):
    "Learning rates with which seed 1 diverges."
    if config.seed == 1:
        config.optim.lr_net = config.optim.lr_grid = 1e30
        config.optim.recoveries = 0
    return config


def test_a_cell_that_fails_ends_alone(dnerf_home, toy, monkeypatch):
    "A training that diverges has its reason in the table, and the other cells are computed."
    real = room.sweeps.train

    def train(person, embedding, config, **kwargs):
        return real(person, embedding, spoil(config), **kwargs)

    monkeypatch.setattr(room.sweeps, "train", train)
    table = a_table(toy, rows="mel", seeds="0 1")
    table.fill(show=False)
    monkeypatch.setattr(table, "config", lambda row, seed, make=table.config: spoil(make(row, seed)))
    assert table.todo() == [("mel", 1)] and "no longer a number" in table.reason("mel", 1)
    assert "no longer a number" in table.results()["rows"]["mel"]["reason"]


def test_processes_end_with_the_table(tmp_path, monkeypatch):
    "Interrupted: the process that runs is ended, the one that waits is not begun."
    started, popen = [], subprocess.Popen

    def watched(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(room.subprocess, "Popen", watched)
    monkeypatch.setattr(room.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side({k: [sys.executable, "-c", "import time; time.sleep(60)"] for k in "ab"}, 1, tmp_path, show=False)
    assert len(started) == 1 and started[0].poll() is not None


def test_the_launcher_is_no_setting_of_a_run(dnerf_home, toy):
    table = Table(toy, "mel", 1, "cpu", steps=3, overrides="hydra/launcher=submitit_slurm +hydra.launcher.x=1 data.rays=64")
    assert table.launcher == ["hydra/launcher=submitit_slurm", "+hydra.launcher.x=1"] and table.overrides == ["data.rays=64"]
    with pytest.raises(InputError, match="rayz"):
        Table(toy, "mel", 1, "cpu", overrides="data.rayz=3")
