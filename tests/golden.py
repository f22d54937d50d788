"""Golden values: what the program computes, recorded before a change and compared bit for bit after it.

    python tests/golden.py record before.npz      # before the change
    python tests/golden.py check before.npz       # after it; exit status 1 when anything differs

Recorded are, of the bundled demo clip at 64 pixels and in tiny sizes: the losses of 30 training steps of every kind of portrait,
its rendered frames and validation, `metrics.json` without times and versions, films of new speech, and the help of the command line.
It takes about a minute on two idle cores, and a few more when the clip has to be prepared. Values depend on the machine and on the
versions of its packages: compare only what was recorded on the same machine. DNERF_HOME names a folder in which the prepared clip and
its embeddings are kept from one call to the next (in the subject `golden`, made anew when it is deleted); otherwise all is done in a
temporary one. To check preparing and embeddings too, leave DNERF_HOME out or delete the subject.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from unittest import mock

import numpy as np

SUBJECT, SIZE, STEPS = "golden", 64, 30
FAST = ("field.resolutions=[8,16] field.channels=[4,4] field.density_resolution=32 field.width=16 field.blend_resolution=8 "
        "portrait.torso.resolutions=[16] portrait.torso.channels=[4] data.frames=8 data.rays=128 val_frames=1 checks=2")
MLP = "field.width=16 field.depth=3 field.skip=1 portrait.n_coarse=8 portrait.n_fine=8 data.rays=96 val_frames=1 checks=2"

# Name of the run: embedding, preset and settings. Together they pass through every part of a portrait and every loss.
RUNS = {
    "cpu": ("speechsplit", "cpu", FAST),
    "paper": ("mel", "paper", f"{MLP} portrait.attention_start=15"),
    "adnerf": ("mel", "adnerf", f"{MLP} data.torso_rays=48 portrait.attention_start=6"),
    "more": ("mel", "cpu", f"{FAST} portrait.pose_refinement=true portrait.frame_code=true portrait.backdrop=moving "
                           "portrait.attention=4 portrait.attention_start=10 optim.ssim=.1 data.patch=7"),
    "less": ("mel", "cpu", f"{FAST} portrait.backdrop=ignored portrait.mouth=false portrait.brows=false portrait.eyelids=false "
                           "field.gate=false"),
    "alone": ("mel", "cpu", f"{FAST} portrait.head_alone=true field.blends=0"),
}
# Name of a film: the arguments of `drive`.
FILMS = {
    "plain": {},
    "knobs": dict(motion="still", blinks=30.0, pitch=0.5, rhythm=1.2, articulation=1.5, weights="content=.9", badge=True, seed=3, size=96),
}
VERBS = ("", "prepare", "train", "drive", "evaluate", "table1", "doctor")


def prepared():
    "The demo clip as a small subject, with its embeddings."
    from dnerf.audio.embedding import embed_subject
    from dnerf.core import asset, data_dir
    from dnerf.subject import Subject
    from dnerf.video.prepare import prepare

    if not (data_dir() / SUBJECT / "subject.json").exists():
        prepare(asset("demo.mp4"), SUBJECT, SIZE)
    subject = Subject.load(SUBJECT)
    mel, codes = embed_subject(subject, "mel", bar=False), embed_subject(subject, "speechsplit", steps=3, bar=False)
    return subject, {"mel": mel, "speechsplit": codes}


def training(subject, embeddings: dict) -> dict:
    "Losses of every step, validation, and a frame of the training and of the test split, for each run."
    from dnerf.core import runs_dir
    from dnerf.nerf.config import compose_config
    from dnerf.nerf.playback import render_frames
    from dnerf.nerf.run import load_run
    from dnerf.nerf.training import PortraitTraining, train

    out, ordinary = {}, PortraitTraining.training_step
    shutil.rmtree(runs_dir() / SUBJECT, ignore_errors=True)
    for name, (audio, preset, overrides) in RUNS.items():
        losses = []

        def step(self, batch, batch_idx, losses=losses):
            loss = ordinary(self, batch, batch_idx)
            losses.append(float(loss.detach()))
            return loss

        config = compose_config(preset, overrides, subject=SUBJECT, audio=audio, steps=STEPS, name=name)
        with mock.patch.object(PortraitTraining, "training_step", step):
            folder = train(subject, embeddings[audio], config, named=True, show=False)
        run = load_run(folder, "cpu")
        for split, i in (("train", 5), ("test", subject.split("test")[3])):
            out[f"{name}/{split} frame"] = next(iter(render_frames(run, [i])))[1]
        out[f"{name}/losses"] = np.array(losses)
        out[f"{name}/validation"] = np.array(json.loads((folder / "state.json").read_text(encoding="utf-8"))["val_psnr"])
    return out


def measuring() -> dict:
    "The entries of metrics.json, as text, without what is timed and without versions of packages."
    from dnerf.core import runs_dir
    from dnerf.evaluation.report import evaluate_run

    metrics = evaluate_run(runs_dir() / SUBJECT / "cpu", progress=False, measures="pixels+faces")
    del metrics["speed"], metrics["protocol"]["versions"], metrics["protocol"]["subject"]["versions"]
    return {f"metrics/{key}": np.array(json.dumps(value, indent=1, sort_keys=True, default=str)) for key, value in metrics.items()}


def driving(subject, folder: Path) -> dict:
    "All frames of the films."
    from dnerf.subject import write_wav
    from dnerf.talk.drive import drive
    from dnerf.video.media import iter_frames

    out, speech = {}, write_wav(folder / "hello.wav", subject.wav[:2 * 16000])
    for name, knobs in FILMS.items():
        film = drive(f"{SUBJECT}/cpu", speech, folder / f"{name}.mp4", progress=False, **knobs)
        out[f"drive/{name}"] = np.stack(list(iter_frames(film)))
    return out


def helping() -> dict:
    "What the command line says of itself."
    code = "import sys; from dnerf.cli import main; sys.exit(main(sys.argv[1:]))"
    out = {}
    for verb in VERBS:
        command = [sys.executable, "-c", code, *([verb] if verb else []), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
        out[f"help/{verb or 'dnerf'}"] = np.array(done.stdout)
    return out


def record() -> dict:
    "Everything, by name."
    import torch

    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"DNERF_HOME": os.environ.get("DNERF_HOME", folder)}):
        subject, embeddings = prepared()
        arrays = {f"subject/{name}": np.array(getattr(subject, name)) for name in ("poses", "landmarks")}
        arrays |= {f"embedding/{name}": np.array(array) for name, array in embeddings.items()}
        return arrays | training(subject, embeddings) | measuring() | driving(subject, Path(folder)) | helping()


def difference(old, new) -> str:
    "How two values of a name differ, in one line; '' when they are equal to the last bit."
    if old is None or new is None:
        return "is new" if old is None else "is gone"
    if old.dtype.kind == new.dtype.kind == "U":
        pairs = zip_longest(str(old).splitlines(), str(new).splitlines())
        return next((f"was {a!r}, is {b!r} in line {n}" for n, (a, b) in enumerate(pairs, 1) if a != b), "")
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"was {old.dtype} {old.shape}, is {new.dtype} {new.shape}"
    if old.tobytes() == new.tobytes():
        return ""
    apart, gap = old != new, np.abs(old.astype(np.float64) - new.astype(np.float64))
    if not apart.any():
        return "some zeros have another sign"
    first = np.argwhere(apart).tolist()[:1]
    return f"{apart.sum()} of {old.size} numbers differ, by {np.nanmax(gap):.3g} at most, {np.nanmean(gap):.3g} in the mean; first {first}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "check"))
    parser.add_argument("file", type=Path, help="of golden values, .npz")
    asked = parser.parse_args()
    old = {}
    if asked.what == "check":
        with np.load(asked.file) as stored:
            old = dict(stored)
    new = record()
    if asked.what == "record":
        np.savez_compressed(asked.file, **new)
        print(f"{len(new)} values are in {asked.file}")
        return 0
    differences = {name: difference(old.get(name), new.get(name)) for name in sorted(old | new)}
    differences = {name: text for name, text in differences.items() if text}
    for name, text in differences.items():
        print(f"{name}: {text}")
    print(f"{len(differences)} of {len(old | new)} values differ" if differences else f"all {len(new)} values are the same to the last bit")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
