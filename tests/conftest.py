"""Shared fixtures: real benchmark videos when the machine has them, and a private project home for each test."""
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_video():
    "A function from file name to the path of a real test video; the test is skipped, saying so, where it is absent."

    def find(name: str) -> Path:
        if not (SHARED / name).is_file():
            pytest.skip(f"real video {name} is not on this machine (looked in {SHARED.parent.name}/{SHARED.name})")
        return SHARED / name

    return find


@pytest.fixture(scope="session")
def awkward(real_video):
    "A function from file name to the path of a video or sound that is hard to read, made from the demo clip; skipped where it is absent."
    return lambda name: real_video(f"awkward/{name}")


@pytest.fixture
def dnerf_home(tmp_path, monkeypatch):
    "An empty project home: `data/` and `runs/` of this test alone."
    monkeypatch.setenv("DNERF_HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    return tmp_path
