"""Verbs that are killed or stopped, and called again: `python tests/fuzz_kills.py --draws 30 --seed 0`.

A draw calls a verb in a copy of the small home of `fuzz.py` and ends it by SIGKILL, SIGTERM or Ctrl-C, after a random share of its
computing or just before or after one of its renames; then the same words again. What was there stays, a stop that the verb notices leaves
nothing half-made, and the second call goes on and gives what an undisturbed one gives: losses, weights, numbers, pictures and sound.
"""
import argparse
import csv
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fuzz import Call, act, contents, copy_base, fork, judge, small_home, throw_away, waited
from fuzz_base import TINY

VERBS = {
    "prepare": ["prepare", "face.mp4", "--subject", "new", "--size", "64"],
    "train": ["train", "toy", "--audio", "mel", *TINY, "6", "--name", "new", "--", "save_every=0.01", "checks=3"],
    "drive": ["drive", "toy/mel", "film.mp4"],
    "evaluate": ["evaluate", "toy/mel", "--measures", "pixels"],
}
CLOCK = ("second", "time", "rate", "krays")  # columns of a run's curves that the clock writes
SIGNALS = {"SIGKILL": (-9,), "SIGTERM": (-15, 143), "SIGINT": (130,)}


def film(path: Path) -> str:
    "A hash of the pictures and the sound of a film, which has the time of its making in it."
    from dnerf.video.media import iter_frames, read_audio
    digest = hashlib.sha1(read_audio(path).tobytes())
    for frame in iter_frames(path):
        digest.update(frame.tobytes())
    return digest.hexdigest()


def weights(path: Path) -> str:
    import torch
    digest = hashlib.sha1()
    for name, tensor in sorted(torch.load(path, map_location="cpu", weights_only=True)["portrait"].items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def losses(path: Path) -> dict:
    "Step -> the numbers of a run's curves without what the clock wrote."
    with open(path, encoding="utf-8", newline="") as f:
        return {row["step"]: [v for k, v in row.items() if not any(word in k for word in CLOCK)] for row in csv.DictReader(f)}


def same(part: str, a, b) -> bool:
    "Whether two results agree: of curves the steps that both have, and the last; a run that is stopped has a point of its own there."
    if part != "losses":
        return a == b
    return all(a[step] == b[step] for step in a.keys() & b.keys()) and [*a][-1] == [*b][-1]


def result(box, verb: str) -> dict:
    "What a verb made, by name."
    run = box.run("new" if verb == "train" else "mel")
    if verb == "prepare":
        files = [p for p in (box.home / "data" / "new").iterdir() if p.suffix in (".npy", ".png", ".wav")]
        return {p.name: hashlib.sha1(p.read_bytes()).hexdigest() for p in files}
    if verb == "drive":
        return {"film": film(run / "speech" / "film.mp4")}
    made = {"film": film(run / "video.mp4"), "psnr": json.loads((run / "metrics.json").read_text())["psnr"]}
    if verb == "train":
        made |= {"losses": losses(run / "metrics.csv"), "weights": weights(run / "checkpoints" / "best.ckpt")}
    return made


def disturbed(box, call: Call, number: int, share: float | None, rename: int | None, after: bool) -> int:
    "Call a verb that sends itself a signal when it has computed for some seconds, or at one of its renames."
    done = [0]

    def strike(*_):
        os.kill(os.getpid(), number)

    def wrap(real):
        def renamed(*args, **kwargs):
            done[0] += 1
            if done[0] == rename and not after:
                strike()
            out = real(*args, **kwargs)
            if done[0] == rename and after:
                strike()
            return out
        return renamed

    os.rename, os.replace = wrap(os.rename), wrap(os.replace)
    if share is not None:
        signal.signal(signal.SIGPROF, strike)
        signal.setitimer(signal.ITIMER_PROF, share)
    try:
        return act(box, call)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if rename is None and share is None:
            print(f"\nRENAMES {done[0]}", file=sys.stderr)


def called(box, call: Call, job) -> tuple:
    "Run a job on a box: how it ended, and what it said."
    with open(box.folder.parent / "output", "w+b") as output:
        ended = waited(fork(job, output, memory=call.memory))
    said = (box.folder.parent / "output").read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    return ended, said


def undisturbed(base: Path, verb: str) -> tuple:
    "Seconds of computing, number of renames, and what a verb gives."
    box, call = copy_base(base, Path(tempfile.mkdtemp(prefix="kills-")) / "box"), Call(VERBS[verb], "")
    ended, said = called(box, call, lambda: disturbed(box, call, 0, None, None, False))
    if ended[0]:
        raise RuntimeError(f"{verb} fails undisturbed: {said[-2000:]}")
    found = result(box, verb)
    throw_away(box.folder.parent)
    return ended[2], int(said.rsplit("RENAMES ", 1)[1].split()[0]), found


def kill(base: Path, verb: str, reference: tuple, rng: random.Random) -> tuple:
    "One draw: what was done, and what is wrong about what came of it."
    seconds, renames, wanted = reference
    name, call = rng.choice(list(SIGNALS)), Call(VERBS[verb], "")
    at, after = (rng.randint(1, renames), rng.random() < .5) if renames and rng.random() < .5 else (None, False)
    share = None if at else rng.uniform(0, seconds)
    note = f"{name} {'after' if after else 'before'} rename {at} of {renames}" if at else f"{name} after {share:.2f} of {seconds:.2f} s"
    box = copy_base(base, Path(tempfile.mkdtemp(prefix="kills-")) / "box")
    job = lambda: disturbed(box, call, getattr(signal, name), share, at, after)  # noqa: E731
    before = contents(box.folder)
    faults = after_signal(box, call, name, before, *called(box, call, job))
    ended, said = called(box, call, lambda: act(box, call))
    outcome, detail = judge(box, call, before, ended, said)
    if outcome != "works":
        faults.append(f"again: {outcome}: {detail}")
    else:
        found = result(box, verb)
        faults += [f"again: {part} {found[part]} instead of {wanted[part]}" for part in wanted if not same(part, found[part], wanted[part])]
    throw_away(box.folder.parent)
    return note, faults


def after_signal(box, call: Call, name: str, before: dict, ended: tuple, said: str) -> list:
    "What is wrong after the signal."
    code, late, _ = ended
    outcome, detail = judge(box, call, before, (0 if code < 0 else code, late, 0), said + "\ndnerf: stopped by a signal of this test")
    lines = [line for line in said.splitlines() if line.strip()]
    if code == 0 and name != "SIGKILL":  # it came too late, or was not noticed: then the result must be there
        return [] if outcome == "works" else [f"exit code 0 and {outcome}: {detail}"]
    faults = [] if code in SIGNALS[name] or code == 0 else [f"exit code {code}: {lines[-1] if lines else ''}"]
    goes_on = outcome == "half-made" and (name == "SIGKILL" or ".pieces" in detail)  # pieces of a film are kept for the next call
    if outcome not in ("works", "sentence") and not goes_on:
        faults.append(f"{outcome}: {detail}")
    return faults


def run(base: Path, numbers, seed: int, verbs: list) -> int:
    "Make these draws and print what came of them; 1 if one failed."
    start, counts, references = time.monotonic(), Counter(), {}
    for number in numbers:
        verb = verbs[number % len(verbs)]
        references[verb] = references.get(verb) or undisturbed(base, verb)
        note, faults = kill(base, verb, references[verb], random.Random(f"{seed}/{verb}/{number}"))
        counts[verb, not faults] += 1
        print(f"{number:4d} {verb}: {note}: {'; '.join(faults) or 'went on, the same result'}"[:1500], flush=True)
    for verb in verbs:
        print(f"{verb:9s} {counts[verb, True]:3d} of {counts[verb, True] + counts[verb, False]} went on to the same result")
    bad = sum(n for (_, good), n in counts.items() if not good)
    print(f"{bad} of {sum(counts.values())} draws failed, {time.monotonic() - start:.0f} s", flush=True)
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="kill and stop verbs, and call them again")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of draws to repeat")
    parser.add_argument("--verbs", nargs="*", choices=list(VERBS), default=list(VERBS))
    parser.add_argument("--base", type=Path, help="a folder for the small home, used again if it is there")
    args = parser.parse_args()
    with small_home(args.base) as base:
        return run(base, args.only or range(args.draws), args.seed, args.verbs)


if __name__ == "__main__":
    sys.exit(main())
