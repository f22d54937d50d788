"""Head poses of every window of the demo clip: `python tests/poses.py [STEP]`, with a window every STEP seconds (default 1)."""
import dataclasses
import sys

from dnerf.core import asset, progress
from dnerf.video.media import iter_frames
from dnerf.video.pose import solve_head
from dnerf.video.tracking import Track, track_faces

SECONDS, SIZES = (3, 4, 6, 10), (96, 128, 256)


def window(track: Track, first: int, last: int) -> Track:
    "A part of a track, as if its video had been cut there."
    parts = {k: getattr(track, k)[first:last] for k in ("landmarks", "blendshapes", "transforms", "n_faces", "found")}
    return dataclasses.replace(track, **parts)


def fit(track: Track, first: int, last: int, size: int) -> dict:
    "Reprojection errors of the window, pixels."
    return solve_head(window(track, first, last), (0, 0, 256), size).quality


def main(step=1.):
    "Fit all windows and print how many miss their landmarks by more than a pixel; exit code 1 if any does."
    track, errors = track_faces(iter_frames(asset("demo.mp4"))), {}
    starts = {n: range(0, len(track) - 25*n + 1, round(25*step)) for n in SECONDS}
    jobs = [(size, n, a) for size in SIZES for n in SECONDS for a in starts[n]]
    for size, n, a in progress(jobs, desc="fitting windows", unit="windows"):
        errors[size, n, a] = fit(track, a, a + 25*n, size)["rms_px"]
    for size in SIZES:
        here = {k: e for k, e in errors.items() if k[0] == size}
        worst = max(here, key=here.get)
        print(f"{size} px: {sum(e > 1 for e in here.values())} of {len(here)} windows above 1 px; "
              f"the worst {here[worst]:.2f} px ({worst[1]} s from second {worst[2]/25:g})")
    return max(errors.values()) > 1


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
