"""The small home that every draw of `fuzz.py` damages: two subjects, three finished runs and one stopped, films, sound."""

import itertools
import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np

TINY = ["--preset", "tiny", "--steps"]
HALF = ["train", "toy", "--audio", "mel", *TINY, "3", "--name", "half"]  # stopped at its first step; the same words go on


def make_base(folder: Path) -> int:
    "Fill a folder; 0 on success."
    for name in ("home", "files", "outside", "tmp", "user"):
        (folder / name).mkdir(exist_ok=True)
    os.environ.update(DNERF_HOME=str(folder / "home"), HOME=str(folder / "user"), TMPDIR=str(folder / "tmp"))
    toy_and_runs(folder)
    media(folder)
    person_and_run(folder)
    with mock.patch("sys.argv", ["pytest"]):
        from test_adnerf import write_layout
    write_layout(folder / "files" / "guo")
    (folder / "outside" / "letter.txt").write_text("of somebody else\n")
    shutil.copy(folder / "files" / "film.mp4", folder / "outside" / "film.mp4")
    shutil.copytree(folder / "home" / "data" / "toy", folder / "outside" / "toy")
    shutil.rmtree(folder / "tmp")
    (folder / "tmp").mkdir()
    return 0


def toy_and_runs(folder: Path) -> None:
    "The subject `toy`; the runs `mel` and `codes`, and `half`, which was stopped."
    from toys import stopping_at

    from dnerf.audio.embedding import embed_subject
    from dnerf.cli import main
    from dnerf.cli import train as verb
    from dnerf.subject import toy_home

    toy = toy_home(folder / "home")
    embed_subject(toy, "speechsplit", steps=2, bar=False)
    for audio, name in (("mel", "mel"), ("speechsplit", "codes")):
        assert main(["train", "toy", "--audio", audio, *TINY, "1", "--name", name]) == 0
        (folder / "home/runs/toy" / name / "checkpoints/last.ckpt").unlink(missing_ok=True)
    with stopping_at(1):
        verb(subject="toy", audio="mel", preset="tiny", steps=3, name="half")


def person_and_run(folder: Path) -> None:
    "The subject `me`, prepared from `face.mp4`, and its run `mel`."
    from dnerf.cli import main
    assert main(["prepare", str(folder / "files/face.mp4"), "--subject", "me", "--size", "64"]) == 0
    assert main(["train", "me", "--audio", "mel", *TINY, "1", "--name", "mel"]) == 0
    (folder / "home/runs/me/mel/checkpoints/last.ckpt").unlink(missing_ok=True)


def media(folder: Path) -> None:
    "`hello.wav`, half a second of speech; `face.mp4`, 2.2 s of the demo clip with sound; `film.mp4`, a second of it."
    from dnerf.audio.mel import synthetic_speech
    from dnerf.subject import write_wav
    from dnerf.video.demo import demo_video
    from dnerf.video.media import iter_frames, read_audio, write_video

    files, wav = folder / "files", read_audio(demo_video())
    write_wav(files / "hello.wav", synthetic_speech(0.5, seed=9)[0])
    frames = [np.ascontiguousarray(f[::2, ::2]) for f in itertools.islice(iter_frames(demo_video()), 55)]
    write_video(files / "face.mp4", frames, wav=wav, crf=28)
    write_video(files / "film.mp4", (f[::4, ::4] for f in frames[:25]), wav=wav, crf=28)
