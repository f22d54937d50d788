"""The demo subject from outside: speech from a synthesiser, clips of other sizes, seeds and lights, and what must be refused."""
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest

from dnerf.core import InputError, MissingError
from dnerf.video.demo import (BUNDLED_VOICES, Speech, bundled_speech, bundled_text, demo_speech, demo_text, demo_truth, demo_video,
                              make_demo, perform, speak)
from dnerf.video.media import iter_frames, probe, read_audio

FAKE_FLITE = """#!{python}
import sys, wave
if sys.argv[1] == '-lv': sys.exit(print('Voices available: kal rms slt'))
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if 'impossible' in args['-t']: sys.exit('cannot')
with wave.open(sys.argv[-1], 'wb') as f: f.setnchannels(1); f.setsampwidth(2); f.setframerate(16000); f.writeframes(bytes(2*8000))
print('pau:0.100 b:0.200 ay:0.400 pau:0.480')
"""


@pytest.fixture
def flite(tmp_path, monkeypatch):
    "A stand-in for the program: half a second of silence and fixed phones for any sentence."
    program = tmp_path / "bin" / "flite"
    program.parent.mkdir()
    program.write_text(FAKE_FLITE.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


def test_speech_by_sentence(flite):
    speech = speak("One here. Another there!")
    each = 8000 + 2400  # samples of a sentence and its pause
    assert speech.sr == 16000 and len(speech.wav) == 2 * each
    assert [v for *_, v in speech.segments] == ["sil", "PP", "aa", "I", "sil", "sil"] * 2
    starts, ends = np.array([s[:2] for s in speech.segments]).T
    assert np.allclose(starts[1:], ends[:-1]) and starts[0] == 0 and np.isclose(ends[-1], 2 * each / 16000)
    assert np.isclose(starts[7], each / 16000 + 0.1)


def test_speech_refused(flite):
    with pytest.raises(InputError, match="no text"):
        speak("  ")
    with pytest.raises(InputError, match="impossible"):
        speak("An impossible one.")
    with pytest.raises(InputError, match="no voice 'awb' here; it has: kal rms slt"):
        speak("Hello.", voice="awb")


@pytest.mark.skipif(shutil.which("flite") is None, reason="the program flite is not installed")
def test_bundled_speech_can_be_made_again():
    made, bundled = speak(demo_text()), demo_speech()
    assert made.segments == bundled.segments
    n = min(len(made.wav), len(bundled.wav))
    assert np.corrcoef(made.wav[:n], bundled.wav[:n])[0, 1] > 0.99  # the bundled one went through AAC


@pytest.mark.skipif(shutil.which("flite") is None, reason="the program flite is not installed")
def test_bundled_sentence_can_be_made_again():
    for voice in BUNDLED_VOICES:
        made, bundled = speak(bundled_text(), voice).wav, read_audio(bundled_speech(voice))
        n = min(len(made), len(bundled))
        assert np.corrcoef(made[:n], bundled[:n])[0, 1] > 0.99  # AAC


def test_no_synthesiser(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="apt install flite") as e:
        speak("Hello.")
    assert "\n" not in str(e.value)


def test_bundled_clip_is_a_usual_video():
    info = probe(demo_video())
    assert (info.width, info.height, round(info.fps), info.has_audio) == (256, 256, 25, True)
    assert abs(len(read_audio(demo_video())) / 16000 - len(demo_truth()) / 25) < 0.1


def test_other_size_seed_and_speech(tmp_path):
    tone = (0.1 * np.sin(2 * np.pi * 220 * np.arange(8000) / 8000)).astype(np.float32)
    speech = Speech(tone, 8000, [(0.0, 0.4, "aa"), (0.4, 0.6, "PP"), (0.6, 1.0, "O")])
    kwargs = dict(size=48, texture=64, n_frames=3, progress=False)
    made = ("a", 1, "room"), ("b", 2, "room"), ("c", 1, "head")
    a, b, c = (make_demo(tmp_path / f"{k}.mp4", speech, seed=seed, lights=lights, **kwargs) for k, seed, lights in made)
    frames = {p.stem: np.stack(list(iter_frames(p))) for p in (a, b, c)}
    assert frames["a"].shape == (3, 48, 48, 3)
    assert np.abs(frames["a"].astype(int) - frames["b"]).max() > 20
    assert not np.array_equal(frames["a"], frames["c"])
    truth = {k: demo_truth(tmp_path / f"{k}_truth.npz") for k in "abc"}
    assert np.array_equal(truth["a"].head_to_cam, truth["c"].head_to_cam) and np.array_equal(truth["a"].labels, truth["c"].labels)
    assert truth["a"].focal == 2.75 * 48 and truth["a"].viseme_names == ["aa"]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".mp4"] * 3 + [".npz"] * 3
    assert abs(len(read_audio(a)) / 16000 - 3 / 25) < 0.07


def test_longer_than_any_viseme():
    act = perform([(0.0, 60.0, "sil")], 60.0, seed=3)
    assert act.facial.shape == (1500, 29) and act.facial.min() >= 0 and act.facial.max() <= 1
    assert len(act.blinks) >= 9 and np.degrees(act.rots.sum(1)).std(0)[2] > 3


def test_refused_leaves_nothing(tmp_path):
    for name, kwargs, words in (
        ("a.avi", {}, "mp4"),
        ("a.mp4", dict(size=33), "even"),
        ("a.mp4", dict(n_frames=0), "n_frames is 0"),
        ("a.mp4", dict(lights="x"), "'room'"),
    ):
        with pytest.raises(InputError, match=words):
            make_demo(tmp_path / name, progress=False, **kwargs)
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingError):
        demo_truth(tmp_path / "absent.npz")


def test_drawing_needs_only_numpy():
    heavy = {"torch", "mediapipe", "cv2", "warp", "anny", "jupyterlab"}
    code = f"import sys, dnerf.video.demo; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
