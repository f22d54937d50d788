"""Driving a run with new speech: sync to the end, motion without jumps, a killed drive that goes on, paste back, and wrong requests."""
import ast
import errno
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from fastcore.docments import docments

from dnerf.audio.embedding import embed_subject
from dnerf.audio.mel import synthetic_speech
from dnerf.checkpoint import save_sealed
from dnerf.cli import VERBS
from dnerf.core import DnerfError, InputError, MissingError, StorageError, read_json, sha256, write_json
from dnerf.nerf.portrait import PortraitConfig
from dnerf.nerf.run import load_run
from dnerf.subject import Subject, toy_subject, write_wav
from dnerf.talk.drive import drive, job_key, job_settings
from dnerf.talk.motion import acceleration, open_motion, recorded_motion
from dnerf.talk.options import DriveOptions
from dnerf.talk.voice import parse_weights
from dnerf.video.media import count_frames, iter_frames, probe, read_audio, write_video
from dnerf.video.pieces import read_frames

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [f.name for f in fields(DriveOptions)]


def stand_in(home: Path, n: int = 176, **kwargs):
    "A run that was never trained: the toy subject and the mel-spectrogram of its voice."
    toy = toy_subject(home / "data" / "toy", n=n)
    write_wav(toy.folder / "audio.wav", np.resize(synthetic_speech(3.2, seed=4)[0][3000:], n * 640))
    config = SimpleNamespace(audio="mel", portrait=PortraitConfig())
    folder, embedding = home / "runs" / "toy" / "stand-in", embed_subject(toy, "mel", bar=False)
    folder.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(folder=folder, subject=toy, device="cpu", embedding=embedding, config=config, **kwargs)


def grey(run, rows, frames):
    "A stand-in for rendering: every frame has a brightness of its own."
    for i in frames:
        yield i, np.full((32, 32, 3), i % 200, np.uint8)


@pytest.fixture
def hello(dnerf_home):
    return write_wav(dnerf_home / "hello.wav", synthetic_speech(1.5, seed=9)[0])


def notebook_cells() -> list[str]:
    "Sources of the cells of nbs/drive.ipynb."
    return ["".join(cell["source"]) for cell in json.loads((ROOT / "nbs" / "drive.ipynb").read_text(encoding="utf-8"))["cells"]]


def test_options_in_the_table_of_the_notebook():
    "One row for each parameter, in order, with its help text; only backticks may be added."
    texts = docments(VERBS["drive"])
    (table,) = [text for text in notebook_cells() if "| parameter | meaning |" in text]
    rows = [line.replace("`", "") for line in table.splitlines() if line.startswith("| `")]
    wanted = [f"| {name} | {texts[name]} |".replace("`", "") for name in inspect.signature(VERBS["drive"]).parameters]
    assert rows == wanted, "nbs/drive.ipynb, table of parameters"


def test_options_in_the_call_of_the_notebook():
    "Every option is passed on by its own name."
    code = [text for text in notebook_cells() if "video = drive(" in text]
    (call,) = [node for node in ast.walk(ast.parse("".join(code))) if isinstance(node, ast.Call) and ast.unparse(node.func) == "drive"]
    wanted = {name: name for name in (*OPTIONS, "overwrite")}
    assert {k.arg: ast.unparse(k.value) for k in call.keywords} == wanted, "nbs/drive.ipynb, call of drive"


def test_options_are_words_of_make():
    "In the help, in the recipe (as text where only text is meant), and exported to it."
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    target = re.search(r"^drive: .*\n(?:\t.*\n)+", make, re.M)[0]
    words = [name.upper() for name in ("out", *OPTIONS, "overwrite")]
    assert re.search(r"\[(.*)\]", target)[1].split() == [f"{word}=" for word in words], "Makefile, help of drive"
    kinds = {f.name: set(get_args(f.type) or [f.type]) - {type(None)} for f in fields(DriveOptions)}
    wanted = {(name.upper(), name, "text" if kind == {str} else "number") for name, kind in kinds.items()}
    wanted |= {(name.upper(), name, "text") for name in ("run", "speech", "out")}
    wanted.add(("OVERWRITE", "overwrite", "number"))
    calls = re.findall(r"\$\(call (\w+),(\w+),(\w+)\)", target)
    assert {(word, name, kind) for kind, word, name in calls} == wanted, "Makefile, recipe of drive"
    exported = {word for line in re.findall(r"^export ([A-Z ]+)$", make, re.M) for word in line.split()}
    assert {"RUN", "SPEECH", *words} <= exported, "Makefile, export"


def test_options_make_the_key(dnerf_home, hello):
    "Each option that is changed changes the key, however weights and files are written it stays; and it is that of earlier versions."
    run, wav = stand_in(dnerf_home), read_audio(hello)
    other = write_wav(dnerf_home / "other.wav", wav[::-1])

    def settings(**knobs):
        options = DriveOptions(**knobs)
        content = None if options.content is None else read_audio(options.content)
        paster = SimpleNamespace(path=options.paste) if options.paste else None
        return job_settings(options, open_motion(run, options.motion, options.seed, 38), parse_weights(options.weights), content, paster)

    def key(**knobs):
        return job_key(run, wav, settings(**knobs))

    changed = dict(motion="still", blinks=0, pitch=0.5, rhythm=1.2, content=str(hello), articulation=0.5, weights="mel=.5 content=1",
                   badge=True, paste="film.mp4", size=64, seed=4)
    assert list(changed) == OPTIONS, "a value for the option that was added"
    keys = [key(), *(key(**{name: value}) for name, value in changed.items())]
    assert len(set(keys)) == len(keys) and key(content=str(other)) != key(content=str(hello))
    copy = dnerf_home / "copy.wav"
    copy.write_bytes(hello.read_bytes())
    assert key(content=str(copy)) == key(content=str(hello)) and key(weights={"content": 1, "mel": 0.5}) == key(weights="mel=.5 content=1")
    motion = settings()["motion"]
    assert settings() == dict(motion=motion, blinks=None, pitch=1.0, rhythm=1.0, content=None, articulation=1.0, weights=[], badge=False,
                              paste=None, size=None, seed=0)


def test_options_as_one_object_or_as_keywords(dnerf_home, hello):
    run, options = stand_in(dnerf_home), DriveOptions(size=48, badge=True)
    wide = drive(run, hello, dnerf_home / "wide.mp4", options, size=64, progress=False, render=grey)
    same = drive(run, hello, dnerf_home / "same.mp4", replace(options, size=64), progress=False, render=grey)
    assert probe(wide).width == 64 and wide.read_bytes() == same.read_bytes()
    with pytest.raises(TypeError, match="unexpected keyword argument 'blink'"):
        drive(run, hello, blink=20, progress=False, render=grey)


def test_picture_and_sound_meet_at_the_end_of_ten_minutes(dnerf_home):
    run, seconds, events = stand_in(dnerf_home), 600, (1, 299, 599)
    wav = 1e-3 * np.random.default_rng(0).standard_normal(seconds * 16000).astype(np.float32)
    for s in events:
        wav[s * 16000:s * 16000 + 64] = 0.9 * np.cos(2 * np.pi * 1000 * np.arange(64) / 16000)
    alive, most = weakref.WeakValueDictionary(), [0]

    class Frame(np.ndarray):
        "An array that can be watched."

    def flash(run, rows, frames):
        for i in frames:
            alive[i] = frame = Frame((32, 32, 3), np.uint8)  # owns its pixels: a view would die while its copies pile up
            frame[:] = 230 if i // 25 in events else 20
            most[0] = max(most[0], len(alive))
            yield i, frame

    video = drive(run, write_wav(dnerf_home / "long.wav", wav), motion="still", progress=False, render=flash)
    info, heard = probe(video), read_audio(video)
    assert (info.n_frames, info.variable_fps) == (15000, False) and abs(info.duration - 600) < 1e-6
    assert most[0] < 20, "frames must not pile up in memory"
    for s in events:
        light = np.array([image[16, 16].mean() for image in read_frames(video, 25 * s - 3, 6)])
        assert np.argmax(light > 128) == 3, (s, light)
        around = heard[s * 16000 - 4000:s * 16000 + 4000]
        assert abs(np.argmax(abs(around) > 0.4) - 4000) < 16, "the click must be within a millisecond"


def test_the_head_never_moves_more_abruptly_than_it_did(dnerf_home):
    for seed in range(4):
        toy = toy_subject(dnerf_home / f"toy{seed}", n=200 + 90 * seed, seed=seed)
        run = SimpleNamespace(subject=toy, config=SimpleNamespace(portrait=PortraitConfig()))
        train = np.array(toy.poses)[:toy.split("train").stop]
        motion = recorded_motion(run, seed)
        path = motion.at(np.arange(4000)).c2w
        assert acceleration(path, toy.focal, toy.size).max() <= acceleration(train, toy.focal, toy.size).max() * (1 + 1e-3)
        steps = [np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).max() for poses in (path, train)]
        assert steps[0] <= steps[1] * (1 + 1e-3)
        assert np.ptp(path[:, 0, 3]) > 0.5 * np.ptp(train[:, 0, 3]), "it must move as far as it did"


def test_motion_of_any_length_is_a_formula(dnerf_home):
    run = stand_in(dnerf_home)
    motion = open_motion(run, "loop", seed=3)
    hour = motion.at(90_000)
    assert np.array_equal(hour.c2w, motion.at(np.array([0, 90_000])).c2w[1]) and motion.at(0).c2w.shape == (4, 4)
    assert motion.source(np.arange(0, 90_000, 7)).max() < run.subject.split("train").stop


@pytest.mark.parametrize("samples, frames", [(1, 1), (640, 1), (641, 2), (24_000, 38)])
def test_every_sample_has_its_frame(dnerf_home, samples, frames):
    speech = write_wav(dnerf_home / "short.wav", np.resize(synthetic_speech(1.0)[0], samples))
    video = drive(stand_in(dnerf_home), speech, progress=False, render=grey)
    assert count_frames(video) == frames


@pytest.mark.parametrize("sr, channels, video", [(8000, 1, False), (44100, 2, False), (48000, 2, True)])
def test_any_sound_drives(dnerf_home, sr, channels, video):
    "Whatever its rate, channels and container: as long and as loud as it was."
    import av

    wav = synthetic_speech(2.0, seed=3, sr=sr)[0]
    path = dnerf_home / ("speech.mov" if video else "speech.wav")
    with av.open(str(path), "w") as out:
        if video:
            picture = out.add_stream("libx264", rate=30)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        sound = out.add_stream("pcm_s16le", rate=sr, layout="mono" if channels == 1 else "stereo")
        if video:
            for _ in range(60):
                out.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
            out.mux(picture.encode(None))
        samples = np.repeat((wav * 32767).astype(np.int16), channels)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=sound.codec_context.layout.name)
        frame.sample_rate = sr
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    made = drive(stand_in(dnerf_home), path, progress=False, render=grey)
    assert count_frames(made) == 50
    assert abs(read_audio(made)[:32000].std() / read_audio(path).std() - 1) < 0.05


SCRIPT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_drive import drive, grey, stand_in
home = Path(os.environ['DNERF_HOME'])
def slow(run, rows, frames):
    for i, image in grey(run, rows, frames):
        with open(home / 'rendered.txt', 'a') as f: f.write(f'{{i}}\\n')
        time.sleep(.01)
        yield i, image
drive(stand_in(home), home / 'hello.wav', home / 'out.mp4', progress=False, render=slow)
"""


def test_a_killed_drive_goes_on(dnerf_home):
    write_wav(dnerf_home / "hello.wav", synthetic_speech(6, seed=2)[0])
    command = [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent))]
    process = subprocess.Popen(command, cwd=dnerf_home, env=os.environ | {"DNERF_HOME": str(dnerf_home)})
    first, end = dnerf_home / ".out.mp4.pieces" / "00000.mp4", time.monotonic() + 60
    while not first.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.is_file() and not (dnerf_home / "out.mp4").exists()
    (dnerf_home / "rendered.txt").unlink()
    done = subprocess.run(command, cwd=dnerf_home, env=os.environ | {"DNERF_HOME": str(dnerf_home)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rendered = [int(line) for line in (dnerf_home / "rendered.txt").read_text().split()]
    assert 100 in rendered and 50 not in rendered, "the finished piece must be kept"
    whole = drive(stand_in(dnerf_home), dnerf_home / "hello.wav", dnerf_home / "whole.mp4", progress=False, render=grey)
    assert np.array_equal(np.stack(list(iter_frames(dnerf_home / "out.mp4"))), np.stack(list(iter_frames(whole))))
    assert not (dnerf_home / ".out.mp4.pieces").exists()


def test_pieces_of_another_request_are_never_used(dnerf_home, hello):
    run, out = stand_in(dnerf_home), dnerf_home / "out.mp4"

    def broken(run, rows, frames):
        for i, image in grey(run, rows, frames):
            if len(frames) > 3 and i == 30:
                raise RuntimeError("the power went")
            yield i, image

    with pytest.raises(RuntimeError, match="the power went"):
        drive(run, hello, out, progress=False, render=broken)
    pieces = dnerf_home / ".out.mp4.pieces"
    write_video(pieces / "00000.mp4", [np.zeros((32, 32, 3), np.uint8)] * 38)
    drive(run, hello, out, seed=1, progress=False, render=grey)
    assert abs(np.stack(list(iter_frames(out))).mean((1, 2, 3)) - np.arange(38)).max() < 3


def test_pasted_back_into_the_film(dnerf_home, hello):
    run = stand_in(dnerf_home, n=100)
    toy, room = run.subject, np.full((48, 80, 3), 60, np.uint8)

    def film():
        for frame in toy.frames:
            image = room.copy()
            image[10:42, 30:62] = frame
            yield image

    video = write_video(dnerf_home / "data" / "film.mp4", film(), crf=8)
    about = read_json(toy.folder / "subject.json")
    source = dict(file="film.mp4", sha256=sha256(video), width=80, height=48)
    write_json(toy.folder / "subject.json", about | dict(source=source, prepare=dict(crop=[30, 10, 32])))
    run.subject = Subject.load(toy.folder)

    def recorded(run, rows, frames):
        moves = recorded_motion(run, 0)
        for i in frames:
            yield i, run.subject.frames[moves.source(i)]

    made = drive(run, hello, dnerf_home / "out.mp4", paste=True, progress=False, render=recorded)
    expected, moves = list(film()), recorded_motion(run, 0)
    for i, image in enumerate(iter_frames(made)):
        assert abs(image.astype(int) - expected[int(moves.source(i))]).mean() < 4, i
    video.unlink()
    with pytest.raises(MissingError, match="film.mp4', the video that subject 'toy' was prepared from"):
        drive(run, hello, dnerf_home / "out.mp4", paste=True, progress=False, render=recorded)


def test_the_mouth_of_the_demo_is_shut_in_silence(dnerf_home):
    "A puppet instead of a field: the recorded frame whose speech is most like what drives. Lips are measured in the finished video."
    from dnerf.evaluation.response import face_response
    from dnerf.face import mouth_opening
    from dnerf.video.prepare import prepare, trial_clip

    person = prepare(trial_clip(6, dnerf_home), "trial", 128, progress=False)
    config = SimpleNamespace(audio="mel", portrait=PortraitConfig())
    folder, embedding = dnerf_home / "runs" / "trial" / "puppet", np.array(embed_subject(person, "mel", bar=False))
    folder.mkdir(parents=True)
    run = SimpleNamespace(folder=folder, subject=person, device="cpu", embedding=embedding, config=config)
    train = person.split("train")

    def puppet(run, rows, frames):
        for i in frames:
            distance = ((run.embedding[train.start:train.stop] - rows.window[i]) ** 2).sum((1, 2))
            yield i, person.frames[distance.argmin()]

    wav = person.wav[:train.stop * 640]
    speech = write_wav(dnerf_home / "pause.wav", np.concatenate([wav[32000:48000], np.zeros(24000, np.float32), wav[32000:48000]]))
    lips = face_response(drive(run, speech, progress=False, render=puppet)).lips
    recorded = mouth_opening(np.array(person.landmarks))
    silent, spoken = lips[30:57], np.r_[lips[2:23], lips[65:85]]
    assert silent.max() < 0.5 * spoken.mean(), "shut, and it stays shut"
    assert silent.mean() < np.quantile(recorded, 0.3) + 0.004
    assert np.corrcoef(lips[2:23], recorded[52:73])[0, 1] > 0.8, "where it speaks it does what the person did"


def test_an_hour_is_announced_before_it_begins(dnerf_home, capsys, monkeypatch):
    import dnerf.talk.drive as room

    class Stop(Exception):
        "Enough seen."

    def stops(run, rows, frames):
        if len(frames) > 3:
            assert "90000 frames, 60 min; rendering takes about" in capsys.readouterr().out
            raise Stop
        yield from grey(run, rows, frames)

    monkeypatch.setattr(room, "driving_features", lambda run, wav, *args: np.zeros((2 * room.frames_of(wav), 80), np.float32))
    hour = write_wav(dnerf_home / "hour.wav", np.resize(synthetic_speech(5.0)[0], 3600 * 16000))
    with pytest.raises(Stop):
        drive(stand_in(dnerf_home), hour, render=stops)


def trained(home: Path, audio: str = "speechsplit") -> str:
    "A run of a few steps."
    from dnerf.nerf.config import compose_config
    from dnerf.nerf.training import train

    toy = toy_subject(home / "data" / "toy", n=88)
    write_wav(toy.folder / "audio.wav", synthetic_speech(3.52)[0])
    config = compose_config("tiny", subject="toy", audio=audio, steps=2, name="small")
    train(toy, embed_subject(toy, audio, steps=2, bar=False), config, show=False)
    return "toy/small"


def test_a_trained_run_speaks_and_listens_to_every_control(dnerf_home, hello):
    name = trained(dnerf_home)
    plain = drive(name, hello, progress=False)
    assert plain == dnerf_home / "runs" / "toy" / "small" / "speech" / "hello.mp4" and count_frames(plain) == 38
    again = drive(name, hello, dnerf_home / "again.mp4", progress=False)
    assert again.read_bytes() == plain.read_bytes(), "the same request gives the same video"
    run, pictures = load_run(name), np.stack(list(iter_frames(plain)))
    weights = "pitch=0 content=3"
    changes = dict(pitch=0), dict(content=hello), dict(weights=weights), dict(motion="still"), dict(seed=4), dict(size=64, badge=True)
    for k, controls in enumerate(changes):
        video = drive(run, hello, dnerf_home / f"{k}.mp4", progress=False, **controls)
        assert count_frames(video) == 38
        other = np.stack(list(iter_frames(video)))
        if "content" not in controls:
            assert other.shape != pictures.shape or not np.array_equal(other, pictures), controls
    assert count_frames(drive(run, hello, dnerf_home / "slow.mp4", rhythm=1.5, progress=False)) == 57
    with pytest.raises(InputError, match="no component 'loudness' to weigh; it has speechsplit, content, rhythm, pitch"):
        drive(run, hello, dnerf_home / "no.mp4", weights="loudness=1", progress=False)
    with pytest.raises(InputError, match="its subject has no scores of the mouth, so articulation cannot be changed"):
        drive(run, hello, dnerf_home / "no.mp4", articulation=0.5, progress=False)
    with pytest.raises(InputError, match="trained without eyelids"):
        drive(run, hello, dnerf_home / "no.mp4", blinks=20, progress=False)


def test_a_run_that_cannot_be_used_is_explained(dnerf_home, hello):
    import torch

    name = trained(dnerf_home, "mel")
    folder = dnerf_home / "runs" / "toy" / "small"
    with pytest.raises(MissingError, match="no trained run 'toy/larger'; known are: toy/small"):
        drive("toy/larger", hello)
    (folder / "state.json").rename(folder / "state.old")
    with pytest.raises(MissingError, match="is incomplete .state.json missing.*none yet"):
        drive(name, hello)
    (folder / "state.old").rename(folder / "state.json")
    best = folder / "checkpoints" / "best.ckpt"
    good = best.read_bytes()
    saved = torch.load(best, weights_only=True)
    saved["portrait"] = {k.replace("audio", "hearing"): v for k, v in saved["portrait"].items()}
    save_sealed(best, saved)
    state = read_json(folder / "state.json")
    for known, sentence in ((state, f"version {state['version']}"), ({**state, "version": None}, "another version")):
        write_json(folder / "state.json", known)
        with pytest.raises(InputError, match=f"it was trained by {sentence} of dnerf.*train it again"):
            drive(name, hello)
    best.write_bytes(good[:1000])
    with pytest.raises(InputError, match="is damaged"):
        drive(name, hello)
    best.write_bytes(good)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config + "{{")
    with pytest.raises(InputError, match="config.yaml holds no settings"):
        drive(name, hello)
    (folder / "config.yaml").write_text(config)
    assert load_run(name).subject.name == "toy"
    assert not (folder / "speech").exists(), "nothing may be left of a request that was refused"


def test_speech_that_cannot_be_used_is_explained(dnerf_home, hello):
    run = stand_in(dnerf_home)
    mute = write_video(dnerf_home / "mute.mp4", [np.zeros((32, 32, 3), np.uint8)] * 5)
    noise = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    whole = write_video(dnerf_home / "whole.mp4", noise, wav=read_audio(hello))
    torn = dnerf_home / "torn.mp4"
    torn.write_bytes(whole.read_bytes()[:2000])
    for path, sentence in ((mute, "has no sound track"), (torn, "torn.mp4 is"), (dnerf_home / "no.wav", "there is no file"),
                           (Path(__file__), "not a video")):
        with pytest.raises((InputError, MissingError), match=sentence) as e:
            drive(run, path, dnerf_home / "out.mp4", progress=False, render=grey)
        assert "\n" not in str(e.value) and not (dnerf_home / "out.mp4").exists()


def test_a_place_that_cannot_be_written_is_explained(dnerf_home, hello, monkeypatch):
    run = stand_in(dnerf_home)
    with pytest.raises(InputError, match="part of its path is a file"):
        drive(run, hello, hello / "out.mp4", progress=False, render=grey)
    plain = Path.mkdir

    def refuses(self, *args, **kwargs):
        if ".out.mp4.pieces" in str(self):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(StorageError, match="there is no permission; choose a folder that you may write to"):
        drive(run, hello, dnerf_home / "out.mp4", progress=False, render=grey)


ROW = '[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, {}], [0, 0, 0, 1]]'


@pytest.mark.parametrize("name, content, words", [
    ("eye.npy", np.tile(np.eye(4), (50, 1, 1)), "at or behind the camera"),
    ("back.npy", np.tile(np.eye(4) * [-1, 1, -1, 1] + np.eye(4, k=1) * [[0], [0], [1], [0]], (9, 1, 1)), "at or behind the camera"),
    ("text.npy", np.array(["a"]), "not float32 or float64"),
    ("none.npy", np.zeros((0, 4, 4)), "no pose"),
    ("numbers.json", '{"frames": [1]}', r"frames\[0\] is 1"),
    ("deep.json", "[" * 200_000, "is damaged"),
    ("huge.json", '{"frames": [{"transform_matrix": %s}]}' % ROW.format("1" + "0" * 400), "a number of 401 digits"),
    ("at.json", '{"frames": [{"transform_matrix": %s}, {"transform_matrix": %s}]}' % (ROW.format(1), ROW.format(0)), "pose 1"),
])
def test_files_that_are_no_poses(name, content, words, tmp_path):
    from dnerf.core import InputError
    from dnerf.talk.motion import read_poses

    if name.endswith(".npy"):
        np.save(tmp_path / name, content)
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        read_poses(tmp_path / name)


IMPOSSIBLE = [dict(seed=-1), dict(seed=2**32), dict(size=0), dict(size=5000), dict(pitch=np.nan), dict(pitch=-1), dict(rhythm=np.inf),
              dict(rhythm=0), dict(articulation=np.nan), dict(articulation=-1), dict(blinks=-1), dict(blinks=np.inf),
              dict(weights="mel=nan"), dict(weights="mel=-1"), dict(weights={"mel": np.inf}), dict(motion="nobody"), dict(motion=""),
              dict(motion="a/../b"), dict(content="no.wav"), dict(out="x.avi"), dict(size=64, paste=True)]


@pytest.mark.parametrize("asked", IMPOSSIBLE, ids=str)
def test_impossible_options_are_one_sentence(dnerf_home, hello, asked):
    with pytest.raises((InputError, MissingError)) as e:
        drive(stand_in(dnerf_home, n=44), hello, progress=False, render=grey, **asked)
    assert "\n" not in str(e.value) and not list((dnerf_home / "runs").rglob("*.mp4"))


def test_nothing_that_is_read_or_kept_is_replaced(dnerf_home, hello, monkeypatch):
    "Under whatever name it goes; a video of somebody else only on request, one of our own always."
    run = stand_in(dnerf_home, n=44)
    monkeypatch.chdir(dnerf_home)
    film = write_video(dnerf_home / "film.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3, wav=read_audio(hello))
    own, other = (write_video(dnerf_home / "data" / f"{name}.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3) for name in ("toy", "other"))
    kept = run.folder / "video.mp4"
    os.link(own, dnerf_home / "hard.mp4")
    (dnerf_home / "soft.mp4").symlink_to(film)
    said = drive(run, hello, "said.mp4", motion="still", progress=False, render=grey)
    kept.write_bytes(said.read_bytes())
    os.link(kept, dnerf_home / "linked.mp4")
    before = {p: p.read_bytes() for p in dnerf_home.rglob("*.mp4")}
    for out, knobs, words in (
            ("data/../film.mp4", dict(speech=film), "is read"), ("soft.mp4", dict(speech=film), "is read"),
            ("film.mp4", dict(motion=film), "is read"),
            ("film.mp4", dict(content=film), "is read"), ("film.mp4", dict(paste=str(film)), "is read"),
            (own, {}, "is read"),
            ("hard.mp4", {}, "is read"), (other, dict(motion="other"), "is read"), (kept, {}, "which is kept"),
            ("linked.mp4", {}, "which is kept"), ("film.mp4", dict(overwrite=False), "add overwrite")):
        asked = dict(speech=hello, overwrite=True) | knobs
        with pytest.raises(InputError, match=words):
            drive(run, out=out, progress=False, render=grey, **asked)
    assert before == {p: p.read_bytes() for p in dnerf_home.rglob("*.mp4")}
    assert drive(run, hello, "said.mp4", seed=1, motion="still", progress=False, render=grey) == said
    assert count_frames(drive(run, hello, "film.mp4", motion="still", overwrite=True, progress=False, render=grey)) == 38


def test_recordings_of_one_name_get_videos_of_their_own(dnerf_home, hello):
    "As recorders name them: day1/REC.wav, day2/REC.wav. The same request uses its own again, unfinished or not."
    run, wav = stand_in(dnerf_home, n=44), read_audio(hello)
    for day in ("day1", "day2"):
        (dnerf_home / day).mkdir()
    first, second = (write_wav(dnerf_home / day / "REC.wav", wav[::step]) for day, step in (("day1", 1), ("day2", -1)))

    def spoken(speech, render=grey, **options):
        return drive(run, speech, progress=False, render=render, motion="still", **options).name

    def broken(run, rows, frames):
        yield from grey(run, rows, frames[:30])

    assert spoken(first) == "REC.mp4"
    before = (run.folder / "speech" / "REC.mp4").read_bytes()
    with pytest.raises(DnerfError, match="nothing more"):
        spoken(second, broken)
    assert spoken(first, size=64) == "REC-3.mp4"
    assert spoken(second) == "REC-2.mp4" and spoken(second) == "REC-2.mp4"
    assert (run.folder / "speech" / "REC.mp4").read_bytes() == before and spoken(first) == "REC.mp4"
    assert sorted(p.name for p in (run.folder / "speech").iterdir()) == ["REC-2.mp4", "REC-3.mp4", "REC.mp4"]
    write_video(run.folder / "speech" / "hello.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3)
    assert spoken(hello) == "hello-2.mp4"


@pytest.mark.parametrize("inside", [False, True])
def test_pieces_are_never_written_through_a_link(dnerf_home, hello, inside):
    run, elsewhere, pieces = stand_in(dnerf_home, n=44), dnerf_home / "elsewhere", dnerf_home / ".out.mp4.pieces"
    elsewhere.mkdir()
    (elsewhere / "job.json").write_text('{"key": "1"}')
    (elsewhere / "precious").write_text("kept")
    if inside:
        pieces.mkdir()
        (pieces / "00000.mp4").symlink_to(elsewhere / "precious")
    else:
        pieces.symlink_to(elsewhere)
    with pytest.raises((InputError, StorageError), match="is a link"):
        drive(run, hello, dnerf_home / "out.mp4", progress=False, render=grey)
    assert {p.name: p.read_text() for p in elsewhere.iterdir()} == {"job.json": '{"key": "1"}', "precious": "kept"}


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes of Unix")
def test_requests_that_were_typed_in_haste(dnerf_home, hello, monkeypatch, capsys):
    "A path that is not there is no subject of that name; `~` and capital endings are understood everywhere; a refusal comes first."
    monkeypatch.setenv("HOME", str(dnerf_home))
    run = stand_in(dnerf_home, n=44)
    np.save(dnerf_home / "one.npy", np.array(run.subject.poses[:3]))
    (dnerf_home / "one.npy").rename(dnerf_home / "one.NPY")
    os.mkfifo(dnerf_home / "pipe")
    assert len(open_motion(run, "~/one.NPY").c2w) == 3 and open_motion(run, "loop ").own
    for asked, words in ((dict(motion="./gone.mp4"), r"there is no file (\./)?gone.mp4"),
                         (dict(motion="~/gone.mp4"), "no file .*/gone.mp4; check"),
                         (dict(speech=dnerf_home), "is a folder, not a file"), (dict(speech=dnerf_home / "pipe"), "is a pipe or a device"),
                         (dict(out="~/one.mp4", motion="~/one.mp4"), "is read"), (dict(weights="content=1"), "no component 'content'")):
        with pytest.raises((InputError, MissingError), match=words):
            drive(run, **(dict(speech=hello, render=grey) | asked))
    assert "rendering takes" not in capsys.readouterr().out
