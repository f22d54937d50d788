"""A few draws of `make fuzz`, `make kills` and `make pairs`, on one small home in one process."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHORT = """
from argparse import Namespace
import sys, fuzz, fuzz_kills, fuzz_pairs
with fuzz.small_home(None) as base:
    bad = [fuzz.run(base, range(40), Namespace(seed=0, kinds=None, keep=None, quiet=True, only=None)),
           fuzz_kills.run(base, range(4), 0, ["train", "drive"]),
           fuzz_pairs.run(base, [14], 0)]
sys.exit(any(bad))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and watched as on Linux")
def test_forty_damages_four_kills_and_a_pair():
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", SHORT], capture_output=True, text=True, env=env, cwd=HERE.parent)
    assert done.returncode == 0, done.stdout + done.stderr
