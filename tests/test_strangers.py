"""Runs and portraits that someone else made: names, links and figures in them lead nowhere else, and pages show what they say as text."""
import json

import pytest

from dnerf.core import DnerfError, InputError
from dnerf.evaluation.metrics import empty_metrics
from dnerf.evaluation.page import html_report

SECRET = "the content of another file"
EVIL = "<img src=x onerror=alert(1)>'\"><script>alert(2)</script>"
PROTOCOL = dict(
    run="toy/first", subject=dict(name="toy", n_frames=44, size=32, fps=25), split=dict(name="test", frames=4, frames_without_face=0),
    driven_by=["speech"], measures={"lmd": "pixels"}, audio="mel", seed=0)


@pytest.fixture
def run(tmp_path):
    "What an evaluation leaves, without the pictures."
    folder = tmp_path / "runs" / "toy" / "first"
    (folder / "figures").mkdir(parents=True)
    (tmp_path / "secret.png").write_text(SECRET)
    (folder / "figures" / "loss.png").write_text("a figure")
    write(folder)
    return folder


def write(folder, **entries):
    metrics = empty_metrics("not measured here") | dict(protocol=PROTOCOL, figures={"loss.png": "the loss"}) | entries
    (folder / "metrics.json").write_text(json.dumps(metrics))


def page(folder):
    "The text of the page; nothing of another file is in it."
    import base64

    text = html_report(folder).read_text()
    assert SECRET not in text and base64.b64encode(SECRET.encode()).decode() not in text
    return text


OUTSIDE = ("../../../../secret.png", "../figures/loss.png", "..", "", "~/secret.png", "..\\..\\secret.png", "C:secret.png", "a\0.png",
           "/etc/hostname", "{tmp}/secret.png", "x" * 300)


@pytest.mark.parametrize("name", OUTSIDE, ids=ascii)
def test_a_figure_outside_the_run_is_not_embedded(run, tmp_path, name):
    assert page(run).count("<img") == 1
    write(run, figures={name.format(tmp=tmp_path): "caption"})
    with pytest.raises(InputError, match="not the name of a file inside") as e:
        html_report(run)
    assert str(e.value).isprintable()


@pytest.mark.parametrize("name", ["figures/loss.png", "figures", "compare.mp4", "metrics.json"])
def test_a_link_out_of_the_run_is_not_embedded(run, tmp_path, name):
    path = run / name
    if path.is_dir():
        path.rename(tmp_path / "moved")
        (tmp_path / "moved" / "loss.png").write_text(SECRET)
        path.symlink_to(tmp_path / "moved")
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="not the name of a file inside"):
        html_report(run)


def test_names_and_texts_are_text_in_the_page(run):
    (run / "figures" / "a'onerror='x.png").write_text("")
    subject = dict(name=EVIL, n_frames=EVIL, size=[EVIL])
    protocol = PROTOCOL | dict(run=EVIL, driven_by=[EVIL], measures={EVIL: EVIL}, audio=EVIL, subject=subject)
    write(run, protocol=protocol, figures={"a'onerror='x.png": EVIL, "loss.png": EVIL}, **{EVIL: {EVIL: EVIL}, "lmd": {"x": EVIL}})
    text = page(run)
    assert "<script" not in text and "<img src=x" not in text and text.count("<img") == 2
    assert "onerror='" not in text.replace("&#x27;", "")


WRONG = [[], 3, None, "x", {}, {"protocol": {}}, dict(protocol=[], reasons={}), dict(protocol={}, reasons=[])]
WRONG += [dict(protocol={}, reasons={"a": 3})] + [dict(protocol={}, reasons={}, figures=wrong) for wrong in (["loss.png"], {"loss.png": 3})]
WRONG += [dict(protocol=wrong, reasons={}) for wrong in (
    dict(split="test"), dict(split=dict(frames="4")), dict(subject=[]), dict(driven_by="x"), dict(measures=[]))]


TEXTS = *map(json.dumps, WRONG), "", "{", "\xff", '{"a":' * 999 + "1" + "}" * 999, "[" * 5000


@pytest.mark.parametrize("content", TEXTS, ids=lambda c: c[:40])
def test_metrics_that_are_none(run, content):
    (run / "metrics.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DnerfError) as e:
        html_report(run)
    assert "metrics.json" in str(e.value) and str(e.value).isprintable() and not (run / "report.html").exists()


def test_a_page_needs_few_entries(run):
    (run / "metrics.json").write_text(json.dumps(dict(protocol={}, reasons={}, psnr={"frame": 31.5}, new=[1, None, {"a": True}])))
    assert "31.5" in page(run)


@pytest.fixture
def parts(run, dnerf_home):
    "A run's folder with all of its parts, none of which is read in these tests."
    from dnerf.nerf.run import PARTS_OF_A_RUN

    assert run.is_relative_to(dnerf_home)
    (run / "checkpoints").mkdir()
    for part in PARTS_OF_A_RUN:
        (run / part).write_text("not read")
    return run


@pytest.mark.parametrize("name", ["checkpoints", "figures", "video.mp4", "config.yaml", "speech", "metrics.csv", "tensorboard"])
def test_a_run_with_a_link_out_of_it_is_not_opened_and_not_trained_on(parts, tmp_path, name):
    from dnerf.nerf.config import compose_config
    from dnerf.nerf.run import load_run, run_folder

    path, target = parts / name, tmp_path / "moved"
    if path.exists():
        path.rename(target)
    path.symlink_to(target)
    config = compose_config("tiny", subject="toy", name="first")
    for use in (lambda: load_run("toy/first"), lambda: load_run(parts), lambda: run_folder(config, {})):
        with pytest.raises(InputError, match=f"{name} in .* is a link that leads out"):
            use()


ENTRIES = "subject: ../../toy", "subject: /tmp", "audio: ../../../secret", "name: ..", "name: 'a/b'", "subject: 'a\\b'"


@pytest.mark.parametrize("entry", ENTRIES)
def test_names_in_a_stored_configuration(parts, entry):
    from omegaconf import OmegaConf

    from dnerf.nerf.config import compose_config
    from dnerf.nerf.run import load_run

    config = compose_config("tiny", subject="toy", name="first", audio="mel")
    OmegaConf.save(config, parts / "config.yaml")
    text = (parts / "config.yaml").read_text()
    key = entry.split(":")[0]
    (parts / "config.yaml").write_text("\n".join(entry if line.startswith(f"{key}:") else line for line in text.splitlines()))
    with pytest.raises(InputError, match="name"):
        load_run("toy/first")
