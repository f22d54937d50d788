"""Shared fixtures: real benchmark videos when the machine has them, and a private project home for each test.

With `-n 2 --dist loadfile --no-loadscope-reorder`, as in `make test`, two processes share the files: those that take long come first, and
each process computes on one thread.
"""
import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DNERF_CREDENTIALS", "off")  # films of the same request are compared byte by byte

LONGEST = ["demo_table", "site", "kills", "table", "audio", "run_notebooks", "train", "benchmark", "old_runs", "sweeps", "paper"]


def pytest_collection_modifyitems(items):
    "Files that take long first, so that no process is left alone with one at the end."
    rank = {f"test_{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


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
