"""Pages of one run and of several in a browser, and the command `compare`; the runs are made up, their films are real."""
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from browser import chromium  # noqa: F401, a fixture

from dnerf.cli import main
from dnerf.core import locked, write_json
from dnerf.evaluation.metrics import empty_metrics, set_metric
from dnerf.evaluation.compare import protocol_differences
from dnerf.evaluation.page import PAGE_SCRIPT, Result, html_report
from dnerf.nerf.config import compose_config
from dnerf.video.media import write_video

EVIL = "<img src=x onerror=alert(1)>'\"><script>document.title = 'taken'</script>"
N = 100


def made_up(home, name, dB, error, subject="toy", **entries):
    "An evaluated run without a portrait, whose films count their frames in grey."
    from omegaconf import OmegaConf

    folder = home / "runs" / subject / name
    folder.mkdir(parents=True)
    config = compose_config("tiny", subject=subject, audio="mel", steps=int(dB), name=name)
    OmegaConf.save(config, folder / "config.yaml")
    metrics = empty_metrics("not asked for")
    set_metric(metrics, "psnr.face", dB)
    protocol = dict(run=f"{subject}/{name}", subject=dict(name=subject, n_frames=500, size=32, fps=25), driven_by=["speech"],
                    split=dict(name="test", start=400, frames=N, frames_without_face=0), trained_steps=int(dB))
    write_json(folder / "metrics.json", metrics | dict(protocol=protocol | entries, figures={}))
    k = np.arange(N)
    columns = k / 25, (error * (1 + (k == 60))) ** 2, 5 + 4 * np.sin(k / 5 + (subject != "toy")), 5 + 2 * np.sin(k / 5)
    lines = [",".join(f"{v:.6g}" for v in row) for row in zip(*columns)]
    (folder / "frames.csv").write_text("\n".join(["second,mse.face,lip_opening.real,lip_opening.rendered", *lines]))
    for file, width in (("compare.mp4", 64), ("video.mp4", 32)):
        frames = (np.full((32, width, 3), 2 * i, np.uint8) for i in k)
        write_video(folder / file, frames, wav=np.zeros(640 * N, np.float32))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "Two runs of one subject, and one of another on other frames, with hostile words."
    home = tmp_path_factory.mktemp("made")
    made_up(home, "short", 24.0, 0.06)
    made_up(home, "long", 29.0, 0.03)
    made_up(home, "mel", 30.0, 0.02, subject="ann", split=dict(name="test", start=80, frames=N), run=EVIL, driven_by=[EVIL])
    return home


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    monkeypatch.setenv("DNERF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path


@pytest.mark.parametrize("words, sentence", [
    ([], "0 runs cannot be compared; give 2 to 8"), (["toy/short"], "1 run cannot be compared"),
    (["toy/short", "runs/toy/short"], "'toy/short' and 'runs/toy/short' are the same run"), (["toy", "toy"], "'toy' is given twice"),
    (["toy/short", "toy/shart"], "did you mean toy/short?"), (["toy/short", ".."], "there is no run '..'"),
    (["toy/short", "toy/new"], "has no metrics.json; evaluate it first: dnerf evaluate toy/new"),
    (["toy/short", "toy/long", "--split", "val"], "evaluate it first: dnerf evaluate toy/short --split val"),
    (["toy/short", "toy/long", "--split", "../x"], "evaluate it first"),
    (["toy/short", "toy/long", "--out", "mine.html"], "mine.html is there already, and it is no comparison that dnerf made"),
    (["toy/short", "toy/long", "--out", "report.html"], "report.html is there already, and it is no comparison"),
    (["toy/short", "toy/long", "--out", "runs.html"], "runs.html is there already"),
    (["ann/mel", "toy/long"], "compare.html is there already"),
    (["toy/short", "toy/long", "--out", "page.txt"], "ends in .html"),
    (["..", ".."], "there is no run '..'"), (["toy/short", "toy/../../beside"], "there is no run 'toy/../../beside'"),
    (["toy/short", "toy/long", "--out", "nodir/x.html"], "the folder nodir does not exist; make it first"),
    (["toy/short", "toy/long", "--out", "~nobody/x.html"], "does not exist; make it first"),
    (["toy/short", "toy/long", "--out", "link.html"], "link.html is a link that leads nowhere"),
    (["toy/short", "toy/huge"], "metrics.json is damaged (it holds a number of 401 digits); evaluate the run again")],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_what_cannot_be_compared_is_one_sentence(home, capsys, words, sentence):
    (home / "mine.html").write_text("mine")
    (home / "report.html").write_bytes(html_report(home / "runs" / "toy" / "short").read_bytes())  # dnerf's, but no comparison
    (home / "runs.html").mkdir()
    (home / "runs" / "ann" / "compare.html").write_text("<title>mine: compared on the test split</title>")
    (home / "runs" / "toy" / "new").mkdir()
    (home / "runs" / "toy" / "new" / "config.yaml").write_text((home / "runs/toy/short/config.yaml").read_text())
    (home / "runs/toy/long/state.json").write_text("{}")  # the newest that is finished
    shutil.copytree(home / "runs/toy/short", home / "runs/toy/huge")
    metrics = json.loads((home / "runs/toy/huge/metrics.json").read_text())
    metrics["flicker"]["ground_truth"], metrics["reasons"]["flicker.ground_truth"] = 10**400, None
    (home / "runs/toy/huge/metrics.json").write_text(json.dumps(metrics))
    (home / "link.html").symlink_to(home / "nowhere" / "page.html")
    (home / "beside").mkdir()
    for part in ("config.yaml", "state.json"):
        (home / "beside" / part).write_text("{}")
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    assert main(["compare", *words]) == 1
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} == before
    assert (home / "link.html").is_symlink() and not (home / "nodir").exists()


def test_a_run_in_training_is_waited_for(home, capsys):
    (home / "runs/toy/short/metrics.json").unlink()
    with locked(home / "runs/toy/short", "a training"):
        assert main(["compare", "toy/short", "toy/long"]) == 1
    assert "short is in training and not measured yet; wait for it" in capsys.readouterr().err
    assert main(["compare", "toy/short", "toy/long"]) == 1 and "evaluate it first" in capsys.readouterr().err


@pytest.mark.parametrize("content, why", [("\0\1", "holds no frames that were measured"), (None, "is missing")])
def test_a_run_without_curves_is_named(home, capsys, content, why):
    path = home / "runs/toy/short/frames.csv"
    path.unlink() if content is None else path.write_text(content)
    assert main(["compare", "toy/short", "toy/long"]) == 0
    said = f"the curves of toy/short are not shown: its frames.csv {why}; evaluate the run again"
    assert capsys.readouterr().err == f"{said}\n" and f'<p class="warn">{said}</p>' in (home / "runs/toy/compare.html").read_text()


def test_a_link_to_a_comparison_stays_one(home, capsys):
    assert main(["compare", "toy/short", "toy/long"]) == 0
    page, link = home / "runs/toy/compare.html", home / "link.html"
    link.symlink_to(page)
    page.write_text(page.read_text() + "<!-- older -->")
    assert main(["compare", "toy/short", "toy/long", "--out", "link.html"]) == 0
    assert link.is_symlink() and "<!-- older -->" not in page.read_text()


def test_compare_for_people_and_for_scripts(home, capsys):
    page = home / "runs" / "toy" / "compare.html"
    assert main(["compare", "toy/short", "toy/long"]) == 0 and capsys.readouterr().out == f"the page is {page}\n"
    assert main(["compare", "runs/toy/short", "toy/long", "--quiet"]) == 0 and capsys.readouterr().out == f"{page}\n"  # replaced
    text = page.read_text()
    assert not list(home.glob("*.html")), "nothing is left in the working folder"
    assert "cannot be compared" not in text and 'best">29.00 dB' in text and text.count("<video") == 3 and text.count("<path") == 5
    assert main(["compare", "toy/short", "toy/long", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == ["toy/short", "toy/long"] and found["metrics"]["psnr.face"] == [24.0, 29.0] and not found["differences"]
    assert found["settings"] == {"steps": [24, 29], "trained steps": [24, 29]}


@pytest.mark.parametrize("mine", [False, True])
def test_the_comparison_goes_with_the_last_run(home, capsys, mine):
    "It shows films of a person; a page of that name that is another's stays."
    place, page = home / "runs" / "toy", home / "runs" / "toy" / "compare.html"
    assert main(["compare", "toy/short", "toy/long"]) == 0
    if mine:
        page.write_text("<title>mine: compared on the test split</title>")
    assert main(["rm", "toy/long", "--yes"]) == 0 and page.is_file(), "there is another run"
    assert main(["rm", "toy/short", "--yes"]) == 0
    assert [p.name for p in place.iterdir()] == ["compare.html"] if mine else not place.exists()


def test_numbers_of_other_people_are_not_compared_silently(home, capsys):
    "Nothing is called the best then, and the recording of one is not drawn for the other."
    assert main(["compare", "toy/short", "ann/mel"]) == 0
    text = (home / "runs" / "toy" / "compare.html").read_text()
    assert "These numbers cannot be compared as they stand" in text and "<code>subject.name</code>: toy | ann" in text
    assert 'best"' not in text and "24.00 dB" in text and "30.00 dB" in text and text.count("<video") == 2  # each with its own recording
    assert text.count("<path") == 4 and "recorded" not in text
    assert "<img" not in text and text.count("<script") == 1 and f"<script>{PAGE_SCRIPT}</script>" in text and "&lt;script&gt;" in text
    capsys.readouterr()
    assert main(["compare", "toy/short", "ann/mel", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["differences"]) == ["subject.name", "driven_by"]


CLIP = dict(name="toy", n_frames=500, size=32, focal=80.0, splits=dict(test=[400, 500]), source=dict(file="a.mp4", sha256="aa", bytes=9))


@pytest.mark.parametrize("changed, split, told", [
    (dict(name="ann", n_frames=90, focal=99.0, source=dict(file="b.mp4", sha256="bb")), dict(start=10, frames=80), ["subject.name"]),
    (dict(name="toy2", size=64, focal=160.0), {}, ["subject.name", "subject.size"]),                     # one video at two sizes
    (dict(size=64, focal=160.0), {}, ["subject.size"]),
    (dict(n_frames=90, source=dict(file="b.mp4", sha256="bb", bytes=7)), dict(start=10), ["subject.source.file", "subject.source.sha256"]),
    (dict(focal=81.0), {}, ["subject.focal"]), ({}, dict(start=380), ["split.start"])])                # the same clip, prepared otherwise
def test_what_follows_from_the_subject_is_no_difference_of_its_own(changed, split, told):
    def result(clip, more):
        frames = dict(name="test", start=400, frames=100) | more
        return Result("toy/a", "test", Path(), dict(protocol=dict(subject=clip, split=frames, driven_by=["speech"])), {}, {})
    assert sorted(protocol_differences([result(CLIP, {}), result(CLIP | changed, split)])) == sorted(told)


@pytest.fixture
def tab(chromium):  # noqa: F811
    "A page of a phone in a browser without a network; what goes wrong in it is in `said`."
    context = chromium.new_context(viewport=dict(width=390, height=800), offline=True)
    page = context.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    yield page
    context.close()


def wait(tab, condition):
    "Until something is so on a page whose policy forbids the scripts by which Playwright would wait."
    end = time.monotonic() + 30
    while not tab.evaluate(condition):
        assert time.monotonic() < end, (condition, tab.evaluate(TIMES), tab.said)
        time.sleep(0.03)


TIMES = "[...document.querySelectorAll('video')].map(v => v.currentTime)"


def test_films_run_in_step(home, tab):
    assert main(["compare", "toy/short", "toy/long"]) == 0
    tab.goto((home / "runs" / "toy" / "compare.html").as_uri())
    wait(tab, "[...document.querySelectorAll('video')].every(v => v.readyState > 1)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390 and tab.said == []
    assert tab.evaluate("[...document.querySelectorAll('video')].map(v => v.muted)") == [False, True, True]
    tab.locator(".bar button").click()
    wait(tab, "document.querySelector('video').currentTime > 0.8")
    tab.locator(".bar button").click()
    wait(tab, f"Math.max(...{TIMES}) - Math.min(...{TIMES}) < 0.001")  # the same frame, once they stand
    assert tab.evaluate(TIMES)[0] > 0.8 and tab.locator(".bar button").inner_text() == "play"
    tab.locator('[data-second="2.4"]').first.click()                               # the frame with the largest error
    wait(tab, f"{TIMES}.every(t => Math.abs(t - 2.42) < 0.001)")
    wait(tab, "Math.abs(document.querySelector('.now').getAttribute('x1') - 1000*2.4/3.96) < 0.1")
    assert tab.locator(".bar output").inner_text() == "2.40 s", "the second that the link says"
    places = tab.evaluate("[...document.querySelectorAll('video')].map(v => v.getBoundingClientRect()).map(r => [r.top, r.bottom])")
    assert min(top for top, _ in places) >= 8 and max(bottom for _, bottom in places) <= 800, "the films are seen, with a margin above"
    tab.locator(".plot").first.click(position=dict(x=1, y=50))
    wait(tab, f"Math.max(...{TIMES}) < 0.2")


def test_without_films_the_seconds_are_no_links(home):
    for path in home.glob("runs/toy/*/*.mp4"):
        path.unlink()
    assert main(["compare", "toy/short", "toy/long"]) == 0
    text = (home / "runs" / "toy" / "compare.html").read_text()
    assert "There is no video of this split." in text and "2.40 s" in text and "#film" not in text and "data-second=" not in text


def test_a_report_opens_offline_and_runs_no_script_but_its_own(home, tab):
    folder = home / "runs" / "toy" / "short"
    page = html_report(folder)
    text = page.read_text()
    page.write_text(text.replace("<h1>", f"<h1>{EVIL}"))  # as if escaping had failed
    tab.goto(page.as_uri())
    wait(tab, "document.querySelector('video').readyState > 1")
    assert tab.title() == "toy/short, test split" and tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert any("Content Security Policy" in said for said in tab.said)
    assert tab.locator("details[open]").count() == 0 and tab.locator(".bar").count() == 0
    tab.locator('[data-second="2.4"]').first.click()
    wait(tab, f"Math.abs({TIMES}[0] - 2.42) < 0.001")
    tab.locator("text=All settings").click()
    assert "steps=24" in tab.locator("details[open] pre").inner_text()
