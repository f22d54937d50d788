"""A few draws of `make fuzz`, `make kills` and `make pairs`, on one small home in one process."""
import sys

import pytest

from processes import run_with_tests

SHORT = """
from argparse import Namespace
import sys, fuzz, fuzz_kills, fuzz_pairs
with fuzz.small_home(None) as base:
    bad = [fuzz.run(base, range(40), Namespace(seed=0, kinds=None, keep=None, quiet=True, only=None)),
           fuzz_kills.run(base, range(2), 0, ["train", "drive"]),
           fuzz_pairs.run(base, [14], 0)]
sys.exit(any(bad))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and watched as on Linux")
def test_forty_damages_two_kills_and_a_pair():
    run_with_tests("-c", SHORT)
