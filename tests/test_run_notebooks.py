"""Every notebook with parameters, from a video to a table, run by papermill with the smallest settings there are.

One home for all: the first four seconds of the demo clip become the subject `trial`, and a run with the preset `tiny` is trained on it.
The notebooks run in this process, SpeechSplit is trained for two steps, and `control` measures the recording instead of a rendering, in
which no face could be found after five steps of training.
"""
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from dnerf.audio.mel import synthetic_speech
from dnerf.audio.speechsplit import PRESETS
from dnerf.core import InputError
from dnerf.subject import toy_subject, write_wav
from dnerf.talk.drive import drive
from notebooks import NBS, execute

TINY = ("field=fast_tiny portrait.torso.resolutions=[8] portrait.torso.channels=[4] "
        "data.frames=4 data.rays=64 val_frames=1 val_rays=16 checks=1")
RUN = "trial/speechsplit-tiny"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A home in which `prepare` and `train` have been run, and a toy subject with a synthetic voice."
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNERF_HOME", str(folder))
        patch.setenv("DNERF_DEEPSPEECH", str(folder / "absent.pb"))
        patch.setitem(PRESETS, "fast", replace(PRESETS["fast"], steps=2, batch=2))
        patch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # which a shell replaces
        toy = toy_subject(folder / "data" / "toy", n=400)
        write_wav(toy.folder / "audio.wav", synthetic_speech(16.0)[0])
        assert execute("prepare", size=96) == [f"the subject trial is in {folder / 'data' / 'trial'}"]
        printed = execute("train", subject="trial", preset="tiny")
        assert printed[0].startswith(f"{RUN}: PSNR in dB on ") and f"make drive RUN={RUN}" in printed[-1]
        yield folder


def test_evaluate(home):
    printed = execute("evaluate", run=RUN, measures="pixels+faces")
    assert "report.html" in printed[-1] and (home / "runs" / RUN / "report.html").is_file()


def test_drive(home):
    speech = write_wav(home / "hello.wav", synthetic_speech(1.0)[0])
    assert execute("drive", run=RUN, speech=str(speech)) == [f"the video is {home / 'runs' / RUN / 'speech' / 'hello.mp4'}"]


def test_viewer(home):
    assert execute("viewer", run=RUN, size=32) == [f"{RUN}: 9 frames"]


def recorded(run, cues, frames):
    "The recording in place of a rendering."
    for i in frames:
        yield i, run.subject.frames[i % run.subject.n_frames]


def test_control(home, monkeypatch):
    monkeypatch.setattr("dnerf.evaluation.response.drive", partial(drive, render=recorded))
    folder = home / "runs" / RUN / "control"
    assert execute("control", run=RUN, seconds=0.6) == [f"the videos are in {folder}"]
    assert len(list(folder.glob("*.mp4"))) == 11  # ten settings, and four of them side by side


def test_disentangle(home):
    assert execute("disentangle", subjects="toy absent", steps=3) == [f"results: {home / 'runs' / 'disentanglement.json'}"]
    assert list(json.loads((home / "runs" / "disentanglement.json").read_text())) == ["toy"]


def test_table1(home):
    printed = execute("table1", subject="toy", seeds=1, steps=3, rows="deepspeech mel silence", preset="tiny")
    folder = home / "runs" / "toy" / "table1"
    assert printed == [f"results: {folder}"]
    rows = json.loads((folder / "table1.json").read_text())["rows"]
    assert {name: len(row["runs"]) for name, row in rows.items()} == {"deepspeech": 0, "mel": 1, "silence": 1}


def test_ablations(home):
    out = home / "runs" / "trial" / "ablations.json"
    assert execute("ablations", subject="trial", steps=3, only="all+poses", overrides=TINY) == [f"results: {out}"]
    made = json.loads(out.read_text())
    assert list(made["psnr"]) == ["all", "poses"] and list(made["jitter"]) == list(made["psnr"])


def test_benchmark(home):
    "Encoding of speech; tests/test_benchmark.py has the other parts."
    (line,) = execute("benchmark", subject="toy", parts="speech")
    results = json.loads((home / "runs" / "benchmark" / "toy.json").read_text())
    assert line.startswith("results: ") and set(results) == {"speech", "contamination"}


def test_what_cannot_be_had_is_an_error(home):
    with pytest.raises(InputError, match="row"):
        execute("ablations", subject="trial", only="no_such_part")


def test_video_to_portrait(home):
    assert execute("tutorials/video_to_portrait", subject="trial", steps=3, seconds=0.2, overrides=TINY)[-1].startswith("run: runs/trial/")


def test_what_speechsplit_hears(home):
    execute("tutorials/what_speechsplit_hears", subject="toy", steps=2)


def test_nerf_that_listens():
    execute("tutorials/nerf_that_listens", steps=5, talking_steps=5)


def test_own_embedding(monkeypatch):
    monkeypatch.setenv("DNERF_HOME", "set by the notebook")
    execute("tutorials/own_embedding", steps=5)


def test_all_are_run():
    "What `nbdev_test` skips is run here, and no notebook asks whether it is being tested."
    texts = {p.relative_to(NBS).with_suffix("").as_posix(): p.read_text(encoding="utf-8") for p in NBS.rglob("*.ipynb")}
    here = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("test_run_notebooks.py", "test_live.py"))
    skipped = sorted(name for name, text in texts.items() if "skip_exec: true" in text)
    assert len(skipped) >= 10 and [name for name in skipped if f'execute("{name}"' not in here] == []
    assert {name for name in skipped if "/" not in name} == {n for n in texts if n[0].isalpha() and "/" not in n} - {"index"}
    assert [name for name, text in texts.items() if "IN_TEST" in text] == []
