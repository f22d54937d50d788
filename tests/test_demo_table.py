"""The demo person in table and report, with a tiny budget.

Faces are really detected, every measure that this machine supports is computed, and new speech (if flite is installed) moves the lips.
"""
import json
import shutil

from notebooks import papermill

TINY = "field.resolutions=[24,48] field.channels=[6,4] field.density_resolution=48 data.frames=16 data.rays=192 val_frames=1 checks=1"


def test_table_and_report_of_the_demo(dnerf_home):
    parameters = dict(subject="demo", size=96, rows="mel silence", seeds=1, steps=80, preset="cpu", overrides=TINY)
    done = papermill("table1", dnerf_home / "out.ipynb", **parameters)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = dnerf_home / "runs" / "demo" / "table1"
    pictures = ["blink.png", "heat.png", "lips.png", "psnr.png", "strips.png"]
    assert sorted(p.name for p in folder.iterdir()) == [*pictures, "table1.csv", "table1.json", "table1.md"]
    results = json.loads((folder / "table1.json").read_text())
    assert list(results["rows"]) == ["mel", "silence"] and all(list(row["runs"]) == ["0"] for row in results["rows"].values())
    run = results["rows"]["mel"]["runs"]["0"]
    first = json.loads((dnerf_home / "runs" / run / "metrics.json").read_text())
    assert first["blink"]["rate"]["ground_truth"] > 0 and first["lips"]["correlation"] is not None and first["eyelid_error"] > 0
    assert first["lost_faces"] == {"rendered": 0, "ground_truth": 0} and first["subject_sync"]["offset"]["ground_truth"] is not None
    assert first["sync"]["confidence"]["rendered"] is not None or "SyncNet" in first["reasons"]["sync.confidence.rendered"]

    done = papermill("evaluate", dnerf_home / "again.ipynb", run=run, measures="pixels+faces")
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((dnerf_home / "runs" / run / "metrics.json").read_text())
    assert again["psnr"] == first["psnr"] and again["blink"] == first["blink"]
    assert again["reasons"]["subject_sync.margin.rendered"] == "not asked for"
    assert (dnerf_home / "runs" / run / "report.html").stat().st_size > 100_000

    if shutil.which("flite") is not None:
        parameters = dict(subject="demo", audio="mel", parts="f", run=run, new_speech="Good morning, my dear friend.", voices="slt kal16")
        done = papermill("benchmark", dnerf_home / "new.ipynb", **parameters)
        assert done.returncode == 0, done.stderr[-3000:]
        results = json.loads((dnerf_home / "runs" / "benchmark" / "demo.json").read_text())["f mel"]
        (speech,) = results["speeches"]
        # the lips move; how well, a run of 80 steps does not show
        assert 25 < speech["frames"] < 100 and speech["lips_spread"] > 0.1, speech
        assert (dnerf_home / "runs" / "benchmark" / "new0.mp4").is_file()
        assert [(name, voice["own"]) for name, voice in results["voices"].items()] == [("slt", True), ("kal16", False)]
        assert results["voices"]["slt"]["speeches"] == results["speeches"]
        # p, b, m: the true lips are at the lower end of their range
        assert all(voice["lips_bilabial_true"] < 0.3 and voice["lips_bilabial"] is not None for voice in results["voices"].values())
