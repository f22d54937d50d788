"""Two verbs at once on one subject and run: `python tests/fuzz_pairs.py`.

Each pair starts in a copy of the small home of `fuzz.py`, the second a random moment after the first. Each verb ends with its result or
with one sentence, nothing that was there is lost, and what stands under a final name is whole: films decode, JSON parses, arrays open.
"""
import argparse
import json
import random
import sys
import tempfile
import time
from itertools import combinations_with_replacement
from pathlib import Path

from fuzz import BAD, Box, Call, act, contents, copy_base, fork, judge, small_home, throw_away, waited
from fuzz_base import TINY

VERBS = {
    "prepare": ["prepare", "face.mp4", "--subject", "me", "--size", "64"],
    "train": ["train", "me", "--audio", "mel", *TINY, "2", "--name", "new"],
    "train again": ["train", "me", "--audio", "mel", *TINY, "1", "--name", "mel"],
    "drive": ["drive", "me/mel", "hello.wav"],
    "evaluate": ["evaluate", "me/mel", "--measures", "pixels"],
}
OTHER = {
    "other train": ["train", "me", "--audio", "mel", *TINY, "2", "--name", "other"],
    "other drive": ["drive", "me/mel", "film.mp4"],
    "other split": ["evaluate", "me/mel", "--measures", "pixels", "--split", "val"],
    "table": ["table1", "me", "--rows", "mel", "--seeds", "1", "--preset", "tiny", "--steps", "1"],
}
PAIRS = [
    *combinations_with_replacement(VERBS, 2),
    ("train", "other train"), ("drive", "other drive"), ("evaluate", "other split"), ("table", "table"),
]


def broken(box: Box) -> list:
    "Files under their final names that are not whole."
    import numpy as np

    from dnerf.video.media import iter_frames
    faults = []
    for path in sorted(p for p in box.home.rglob("*") if p.is_file() and ".partial" not in str(p)):
        try:
            if path.suffix == ".mp4":
                assert sum(1 for _ in iter_frames(path)) > 0
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".npy":
                np.load(path, mmap_mode="r")
        except Exception as e:
            faults.append(f"{path.relative_to(box.folder)}: {type(e).__name__}: {e}"[:200])
    return faults


def pair(base: Path, names: tuple, rng: random.Random) -> tuple:
    "Run two verbs at once: the outcome of each, and what is wrong."
    box = copy_base(base, Path(tempfile.mkdtemp(prefix="pairs-")) / "box")
    calls, before, running = [Call((VERBS | OTHER)[name], "") for name in names], contents(box.folder), []
    for i, call in enumerate(calls):
        output = open(box.folder.parent / f"output{i}", "w+b")
        running.append((call, fork(lambda call=call: act(box, call), output, memory=call.memory), output))
        time.sleep(0 if i or rng.random() < .3 else rng.uniform(0, 3))
    outcomes, faults = [], []
    ended = [waited(pid) for _, pid, _ in running]
    for (call, _, output), end in zip(running, ended):
        output.close()
        said = Path(output.name).read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
        outcome, detail = judge(box, call, before, end, said)
        outcomes.append(outcome)
        faults += [f"{outcome}: {detail}"] if outcome in BAD else []
    if "works" not in outcomes:
        faults.append(f"neither gave its result: {', '.join(outcomes)}")
    faults += broken(box)
    for name in ("me", "toy", "me/mel"):
        call, before = Call(["open", name], ""), contents(box.folder)
        with open(box.folder.parent / "output", "w+b") as output:
            end = waited(fork(lambda call=call: act(box, call), output, memory=call.memory))
        outcome, detail = judge(box, call, before, end, (box.folder.parent / "output").read_text(encoding="utf-8", errors="replace"))
        faults += [] if outcome == "works" else [f"{name} does not open afterwards: {detail}"]
    throw_away(box.folder.parent)
    return outcomes, faults


def run(base: Path, numbers, seed: int) -> int:
    "Try these pairs and print what came of them; 1 if one failed."
    start, bad = time.monotonic(), 0
    for number in numbers:
        outcomes, faults = pair(base, PAIRS[number], random.Random(f"{seed}/{number}"))
        bad += bool(faults)
        ends = ", ".join(f"{name}: {outcome}" for name, outcome in zip(PAIRS[number], outcomes))
        print(f"{number:3d} {ends}{'; FAILED: ' if faults else ''}{'; '.join(faults)}"[:900], flush=True)
    print(f"{bad} of {len(numbers)} pairs failed, {time.monotonic() - start:.0f} s", flush=True)
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="two verbs at once on one subject and run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help=f"numbers of pairs, of {len(PAIRS)}")
    parser.add_argument("--base", type=Path, help="a folder for the small home, used again if it is there")
    args = parser.parse_args()
    with small_home(args.base) as base:
        return run(base, args.only or range(len(PAIRS)), args.seed)


if __name__ == "__main__":
    sys.exit(main())
