"""The package in Python: the lines that the home page prints, and what the six names cost before they are used."""
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dnerf
from dnerf.audio.mel import synthetic_speech
from dnerf.core import InputError, MissingError, sha256
from dnerf.nerf.config import compose_config
from dnerf.subject import Subject, toy_subject, write_subject_json, write_wav
from dnerf.video.media import probe, write_video
from dnerf.video.prepare import METHOD

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_package_is_imported_at_once_and_knows_its_names():
    code = ("import sys, time; start = time.perf_counter(); import dnerf; took = time.perf_counter() - start\n"
            "heavy = {'numpy', 'torch', 'fastcore', 'dnerf.api'} & set(sys.modules)\n"
            "assert not heavy and set(dnerf.__all__) <= set(dir(dnerf)) and dnerf.__version__, heavy\n"
            "try: dnerf.fly\n"
            "except AttributeError as e: print(e)\n"
            "print(took)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    error, took = done.stdout.splitlines()
    assert error == "module 'dnerf' has no attribute 'fly'" and float(took) < 0.3, done.stderr
    from dnerf import api

    assert all(getattr(dnerf, name) is getattr(api, name) for name in dnerf.__all__)


def test_an_open_run_has_its_methods_wherever_it_was_opened():
    code = ("import sys; from dnerf.nerf.run import Run\n"
            "assert 'dnerf.api' not in sys.modules and 'dnerf.talk' not in sys.modules\n"
            "run = Run(*[None] * 7); print(*(getattr(run, name).__name__ for name in ('stream', 'drive', 'evaluate')))\n"
            "try: run.fly\n"
            "except AttributeError as e: print(e)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["stream drive evaluate", "'Run' object has no attribute 'fly'"], done.stderr


@pytest.fixture
def person(dnerf_home, monkeypatch):
    "A working folder with me.mp4, from which the subject `me` was prepared, and hello.wav; trainings take three steps."
    film = write_video(dnerf_home / "me.mp4", np.zeros((60, 64, 64, 3), np.uint8), wav=np.zeros(60 * 640))
    toy = toy_subject(dnerf_home / "data" / "me", n=88)
    write_wav(toy.folder / "audio.wav", synthetic_speech(88 / 25)[0])
    write_subject_json(toy.folder, name="me", n_frames=88, size=32, focal=toy.focal, blendshape_names=toy.blendshape_names,
                       source=dict(file="me.mp4", sha256=sha256(film)), prepare=dict(method=METHOD, asked=None))
    write_wav(dnerf_home / "hello.wav", synthetic_speech(1.0, seed=3)[0])

    def short(preset, overrides, **given):
        return compose_config("tiny", overrides, **given | dict(audio="mel", minutes=None, steps=3))

    monkeypatch.setattr("dnerf.api.compose_config", short)
    monkeypatch.chdir(dnerf_home)
    return dnerf_home


def test_the_lines_of_the_home_page(person):
    (lines,) = re.findall(r"```python\n(import dnerf\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert lines.count("\n") <= 5
    names: dict = {}
    exec(lines, names)
    run, film = names["run"], names["film"]
    assert isinstance(run, dnerf.Run) and (run.state["steps"], run.folder) == (3, person / "runs" / "me" / "mel-tiny")
    assert film == run.folder / "speech" / "hello.mp4" and (probe(film).n_frames, probe(film).audio_codec) == (25, "aac")
    assert isinstance(dnerf.prepare("me.mp4"), Subject)                    # it is there already
    metrics = dnerf.load_run("me").evaluate(measures="pixels", progress=False)
    assert metrics["protocol"]["run"] == "me/mel-tiny" and metrics["psnr"]["face"] > 0
    assert dnerf.train(person / "me.mp4", progress=False).folder == run.folder       # a path, and a run that is trained
    assert dnerf.drive("me", "hello.wav", "said.mp4", rhythm=1.2, progress=False) == Path("said.mp4")
    with pytest.raises(MissingError, match="there is no video b/me.mp4"):
        dnerf.train("b/me.mp4")
    with pytest.raises(InputError, match="subject 'me' is prepared at 32 pixels, not at 64"):
        dnerf.train("me.mp4", size=64)
