"""Head poses that hold: pieces of the demo clip that once diverged, a face that cannot be fitted, a small face in a large picture."""
import itertools

import cv2
import numpy as np
import pytest

from dnerf.core import InputError, asset
from dnerf.video.crop import choose_crop
from dnerf.video.media import iter_frames, probe, write_video
from dnerf.video.pose import solve_head
from dnerf.video.prepare import first_pass, prepare
from dnerf.video.tracking import track_faces

from poses import fit

FIRST = 150  # frames before this one are left out


@pytest.fixture(scope="module")
def track():
    "Seconds 6 to 16 of the demo clip."
    return track_faces(itertools.islice(iter_frames(asset("demo.mp4")), FIRST, FIRST + 250))


WINDOWS = [(150, 300, 96), (150, 300, 256), (250, 375, 96), (150, 400, 128), (200, 275, 128), (300, 400, 256)]


@pytest.mark.parametrize("first, last, size", WINDOWS)
def test_windows_of_the_demo(track, first, last, size):
    "The first three ended 26 to 3600 pixels away before steps were damped."
    quality = fit(track, first - FIRST, last - FIRST, size)
    assert quality["rms_px"] < 1 and quality["rms_fit"] < .6*quality["rms_first"], quality


def test_a_start_at_a_wrong_depth_is_mended(track):
    "Landmarks tell the depth; the first guess only starts the search."
    quality = []
    for depth in (.25, 4):
        moved = track.transforms.copy()
        moved[:, :3, 3] *= depth
        other = type(track)(**{**vars(track), "transforms": moved})
        quality.append(solve_head(other, (0, 0, 256), 128).quality["rms_px"])
    assert max(quality) < 1, quality


def test_what_does_not_fit_is_refused(track):
    "Landmarks that no rigid head can show, in a clip of 1000 frames of which 200 give shape and focal length: the error names the second."
    parts = {k: np.concatenate([getattr(track, k)]*4) for k in ("landmarks", "blendshapes", "transforms", "n_faces", "found")}
    long = type(track)(**{**vars(track), **parts})
    rng = np.random.default_rng(0)
    long.landmarks[900:950, :, :2] += rng.normal(size=(50, 478, 2)).astype(np.float32)*60
    with pytest.raises(InputError, match=r"no rigid head fits the face: .* most at second 3[67]\.\d; use a part"):
        solve_head(long, (0, 0, 256), 256)


def _in_large_picture(path, side, at, shape, n):
    "A video of the demo clip, reduced, somewhere in a large grey picture."
    backdrop = np.random.default_rng(0).integers(90, 120, (9, 16, 3), np.uint8)
    backdrop = cv2.resize(backdrop, shape[::-1])
    def frames():
        for frame in itertools.islice(iter_frames(asset("demo.mp4")), FIRST, FIRST + n):
            wide, (x, y) = backdrop.copy(), at
            wide[y:y+side, x:x+side] = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
            yield wide
    return write_video(path, frames(), wav=np.zeros(n*640, np.float32))


def test_small_face_in_a_large_picture(track, tmp_path):
    side, at, shape, n = 150, (1500, 700), (1080, 1920), 20
    video = _in_large_picture(tmp_path/"large.mp4", side, at, shape, n)
    found, inside, _, _ = first_pass(video, probe(video), show=False)
    _, _, w, h = found.view
    assert found.found.all() and w < shape[1]/2 and h < shape[0]/2
    expected = track.landmarks[:n, ::20, :2]*side/256 + at
    assert np.linalg.norm(found.landmarks[:, ::20, :2] - expected, axis=-1).mean() < .01*side
    crop = choose_crop(found.landmarks, inside, found.found)
    assert solve_head(found, crop, 96).quality["rms_px"] < 1


def test_small_face_in_4k(tmp_path, real_video):
    subject = prepare(real_video("awkward/face_190px_in_4k.mp4"), "far", 96, data_dir=tmp_path, progress=False)
    assert subject.protocol["lost"] == [] and subject.protocol["tracking"]["rms_px"] < 1


def test_piece_that_diverged(tmp_path, real_video):
    subject = prepare(real_video("awkward/pose_diverges_at_96.mp4"), "held", 96, data_dir=tmp_path, progress=False)
    assert subject.protocol["tracking"]["rms_px"] < 1
