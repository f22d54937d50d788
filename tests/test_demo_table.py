"""The demo person in table and report, with a tiny budget.

Faces are really detected, every measure that this machine supports is computed, and new speech (if flite is installed) moves the lips.
"""
import json
import shutil

import pytest
from notebooks import execute

from dnerf.evaluation.subject_syncnet import SubjectSyncConfig, train_subject_syncnet

TINY = "field.resolutions=[24,48] field.channels=[6,4] field.density_resolution=48 data.frames=16 data.rays=192 val_frames=1 checks=1"


@pytest.fixture
def short_syncnet(monkeypatch):
    "The subject's SyncNet after 40 steps: it is there and measured; how well it separates, test_syncnet shows."
    short = SubjectSyncConfig(steps=40)
    monkeypatch.setattr("dnerf.evaluation.subject_syncnet.train_subject_syncnet", lambda *args: train_subject_syncnet(*args, c=short))


def test_table_and_report_of_the_demo(dnerf_home, short_syncnet):
    parameters = dict(subject="demo", size=96, rows="mel", seeds=1, steps=60, preset="cpu", overrides=TINY)
    execute("table1", **parameters)
    folder = dnerf_home / "runs" / "demo" / "table1"
    pictures = ["blink.png", "heat.png", "lips.png", "psnr.png", "strips.png"]
    assert sorted(p.name for p in folder.iterdir()) == [*pictures, "table1.csv", "table1.json", "table1.md"]
    results = json.loads((folder / "table1.json").read_text())
    assert list(results["rows"]["mel"]["runs"]) == ["0"]
    run = results["rows"]["mel"]["runs"]["0"]
    first = json.loads((dnerf_home / "runs" / run / "metrics.json").read_text())
    assert first["blink"]["rate"]["ground_truth"] > 0 and first["lips"]["correlation"] is not None and first["eyelid_error"] > 0
    assert first["lost_faces"] == {"rendered": 0, "ground_truth": 0} and first["subject_sync"]["offset"]["ground_truth"] is not None
    assert first["sync"]["confidence"]["rendered"] is not None or "SyncNet" in first["reasons"]["sync.confidence.rendered"]

    execute("evaluate", run=run, measures="pixels+faces")
    again = json.loads((dnerf_home / "runs" / run / "metrics.json").read_text())
    assert again["psnr"] == first["psnr"] and again["blink"] == first["blink"]
    assert again["reasons"]["subject_sync.margin.rendered"] == "not asked for"
    assert (dnerf_home / "runs" / run / "report.html").stat().st_size > 100_000

    if shutil.which("flite") is not None:
        parameters = dict(subject="demo", audio="mel", parts="f", run=run, new_speech="Good morning, my dear friend.", voices="slt kal16")
        execute("benchmark", **parameters)
        results = json.loads((dnerf_home / "runs" / "benchmark" / "demo.json").read_text())["f mel"]
        (speech,) = results["speeches"]
        # the lips move; how well, a run of 60 steps does not show
        assert 25 < speech["frames"] < 100 and speech["lips_spread"] > 0.1, speech
        assert (dnerf_home / "runs" / "benchmark" / "new0.mp4").is_file()
        assert [(name, voice["own"]) for name, voice in results["voices"].items()] == [("slt", True), ("kal16", False)]
        assert results["voices"]["slt"]["speeches"] == results["speeches"]
        # p, b, m: the true lips are at the lower end of their range
        assert all(voice["lips_bilabial_true"] < 0.3 and voice["lips_bilabial"] is not None for voice in results["voices"].values())
