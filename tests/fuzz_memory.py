"""A long video in little memory: `python tests/fuzz_memory.py --seconds 210 --size 512 --gigabytes 2.5`.

The demo clip, to and fro until it is long enough, is prepared and a portrait is trained on it, both by the command line in processes that
may not have more memory of their own (`RLIMIT_DATA`): the 4 GB of frames, which are read through a map of their file, do not count, as they
can be dropped at any time. Prints the peaks of resident memory.
"""
import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LINE = "import resource, sys; from dnerf.cli import main; code = main(sys.argv[1:]); " \
       "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"


def long_video(path: Path, seconds: float, size: int) -> None:
    "The demo clip to and fro, so that no cut is in it, at the size that is asked for."
    import cv2

    from dnerf.video.demo import demo_video
    from dnerf.video.media import iter_frames, read_audio, write_video
    clip, wav, n = [f for _, f in zip(range(500), iter_frames(demo_video()))], read_audio(demo_video())[:500 * 640], round(25 * seconds)
    order = np.resize([*range(len(clip)), *range(len(clip) - 2, 0, -1)], n)
    write_video(path, (cv2.resize(clip[i], (size, size)) for i in order), wav=np.resize(wav, n * 640), crf=28)


def bounded(words: list, home: Path, limit: int) -> None:
    "Call the command in a process of so much memory."
    def bound():
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    env = os.environ | {"DNERF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LINE, *words], env=env, capture_output=True, text=True, preexec_fn=bound)
    peak = next((int(line.split()[1]) / 1e6 for line in done.stdout.splitlines() if line.startswith("peak ")), None)
    print(f"dnerf {words[0]}: exit code {done.returncode}" + ("" if peak is None else f", {peak:.2f} GB resident"), flush=True)
    if done.returncode:
        sys.exit(done.stderr[-1500:])


def main() -> int:
    parser = argparse.ArgumentParser(description="prepare and train a long video in little memory")
    parser.add_argument("--seconds", type=float, default=210)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--gigabytes", type=float, default=2.5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        video, limit = Path(home) / "long.mp4", round(args.gigabytes * 2**30)
        long_video(video, args.seconds, args.size)
        bounded(["prepare", str(video), "--subject", "long", "--size", str(args.size)], Path(home), limit)
        bounded(["train", "long", "--audio", "mel", "--preset", "cpu", "--steps", "50"], Path(home), limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
