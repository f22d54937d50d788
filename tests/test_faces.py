"""Faces in motion, from frames to metrics.json: the demo subject's true blinks and jaw as measured by tracker and curves; a real clip."""
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from dnerf.core import InputError, MissingError
from dnerf.evaluation.blinks import Closure, blink_metrics, blink_numbers, blink_scores, blinks, closures, half_closures, match_blinks
from dnerf.evaluation.faces import FaceClip, Flicker, best_lag, eyelid_opening, face_metrics, head_jitter
from dnerf.evaluation.faces import jaw_opening, lip_opening, track_clip
from dnerf.evaluation.metrics import BLINK_METRICS, FACE_METRICS, METRICS, check_metrics, empty_metrics, lpips, lpips_net, set_metric
from dnerf.subject import FPS
from dnerf.video.demo import demo_truth, demo_video
from dnerf.video.media import iter_frames


@pytest.fixture(scope="module")
def clip():
    "The whole demo clip, tracked once."
    return track_clip(iter_frames(demo_video()))


@pytest.fixture(scope="module")
def truth():
    return demo_truth()


def part(clip: FaceClip, frames: slice) -> FaceClip:
    "Some frames of a clip."
    landmarks, blendshapes, found = (a[frames].copy() for a in (clip.landmarks, clip.blendshapes, clip.found))
    return replace(clip, landmarks=landmarks, blendshapes=blendshapes, found=found)


def middles(clip: FaceClip) -> list:
    return [c.middle() for c in blinks(closures(eyelid_opening(clip)))]


def test_every_true_blink_is_found_and_no_other(clip, truth):
    scores = blink_scores(middles(clip), (FPS * truth.blinks).mean(1))
    assert scores["f1"] >= 0.95
    assert half_closures(closures(eyelid_opening(clip))) == []
    numbers = blink_numbers(closures(eyelid_opening(clip)), len(clip) / FPS)
    assert numbers["rate"] == pytest.approx(60 * len(truth.blinks) / (len(clip) / FPS))
    whole = 1000 * np.diff(truth.blinks).mean()
    assert whole / 2 < numbers["duration"] < whole and numbers["depth"] > 0.9


def test_lips_and_jaw_have_no_lag(clip, truth):
    true_jaw = truth.facial[:, truth.facial_names.index("jawOpen")].astype(float)
    for curve in (lip_opening(clip), jaw_opening(clip)):
        lag, r = best_lag(curve, true_jaw)
        assert abs(lag) <= 1 and r > 0.85


@pytest.mark.parametrize("late", [-4, 0, 2])
def test_a_clip_shifted_in_time_has_that_lag(clip, late):
    middle = slice(20, 320)
    measured = face_metrics(part(clip, slice(20 - late, 320 - late)), part(clip, middle))
    assert measured["lips.lag"] == measured["jaw.lag"] == (late, None)
    assert (measured["lips.error"][0] == 0) == (measured["lmd"][0] == 0) == (late == 0)


def test_blinks_may_be_three_frames_off_but_not_four(clip):
    real = part(clip, slice(20, 300))  # cuts no blink
    for late, f1 in ((-4, 0), (-3, 1), (3, 1), (4, 0)):
        assert blink_metrics(part(clip, slice(20 - late, 300 - late)), real)["blink.f1"] == (f1, None)


def test_a_trembling_head_shows_in_jitter_alone(clip):
    real = part(clip, slice(0, 300))
    shaky = part(clip, slice(0, 300))
    shaky.landmarks[:, :, :2] += np.random.default_rng(0).normal(size=(300, 1, 2))
    measured = face_metrics(shaky, real)
    assert measured["jitter.rendered"][0] ** 2 == pytest.approx(measured["jitter.ground_truth"][0] ** 2 + 12, rel=0.2)
    assert measured["lmd"][0] < 1e-3 and measured["eyelid_error"][0] < 1e-2


def test_frozen_lids_and_lips(clip):
    real, frozen = part(clip, slice(0, 300)), part(clip, slice(0, 300))
    frozen.landmarks[:], frozen.blendshapes[:] = frozen.landmarks[20], frozen.blendshapes[20]
    measured = face_metrics(frozen, real) | blink_metrics(frozen, real)
    for key in ("lips.correlation", "lips.lag", "jaw.correlation", "jaw.lag", "blink.precision", "blink.duration.rendered"):
        assert measured[key][0] is None and measured[key][1]
    for key in ("blink.recall", "blink.rate.rendered", "jitter.rendered"):
        assert measured[key] == (0, None)


def test_lost_frames_are_left_out_and_counted(clip):
    real, holes = part(clip, slice(0, 300)), part(clip, slice(0, 300))
    gone = np.r_[60:80, 165:190]  # the second blink is in the second gap
    holes.found[gone], holes.landmarks[gone], holes.blendshapes[gone] = False, 0, 0
    measured, kept = face_metrics(holes, real) | blink_metrics(holes, real), len(real) - len(gone)
    assert measured["lost_faces.rendered"] == (len(gone), None) and measured["lost_faces.ground_truth"] == (0, None)
    assert measured["lmd"] == measured["lips.error"] == measured["eyelid_error"] == (0, None)
    assert measured["jitter.rendered"] == measured["jitter.ground_truth"]
    assert measured["blink.f1"] == (1, None)
    for name in ("rendered", "ground_truth"):
        assert measured[f"blink.rate.{name}"][0] == pytest.approx(60 * 2 / (kept / FPS))


def test_everything_fits_into_metrics_json(clip):
    flicker, frames = Flicker(), list(itertools.islice(iter_frames(demo_video()), 4))
    for frame in frames:
        flicker.add(frame.astype(np.float32) / 255, frame)
    measured = face_metrics(clip, clip) | blink_metrics(clip, clip) | flicker.metrics()
    assert set(measured) == set(FACE_METRICS) | set(BLINK_METRICS) | {"flicker.rendered", "flicker.ground_truth"} <= set(METRICS)
    assert measured["flicker.rendered"][0] == pytest.approx(measured["flicker.ground_truth"][0], rel=1e-5)
    metrics = empty_metrics()
    for key, (value, reason) in measured.items():
        assert (value is None) == bool(reason)
        set_metric(metrics, key, value, reason)
    check_metrics(metrics)
    assert metrics["blink"]["f1"] == metrics["blink"]["precision"] == metrics["lips"]["correlation"] == pytest.approx(1)


def test_every_entry_has_unit_direction_and_meaning():
    for key, entry in METRICS.items():
        assert len(entry) == 3 and all(isinstance(text, str) for text in entry) and entry[2], key


def test_a_clip_without_a_face():
    frames = np.full((3, 48, 48, 3), 100, np.uint8)
    nobody = track_clip(iter(frames))
    measured = face_metrics(nobody, nobody) | blink_metrics(nobody, nobody)
    assert {key for key, (value, _) in measured.items() if value is not None} == {"lost_faces.rendered", "lost_faces.ground_truth"}
    assert measured["lost_faces.rendered"][0] == 3 and math.isnan(head_jitter(nobody))
    empty = track_clip(iter([]))
    assert len(empty) == 0
    assert face_metrics(empty, empty)["lmd"][0] is None and blink_metrics(empty, empty)["blink.rate.rendered"][0] is None
    with pytest.raises(InputError, match="uint8"):
        track_clip(iter(frames / 255))


def test_matching_uses_each_blink_once_and_as_many_as_possible():
    rng = np.random.default_rng(0)

    def most(a, b):
        "The most pairs, by trying everything."
        if not a or not b:
            return 0
        take = 1 + most(a[1:], b[1:]) if abs(a[0] - b[0]) <= 3 else 0
        return max(take, most(a[1:], b), most(a, b[1:]))

    for _ in range(100):
        a, b = (sorted(rng.integers(0, 25, n).tolist()) for n in rng.integers(0, 6, 2))
        pairs = match_blinks(a, b)
        assert len(pairs) == most(a, b)
        assert all(abs(a[i] - b[j]) <= 3 for i, j in pairs) and len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)


def test_numbers_of_no_blink_and_of_a_cut_one():
    assert blink_numbers([], 60)["rate"] == blink_numbers([], 60)["flutter"] == 0 and math.isnan(blink_numbers([], 60)["depth"])
    numbers = blink_numbers([Closure(-0.5, 2.0, 0.9, True)], 30)
    assert numbers["rate"] == 2 and numbers["depth"] == 0.9 and math.isnan(numbers["duration"])


def test_blinks_of_a_newsreader_as_annotated(real_video):
    "First 20 s, annotated by hand: twelve closures, the last cut off by the end of the excerpt."
    annotated = [2, 95, 113, 158, 193, 262, 293, 361, 417, 444, 473, 499]
    clip = track_clip(itertools.islice(iter_frames(real_video("cnn2.mp4")), 500))
    scores = blink_scores(middles(clip), annotated)
    assert scores["precision"] == scores["recall"] == 1


def test_lpips_says_where_the_weights_go(monkeypatch, tmp_path):
    import torch

    def offline(*args, **kwargs):
        raise OSError("no network")

    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        pytest.skip("torchvision is not installed")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(MissingError, match="alexnet.*checkpoints"):
        lpips_net()


def test_lpips_of_equal_pictures_is_zero():
    try:
        net = lpips_net()
    except MissingError as e:
        pytest.skip(str(e))
    image = np.random.default_rng(0).random((64, 64, 3))
    assert lpips(image, image, net) == 0 < lpips(image, 1 - image, net)
