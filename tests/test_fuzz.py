"""Each bad end of a draw of `make fuzz` is noticed."""
import ast
import sys

import pytest

from processes import run_with_tests

ENDS = {  # what a verb may do -> its outcome
    "print('the film is there')": "works",
    "sys.exit('dnerf: there is no file x; check the path')": "sentence",
    "raise KeyError('x')": "traceback",
    "list(iter(int, 1))": "hang",
    "os.kill(os.getpid(), 9)": "killed",
    "os.mkdir(box.canary)": "foreign code",
    "open(box.outside / 'letter.txt', 'a')": "outside",
    "os.rename(box.files / 'hello.wav', box.folder.parent / 'x')": "outside",
    "(box.files / 'hello.wav').write_bytes(b'')": "lost",
    "(box.home / 'data' / '.new.partial').mkdir(parents=True)": "half-made",
    "open(box.tmp / 'tmp123', 'w')": "half-made",
    "sys.exit(3)": "no sentence",
}
JUDGE = """
import os, sys, fuzz
from pathlib import Path
fuzz.CPU = 1
found = {}
for i, code in enumerate(%r):
    with open(Path(sys.argv[1], f"output{i}"), "w+") as output:
        box, call = fuzz.Box(Path(sys.argv[1], f"{i}/box")), fuzz.Call(["verb"], "")
        for name in (box.home, box.files, box.outside, box.tmp):
            name.mkdir(parents=True)
        for path in (box.files / "hello.wav", box.outside / "letter.txt"):
            path.write_text("of somebody")
        def job():
            fuzz.watch_writes(box)
            exec(code)
            return 0
        before = fuzz.contents(box.folder)
        ended = fuzz.waited(fuzz.fork(job, output, memory=fuzz.MEMORY))
        found[code] = fuzz.judge(box, call, before, ended, Path(output.name).read_text())[0]
print(found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and watched as on Linux")
def test_bad_ends_are_noticed(tmp_path):
    said = run_with_tests("-c", JUDGE % list(ENDS), tmp_path)
    assert ast.literal_eval(said.splitlines()[-1]) == ENDS
