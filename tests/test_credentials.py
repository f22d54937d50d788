"""Films carry a signed statement that they are synthetic, where the extra `credentials` is installed."""
import importlib.util
import os
import stat
from types import SimpleNamespace

import av
import numpy as np
import pytest

from dnerf.core import InputError, sha256
from dnerf.subject import toy_subject
from dnerf.talk import credentials
from dnerf.talk.output import made_here
from dnerf.talk.synthesis import render_split

installed = pytest.mark.skipif(not importlib.util.find_spec("c2pa"), reason="the extra `credentials` (c2pa-python) is not installed")


@pytest.fixture
def film(dnerf_home, monkeypatch):
    "A function that renders the test split of a toy run as `train` does, in one colour, and the run."
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
