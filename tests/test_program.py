"""How a process ends: asked to by a signal, by an error of the operating system, or because nobody reads what it prints."""
import os
import signal
import subprocess
import sys
import tempfile

import av
import numpy as np
import pytest
import torch

from dnerf.audio.mel import synthetic_speech
from dnerf.audio.speechsplit_training import _Bar, train_speechsplit
from dnerf.cli import main
from dnerf.errors import shown
from dnerf.nerf.config import compose_config
from dnerf.nerf.training import train
from dnerf.nerf.watch import Curves
from dnerf.program import Stopped, numba_can_store, stopped_by_signals
from dnerf.subject import toy_subject
from dnerf.video.media import write_video
from dnerf.video.pieces import join_videos
from toys import keep_speech


@pytest.fixture(params=["program", "notebook"])
def signals(request):
    "With the handlers of a program, and with those of Lightning alone, as in a notebook."
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if request.param == "program":
        with stopped_by_signals():
            yield
    else:
        yield
    signal.signal(signal.SIGTERM, before)


def ends_at(step: int, method):
    "Like a method of a callback, and SIGTERM comes at a step."

    def end(self, trainer, module, *rest):
        method(self, trainer, module, *rest)
        if trainer.global_step == step:
            signal.raise_signal(signal.SIGTERM)

    return end


def test_sigterm_saves_a_portrait(dnerf_home, monkeypatch, capsys, signals):
    toy = keep_speech(toy_subject(dnerf_home / "data" / "toy"))
    config = compose_config("tiny", "checks=1", subject="toy", audio="made", steps=4)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Curves, "on_train_batch_end", ends_at(2, Curves.on_train_batch_end))
        train(toy, toy.embedding("made"), config.copy(), show=False)
    folder = dnerf_home / "runs" / "toy" / "made-tiny"
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert not (folder / "state.json").exists() and "stopped at step 2; saved in" in capsys.readouterr().out
    train(toy, toy.embedding("made"), config, show=False)
    assert (folder / "state.json").is_file() and "going on at step 2" in capsys.readouterr().out


def test_sigterm_saves_a_speechsplit(tmp_path, monkeypatch, capsys, signals):
    wav = synthetic_speech(4.0)[0]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(_Bar, "on_train_batch_end", ends_at(2, _Bar.on_train_batch_end))
        train_speechsplit(wav, folder=tmp_path, device="cpu", steps=4)
    assert [p.name for p in tmp_path.iterdir()] == ["speechsplit.state"]
    train_speechsplit(wav, folder=tmp_path, device="cpu", steps=4)
    assert [p.name for p in tmp_path.iterdir()] == ["speechsplit.ckpt"]
    assert "goes on at step 2" in capsys.readouterr().out


PRINTS = "import sys; from dnerf.program import run_program; sys.exit(run_program(lambda: print('caf\\xe9 \\udcff', 'x'*100000)))"


def test_output_that_nobody_reads_or_that_has_no_room():
    "Into a closed pipe and onto a full disk; and what the terminal cannot show is printed all the same."
    read, write = os.pipe()
    os.close(read)
    for out, env, code, said in ((write, {}, 141, ""), (subprocess.DEVNULL, {"PYTHONIOENCODING": "ascii"}, 0, ""),
                                 *([(open("/dev/full", "w"), {}, 1, "the disk is full")] if os.path.exists("/dev/full") else [])):
        done = subprocess.run([sys.executable, "-c", PRINTS], stdout=out, stderr=subprocess.PIPE, text=True, env={**os.environ, **env})
        assert done.returncode == code and said in done.stderr and done.stderr.count("\n") == bool(said), done.stderr


@pytest.mark.parametrize("words, codes", [(["doctor"], (141,)), (["train", "--help"], (0, 141))])     # argparse says nothing itself
def test_the_command_into_a_closed_pipe(words, codes, tmp_path):
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "DNERF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "dnerf.cli", *words], stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    assert done.returncode in codes and done.stderr == ""


def test_an_address_space_that_is_too_small(tmp_path):
    "Before a library that does not check its memory is loaded."
    resource = pytest.importorskip("resource")
    limit = 900 * 2**20
    done = subprocess.run([sys.executable, "-m", "dnerf.cli", "evaluate", "a/b"], capture_output=True, text=True, cwd=tmp_path,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert done.returncode == 1 and done.stderr.startswith("dnerf: this process may use 900 MB") and done.stderr.count("\n") == 1


def test_numba_stores_where_it_may(tmp_path, monkeypatch):
    "In a container neither the package's folder nor the user's may be written."
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "file"
    file.touch()
    assert numba_can_store(str(file)) and os.environ["NUMBA_CACHE_DIR"] == ""    # in the user's folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert not numba_can_store(str(file)) and os.environ["NUMBA_CACHE_DIR"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that kills itself is a copy of this one")
def test_a_save_that_was_killed_leaves_nothing(tmp_path, monkeypatch):
    "Neither in the system's temporary folder nor, after the next save, in the run's; and a home may be called anything."
    home, tmp = tmp_path / "a::b 'c' %d", tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setenv("DNERF_HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    toy = keep_speech(toy_subject(home / "data" / "toy"))
    config = compose_config("tiny", "checks=1", subject="toy", audio="made", steps=2)
    ordinary = os.replace

    def killed(a, b):
        ordinary(a, b) if "last.ckpt" not in str(b) else os.kill(os.getpid(), signal.SIGKILL)

    if not (child := os.fork()):
        os.replace = killed
        try:
            train(toy, toy.embedding("made"), config, show=False)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    saved = home / "runs" / "toy" / "made-tiny" / "checkpoints"
    assert len(list(saved.glob(".*partial"))) == 1
    train(toy, toy.embedding("made"), config, show=False)
    assert not list(saved.glob(".*")) and not list(tmp.iterdir())


def test_names_that_are_no_text_come_into_a_film(tmp_path):
    "And its own name may be so long that nothing fits behind it."
    frames = [np.zeros((32, 32, 3), np.uint8)]*3
    for name in (b"caf\xe9", b"x" * 251):
        film, said = tmp_path / f"{os.fsdecode(name)}.mp4", f"driven by {os.fsdecode(name)}"
        for path in (write_video(film, frames, metadata={"comment": said}), join_videos(film, [film], metadata={"comment": said})):
            with av.open(str(path)) as made:
                assert made.metadata["comment"] == shown(said)
    assert not list(tmp_path.glob(".*"))


def test_a_file_where_a_folder_should_be_and_the_reverse(tmp_path, monkeypatch, capsys):
    "Wherever a training writes: one sentence, and what stood there is still there."
    words = ["train", "toy", "--audio", "silence", "--steps", "1", "--preset", "tiny", "--name", "new"]
    places = {"runs": "", "runs/toy": "", "runs/toy/new": "", "runs/toy/new/checkpoints": "", "data/toy/embeddings": "",
              "runs/toy/new/config.yaml/x": "x", "runs/toy/.new.lock/x": "x", "data/.toy.lock/x": "x", "data/toy/subject.json/x": "x"}
    for k, (place, kind) in enumerate(places.items()):
        home = tmp_path / str(k)
        monkeypatch.setenv("DNERF_HOME", str(home))
        toy_subject(home / "data" / "toy", n=22)
        path = home / place
        if path.parent.is_file():
            path.parent.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(kind)
        assert main(list(words)) == 1
        err = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("training")]
        assert len(err) == 1 and err[0].startswith("dnerf: "), err
        assert path.read_text() == kind and not list(home.rglob(".*partial"))


def test_sentences_name_the_place_and_what_helps(tmp_path, monkeypatch):
    "Little space in kB, a disk that is read-only as such, and no other place for the same command."
    import errno
    import shutil
    from types import SimpleNamespace

    from dnerf.core import StorageError, need_space
    from dnerf.errors import in_words
    from dnerf.evaluation.measures import check_measures

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match="needs 2 kB but only 1 kB are free"):
        need_space(tmp_path, 2000, "the video x.mp4")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(StorageError, match="x.mp4 cannot be written: the disk of .* is read-only"):
        need_space(tmp_path, 2000, "the video x.mp4")
    again = {code: "run the same command again" in str(in_words(OSError(code, "", str(tmp_path)))) for code in (errno.EBUSY, errno.ENOSPC)}
    assert again == {errno.EBUSY: False, errno.ENOSPC: True}
    assert list(check_measures(" pixels + faces ")) == ["pixels", "faces"] and len(check_measures(" ")) > 2
