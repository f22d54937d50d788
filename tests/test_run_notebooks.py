"""Every notebook with parameters, from a video to a table, run by papermill with the smallest settings there are.

One home for all: the first four seconds of the demo clip become the subject `trial`, and a run with the preset `tiny` is trained on it.
The notebooks run in this process, SpeechSplit is trained for two steps, and `control` measures the recording instead of a rendering, in
which no face could be found after five steps of training.
"""
import ast
import base64
import json
import sys
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import google.protobuf  # noqa: F401, Colab's package lies beside it
import pytest

from dnerf.audio.mel import synthetic_speech
from dnerf.audio.speechsplit import PRESETS
from dnerf.core import InputError
from dnerf.subject import toy_subject, write_wav
from dnerf.talk.drive import drive
from dnerf.talk.voice import read_speech
from notebooks import NBS, execute
from test_viewer_browser import CHROMIUM, QUIET

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


def test_colab_notebook_in_jupyter(home):
    "The package is there, so nothing is installed; a person who agreed to nothing is not packed."
    asked = dict(video="trial", preset="tiny", overrides="steps=3", speech=str(write_wav(home / "hello.wav", synthetic_speech(1.0)[0])))
    printed = execute("tutorials/colab", **asked, own_video=True)
    assert printed[0].startswith(f"the film is {home}") and printed[1].startswith("no file of the portrait was written")
    assert list(home.glob("runs/trial/*/trial.portrait")) == []
    printed = execute("tutorials/colab", **asked, consent="I am the person shown")
    assert Path(printed[1].removeprefix("the portrait is ")).stat().st_size > 10_000


def test_colab_notebook_with_the_buttons_of_colab(home, monkeypatch):
    "Stand-ins: an upload, a recording as the browser gives it, and downloads."
    wav, taken, asked = write_wav(home / "hello.wav", synthetic_speech(1.0)[0]), [], []
    upload = lambda: asked.append("a file") or {str(home / "data" / "trial.mp4"): b""}  # noqa: E731
    record = lambda script, timeout_sec: asked.append(script) or f"data:;base64,{base64.b64encode(wav.read_bytes()).decode()}"  # noqa: E731
    colab = ModuleType("google.colab")
    colab.__spec__ = ModuleSpec("google.colab", None)
    colab.files, colab.output = SimpleNamespace(upload=upload, download=taken.append), SimpleNamespace(eval_js=record)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    execute("tutorials/colab", own_video=True, record=1, preset="tiny", overrides="steps=3", consent="I am the person shown")
    assert asked[0] == "a file" and len(asked) == 2 and "1000*1)" in asked[1]
    assert [Path(path).name for path in taken] == ["recording.mp4", "trial.portrait"] and all(Path(path).is_file() for path in taken)


def test_what_colab_records_can_be_read(tmp_path):
    "The script of the notebook in Chromium with a fake microphone: one second of sound."
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs Playwright: pip install -e '.[browser]'")
    if not CHROMIUM:
        pytest.skip("the browser test needs Chromium, e.g. apt-get install chromium")
    cells = json.loads((NBS / "tutorials" / "colab.ipynb").read_text(encoding="utf-8"))["cells"]
    (source,) = [text for cell in cells if (text := "".join(cell["source"])).startswith("RECORDER = ")]
    script = ast.literal_eval(source.removeprefix("RECORDER = "))
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch_persistent_context(str(tmp_path / "profile"), executable_path=CHROMIUM, args=[*QUIET, *fake])
        page = browser.new_page()
        page.route("http://localhost/", lambda route: route.fulfill(body="<p>a notebook", content_type="text/html"))
        page.goto("http://localhost/")
        sound = page.evaluate(script.replace("SECONDS", "1"))
        browser.close()
    file = tmp_path / "recording.webm"
    file.write_bytes(base64.b64decode(sound.partition(",")[2]))
    speech = read_speech(file)
    assert 0.5 < len(speech) / 16000 < 2 and abs(speech).max() > 0.01


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
