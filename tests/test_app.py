"""What is behind the page of `dnerf app`: its queue of jobs, its orders and its voices (the page itself: test_app_page.py)."""
import errno
import json
import os
import re
import shutil
import sys
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

import dnerf.app.jobs as queueing
import dnerf.app.voices as speaking
from dnerf.app.jobs import Job, Queue, fault_of, lines_of
from dnerf.app.orders import order, shelf, upload_path, uploaded, uploads_dir, words_of
from dnerf.app.page import app, row_of
from dnerf.app.voices import speak, voices
from dnerf.cli import main
from dnerf.core import InputError, MissingError, locked
from dnerf.nerf.config import compose_config
from dnerf.nerf.run import PARTS_OF_A_RUN
from dnerf.subject import toy_subject, write_wav
from dnerf.talk.live import take_address
from test_viewer_browser import wait_for


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
    ("train", {"subject": "gone"}, "there is no subject 'gone'"),
    *(("train", {"subject": "toy", "minutes": minutes}, f"the setting minutes is {minutes}") for minutes in ("nan", "inf", "-1")),
    ("train", {"subject": "toy", "preset": "xx"}, "there is no preset 'xx'"),
    ("train", {"subject": "toy", "audio": "xx"}, "the audio embedding 'xx' is not available"),
    ("train", {"subject": "toy", "name": "../../x"}, "the run name '../../x' cannot be a folder name"),
    ("live", {"run": "toy/mel", "port": "99999"}, "port is 99999"),
    ("live", {"run": "~/toy"}, "cannot be a folder name"),
    ("live", {"run": "toy/mel/speech"}, "not the name of a run"),
    ("live", {"run": "toy/mel", "motion": "../poses.npy"}, "cannot be a folder name"),
    ("live", {"run": "toy/mel", "motion": "poses.npy"}, "not the name of a motion"),
    ("drive", {"run": "toy/mel", "speech": "1/gone.wav"}, "is not there any more"),
    ("drive", {"run": "--help", "speech": "1/gone.wav"}, "is not there any more"),
    ("rm", {"name": "toy"}, "cannot ask for 'rm'")])
def test_an_order_that_cannot_be_met_is_a_sentence(dnerf_home, verb, asked, said):
    toy_subject(dnerf_home / "data" / "toy", n=4)
    with pytest.raises((InputError, MissingError), match=re.escape(said)):
        order(verb, asked)


def test_settings_that_can_be_used_are_ordered(dnerf_home):
    toy_subject(dnerf_home / "data" / "toy", n=4)
    asked = {"subject": "toy", "minutes": "0.5", "preset": "tiny", "audio": "rhythm+pitch", "name": "mine"}
    assert order("train", asked) == (["train", "toy", "--preset=tiny", "--minutes=0.5", "--audio=rhythm+pitch", "--name=mine"],
                                     "training toy")
    assert order("train", {"subject": "demo"})[0] == ["train", "demo"]                              # which is bundled


def test_names_in_the_lists_can_be_ordered(dnerf_home):
    (dnerf_home / "data" / "a.film").mkdir(parents=True)                                            # of a.film.mp4
    assert words_of("train", {"subject": "a.film"}) == ["train", "a.film"]
    assert words_of("live", {"run": "toy/lr0.5", "motion": "still"}) == ["live", "toy/lr0.5", "--motion=still"]


def begun(home: Path, name: str, percent: int | None = None, ready: bool = False) -> Path:
    "The folder of a run of the toy subject with a budget of ten minutes, of which so much is used; or of one that can speak."
    folder = home / "runs" / "toy" / name
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(compose_config("tiny", subject="toy", audio="mel", minutes=10, name=name), folder / "config.yaml")
    if percent is not None:
        (folder / "metrics.csv").write_text(f"step,seconds,train/loss\n1,0.5,0.3\n90,{6 * percent},0.1\n")
    for part in PARTS_OF_A_RUN[1:] if ready else ():
        (folder / part).parent.mkdir(exist_ok=True)
        (folder / part).write_text('{"steps": 90}')
    return folder


def test_runs_that_are_not_ready_say_why_and_cannot_be_ordered(dnerf_home):
    begun(dnerf_home, "new"), begun(dnerf_home, "half", 70), begun(dnerf_home, "copied", 100), begun(dnerf_home, "good", 100, ready=True)
    (dnerf_home / "runs/toy/copied/state.json").write_text('{"steps": 90}')
    (begun(dnerf_home, "odd", 30) / "config.yaml").write_text("- nothing")
    (begun(dnerf_home, "curveless") / "metrics.csv").write_text("step,seconds\n1,soon\n")
    path = uploads_dir() / "1" / "hello.wav"
    path.parent.mkdir(parents=True)
    speech(path)
    with locked(begun(dnerf_home, "busy", 40), "a training"):
        rows = {row["name"].split("/")[1]: row for row in shelf()["runs"]}
        assert {name: row["waits"] for name, row in rows.items()} == {
            "busy": "in training, 40 %", "half": "its training was not finished, 70 %", "new": "its training was not finished",
            "curveless": "its training was not finished", "copied": "not complete: files are missing", "odd": "damaged", "good": ""}
        assert rows["good"]["unmeasured"] == "not measured" and rows["busy"]["unmeasured"] == "in training, 40 %"
        anew = "delete its folder and train again, or choose another one"
        for name, said in (("busy", "in training, 40 %); wait for it, or choose another one"),
                           ("half", "70 %); continue its training with the same settings, or choose another one"),
                           ("copied", f"files are missing); {anew}"), ("odd", f"damaged); {anew}")):
            for asked in (("drive", dict(run=f"toy/{name}", speech="1/hello.wav")), ("live", dict(run=f"toy/{name}"))):
                with pytest.raises(InputError, match=re.escape(said)):
                    order(*asked)
    assert order("drive", dict(run="toy/good", speech="1/hello.wav"))[0] == ["drive", "toy/good", str(path)]
    (dnerf_home / "runs/toy/good/metrics.json").write_text("{}")
    measured = lambda: {(row["unmeasured"], row["measured"]) for row in shelf()["runs"] if row["name"] == "toy/good"}    # noqa: E731
    for seconds in (1e9, 1e9 + 1):                                                                  # which is less than the list shows
        os.utime(dnerf_home / "runs/toy/good/metrics.json", (seconds, seconds))
        assert measured() == {("", seconds)}


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
    assert voices()["piper mia"] == "mia"
    about = dict(dataset="mia_k", language=dict(name_english="Dutch", country_english="Belgium"), audio=dict(quality="low"))
    for text, name in ((json.dumps(about), "Mia k, Dutch (Belgium), low"), ("[]", "mia"), ('{"language": 3}', "mia"), ("{", "mia")):
        (dnerf_home / "voices" / "mia.onnx.json").write_text(text)
        assert voices()["piper mia"] == name, text
    assert speak("Hello there", "piper mia", tmp_path / "out.wav").read_text().startswith("Hello there")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    "A function that makes a program of a text that it prints; only these are found, and the voices are asked for anew."
    def make(name: str, text: str, code: int = 0):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!{sys.executable}\nimport sys\nprint({text!r})\nsys.exit({code})\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    speaking._once.cache_clear()
    yield make
    speaking._once.cache_clear()


def test_voices_have_names_for_people(programs, dnerf_home, tmp_path):
    assert voices() == {}
    with pytest.raises(MissingError, match="no synthesiser is installed"):
        speak("hello", "flite slt", tmp_path / "none.wav")
    speaking._once.cache_clear()
    programs("flite", "Voices available: kal awb_time cmu_us_new slt")
    programs("espeak-ng", "Pty Language       Age/Gender VoiceName          File                 Other Languages\n"
                          " 5  cmn             --/M      Chinese_(Mandarin,_latin_as_English) sit/cmn (zh-cmn 5)(zh 5)\n"
                          " 5  chr-US-Qaaa-x-west --/M      Cherokee_          iro/chr\n"
                          " 7  cmn             --/F      another-voice-of-it  mb/cn1\n 5\n"
                          " 5  en-029          --/M      English_(Caribbean) gmw/en-029           (en 10)")
    assert list(voices().items()) == [
        ("flite slt", "SLT, woman, American English"), ("flite kal", "KAL at 8 kHz, man, American English"),
        ("flite cmu_us_new", "cmu_us_new"), ("espeak-ng en-029", "English (Caribbean)"),
        ("espeak-ng chr-US-Qaaa-x-west", "Cherokee"), ("espeak-ng cmn", "Chinese (Mandarin, latin as English)")]
    with pytest.raises(InputError, match=re.escape("SLT, woman, American English (flite) could not speak the text: it made no sound")):
        speak("hello", "flite slt", tmp_path / "none.wav")
    assert not (tmp_path / "none.wav").exists()


def test_a_program_that_fails_has_no_voices_and_is_no_fault(programs, dnerf_home):
    programs("flite", "", 1), programs("espeak-ng", "no table here")
    assert voices() == {}


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


def test_a_second_page_on_the_same_port_says_where_the_first_is(dnerf_home):
    with take_address("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="used by another program"):
            app(port=port)                                                     # somebody else's
        with Queue(f"http://127.0.0.1:{port}"), pytest.raises(InputError, match=f"already a page for .* at http://127.0.0.1:{port}"):
            app(port=port)


def test_a_second_page_of_a_home_is_refused_on_any_port(dnerf_home):
    with Queue("http://127.0.0.1:1234") as queue:
        with pytest.raises(InputError, match="already a page for .* at http://127.0.0.1:1234; use that one, or end it first"):
            app(port=0)
        assert queue.state(queue.add(["--version"])) in ("waiting", "running"), "the first one goes on"


def test_a_picture_in_place_of_a_video_or_of_speech_is_no_job(dnerf_home):
    path = uploads_dir() / "1" / "me.png"
    path.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "nbs" / "images" / "viewer.png", path)
    begun(dnerf_home, "good", 100, ready=True)
    picture = path.read_bytes()
    for disguised in ("me.png", "me.mp4", "me.wav"):                                               # its name does not help
        path.parent.mkdir(exist_ok=True)
        (path := path.with_name(disguised)).write_bytes(picture)
        for verb, asked in (("prepare", dict(video=f"1/{disguised}")), ("drive", dict(run="toy/good", speech=f"1/{disguised}"))):
            with pytest.raises(InputError, match="picture|no sound"):
                order(verb, asked)
        assert not path.parent.exists(), "what is no speech is not kept"
    assert Queue().jobs() == []


def test_a_folder_named_as_the_package_is_not_in_the_way_of_a_job(dnerf_home, monkeypatch, tmp_path):
    (tmp_path / "dnerf").mkdir()
    monkeypatch.chdir(tmp_path)
    with Queue() as queue:
        job = queue.add(["drive", "nobody", "nothing.wav"])
        end = time.monotonic() + 60
        while not job.ended and time.monotonic() < end:
            time.sleep(0.1)
    assert "no trained run" in fault_of(job.log), job.log
