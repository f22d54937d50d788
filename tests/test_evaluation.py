"From a run to its video, metrics and figures, with a stand-in for the model."
import base64
import copy
import csv
import hashlib
import json
import math
import re
import sys
from types import SimpleNamespace

import av
import numpy as np
import pytest

from dnerf.core import DivergedError, DnerfError, InputError, MissingError, StorageError
from dnerf.evaluation.measures import MEASURES
from dnerf.evaluation.metrics import METRICS, RegionErrors, check_metrics, empty_metrics, regions
from dnerf.evaluation import curves
from dnerf.evaluation.page import PAGE_POLICY, PAGE_SCRIPT, html_report
from dnerf.evaluation.patches import save_figure
from dnerf.evaluation.report import evaluate_run, protocol, same_protocol, summary
from dnerf.subject import SAMPLES_PER_FRAME, toy_subject
from dnerf.talk.synthesis import render_split, to_uint8
from dnerf.video.media import iter_frames, probe, read_audio
from notebooks import execute, papermill

PIXELS = ("pixels",)
FIGURES = ["figures/blink.png", "figures/comparison.png", "figures/heat.png", "figures/loss.png", "figures/strips.png"]
WRITTEN = ["compare.mp4", *FIGURES, "frames.csv", "metrics.csv", "metrics.json", "report.html", "video.mp4"]


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


def lose(run, first, last):
    "Say, in memory and on disk, that frames `first` to `last - 1` show no face."
    run.subject.protocol["lost"] = [[first, last]]
    (run.subject.folder / "subject.json").write_text(json.dumps(run.subject.protocol))


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
    metrics = evaluate_run(run, progress=False, render=shaded, measures=PIXELS)
    assert files(run) == WRITTEN
    stored = json.loads((run.folder / "metrics.json").read_text())
    assert check_metrics(stored) == metrics
    for name in ("frame", "head", "face"):
        assert metrics["psnr"][name] == pytest.approx(20, abs=1e-3)
    assert 0 < metrics["ssim"] < 1
    assert metrics["lpips"] is None and metrics["reasons"]["lpips"] == "not asked for"
    assert metrics["speed"]["train_seconds"] == 3.5 and metrics["speed"]["render_fps"] > 0
    assert metrics["speed"]["rays_per_second"] is None and "speed.rays_per_second" in metrics["reasons"]
    assert metrics["protocol"]["split"]["frames"] == 10 and metrics["protocol"]["audio"] == "speechsplit"
    assert str(run.folder) not in json.dumps(stored)
    text = summary(metrics, run.folder)
    assert "frame 20.00" in text and str(run.folder / "video.mp4") in text and str(run.folder / "metrics.json") in text


def test_video_plays_with_its_own_sound(run):
    evaluate_run(run, progress=False, render=shaded, measures=PIXELS)
    test, video = run.subject.split("test"), run.folder / "video.mp4"
    info = probe(video)
    assert (info.n_frames, info.fps, info.width, info.has_audio) == (len(test), 25, run.subject.size, True)
    decoded, speech = read_audio(video), run.subject.wav[test.start * SAMPLES_PER_FRAME:]
    assert len(speech) == len(test) * SAMPLES_PER_FRAME
    assert abs(len(decoded) - len(speech)) <= 1024  # a block of AAC
    assert np.corrcoef(decoded[:len(speech)], speech)[0, 1] > 0.99
    shown = np.stack(list(iter_frames(video))).astype(float)
    expected = np.clip(run.subject.frames[test.start:test.stop] - 25.5, 0, 255)
    assert abs(shown - expected).mean() < 6
    with av.open(str(video)) as f:
        assert "synthetic" in f.metadata["comment"].lower() and "synthetic" in f.metadata["title"].lower()


@pytest.mark.parametrize("error", [ValueError("no power"), KeyboardInterrupt(), MemoryError()])
def test_failure_half_way_leaves_nothing(run, error):
    with pytest.raises(type(error)):
        evaluate_run(run, progress=False, render=failing_after(4, error), measures=PIXELS)
    assert files(run) == ["metrics.csv"]


def test_failure_keeps_the_older_results(run):
    evaluate_run(run, progress=False, render=shaded, measures=PIXELS)
    before = {name: (run.folder / name).read_bytes() for name in files(run)}
    with pytest.raises(ValueError):
        evaluate_run(run, progress=False, render=failing_after(9, ValueError("no power")), measures=PIXELS)
    assert {name: (run.folder / name).read_bytes() for name in files(run)} == before


@pytest.mark.parametrize("frames, error, words", [
    (lambda run, frames: ((i + 1, run.subject.frames[i] / 255) for i in frames), DnerfError, "where frame 100 was due"),
    (lambda run, frames: ((i, run.subject.frames[i] / 255) for i in frames[:-1]), DnerfError, "nothing more"),
    (lambda run, frames: ((i, run.subject.frames[i] * np.nan) for i in frames), DivergedError, "frame 100"),
    (lambda run, frames: ((i, run.subject.frames[i, ::2, ::2] / 255) for i in frames), InputError, "own size"),
])
def test_bad_renderers_are_errors(run, frames, error, words):
    with pytest.raises(error, match=words):
        evaluate_run(run, progress=False, render=frames, measures=PIXELS)
    assert files(run) == ["metrics.csv"]


def test_each_frame_is_rendered_once_and_streamed(run):
    rendered, measured = [], []

    def counting(run, frames):
        for i in frames:
            assert len(rendered) == len(measured)  # the frame before was measured before this one is requested
            rendered.append(i)
            yield i, run.subject.frames[i] / 255

    out = run.folder / "train.mp4"
    render_split(run, "train", out, progress=False, on_frame=lambda i, image: measured.append(i), render=counting)
    assert rendered == measured == list(run.subject.split("train"))


def test_no_log_no_curve(run):
    (run.folder / "metrics.csv").unlink()
    evaluate_run(run, "val", progress=False, render=shaded, measures=PIXELS)
    assert files(run) == sorted(name.replace(".", "_val.") for name in WRITTEN if name not in ("metrics.csv", "figures/loss.png"))


def test_identical_frames_have_a_reason_not_infinity(run):
    def perfect(run, frames):
        return ((i, run.subject.frames[i] / 255) for i in frames)

    metrics = evaluate_run(run, progress=False, render=perfect, measures=PIXELS)
    assert metrics["psnr"]["lips"] is None and metrics["reasons"]["psnr.lips"].startswith("identical")


def test_frames_without_a_face_have_no_lips(run):
    lose(run, 100, 110)
    metrics = evaluate_run(run, progress=False, render=shaded, measures=PIXELS)
    assert metrics["psnr"]["frame"] == pytest.approx(20, abs=1e-3)
    assert metrics["psnr"]["lips"] is None and "no frame has a pixel" in metrics["reasons"]["psnr.lips"]
    assert metrics["protocol"]["split"]["frames_without_face"] == 10


def test_pooling_is_independent_of_how_frames_are_grouped():
    rng, masks = np.random.default_rng(0), {"frame": np.ones((6, 6), bool)}
    real, rendered = rng.random((2, 5, 6, 6, 3))
    errors = RegionErrors(["frame"])
    for i in range(5):
        errors.add(i, rendered[i], real[i], masks)
    assert errors.psnr()["frame"] == pytest.approx(-10 * math.log10(((rendered - real) ** 2).mean()))
    assert errors.psnr(pooled=False)["frame"] >= errors.psnr()["frame"]  # Jensen


def test_every_metric_is_null_with_a_reason_until_measured():
    metrics = empty_metrics()
    assert set(metrics["reasons"]) == set(METRICS)
    assert set(metrics) == {
        "protocol", "psnr", "ssim", "sharpness", "lpips", "flicker", "lost_faces", "lmd", "lmd_all", "lips", "jaw", "eyelid_error",
        "jitter", "sync", "subject_sync", "blink", "speed", "reasons"}
    check_metrics(metrics)


def test_regions_nest_on_the_toy_subject(run):
    found = regions(run.subject, 3)
    assert set(found) == {"frame", "person", "head", "face", "eyes", "lips"}
    assert all(m.shape == (32, 32) and m.dtype == bool for m in found.values())
    assert found["frame"].all() and found["head"].any() and found["face"].any()
    assert not (found["head"] & ~found["person"]).any()


def failing(error):
    "A measure that raises `error`."

    def measure(clip):
        raise error

    return measure


def test_what_cannot_be_measured_is_null_and_the_rest_is_measured(run):
    def faces(clip):
        return {"lmd": (1.5, None), "lips.lag": (None, "nothing moves"), "lip_opening.real": np.arange(len(clip.real), dtype=float)}

    measures = {"pixels": None, "lpips": failing(MissingError("the weights are not here")), "sync": failing(InputError("too short")),
                "faces": faces}
    metrics = evaluate_run(run, progress=False, render=shaded, measures=measures)
    assert metrics["lmd"] == 1.5 and metrics["psnr"]["frame"] == pytest.approx(20, abs=1e-3)
    assert metrics["lpips"] is None and metrics["reasons"]["lpips"] == "the weights are not here"
    assert metrics["reasons"]["lips.lag"] == "nothing moves"
    assert all(metrics["reasons"][key] == "too short" for key in METRICS if key.startswith("sync."))
    assert all(metrics["reasons"][key] == "not asked for" for key in METRICS if key.startswith("subject_sync."))
    check_metrics(json.loads((run.folder / "metrics.json").read_text()))
    with pytest.raises(InputError, match="known are: pixels"):
        evaluate_run(run, progress=False, render=shaded, measures=("pixel",))


def test_every_entry_belongs_to_a_measure():
    begins = [begin for _, keys in MEASURES.values() for begin in keys] + ["speed"]
    assert [key for key in METRICS if not any(key == b or key.startswith(b + ".") for b in begins)] == []
    assert [b for b in begins if not any(key == b or key.startswith(b + ".") for key in METRICS)] == []


def test_scores_of_sync_come_to_their_entries(run, monkeypatch):
    """With stand-ins for the networks: a clip's score is its mean colour, which is darker in the rendered one."""
    clips = ("rendered", "ground_truth")

    def score(net, frames, landmarks, wav, device="cpu"):
        return {"confidence": float(np.mean(frames)), "distance": 2.0, "offset": len(wav) // len(frames) - 640, "margin": 0.5}
    anchors = {name: {"confidence": 3.0, "distance": 1.0, "offset": k, "margin": 0.1}
               for k, name in enumerate(("ground_truth", "shifted", "other_speaker"))}
    errors = iter([StorageError("another process is working on the judge; wait for it"), None])

    def train(subject, device, seed, show):
        if error := next(errors):
            raise error

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    published = SimpleNamespace(load_syncnet=lambda device: None, sync_scores=score)
    own = SimpleNamespace(train_subject_syncnet=train, subject_sync=score, sync_anchors=lambda net, subject, split: anchors,
                          separates=lambda found: found is anchors)
    monkeypatch.setitem(sys.modules, "dnerf.evaluation.syncnet", published)
    monkeypatch.setitem(sys.modules, "dnerf.evaluation.subject_syncnet", own)
    metrics = evaluate_run(run, progress=False, render=shaded, measures="sync+subject_sync")
    assert all(metrics["reasons"].get(key) is None for key in METRICS if "sync" in key)
    assert metrics["sync"]["confidence"]["rendered"] < metrics["sync"]["confidence"]["ground_truth"]
    assert metrics["sync"]["offset"] == dict.fromkeys(clips, 0) and metrics["sync"]["syncnet"]
    assert metrics["subject_sync"]["offset"] == {"rendered": 0, "ground_truth": 0, "shifted": 1, "other_speaker": 2}
    assert metrics["subject_sync"]["separates"] is True and "subject sync" in summary(metrics, run.folder)


def test_measures_get_the_rendering_before_the_codec(run):
    clips = {}

    def record(clip):
        clips.update(rendered=np.array(clip.rendered), real=np.array(clip.real), mapped=isinstance(clip.rendered, np.memmap), wav=clip.wav)
        return {}

    evaluate_run(run, progress=False, render=shaded, measures={"faces": record})
    test = run.subject.split("test")
    assert (clips["rendered"] == np.stack([to_uint8(image) for _, image in shaded(run, test)])).all()
    assert (clips["real"] == run.subject.frames[test.start:test.stop]).all() and clips["mapped"]
    assert len(clips["wav"]) == len(test) * SAMPLES_PER_FRAME


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_the_file_of_frames_is_removed_whatever_happens(run, error):
    with pytest.raises(type(error)):
        evaluate_run(run, progress=False, render=shaded, measures={"pixels": None, "faces": failing(error)})
    assert [name for name in files(run) if name.endswith(".npy") or "partial" in name] == [] and "metrics.json" not in files(run)


def test_frames_csv_pools_to_the_psnr(run):
    lose(run, 102, 104)
    metrics = evaluate_run(run, progress=False, render=shaded, measures=PIXELS)
    rows = list(csv.DictReader((run.folder / "frames.csv").open()))
    assert [int(row["index"]) for row in rows] == list(run.subject.split("test")) and rows[1]["second"] == "0.04"
    assert -10 * math.log10(np.mean([float(row["mse.frame"]) for row in rows])) == pytest.approx(metrics["psnr"]["frame"], abs=1e-4)
    assert np.mean([float(row["ssim.frame"]) for row in rows]) == pytest.approx(metrics["ssim"], abs=1e-5)
    assert [row["mse.lips"] == "" for row in rows] == [int(row["index"]) in (102, 103) for row in rows]


def test_a_clip_without_a_face_has_no_patches_but_a_page(run):
    lose(run, 100, 110)
    metrics = evaluate_run(run, progress=False, render=shaded, measures=PIXELS)
    assert set(metrics["figures"]) == {"comparison.png", "loss.png"}
    assert "figures/heat.png" not in files(run) and "report.html" in files(run)


def test_real_and_rendered_side_by_side(run):
    evaluate_run(run, progress=False, render=shaded, measures=PIXELS)
    video, test = run.folder / "compare.mp4", run.subject.split("test")
    info = probe(video)
    assert (info.n_frames, info.width, info.height, info.has_audio) == (len(test), 2 * run.subject.size, run.subject.size, True)
    shown, real = np.stack(list(iter_frames(video))).astype(float), run.subject.frames[test.start:test.stop].astype(float)
    left, right = shown[:, :, :run.subject.size], shown[:, :, run.subject.size:]
    assert abs(left - real).mean() < 6 and abs(right - np.clip(real - 25.5, 0, 255)).mean() < 6
    with av.open(str(video)) as f:
        assert f.metadata["title"].startswith("Left: recording") and "SYNTHETIC" in f.metadata["comment"]


def test_the_page_needs_no_network(run):
    metrics = evaluate_run(run, progress=False, render=shaded, measures=PIXELS)
    page = (run.folder / "report.html").read_text()
    addresses = re.findall(r"(?:src|href|srcset|poster|action|data)\s*=\s*['\"]([^'\"]*)", page) + re.findall(r"url\(([^)]*)", page)
    addresses = [a for a in addresses if a != "#film"]
    assert len(addresses) == 2 + len(metrics["figures"])  # with the film's poster
    assert all(a.startswith(("data:video/mp4;base64,", "data:image/png;base64,", "data:image/jpeg;base64,")) for a in addresses)
    text = without_script(re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert "@import" not in text and "<link" not in text and not re.search(r"https?://", text)
    assert all(f"<code>{key}</code>" in text for key in METRICS) and "not measured: not asked for" in text
    places = [text.index(word) for word in ("<video", 'class="keys"', "Frame by frame", "<table", "<details", "<img", "Protocol")]
    assert places == sorted(places)


def without_script(page):
    "A page without its own script, which is the only one that its policy allows to run."
    digest = base64.b64encode(hashlib.sha256(PAGE_SCRIPT.encode()).digest()).decode()
    policy = f"script-src 'sha256-{digest}'"
    assert page.count(f"<script>{PAGE_SCRIPT}</script>") == 1 and policy in PAGE_POLICY and "unsafe-inline'; script" in PAGE_POLICY
    rest = page.replace(f"<script>{PAGE_SCRIPT}</script>", "")
    assert "<script" not in rest and "</script" not in rest
    return rest


def test_the_page_shows_curves_and_leads_to_the_worst_frame(run):
    def one_bad_frame(run, frames):
        for i, frame in shaded(run, frames):
            yield i, frame * (i != 102)

    evaluate_run(run, progress=False, render=one_bad_frame, measures=PIXELS)
    film = curves.frame_curves(run.folder / "frames.csv")
    assert curves.notable_frames(film)["largest error, face"][0] == 0.08  # on the film's clock, not the recording's
    page = (run.folder / "report.html").read_text()
    assert 'data-second="0.08"' in page and page.count('<path class="c') == 2 and "it begins at" in page
    assert page.count('class="now"') == 1 and "Opening of the lips" not in page  # faces were not asked for


def test_names_and_reasons_cannot_break_the_page(run):
    evaluate_run(run, progress=False, render=shaded, measures={"lpips": failing(MissingError("<script>alert('x')</script>"))})
    metrics = json.loads((run.folder / "metrics.json").read_text())
    metrics["protocol"]["run"] = "<img src=x>"
    (run.folder / "metrics.json").write_text(json.dumps(metrics))
    page = html_report(run.folder).read_text()
    page = without_script(page)
    assert "<img src=x>" not in page and "&lt;script&gt;" in page


def test_same_protocol_names_the_differences(run):
    first = protocol(run, "test")
    other = copy.deepcopy(first) | {"run": "toy/second", "audio": "mel", "seed": 9, "preset": "gpu", "trained_steps": 3}
    assert same_protocol(first, other) == [] == same_protocol({"protocol": first}, json.loads(json.dumps({"protocol": other})))
    for key, value in (("name", "val"), ("frames", 3)):
        assert same_protocol(first, copy.deepcopy(first) | {"split": first["split"] | {key: value}}) == [f"split.{key}"]
    other_source = copy.deepcopy(first) | {"subject": first["subject"] | {"source": {"sha256": "0"}}}
    assert same_protocol(first, other_source)[0].startswith("subject.source")
    assert same_protocol(first, copy.deepcopy(first) | {"driven_by": ["speech"]}) == ["driven_by"]


def test_papermill_evaluates_a_run(dnerf_home):
    from dnerf.audio.embedding import embed_subject
    from dnerf.nerf.config import compose_config
    from dnerf.nerf.training import train

    toy = toy_subject(dnerf_home / "data" / "toy", n=88)
    config = compose_config("tiny", subject="toy", audio="mel", steps=5, name="small")
    folder = train(toy, embed_subject(toy, "mel", bar=False), config, show=False, named=True)
    done = papermill("evaluate", dnerf_home / "out.ipynb", run="toy/small", measures="pixels+faces")
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = check_metrics(json.loads((folder / "metrics.json").read_text()))
    assert 5 < metrics["psnr"]["frame"] < 60 and metrics["protocol"]["run"] == "toy/small"
    assert metrics["lost_faces"]["rendered"] in range(9) and metrics["reasons"]["lpips"] == "not asked for"
    assert (folder / "report.html").is_file() and (folder / "compare.mp4").is_file()
    assert "report.html" in "".join(done.stderr.strip().splitlines()[-6:])


def test_a_notebook_names_a_run_that_is_not_there(dnerf_home):
    with pytest.raises(MissingError, match="there is no trained run 'toy/nothing'"):
        execute("evaluate", run="toy/nothing")


@pytest.mark.parametrize("text", [
    "step,train/loss\n" + "1,2\n" * 150_000, "step," + "train/loss," * 100_000 + "\n" + "1," * 100_001,
    "step,train/loss\n1,2\n" + "3" * 200_000,
    "step,seconds,train/loss\n1e308,-1e308,1e308\n-1e308,1e308,-1e308\n"], ids=["rows", "columns", "field", "numbers"])
def test_a_log_of_any_size_is_read_and_drawn_in_bounds(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    read = curves.read_curves(tmp_path / "metrics.csv")
    assert len(read) < 50 and all(len(c["value"]) <= curves.MOST_ROWS for c in read.values())
    if figure := curves.curves_figure(tmp_path / "metrics.csv"):
        save_figure(figure, tmp_path / "loss.png")
