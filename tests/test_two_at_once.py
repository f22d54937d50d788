"""Two processes at once: readers and writers of a subject and of a run exclude each other, and nobody breaks the other's files."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dnerf.core import InputError, StorageError, beside, locked, recovered, staged_dir, staged_file
from dnerf.evaluation.report import evaluate_run
from dnerf.nerf.config import compose_config
from dnerf.nerf.run import load_run
from dnerf.nerf.training import train
from dnerf.subject import Subject, toy_subject
from toys import keep_speech

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and named pipes of Unix")


def child(code: str, *words) -> subprocess.Popen:
    "A process that has said `ready`."
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def killed(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


HOLD = """
import sys
from dnerf.core import locked
with locked(sys.argv[1], shared=sys.argv[2] == 'shared'):
    print('ready', flush=True)
    sys.stdin.read()
"""


def test_readers_share_and_writers_do_not(tmp_path):
    place = tmp_path / "me"
    for held, also in (("shared", True), ("exclusive", False)):
        other = child(HOLD, place, held)
        try:
            for shared in (True, False):
                if shared and also:
                    with locked(place, shared=True):
                        pass
                else:
                    with pytest.raises(StorageError, match="another process is working on me"), locked(place, "me", shared=shared):
                        pass
        finally:
            killed(other)
        with locked(place):                                             # the system released it
            pass


def test_a_lock_harms_nothing(tmp_path):
    "A lock file that is a link, a folder or a pipe is refused; what it leads to, and what is in it, stays."
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".a.lock").symlink_to(tmp_path / "mine")
    (tmp_path / ".b.lock").mkdir()
    os.mkfifo(tmp_path / ".c.lock")
    for name in "abc":
        with pytest.raises(StorageError, match="remove it"), locked(tmp_path / name):
            pass
    (tmp_path / ".d.lock").write_text("kept")
    with locked(tmp_path / "d"):
        pass
    assert (tmp_path / "mine").read_text() == "precious" and (tmp_path / ".d.lock").read_text() == "kept"


def test_a_lock_that_was_removed_meanwhile_is_made_again(tmp_path):
    "Who holds a removed file excludes nobody."
    with locked(tmp_path / "a"):
        (tmp_path / ".a.lock").unlink()
        with locked(tmp_path / "a"), pytest.raises(StorageError), locked(tmp_path / "a"):
            pass


STAGE = """
import sys, time
from pathlib import Path
from dnerf.core import staged_file
with staged_file(Path(sys.argv[1])) as part:
    part.write_text('half')
    print('ready', flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_the_killed_go_and_work_of_the_living_stays(tmp_path):
    "Long names too, which have no room for an ending."
    for final in (tmp_path / "film.mp4", tmp_path / ("x" * 250 + ".txt")):
        dead, alive = child(STAGE, final), child(STAGE, final)
        killed(dead)
        assert len(list(tmp_path.glob(".*partial"))) == 2
        with staged_file(final) as part:
            part.write_text("whole")
        assert len(list(tmp_path.glob(".*partial"))) == 1 and final.read_text() == "whole"
        alive.communicate("")
        assert alive.returncode == 0 and final.read_text() == "half"    # its block ended last
        assert not list(tmp_path.glob(".*"))


def test_a_swap_that_was_killed_is_mended_by_who_opens(dnerf_home):
    "Systems without an exchange of folders have a moment with none."
    toy = toy_subject(dnerf_home / "data" / "toy")
    toy.folder.rename(beside(toy.folder, "retired"))
    assert Subject.load("toy").n_frames == toy.n_frames
    toy.folder.rename(beside(toy.folder, "retired"))
    with locked(toy.folder), pytest.raises(StorageError, match="another process"):
        recovered(toy.folder)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_link_to_a_folder_is_worked_through(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr("dnerf.core._exchange", lambda a, b: False)
    (tmp_path / "real").mkdir()
    (tmp_path / "data").mkdir()
    link = tmp_path / "data" / "me"
    link.symlink_to(tmp_path / "real")
    with staged_dir(link) as part:
        (part / "new").touch()
    assert link.is_symlink() and [p.name for p in (tmp_path / "real").iterdir()] == ["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".real.lock", "data", "real"]
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(StorageError, match="remove the link"), staged_dir(link):
        pass


def trained(home):
    "The toy subject and a run."
    toy = keep_speech(toy_subject(home / "data" / "toy"))
    return toy, train(toy, toy.embedding("made"), compose_config("tiny", subject="toy", audio="made", steps=1), show=False)


def whole_files(folder: Path) -> dict:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_pairs_on_one_subject(dnerf_home):
    toy, folder = trained(dnerf_home)
    run, before = load_run(folder), whole_files(dnerf_home)
    writer, reader, trainer = ("exclusive", toy.folder), ("shared", toy.folder), ("exclusive", folder)
    again = compose_config("tiny", subject="toy", audio="made", steps=1, name="again")

    def prepare():
        with staged_dir(toy.folder):
            pass

    tries = [(writer, lambda: train(toy, toy.embedding("made"), again, show=False)), (writer, lambda: evaluate_run(run, progress=False)),
             (writer, prepare), (reader, prepare), (trainer, lambda: evaluate_run(run, progress=False)),
             (("exclusive", folder.with_name(f"{folder.name}.evaluation")), lambda: evaluate_run(run, progress=False))]
    for (kind, place), call in tries:
        with locked(place, shared=kind == "shared"), pytest.raises(StorageError, match="another process is working on"):
            call()
    after = whole_files(dnerf_home)
    assert {p: b for p, b in after.items() if p.suffix != ".lock"} == {p: b for p, b in before.items() if p.suffix != ".lock"}
    with locked(toy.folder, shared=True), locked(folder, shared=True):
        evaluate_run(run, progress=False, measures=("pixels",))


def test_a_subject_that_was_prepared_anew_is_not_trained_on(dnerf_home):
    "The one in memory has the old protocol, its files are new."
    toy = keep_speech(toy_subject(dnerf_home / "data" / "toy"))
    speech = np.array(toy.embedding("made"))
    toy_subject(dnerf_home / "data" / "toy", n=50)
    with pytest.raises(InputError, match="prepared anew after it was opened|prepare the subject again"):
        train(toy, speech, compose_config("tiny", subject="toy", audio="made", steps=1), show=False)


def test_a_name_that_another_process_has_just_taken(dnerf_home, monkeypatch):
    "Between the choice of the folder and its lock."
    import dnerf.nerf.training as training
    toy, folder = trained(dnerf_home)
    state = (folder / "state.json").read_bytes()
    (folder / "state.json").unlink()
    ordinary = training.watchers

    def finished_meanwhile(*args):
        (folder / "state.json").write_bytes(state)
        return ordinary(*args)

    monkeypatch.setattr(training, "watchers", finished_meanwhile)
    before = whole_files(folder)
    with pytest.raises(StorageError, match="another process has just used the name toy/made-tiny"):
        train(toy, toy.embedding("made"), compose_config("tiny", subject="toy", audio="made", steps=1), show=False)
    assert {**before, folder / "state.json": state} == whole_files(folder)
