"From a run to its video, metrics and figures, with a stand-in for the model."
import json
import math
from types import SimpleNamespace

import av
import numpy as np
import pytest

from dnerf.core import DivergedError, DnerfError, InputError
from dnerf.evaluation.metrics import METRICS, NOT_YET, RegionErrors, check_metrics, empty_metrics, regions
from dnerf.evaluation.report import evaluate_run, summary
from dnerf.subject import SAMPLES_PER_FRAME, toy_subject
from dnerf.talk.synthesis import render_split
from dnerf.video.media import iter_frames, probe, read_audio


def shaded(run, frames):
    "The real frames, 0.1 darker: 20 dB everywhere."
    for i in frames:
        yield i, run.subject.frames[i].astype(np.float32) / 255 - np.float32(0.1)


def failing_after(n, error):
    "A renderer that raises `error` after `n` frames."

    def render(run, frames):
        yield from shaded(run, frames[:n])
        raise error

    return render


@pytest.fixture
def run(tmp_path):
    "A run of a toy subject, as training leaves it."
    made = SimpleNamespace(folder=tmp_path / "runs" / "toy" / "first", subject=toy_subject(tmp_path / "data" / "toy", n=110),
                           config={"audio": "speechsplit", "preset": "cpu", "seed": 1}, state={"train_seconds": 3.5})
    made.folder.mkdir(parents=True)
    (made.folder / "metrics.csv").write_text("step,seconds,train/psnr,val/psnr\n0,0.5,10,\n10,1.5,20,\n10,,,19\n20,2.5,nan,\n")
    return made


def files(run):
    "Names of all files of a run, relative to its folder."
    return sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file())


def test_evaluate_writes_everything(run):
    metrics = evaluate_run(run, progress=False, render=shaded)
    assert files(run) == ["figures/comparison.png", "figures/loss.png", "metrics.csv", "metrics.json", "video.mp4"]
    stored = json.loads((run.folder / "metrics.json").read_text())
    assert check_metrics(stored) == metrics
    for name in ("frame", "head", "face"):
        assert metrics["psnr"][name] == pytest.approx(20, abs=1e-3)
    assert 0 < metrics["ssim"] < 1
    assert metrics["lpips"] is None and metrics["reasons"]["lpips"] == NOT_YET
    assert metrics["speed"]["train_seconds"] == 3.5 and metrics["speed"]["render_fps"] > 0
    assert metrics["speed"]["rays_per_second"] is None and "speed.rays_per_second" in metrics["reasons"]
    assert metrics["protocol"]["split"]["frames"] == 10 and metrics["protocol"]["audio"] == "speechsplit"
    assert str(run.folder) not in json.dumps(stored)
    text = summary(metrics, run.folder)
    assert "frame 20.00" in text and str(run.folder / "video.mp4") in text and str(run.folder / "metrics.json") in text


def test_video_plays_with_its_own_sound(run):
    evaluate_run(run, progress=False, render=shaded)
    test, video = run.subject.split("test"), run.folder / "video.mp4"
    info = probe(video)
    assert (info.n_frames, info.fps, info.width, info.has_audio) == (len(test), 25, run.subject.size, True)
    heard, said = read_audio(video), run.subject.wav[test.start * SAMPLES_PER_FRAME:]
    assert len(said) == len(test) * SAMPLES_PER_FRAME
    assert abs(len(heard) - len(said)) <= 1024  # a block of AAC
    assert np.corrcoef(heard[:len(said)], said)[0, 1] > 0.99
    shown = np.stack(list(iter_frames(video))).astype(float)
    expected = np.clip(run.subject.frames[test.start:test.stop] - 25.5, 0, 255)
    assert abs(shown - expected).mean() < 6
    with av.open(str(video)) as f:
        assert "synthetic" in f.metadata["comment"].lower() and "synthetic" in f.metadata["title"].lower()


@pytest.mark.parametrize("error", [ValueError("no power"), KeyboardInterrupt(), MemoryError()])
def test_failure_half_way_leaves_nothing(run, error):
    with pytest.raises(type(error)):
        evaluate_run(run, progress=False, render=failing_after(4, error))
    assert files(run) == ["metrics.csv"]


def test_failure_keeps_the_older_results(run):
    evaluate_run(run, progress=False, render=shaded)
    before = {name: (run.folder / name).read_bytes() for name in files(run)}
    with pytest.raises(ValueError):
        evaluate_run(run, progress=False, render=failing_after(9, ValueError("no power")))
    assert {name: (run.folder / name).read_bytes() for name in files(run)} == before


@pytest.mark.parametrize("frames, error, words", [
    (lambda run, frames: ((i + 1, run.subject.frames[i] / 255) for i in frames), DnerfError, "where frame 100 was due"),
    (lambda run, frames: ((i, run.subject.frames[i] / 255) for i in frames[:-1]), DnerfError, "nothing more"),
    (lambda run, frames: ((i, run.subject.frames[i] * np.nan) for i in frames), DivergedError, "frame 100"),
    (lambda run, frames: ((i, run.subject.frames[i, ::2, ::2] / 255) for i in frames), InputError, "own size"),
])
def test_bad_renderers_are_errors(run, frames, error, words):
    with pytest.raises(error, match=words):
        evaluate_run(run, progress=False, render=frames)
    assert files(run) == ["metrics.csv"]


def test_each_frame_is_rendered_once_and_streamed(run):
    made, seen = [], []

    def counting(run, frames):
        for i in frames:
            assert len(made) == len(seen)  # the frame before was used before this one is asked for
            made.append(i)
            yield i, run.subject.frames[i] / 255

    render_split(run, "train", run.folder / "train.mp4", progress=False, on_frame=lambda i, image: seen.append(i), render=counting)
    assert made == seen == list(run.subject.split("train"))


def test_no_log_no_curve(run):
    (run.folder / "metrics.csv").unlink()
    evaluate_run(run, "val", progress=False, render=shaded)
    assert files(run) == ["figures/comparison_val.png", "metrics_val.json", "video_val.mp4"]


def test_identical_frames_have_a_reason_not_infinity(run):
    metrics = evaluate_run(run, progress=False, render=lambda run, frames: ((i, run.subject.frames[i] / 255) for i in frames))
    assert metrics["psnr"]["lips"] is None and metrics["reasons"]["psnr.lips"].startswith("identical")


def test_frames_without_a_face_have_no_lips(run):
    run.subject.protocol["lost"] = [[100, 110]]
    metrics = evaluate_run(run, progress=False, render=shaded)
    assert metrics["psnr"]["frame"] == pytest.approx(20, abs=1e-3)
    assert metrics["psnr"]["lips"] is None and "no frame has a pixel" in metrics["reasons"]["psnr.lips"]
    assert metrics["protocol"]["split"]["frames_without_face"] == 10


def test_pooling_is_independent_of_how_frames_are_grouped():
    rng, masks = np.random.default_rng(0), {"frame": np.ones((6, 6), bool)}
    real, made = rng.random((2, 5, 6, 6, 3))
    errors = RegionErrors(["frame"])
    for i in range(5):
        errors.add(i, made[i], real[i], masks)
    assert errors.psnr()["frame"] == pytest.approx(-10 * math.log10(((made - real) ** 2).mean()))
    assert errors.psnr(pooled=False)["frame"] >= errors.psnr()["frame"]  # Jensen


def test_every_metric_is_null_with_a_reason_until_measured():
    metrics = empty_metrics()
    assert set(metrics["reasons"]) == set(METRICS)
    assert set(metrics) == {"protocol", "psnr", "ssim", "lpips", "flicker", "lost_faces", "lmd", "lmd_all", "lips", "jaw", "eyelid_error", "jitter",
                            "sync", "subject_sync", "blink", "speed", "reasons"}
    check_metrics(metrics)


def test_regions_nest_on_the_toy_subject(run):
    found = regions(run.subject, 3)
    assert set(found) == {"frame", "person", "head", "face", "eyes", "lips"}
    assert all(m.shape == (32, 32) and m.dtype == bool for m in found.values())
    assert found["frame"].all() and found["head"].any() and found["face"].any()
    assert not (found["head"] & ~found["person"]).any()
