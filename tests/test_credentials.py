"""Films carry a signed statement that they are synthetic, where the extra `credentials` is installed."""
import importlib.util
import os
import stat
import threading
from types import SimpleNamespace

import av
import numpy as np
import pytest
from test_drive import grey, hello, stand_in  # noqa: F401, a fixture

from dnerf.cli import main
from dnerf.core import InputError, StorageError, locked, sha256
from dnerf.evaluation.report import _write_comparison
from dnerf.subject import toy_subject
from dnerf.talk import credentials
from dnerf.talk.drive import drive
from dnerf.talk.output import made_here
from dnerf.talk.synthesis import render_split

installed = pytest.mark.skipif(not importlib.util.find_spec("c2pa"), reason="the extra `credentials` (c2pa-python) is not installed")


@pytest.fixture
def film(dnerf_home, monkeypatch):
    "A function that renders the test split of a toy run as `train` does, in one colour, and the run."
    credentials._say.cache_clear()
    monkeypatch.delenv("DNERF_CREDENTIALS", raising=False)
    subject = toy_subject(dnerf_home / "data" / "toy")
    folder = dnerf_home / "runs" / "toy" / "first"
    (folder / "checkpoints").mkdir(parents=True)
    for part in credentials.PARTS_OF_A_RUN:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_text(part)
    run = SimpleNamespace(folder=folder, subject=subject)

    def render(_, frames):
        return ((i, np.full((32, 32, 3), .4, np.float32)) for i in frames)

    return lambda: (run, render_split(run, progress=False, render=render))


@installed
def test_a_film_says_by_what_it_was_made_and_the_reader_believes_it(film, dnerf_home):
    run, path = film()
    found = credentials.credentials_of(path)
    stated = {a["label"].removesuffix(".v2"): a["data"] for a in found["manifest"]["assertions"]}
    assert found["state"] == "Valid"
    assert [a["digitalSourceType"] for a in stated["c2pa.actions"]["actions"]] == [credentials.SYNTHETIC]
    assert stated["org.dnerf.inputs"]["speech"] == sha256(run.subject.folder / "audio.wav")
    weights = [sha256(f) for f in map(run.folder.joinpath, credentials.PARTS_OF_A_RUN[1:3]) if f.is_file()]
    assert weights and stated["org.dnerf.inputs"]["run"] == weights
    assert made_here(path)                                            # the comment stays
    with av.open(str(path)) as f:
        assert sum(1 for _ in f.decode(video=0)) == len(run.subject.split("test"))
    folder = dnerf_home / ".credentials"
    assert [stat.S_IMODE(p.stat().st_mode) for p in (folder, folder / "key.pem")] == [0o700, 0o600]
    key = (folder / "key.pem").read_bytes()
    assert credentials.credentials_of(film()[1])["state"] == "Valid" and (folder / "key.pem").read_bytes() == key


@installed
def test_drive_signs_by_the_file_that_was_given(dnerf_home, hello, monkeypatch):  # noqa: F811
    monkeypatch.delenv("DNERF_CREDENTIALS", raising=False)
    found = credentials.credentials_of(drive(stand_in(dnerf_home), hello, progress=False, render=grey))
    assert found["state"] == "Valid" and sha256(hello) in str(found["manifest"]) and credentials.SYNTHETIC in str(found["manifest"])


@installed
def test_the_film_beside_the_recording_says_that_it_is_half_a_recording(film):
    run, _ = film()
    grey = [np.full((32, 32, 3), 90, np.uint8)] * 5
    _write_comparison(run, SimpleNamespace(split="test", real=grey, rendered=grey, wav=np.zeros(5 * 640, np.float32)))
    found = credentials.credentials_of(run.folder / "compare.mp4")
    assert found["state"] == "Valid" and "beside the recording" in found["manifest"]["title"]
    assert credentials.COMPOSITE in str(found["manifest"]) and credentials.SYNTHETIC not in str(found["manifest"])


@installed
def test_a_key_that_cannot_be_used_is_said_before_anything_is_rendered(film, dnerf_home, monkeypatch):
    chain, key = credentials.self_made(dnerf_home / "mine")
    (dnerf_home / "no.pem").write_text("no key")
    for cert, secret, words in ((chain, "", "belong together"), (chain, dnerf_home / "no.pem", "cannot be signed with"),
                                (chain, dnerf_home / "absent.pem", "cannot be signed with")):
        monkeypatch.setenv("DNERF_SIGN_CERT", str(cert))
        monkeypatch.setenv("DNERF_SIGN_KEY", str(secret))
        with pytest.raises(InputError, match=words):
            film()
    assert not list(dnerf_home.rglob("*.mp4"))
    monkeypatch.setenv("DNERF_SIGN_KEY", str(key))
    assert credentials.credentials_of(film()[1])["state"] == "Valid" and not (dnerf_home / ".credentials").exists()


def test_without_the_extra_nothing_changes(film, dnerf_home, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "c2pa" else find(name, *rest))
    path = film()[1]
    assert made_here(path) and capsys.readouterr().out == "" and b"jumb" not in path.read_bytes()
    assert not os.path.exists(dnerf_home / ".credentials")
    monkeypatch.setenv("DNERF_SIGN_KEY", "key.pem")
    film()
    assert capsys.readouterr().out.count("dnerf[credentials]") == 1


@installed
def test_of_two_processes_one_makes_the_certificate_and_the_other_waits(dnerf_home, monkeypatch):
    "The other one holds the lock until this one has looked; then the files are there, and are kept."
    folder, other = dnerf_home / ".credentials", dnerf_home / "other"
    credentials.self_made(other)
    key = (other / "key.pem").read_bytes()

    def finish(_):
        if other.exists():
            other.rename(folder)

    monkeypatch.setattr(credentials.time, "sleep", finish)
    with locked(folder.with_name(".credentials.maker")), locked(folder):
        files = credentials.self_made(folder)
    assert files[1].read_bytes() == key
    (folder / "key.pem").unlink()
    (folder / "chain.pem").unlink()
    found = []
    monkeypatch.undo()
    several = [threading.Thread(target=lambda: found.append(credentials.self_made(folder)[1].read_bytes())) for _ in range(4)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1


@installed
def test_where_no_key_can_be_kept_the_film_is_unsigned_and_that_is_said_once(film, dnerf_home, monkeypatch, capsys):
    (dnerf_home / ".credentials").write_text("a file in the place of the folder")
    monkeypatch.setattr(credentials, "_TRIES", 2)
    path = film()[1]
    film()
    assert made_here(path) and b"jumb" not in path.read_bytes()
    assert capsys.readouterr().out.count("cannot be kept") == 1


@installed
def test_a_film_that_cannot_be_signed_is_one_sentence_and_no_film(film, dnerf_home, monkeypatch):
    import c2pa

    def fail(*_):
        raise c2pa.C2paError.Signature("the certificate is over")

    monkeypatch.setattr(c2pa.Builder, "sign_file", fail)
    with pytest.raises(StorageError, match="cannot be signed .the certificate is over"):
        film()
    assert not [p for p in (dnerf_home / "runs").rglob("*") if p.suffix == ".mp4" or "partial" in p.name]
    older = dnerf_home / "runs" / "toy" / "first" / "video.mp4"
    older.write_bytes(b"an older film")
    with pytest.raises(StorageError, match="cannot be signed"):
        film()
    assert older.read_bytes() == b"an older film"


@installed
def test_train_says_a_key_that_cannot_be_used_before_it_trains(dnerf_home, monkeypatch, capsys):
    monkeypatch.delenv("DNERF_CREDENTIALS", raising=False)
    monkeypatch.setenv("DNERF_SIGN_CERT", "chain.pem")
    toy_subject(dnerf_home / "data" / "toy")
    monkeypatch.setattr("dnerf.api.train_folder", lambda *_, **__: pytest.fail("trained"))
    assert main(["train", "toy"]) == 1
    assert "belong together" in capsys.readouterr().err


@installed
def test_a_key_of_another_certificate_is_refused_before_anything_is_rendered(film, dnerf_home, monkeypatch):
    "And the film that was there stays."
    _, path = film()
    before = path.read_bytes()
    other = credentials.self_made(dnerf_home / "other")[1]
    monkeypatch.setenv("DNERF_SIGN_CERT", str(dnerf_home / ".credentials" / "chain.pem"))
    monkeypatch.setenv("DNERF_SIGN_KEY", str(other))
    with pytest.raises(InputError, match=r"films cannot be signed with .*chain\.pem and .*key\.pem"):
        film()
    assert path.read_bytes() == before
