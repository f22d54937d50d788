"""The page `dnerf app`: its queue of jobs without a browser, what it refuses, and a round in Chromium on a toy subject."""
import asyncio
import errno
import json
import os
import re
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

import dnerf.app.jobs as queueing
from dnerf.app.jobs import Job, Queue, fault_of, lines_of
from dnerf.app.orders import order, upload_path, uploaded, uploads_dir, words_of
from dnerf.app.page import Page, app, row_of
from dnerf.app.voices import speak, voices
from dnerf.audio.embedding import embed_subject
from dnerf.cli import main
from dnerf.core import InputError, MissingError, locked
from dnerf.subject import toy_subject, write_wav
from dnerf.talk.live import address_of, take_address
from dnerf.video.media import write_video
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


def speech(path: Path, seconds: float = 0.4) -> Path:
    return write_wav(path, (0.1 * np.random.default_rng(0).normal(size=round(16000 * seconds))).astype(np.float32))


# The queue


def test_jobs_run_one_at_a_time_and_say_how_they_ended(dnerf_home):
    with Queue("http://127.0.0.1:7860", pause=0.05) as queue:
        for name, text in (("a", "{}"), ("b", "nonsense"), ("c", '{"words": "list"}')):          # folders that are no jobs
            (dnerf_home / "jobs" / name).mkdir()
            (dnerf_home / "jobs" / name / "job.json").write_text(text)
        jobs = [queue.add(words) for words in (["--version"], ["trian"], ["train", "--minuts=3"])]
        queue.stop(queue.add(["--version"]).id)                                                   # before its turn
        assert [queue.state(job) for job in jobs][1:] == ["waiting", "waiting"]
        with pytest.raises(InputError, match=f"already a page for {dnerf_home} at http://127.0.0.1:7860; use that one"):
            Queue().__enter__()
        wait_for(lambda: queue.state(jobs[-1]) == "failed", 60, "the end of the last job")
        assert [queue.state(job) for job in queue.jobs()] == ["done", "failed", "failed", "stopped"]
        ends, begins = [Job(job.folder).ended["time"] for job in jobs], [Job(job.folder).about["started"] for job in jobs]
        assert all(a <= b for a, b in zip(ends, begins[1:]))
        assert fault_of(jobs[1].log).startswith("there is no verb 'trian'") and "--minutes?" in fault_of(jobs[2].log)
        queue.remove(jobs[0].id)
        for name, error in ((jobs[0].id, MissingError), ("../data", InputError)):
            with pytest.raises(error):
                queue.find(name)
    with Queue(pause=0.05) as later:
        later.go_on(jobs[1].id)
        wait_for(lambda: jobs[1].log.count("no verb") == 2, 60, "the second try")


def test_a_job_of_a_page_that_was_killed_is_waited_for_and_can_go_on(dnerf_home):
    job = Queue().add(["--version"])
    job.note(started=1.0, pid=2**22)
    with ExitStack() as process:
        process.enter_context(locked(job.folder, "the job"))
        with Queue(pause=0.05) as queue:
            second = queue.add(["trian"])
            assert queue.state(queue.find(job.id)) == "running" and queue.state(second) == "waiting"
            with pytest.raises(InputError, match="stop it first"):
                queue.remove(job.id)
            process.close()                                                                        # it is killed
            wait_for(lambda: queue.state(queue.find(job.id)) == "interrupted", 20, "the notice")
            wait_for(lambda: queue.state(second) == "failed", 60, "the next job")
            queue.go_on(job.id)
            wait_for(lambda: queue.state(queue.find(job.id)) == "done", 60, "its second life")


def test_a_job_that_cannot_be_started_fails_in_a_sentence_and_the_next_one_runs(dnerf_home, monkeypatch):
    def full(*words, **more):
        raise OSError(errno.ENOSPC, "No space left on device")
    with Queue(pause=0.05) as queue:
        with monkeypatch.context() as m:
            m.setattr(queueing.subprocess, "Popen", full)
            bad = queue.add(["train", "me"])
            wait_for(lambda: queue.state(bad) == "failed", 20, "the failure")
        assert "the disk is full" in fault_of(bad.log) and queue.stop(bad.id).ended["code"] == 1
        for text in ("{", "[]", '{"code": null}', "{}"):                                           # a damaged end is none
            with queue.mutex:                                                                      # or the queue begins it
                old = queue.add(["--version"])
                old.note(started=1.0, pid=2**22)
                (old.folder / "end.json").write_text(text)
            assert Job(old.folder).ended is None and queue.state(Job(old.folder)) == "interrupted"
        good = queue.add(["trian"])
        wait_for(lambda: queue.state(good) == "failed", 60, "the next job")
        assert "no verb" in fault_of(good.log)


def test_the_state_is_asked_while_a_job_ends(dnerf_home):
    queue, job = Queue(), Queue().add(["--version"])
    queue.now = job
    asked = []
    reader = threading.Thread(target=lambda: asked.append(queue.state(job)))
    with queue.mutex:
        reader.start()
        reader.join(0.1)
        assert not asked, "a reader waits while the queue changes"
    reader.join(5)
    assert asked == ["running"]


def test_an_address_in_use_is_said(dnerf_home, capsys):
    with closing(take_address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 1
    assert f"port {port} of 127.0.0.1 is used by another program" in capsys.readouterr().err


# Orders


@pytest.mark.parametrize("verb, asked, said", [
    ("train", {"subject": ""}, "choose a subject"),
    ("train", {"subject": "toy", "minutes": "soon"}, "'soon'"),
    ("train", {"subject": "toy", "seed": 3}, "no field seed"),
    ("drive", {"run": "toy/mel", "speech": "/etc/passwd"}, "is not the name of a file inside"),
    ("train", {"subject": "/etc"}, "cannot be a folder name"),
    ("train", {"subject": "film.mp4"}, "not the name of a subject"),
    ("train", {"subject": "toy/mel"}, "not the name of a subject"),
    ("live", {"run": "~/toy"}, "cannot be a folder name"),
    ("live", {"run": "toy/mel/speech"}, "not the name of a run"),
    ("live", {"run": "toy/mel", "motion": "../poses.npy"}, "cannot be a folder name"),
    ("live", {"run": "toy/mel", "motion": "poses.npy"}, "not the name of a motion"),
    ("drive", {"run": "toy/mel", "speech": "1/gone.wav"}, "is not there any more"),
    ("drive", {"run": "--help", "speech": "1/gone.wav"}, "is not there any more"),
    ("rm", {"name": "toy"}, "cannot ask for 'rm'")])
def test_an_order_that_cannot_be_met_is_a_sentence(dnerf_home, verb, asked, said):
    with pytest.raises((InputError, MissingError), match=re.escape(said)):
        order(verb, asked)


def test_names_in_the_lists_can_be_ordered(dnerf_home):
    (dnerf_home / "data" / "a.film").mkdir(parents=True)                                            # of a.film.mp4
    assert words_of("train", {"subject": "a.film"}) == ["train", "a.film"]
    assert words_of("live", {"run": "toy/lr0.5", "motion": "still"}) == ["live", "toy/lr0.5", "--motion=still"]


def test_orders_that_overlap_leave_the_output_as_it_was(monkeypatch):
    import dnerf.cli as cli
    out, inside, parse = sys.stdout, [], cli.parse_command
    def slow(words):
        inside.append(len(inside))
        time.sleep(0.1 * len(inside))                                                               # the second ends last
        return parse(words)
    monkeypatch.setattr(cli, "parse_command", slow)
    threads = [threading.Thread(target=words_of, args=("train", {"subject": "me"})) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    now, sys.stdout = sys.stdout, out
    assert now is out and len(inside) == 2


def test_an_upload_goes_with_the_last_job_that_names_it(dnerf_home):
    queue, path = Queue(), upload_path("hello.wav")
    path.parent.mkdir(parents=True)
    path.write_text("x")
    first, second = queue.add(["drive", "a/b", str(path)]), queue.add(["live", "a/b", f"--speech={path}"])
    queue.remove(first.id)
    assert path.is_file()
    queue.remove(second.id)
    assert not path.parent.exists() and uploads_dir().is_dir()
    path.parent.mkdir()
    path.write_text("x")
    queue.remove(queue.add(["prepare", str(path)]).id)                          # `drive --paste` reads the video again
    assert path.is_file()


def test_a_log_is_read_from_its_last_start(dnerf_home):
    job = Queue().add(["train", "me"])
    for text in ("video: old.mp4   metrics: x\ndnerf: no space\nme:  40%|", "\nall is well\n"):
        with open(job.folder / "log", "a") as log:
            log.write(f"\n== begun 2020-01-01 00:00:00\n{text}")
    assert row_of(job, "failed")["lines"] == ["all is well"] and "all is well" in fault_of(job.log)


def test_a_log_that_cannot_be_read_and_many_spaces_do_not_stop_the_page(dnerf_home):
    bad = Queue().add(["train", "me"])
    (bad.folder / "log").mkdir()
    assert "cannot be read" in row_of(bad, "failed")["fault"]
    begun = time.monotonic()
    assert lines_of("a" + " " * 4000 + "b") == ["a" + " " * 4000 + "b"]
    assert time.monotonic() - begun < 2


def test_piper_reads_the_text_from_its_input(tmp_path, dnerf_home, monkeypatch):
    program = tmp_path / "piper"
    program.write_text(f"#!{sys.executable}\nimport sys\n"
                       "open(sys.argv[sys.argv.index('--output_file') + 1], 'w').write(sys.stdin.read()*300)\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "piper mia" not in voices()
    (dnerf_home / "voices").mkdir(parents=True)
    (dnerf_home / "voices" / "mia.onnx").write_text("")
    assert "piper mia" in voices()
    assert speak("Hello there", "piper mia", tmp_path / "out.wav").read_text().startswith("Hello there")


def test_names_of_uploads(dnerf_home):
    for name, kept in (("my film.mp4", "my film.mp4"), ("../../a/b.mov", "b.mov"), ("C:\\x\\y.wav", "y.wav"), ("", "upload"), 
                       ("..", "upload"), ("-rf.mp4", "rf.mp4"), ("a\n<b>.wav", "a__b_.wav"), ("ü" * 300 + ".mp4", "ü" * 50 + ".mp4")):
        path = upload_path(name)
        assert path.name == kept and path.parent.parent == uploads_dir()
        path.parent.mkdir(parents=True)
        path.write_text("x")
        assert uploaded(path.relative_to(uploads_dir()).as_posix()) == path


@pytest.mark.skipif(not voices(), reason="no synthesiser: apt-get install flite, or espeak-ng")
def test_text_is_spoken_or_refused_in_a_sentence(tmp_path):
    programs = {voice.split()[0]: voice for voice in reversed(voices())}
    for k, voice in enumerate(programs.values()):
        assert speak("Hello, this is a test; -n $HOME", voice, tmp_path / f"{k}.wav").stat().st_size > 20_000
    for text, by, said in ((" \n", voice, "no text"), ("a" * 6000, voice, "6000 characters"), ("hello", "robot", "no voice 'robot'")):
        with pytest.raises(InputError, match=said):
            speak(text, by, tmp_path / "none.wav")
    assert not (tmp_path / "none.wav").exists()


# The page


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
        wrong = ("jobs", b"nonsense"), ("jobs", [1]), ("speak", {"text": ""}), ("jobs/nothing/stop", {}), ("jobs/nothing/log", None)
        for path, body in wrong:
            status, said = ask(f"{address}/{path}", body)
            assert status == 400 and set(json.loads(said)) == {"fault"}


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
        page.fill("#train [name=minutes]", "0.15")
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
            page.fill("#words", "Hello.")
            page.click("#synthesise")
            said_of(page, "drive", "Spoken by")
        page.set_input_files("#drive input[type=file]", str(picture))
        wait_for(lambda: picture.name in page.inner_text("#drive .drop"), 20, "the upload")
        page.click("#drive .main")
        said_of(page, "drive", "picture")
        page.set_input_files("#drive input[type=file]", str(speech(tmp_path / "hello.wav")))
        wait_for(lambda: "hello.wav" in page.inner_text("#drive .drop"), 20, "the upload")
        page.click("#drive summary")
        page.select_option("#drive [name=motion]", "still")
        page.click("#drive .main")
        page.wait_for_selector("#films video", timeout=60_000)
        page.eval_on_selector("#films video", "v => v.play()")
        wait_for(lambda: page.eval_on_selector("#films video", "v => v.currentTime > .1"), 20, "the film to play")
        assert (home / "runs" / "toy" / "mel-tiny" / "speech" / "hello.mp4").is_file()
        shot(page, "spoken")
        # a recording of the microphone
        page.click("#drive .take button")
        page.wait_for_timeout(1200)
        page.click("#drive .take button")
        wait_for(lambda: "recording-" in page.inner_text("#drive .drop"), 20, "the recording")
        # films and numbers side by side
        page.click("#tab-compare")
        page.wait_for_selector("#numbers td")
        assert page.locator("#numbers tr").first.locator("th").all_inner_texts()[1:] == ["toy/mel-tiny"]
        assert float(page.locator("#numbers td").first.inner_text()) > 5
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


def test_a_second_page_on_the_same_port_says_where_the_first_is(dnerf_home):
    with take_address("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="used by another program"):
            app(port=port)                                                     # somebody else's
        with Queue(f"http://127.0.0.1:{port}"), pytest.raises(InputError, match=f"already a page for .* at http://127.0.0.1:{port}"):
            app(port=port)


def test_a_folder_named_as_the_package_is_not_in_the_way_of_a_job(dnerf_home, monkeypatch, tmp_path):
    (tmp_path / "dnerf").mkdir()
    monkeypatch.chdir(tmp_path)
    with Queue() as queue:
        job = queue.add(["drive", "nobody", "nothing.wav"])
        end = time.monotonic() + 60
        while not job.ended and time.monotonic() < end:
            time.sleep(0.1)
    assert "no trained run" in fault_of(job.log), job.log
