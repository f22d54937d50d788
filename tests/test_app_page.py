"""The page of `dnerf app`: what its server refuses, and rounds in Chromium on a toy subject and on runs that are made up."""
import asyncio
import json
import os
import re
import shutil
import socket
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from dnerf.app.jobs import Queue
from dnerf.app.orders import LABELS, uploaded, uploads_dir
from dnerf.app.page import LIMIT, Page
from dnerf.app.voices import voices
from dnerf.audio.embedding import embed_subject
from dnerf.cli import main
from dnerf.core import InputError, asset, locked
from dnerf.evaluation.compare import MOST_RUNS
from dnerf.subject import toy_subject
from dnerf.talk.live import address_of, take_address
from dnerf.video.media import write_video
from test_app import begun, speech
from test_report import TIMES, made_up
from test_viewer_browser import CHROMIUM, QUIET, wait_for
from toys import home_of_a_module

SHOTS = os.environ.get("DNERF_SCREENSHOTS")  # a folder for pictures of the page, to look at


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A toy person, with speech features."
    with home_of_a_module(tmp_path_factory, "app") as home:
        toy = toy_subject(home / "data" / "toy", n=88)
        embed_subject(toy, "mel", bar=False)
        yield home


@contextmanager
def serving(limit: int = 2**31):
    "A page in a thread of its own, with its queue; its address."
    ready, loops = threading.Event(), []
    async def serve(page, taken):
        loops.append(asyncio.get_running_loop())
        await page.serve(taken, ready.set)
    with closing(take_address("127.0.0.1", 0)) as taken, Queue(address_of(taken, "127.0.0.1"), pause=0.05) as queue:
        page = Page(queue, limit=limit)
        thread = threading.Thread(target=lambda: asyncio.run(serve(page, taken)))
        thread.start()
        assert ready.wait(20)
        try:
            yield queue.address
        finally:
            loops[0].call_soon_threadsafe(page.over.set)
            thread.join(20)
        assert not thread.is_alive()


def ask(address, body=None, **headers):
    "Status and answer of a request."
    request = urllib.request.Request(address, body if body is None or isinstance(body, bytes) else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def test_the_page_refuses_others_and_what_is_too_large(dnerf_home):
    with serving(limit=1000) as address:
        assert ask(f"{address}/state")[0] == 200
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert "frame-ancestors 'none'; base-uri 'none'; form-action 'self'" in answer.headers["Content-Security-Policy"]
        assert ask(f"{address}/state", Origin="http://evil.example")[0] == 403
        assert ask(f"{address}/state", Host="evil.example")[0] == 403
        status, said = ask(f"{address}/upload?name=a.wav", bytes(2000))
        assert status == 400 and b"too much for a page" in said
        assert b"is empty" in ask(f"{address}/upload?name=a.wav", b"")[1]
        assert not [*uploads_dir().glob("*")], "nothing is kept of a file that was refused"
        status, got = ask(f"{address}/upload?name=..%2F..%2Fa.wav", bytes(500))
        assert status == 200 and uploaded(json.loads(got)["file"]).stat().st_size == 500
        for path in ("runs/../data/toy/audio.wav", "runs/%2e%2e/data/x.png", "uploads/%2Fetc%2Fpasswd", "runs/toy/mel/config.yaml"):
            assert ask(f"{address}/{path}")[0] in (400, 404)
        deep = b"[" * 100_000
        wrong = (("jobs", b"nonsense"), ("jobs", [1]), ("jobs", deep), ("speak", deep), ("speak", {"text": ""}),
                 ("jobs/nothing/stop", {}), ("jobs/nothing/log", None))
        for path, body in wrong:
            status, said = ask(f"{address}/{path}", body)
            assert status == 400 and set(json.loads(said)) == {"fault"}


def sent(address, head: str, *pieces: bytes) -> bytes:
    "What the server says to a request that is written by hand; the connection is closed after the pieces."
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"POST /upload?name=me.mp4 HTTP/1.1\r\nHost: {host}:{port}\r\n{head}\r\n\r\n".encode())
        for piece in pieces:
            connection.sendall(piece)
        connection.settimeout(2)
        with suppress(TimeoutError):
            return connection.recv(4096)
    return b""


def test_a_file_of_more_than_two_gigabytes_is_refused_before_it_is_sent(dnerf_home):
    "The page's own checks, in its script, have the same limits."
    with serving(LIMIT) as address:
        said = sent(address, f"Content-Length: {LIMIT + 1}")
        assert b" 400 " in said and b"more than 2 GB" in said and not [*uploads_dir().glob("*")]
    script = asset("app.js").read_text()
    assert eval(re.search(r"const LIMIT = ([\d* ]+);", script)[1]) == LIMIT
    assert int(re.search(r"const MOST_RUNS = (\d+);", script)[1]) == MOST_RUNS


def test_an_upload_of_unknown_length_is_stopped_at_the_limit(dnerf_home):
    with serving(limit=1000) as address:
        said = sent(address, "Transfer-Encoding: chunked", b"320\r\n" + bytes(800) + b"\r\n", b"320\r\n" + bytes(800) + b"\r\n")
        assert b" 400 " in said and b"too much for a page" in said and not [*uploads_dir().glob("*")]


def test_a_tab_that_is_closed_during_an_upload_leaves_nothing(dnerf_home):
    with serving() as address:
        assert sent(address, "Content-Length: 100000", bytes(5000)) == b""
        wait_for(lambda: not [*uploads_dir().glob("*")], 20, "the removal of the part")
        assert ask(f"{address}/state")[0] == 200


@pytest.fixture
def browser(tmp_path):
    "Chromium with a fake camera and microphone; its pages must not complain, and ask this machine alone."
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs Playwright: pip install -e '.[browser]'")
    if not CHROMIUM:
        pytest.skip("the browser test needs Chromium, e.g. apt-get install chromium")
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch_persistent_context(
            str(tmp_path / "profile"), executable_path=CHROMIUM, args=[*QUIET, *fake], viewport={"width": 1280, "height": 800})
        browser.complaints, browser.asked = [], []
        browser.on("console", lambda m: browser.complaints.append(m.text) if m.type == "error" else None)
        browser.on("weberror", lambda e: browser.complaints.append(str(e.error)))
        browser.on("request", lambda r: browser.asked.append(r.url))
        yield browser
        browser.close()


def shot(page, name: str):
    "Pictures of the page on a desktop and a phone, to look at."
    if not SHOTS:
        return
    for kind, (width, height) in {"desktop": (1280, 800), "phone": (390, 844)}.items():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        page.screenshot(path=f"{SHOTS}/{name}-{kind}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than a {kind}"
    page.set_viewport_size({"width": 1280, "height": 800})


def framed(page):
    "The page of a comparison in its frame, once all its films can be played."
    from playwright.sync_api import Error

    ready = ("location.pathname === '/compare' && document.querySelectorAll('video').length > 1"
             " && [...document.querySelectorAll('video')].every(v => v.readyState > 1)")
    def shown():
        "Whether it is; not while another page takes its place."
        with suppress(Error):
            return len(page.frames) > 1 and page.frames[-1].evaluate(ready)
    wait_for(shown, 40, "the films of the comparison")
    return page.frames[-1]


def said_of(page, form: str, part: str, seconds: float = 30):
    wait_for(lambda: part in page.inner_text(f"#{form} .said"), seconds, f"the sentence {part!r}")


def test_a_round_in_a_browser(home, browser, tmp_path):
    picture, film = tmp_path / "picture.png", tmp_path / "silent.mp4"
    shutil.copy(Path(__file__).parents[1] / "nbs" / "images" / "viewer.png", picture)
    write_video(film, (np.zeros((64, 64, 3), np.uint8) for _ in range(60)))
    with serving() as address:
        page = browser.pages[0]
        page.goto(address)
        # bad input is a sentence, and no job
        page.click("#prepare .main")
        said_of(page, "prepare", "Give a video first")
        for path, part in ((picture, "picture"), (film, "no sound")):
            page.set_input_files("#prepare input[type=file]", str(path))
            wait_for(lambda path=path: path.name in page.inner_text("#prepare .drop"), 20, "the upload")
            page.set_checked("#consent", part != "picture")
            page.click("#prepare .main")
            said_of(page, "prepare", "consent" if part == "picture" else part)
            page.set_checked("#consent", True)
            page.click("#prepare .main")
            said_of(page, "prepare", part)
        shot(page, "refused")
        assert page.locator(".job").count() == 0
        # a training that is stopped, goes on, and whose page is closed meanwhile
        page.select_option("#train [name=subject]", "toy")
        page.select_option("#train [name=preset]", "tiny")
        page.select_option("#train [name=audio]", "mel")
        page.fill("#train [name=minutes]", "0.3")
        page.click("#train .main")
        log = lambda: "".join(path.read_text() for path in home.glob("jobs/*/log"))               # noqa: E731
        wait_for(lambda: re.search(r"step=\d", log()), 120, "a step of the training")
        page.wait_for_selector(".job progress[value]", timeout=30_000)
        shot(page, "training")
        page.click(".job >> text=Stop")
        page.wait_for_selector(".job.stopped", timeout=60_000)
        steps = [int(n) for n in re.findall(r"step=(\d+)", log())]
        page.click(".job >> text=Continue")
        page.wait_for_selector(".job.running", timeout=60_000)
        page.goto("about:blank")
        page.goto(address)
        page.wait_for_selector(".job.done", timeout=120_000)
        more = [int(n) for n in re.findall(r"step=(\d+)", log())][len(steps):]
        assert more and min(more) > steps[-1], "it went on, and did not begin anew"
        shot(page, "trained")
        # speech, spoken or as a file, becomes a film
        page.click("#tab-speak")
        page.select_option("#drive [name=run]", "toy/mel-tiny")
        page.click("#drive .main")
        said_of(page, "drive", "Give speech first")
        if voices():
            voice, name = next(iter(voices().items()))
            assert page.locator("#voice option").all_inner_texts() == list(voices().values())
            page.fill("#words", "Hello.")
            page.click("#synthesise")
            said_of(page, "drive", f"Spoken by {name} with the program {voice.split()[0]}")
            page.fill("#words", "Good evening.")          # changed since it was spoken: the film says what stands there
            page.route("**/jobs", lambda r: r.fulfill(json={"fault": "Not now."}) if r.request.method == "POST" else r.continue_())
            with page.expect_request(lambda r: r.url.endswith("/jobs") and r.method == "POST") as order:
                page.click("#drive .main")
            assert "Good-evening" in order.value.post_data_json["speech"]
            said_of(page, "drive", "Not now.")
            page.unroute("**/jobs")
        page.set_input_files("#drive input[type=file]", str(picture))
        wait_for(lambda: picture.name in page.inner_text("#drive .drop"), 20, "the upload")
        page.click("#drive .main")
        said_of(page, "drive", "picture")
        page.set_input_files("#drive input[type=file]", str(speech(tmp_path / "hello.wav")))
        wait_for(lambda: "hello.wav" in page.inner_text("#drive .drop"), 20, "the upload")
        assert page.input_value("#words") == ""          # what was given last counts
        page.click("#drive summary")
        page.select_option("#drive [name=motion]", "still")
        page.click("#drive .main")
        page.wait_for_selector("#films video", timeout=60_000)
        page.eval_on_selector("#films video", "v => v.play()")
        wait_for(lambda: page.eval_on_selector("#films video", "v => v.currentTime > .1"), 20, "the film to play")
        assert (home / "runs" / "toy" / "mel-tiny" / "speech" / "hello.mp4").is_file()
        shot(page, "spoken")
        page.click("#tab-portrait")
        page.eval_on_selector("#films video", "v => { v.pause(); v.currentTime = 0; }")
        page.click("#jobs button:has-text('Watch')")
        assert page.locator("#films video").first.is_visible()
        wait_for(lambda: page.eval_on_selector("#films video", "v => !v.paused"), 20, "the film to play again")
        # a recording of the microphone
        page.click("#drive .take button")
        page.wait_for_timeout(1200)
        page.click("#drive .take button")
        wait_for(lambda: "recording-" in page.inner_text("#drive .drop"), 20, "the recording")
        # a run alone is not compared; with a second one, which was measured otherwise, the page of `dnerf compare` warns
        page.click("#tab-compare")
        assert page.locator("#few").is_visible() and page.locator("#beside").is_hidden()
        made_up(home, "made", 24.0, 0.06)
        (home / "runs" / "toy" / "made" / "state.json").write_text('{"steps": 24}')
        page.reload()
        frame = framed(page)
        assert "toy/mel-tiny" in frame.title() and "cannot be compared as they stand" in frame.inner_text("body")
        shot(page, "compared")
        page.click("#tab-live")
        shot(page, "live")
        # the report shows its film and runs its own script, which the hash in it allows
        page.goto(f"{address}/runs/toy/mel-tiny/report.html")
        wait_for(lambda: page.evaluate("document.querySelector('video').readyState > 1"), 20, "the film of the report")
        assert page.locator("svg.plot polyline, svg.plot path, .plot polyline, .plot path").count() > 0
        page.locator("[data-second]").first.click()
        wait_for(lambda: page.evaluate("document.querySelector('video').currentTime > 0"), 20, "the film to go there")
        page.goto(address)
    page.wait_for_selector("#gone:not([hidden])", timeout=10_000)        # the program has ended
    expected = "Failed to load resource"                                 # the answers that are refusals, and the end
    assert [text for text in browser.complaints if expected not in text] == []
    assert {url.split("/")[2] for url in browser.asked if url.startswith("http")} == {address.split("/")[2]}


@pytest.fixture
def three(dnerf_home):
    "Runs that are made up: two of one person, which are the newest, and one of another."
    for k, (subject, name, dB, error) in enumerate((("ann", "mel", 30.0, 0.02), ("toy", "short", 24.0, 0.06), ("toy", "long", 29.0, 0.03))):
        folder = made_up(dnerf_home, name, dB, error, subject=subject)
        (folder / "state.json").write_text(json.dumps({"steps": int(dB)}))
        os.utime(folder / "state.json", (1e9 + 100 * k,) * 2)
    return dnerf_home


def test_a_run_in_training_is_shown_and_cannot_be_chosen_until_it_is_finished(dnerf_home, browser):
    folder = begun(dnerf_home, "me", 40)
    with serving() as address, ExitStack() as training:
        training.enter_context(locked(folder, "a training"))
        page = browser.pages[0]
        page.goto(address + "/#speak")
        chosen = lambda: page.eval_on_selector("#drive [name=run]", """s => [s.value, ...[...s.options].map(
            o => (o.disabled ? 'not ' : '') + o.textContent)]""")                                  # noqa: E731
        wait_for(lambda: chosen() == ["", "no portrait is ready yet", "not toy/me: in training, 40 %"], 20, "the reason")
        page.click("#tab-compare")
        assert page.inner_text("#choice label") == "toy/me: in training, 40 %" and page.is_disabled("#choice input")
        shot(page, "waits")
        begun(dnerf_home, "me", 60)
        wait_for(lambda: "60 %" in chosen()[-1], 20, "the progress, without a click")
        begun(dnerf_home, "me", 100, ready=True)
        training.close()
        wait_for(lambda: chosen() == ["toy/me", "toy/me"], 20, "the end of the training")
        assert page.inner_text("#choice label") == "toy/me: not measured" and page.is_disabled("#choice input")
    assert [text for text in browser.complaints if "Failed to load resource" not in text] == []


def test_on_a_phone_the_running_job_is_at_the_top(dnerf_home, browser):
    for i in range(6):
        begun(dnerf_home, f"half{i}", 70)                                                          # so that the page is long
    job = Queue().add(["train", "toy"], "training toy")
    job.note(started=1.0, pid=2**22)
    log = "training toy:  40%|####      | 08:59 left, krays_s=34, psnr=27.0, step=163"
    (job.folder / "log").write_text(log)
    with ExitStack() as process:
        process.enter_context(locked(job.folder, "the job"))
        with serving() as address:
            page = browser.pages[0]
            page.goto(address + "/#compare")
            page.wait_for_selector(".job progress")
            assert page.locator("#now").is_hidden(), "on a desktop the list is beside the forms"
            for tab in ("portrait", "speak", "compare", "live"):
                page.set_viewport_size({"width": 390, "height": 500})
                page.goto("about:blank")
                page.goto(f"{address}/#{tab}")
                page.wait_for_selector("#now progress")
                assert page.evaluate("scrollY") == 0 and page.locator("header").bounding_box()["y"] == 0
                assert page.inner_text("#now").split("\n") == ["Training toy", "40 %, 08:59 left"]
                assert page.eval_on_selector("#now progress", "e => e.value") == 0.4
                page.evaluate("scrollTo(0, 1e6)")
                assert page.evaluate("scrollY") > 50 and page.locator("#now").bounding_box()["y"] == 0, "it stays when one scrolls"
            page.evaluate("scrollTo(0, 0)")
            page.click("#now")
            wait_for(lambda: 0 <= page.locator("aside").bounding_box()["y"] < 400, 10, "the list of jobs")
            why = "dnerf: the picture is blurred; train longer, for example with --minutes 15 (MINUTES=15)"
            (job.folder / "log").write_text(f"{log}\n{why}\n")
            (job.folder / "end.json").write_text('{"code": 1, "time": 1}')
            process.close()
            said = "the picture is blurred; train longer, for example with 15 in the field “Minutes”"
            wait_for(lambda: page.inner_text("#now").split("\n") == ["Training toy", said], 20, "what became of it")
            shot(page, "fails")
            page.set_viewport_size({"width": 390, "height": 500})
            page.click("#now")
            page.wait_for_selector("#now", state="hidden", timeout=10_000)


def test_the_report_of_a_video_speaks_of_fields(dnerf_home, browser):
    "Warnings first, then how long a training takes; no word of a shell. Every label in a sentence is a label of the page."
    toy_subject(dnerf_home / "data" / "toy", n=44)
    counts = dict.fromkeys(("seconds frames size with_face face_px sharpness blinks jaw_range yaw_range pitch_range repaired level_db "
                            "clipped backdrop_motion").split(), 1)
    report = counts | dict(source=dict(file="me.mp4", width=64, height=64, fps=25.0, variable_fps=False), crop=[0, 0, 64],
                           training=dict(minutes=15, memory_gb=1.9), sync=dict(offset=0, certainty=4.0), warnings=["it is short"],
                           tracking=dict(rms_px=0.3, jitter_before=0.5, jitter_px=0.4))
    (dnerf_home / "data" / "toy" / "report.json").write_text(json.dumps(report))
    with serving() as address:
        page = browser.pages[0]
        page.goto(address)
        page.wait_for_selector("#report:not([hidden])")
        first, second, *rest = filter(None, page.inner_text("#report").splitlines())
        assert first.startswith("warning    it is short") and "--" not in "".join([first, second, *rest]) and len(rest) >= 6
        assert second == "training   roughly 15 minutes (15 in the field “Minutes”) for a good picture, 1.9 GB of memory"
        labels = [text.split("\n")[0] for text in page.locator("label").all_text_contents()]
        assert all(any(text.strip().startswith(label) for text in labels) for label in LABELS.values())


def compared(address, *names):
    "Status and answer of a request for a comparison."
    return ask(f"{address}/compare?{urlencode([('run', name) for name in names])}")


def test_the_tab_shows_what_dnerf_compare_writes(three, tmp_path):
    "Byte by byte: films, curves, numbers, warnings."
    with serving() as address:
        for names in (("toy/long", "toy/short"), ("toy/short", "ann/mel"), ("ann/mel", "toy/short", "toy/long")):
            assert main(["compare", *names, "--out", str(tmp_path / "page.html")]) == 0
            assert compared(address, *names) == (200, (tmp_path / "page.html").read_bytes())


@pytest.mark.parametrize("names, said", [
    ([], "0 runs cannot be compared"), (["toy/short"], "1 run cannot be compared"), (["toy/short", "toy/short"], "given twice"),
    (["toy/short", "toy/gone"], "there is no run"), (["toy/short", "../toy/long"], "cannot be a folder name"),
    (["toy/short", "/etc/passwd"], "cannot be a folder name"), (["toy/short", "toy/new"], "has no metrics.json; evaluate it first"),
    (["toy/short", "<b>/x"], "&lt;b&gt;"), (["toy/short", "toy/huge"], "a number of 401 digits"),
    ([f"toy/new{k}" for k in range(MOST_RUNS + 1)], "9 runs cannot be compared; give 2 to 8")])
def test_what_cannot_be_compared_is_a_sentence_in_the_frame(three, names, said):
    for name in ("new", *(f"new{k}" for k in range(MOST_RUNS + 1))):
        (three / "runs/toy" / name).mkdir()
        shutil.copy(three / "runs/toy/short/config.yaml", three / "runs/toy" / name)
    shutil.copytree(three / "runs/toy/short", three / "runs/toy/huge")
    metrics = three / "runs/toy/huge/metrics.json"
    metrics.write_text(metrics.read_text().replace("24.0", str(10**400)))
    with serving() as address:
        status, text = compared(address, *names)
        assert status == 400 and said in text.decode() and text.count(b"<p") == 1 and b"<b>" not in text
        assert str(three) not in text.decode(), "runs are called as in the list"
        with urllib.request.urlopen(f"{address}/compare?run=toy/short&run=toy/long", timeout=20) as answer:
            policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-scripts") and "frame-ancestors 'self'" in policy and "default-src 'none'" in policy


def test_an_error_in_the_frame_is_in_the_words_of_the_page(dnerf_home, monkeypatch):
    """As in an answer to a form: fields, files and runs instead of options and folders."""
    path = uploads_dir() / f"{7:020d}" / "a.wav"
    def refused(names):
        raise InputError(f"{path} is too long for {dnerf_home}/runs/toy/new; give --minutes 15 (MINUTES=15)")
    monkeypatch.setattr("dnerf.app.page.compare_page", refused)
    monkeypatch.setattr("dnerf.app.page.order", lambda *asked: refused(asked))
    said = "a.wav is too long for toy/new; give 15 in the field “Minutes”"
    with serving() as address:
        assert f">{said}</p>" in compared(address, "toy/new")[1].decode()
        assert json.loads(ask(f"{address}/jobs", {"verb": "train"})[1]) == {"fault": said}


def test_a_new_evaluation_is_shown(three, browser):
    "Of the same runs, made in a terminal: when the tab is opened again."
    with serving() as address:
        page = browser.pages[0]
        page.goto(address + "/#compare")
        assert "29.00 dB" in framed(page).inner_text("body")
        file = three / "runs/toy/long/metrics.json"
        file.write_text(file.read_text().replace("29.0", "27.0"))
        page.click("#tab-live")
        page.click("#tab-compare")
        wait_for(lambda: "27.00 dB" in framed(page).inner_text("body"), 40, "the new numbers")
    assert [text for text in browser.complaints if "Failed to load resource" not in text] == []


def test_films_run_in_step_in_the_tab(three, browser):
    with serving() as address:
        page = browser.pages[0]
        page.goto(address)
        page.wait_for_selector("#choice input", state="attached")
        assert "compare" not in page.frames[-1].url, "the page is made first when it is looked at"
        page.click("#tab-compare")
        assert page.eval_on_selector_all("#choice input:checked", "all => all.map(e => e.value)") == ["toy/long", "toy/short"]
        frame = framed(page)
        assert frame.evaluate("document.querySelectorAll('video').length") == 3                # with the recording
        frame.locator(".bar button").click()
        wait_for(lambda: frame.evaluate(f"Math.min(...{TIMES})") > 0.8, 20, "the films to play")
        frame.locator(".bar button").click()
        wait_for(lambda: frame.evaluate(f"Math.max(...{TIMES}) - Math.min(...{TIMES})") < 0.001, 20, "the films to stand together")
        page.check("#choice [value='ann/mel']")
        wait_for(lambda: "cannot be compared" in framed(page).inner_text("body"), 20, "the third run and its warning")
        assert framed(page).title() == "toy/long, toy/short, ann/mel: compared on the test split"
        with page.expect_download() as download:
            page.click("#alone >> text=download")
        assert download.value.suggested_filename == "compare.html" and download.value.path().read_bytes() == compared(
            address, "toy/long", "toy/short", "ann/mel")[1]
        shot(page, "three")
    assert [text for text in browser.complaints if "Failed to load resource" not in text] == []
