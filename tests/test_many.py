"""Many videos or subjects with one command: every one is done or has its sentence, whatever happens to the others."""
import os
import platform
import re
import signal
import subprocess
import time
from itertools import islice
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import dnerf.many as many
from dnerf.cli import main
from dnerf.core import read_json, write_json
from dnerf.many import for_each, planned
from dnerf.subject import Subject, toy_subject
from dnerf.video.demo import demo_video
from dnerf.video.media import iter_frames, read_audio, write_video
from test_cli import shell


@pytest.fixture
def clip(dnerf_home):
    "Two seconds of a grey picture with sound."
    return write_video(dnerf_home / "clip.mp4", [np.full((32, 32, 3), 90, np.uint8)] * 52, wav=np.zeros(52 * 640, np.float32))


def test_a_hundred_videos_of_which_three_are_broken(dnerf_home, clip, capfd):
    "Two processes; each of 97 is made, each of three has a sentence that names what is wrong with it."
    videos = [dnerf_home / f"person {k}.mp4" for k in range(100)]
    for video in videos:
        os.link(clip, video)
    videos[20].unlink()
    videos[41].unlink()
    videos[41].write_text("no video")
    videos[62].unlink()
    write_video(videos[62], [np.zeros((32, 32, 3), np.uint8)] * 60)
    rows = for_each("processes.probed", [*map(str, videos)], dict(note="40"), jobs=2, videos=True)
    failed = {row.item: row.problem for row in rows if row.problem}
    assert [row.item for row in rows] == [*map(str, videos)] and set(failed) == {str(videos[k]) for k in (20, 41, 62)}
    for k, words in ((20, "there is no"), (41, "is not a video"), (62, "has no sound")):
        assert words in failed[str(videos[k])] and "\n" not in failed[str(videos[k])]
    assert [p.read_text() for p in (dnerf_home / "data").iterdir()] == ["40"] * 97
    said = capfd.readouterr().out
    assert said.count(" of 100: person_") == 100 and "100 of 100" in said


def test_small_videos_are_really_prepared(dnerf_home, capfd, recwarn):
    "Nothing is replaced here: two seconds each of the demo clip at 128 pixels; the first is cut off, the last shows no face."
    frames, wav = [*islice(iter_frames(demo_video()), 112)], read_audio(demo_video())
    frames = [cv2.resize(frame, (128, 128), interpolation=cv2.INTER_AREA) for frame in frames]
    videos = [dnerf_home / f"p{k}.mp4" for k in range(6)]
    for k, video in enumerate(videos):
        write_video(video, frames[12 * k:][:52], wav=wav[12 * k * 640:][:52 * 640])
    videos[0].write_bytes(videos[0].read_bytes()[:3000])
    write_video(videos[5], [np.full((128, 128, 3), 90, np.uint8)] * 52, wav=wav[:52 * 640])
    assert main(["prepare", *map(str, videos), "--jobs", "2"]) == 1
    assert not [w for w in recwarn if "worker" in str(w.message)]
    said = [line for line in capfd.readouterr().out.splitlines() if re.search(" (done|failed) ", line)]
    assert [line.split()[:2] for line in said] == [["p0", "failed"], *(["p" + k, "done"] for k in "1234"), ["p5", "failed"]]
    assert "is damaged" in said[0] and "no face was found" in said[5]
    data = dnerf_home / "data"
    assert sorted(p.name for p in data.iterdir() if not p.name.endswith(".lock")) == ["p1", "p2", "p3", "p4"]
    for k in range(1, 5):
        subject = Subject.load(f"p{k}")
        assert subject.n_frames == 52 and subject.tracked.all() and len(subject.wav) == 52 * 640
    assert np.abs(Subject.load("p1").landmarks[12:] - Subject.load("p2").landmarks[:40]).mean() < 3  # pixels


def test_a_process_that_is_killed_takes_no_more_than_its_neighbour(dnerf_home):
    rows = for_each("processes.folder_of", ["kills", *"abcde"], {}, jobs=2, show=False)
    lost = [row.name for row in rows if row.problem]
    assert "kills" in lost and len(lost) <= 2 and all("ended without a result" in row.problem for row in rows if row.problem)
    assert {p.name for p in (dnerf_home / "data").iterdir()} >= {*"abcde"} - {*lost}


def test_another_launcher(dnerf_home, tmp_path_factory, monkeypatch):
    "Hydra's own, one after the other; nothing appears in the working directory."
    elsewhere = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(elsewhere)
    rows = for_each("processes.folder_of", ["a", "b", "a"], {}, launcher=["hydra/launcher=basic"], show=False)
    assert [bool(row.made) for row in rows] == [True, True, False] and list(elsewhere.iterdir()) == []


def test_equal_names_and_wrong_words_are_refused_before_anything_begins(dnerf_home, capsys):
    rows = planned(["a/me.mp4", "b/me.mp4", "./a/you.mp4"], videos=True)
    assert "a/me.mp4 has the name 'me' too" in rows[1].problem and not rows[0].problem + rows[2].problem
    for words, code, part in (
            (["prepare", "a.mp4", "b.mp4", "--subject", "me"], 2, "--subject is for one video, and 2 are given"),
            (["train", "a", "b", "--video", "c.mp4"], 2, "--video is for one subject"),
            (["prepare", "a.mp4", "b.mp4", "--", "size=3"], 2, "takes no overrides"),
            (["train", "--", "hydra/launcher=joblib"], 2, "no subject is given"),
            (["train", "a", "b", "--jobs", "0"], 1, "jobs"),
            (["prepare", "--jobs", "4"], 2, "--jobs is for several videos, and none is given"),
            (["train", "a", "b", "--", "hydra/launcher=magic"], 1, "the jobs could not be started")):
        try:
            assert main(words) == code, words
        except SystemExit as e:
            assert e.code == code, words
        assert part in capsys.readouterr().err, words


def test_the_command_says_what_went_well_and_what_did_not(dnerf_home, capsys):
    "`dnerf prepare` of two files that are no videos, and of one that is not there; nothing is made."
    for name in "ab":
        (dnerf_home / f"{name}.mp4").write_text("no video")
    words = ["prepare", *(str(dnerf_home / f"{name}.mp4") for name in "abc")]
    assert main(words) == 1
    assert "0 of 3 done, 3 failed" in capsys.readouterr().out
    assert main([*words, "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out.strip() == "" and [line.split(":")[:2] for line in err.splitlines()] == [["dnerf", f" {name}"] for name in "abc"]
    assert list((dnerf_home / "data").iterdir()) == []


def noted(folder, process):
    "The note of a job that is done by a process."
    folder.mkdir()
    write_json(folder / "begun", dict(pid=process.pid, since=many._since(process.pid), host=platform.node()))
    return read_json(folder / "begun")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not say when a process began")
def test_a_process_that_has_the_number_of_a_job_that_was_killed_is_left_alone(tmp_path):
    "One whose number is the same and whose start is not; and one that has ended, which nobody has asked for its exit code yet."
    stranger, ended, job = (subprocess.Popen(["sleep", "60"]) for _ in range(3))
    try:
        write_json(tmp_path / "0" / "begun", noted(tmp_path / "0", stranger) | dict(since="1"))
        noted(tmp_path / "1", ended)
        ended.kill()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        noted(tmp_path / "2", job)
        assert many._running(tmp_path) == {job.pid}
        begin = time.monotonic()
        many._end_jobs(tmp_path)
        assert time.monotonic() - begin < many._PATIENCE / 2
        assert job.wait(5) == -signal.SIGTERM and stranger.poll() is None
    finally:
        for process in (stranger, ended, job):
            process.kill()
            process.wait()


def test_jobs_of_a_cluster_that_go_on_are_left_running(dnerf_home, monkeypatch):
    "On another machine or this one; not those that were killed, and none begins later."
    hosts = {0: "elsewhere", 1: platform.node(), 2: platform.node()}
    job = subprocess.Popen(["sleep", "60"])
    def launch(request, todo, jobs, words):
        for k, host in hosts.items():
            note = noted(request.parent / str(k), job) | dict(host=host)
            write_json(request.parent / str(k) / "begun", note | (dict(since="gone") if k == 2 else {}))
        folders.append(request.parent)
        raise KeyboardInterrupt
    folders: list = []
    monkeypatch.setattr(many, "_launch", launch)
    try:
        with pytest.raises(many.StoppedEarly) as stop:
            for_each("processes.folder_of", [*"abcd"], {}, launcher=["hydra/launcher=basic"], show=False)
        assert [row.state for row in stop.value.rows] == ["left running", "left running", "stopped", "not begun"]
        assert many.table(stop.value.rows).endswith("0 of 4 done, 1 stopped, 2 left running, 1 not begun")
        many.many_job(SimpleNamespace(request=str(folders[0] / "request.json"), item=3))
        assert not (dnerf_home / "data" / "d").exists()
    finally:
        job.kill()
        job.wait()


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_with_the_table(dnerf_home, jobs, number, code):
    "What trains is saved first, in other processes too: there is a checkpoint long before one is due."
    names = ["ann", "ben", "cleo", "dora"]
    for name in names:
        file = toy_subject(dnerf_home / "data" / name, n=44).folder / "subject.json"
        write_json(file, read_json(file) | dict(name=name))
    words = ["train", "nobody", *names, "--audio", "silence", "--preset", "tiny", "--minutes", 9, "--jobs", jobs]
    words += ["--", "checks=900", "save_every=900"]
    process = subprocess.Popen(**shell(dnerf_home, *words), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    curves = [dnerf_home / "runs" / name / "silence-tiny" / "metrics.csv" for name in names[:jobs]]
    deadline = time.monotonic() + 240
    while not all(p.is_file() and p.read_text().count("\n") > 1 for p in curves) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code and err == "dnerf: stopped\n", out + err
    states = re.findall(r"^  (\w+) +(failed|stopped|not begun|done) ", out, re.MULTILINE)
    assert states == [("nobody", "failed"), *((n, "stopped") for n in names[:jobs]), *((n, "not begun") for n in names[jobs:])]
    assert out.splitlines()[-1] == f"0 of 5 done, 1 failed, {jobs} stopped, {len(names) - jobs} not begun"
    assert [p.parent.parent.parent.name for p in sorted(dnerf_home.rglob("last.ckpt"))] == names[:jobs]
