"""Run the cells of the notebooks as `nbdev_test` does, each notebook in a process of its own.

`notebooks.py [PATH ...]` takes notebooks or folders, without one all of nbs/. A notebook whose process dies, which a pool of processes
would not name, is said by name and signal with the Python line where it stood, and runs once more when all others are done and it is
alone: what passes then is said too and counts as passed. A notebook over LIMIT seconds is ended. Processes are forked from one that has
loaded the libraries, so that a hundred notebooks do not load them a hundred times; what a notebook prints is shown when it fails.
"""
import argparse
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from libraries import load

LIMIT = 600.  # seconds
LIBRARIES = ("torch", "lightning", "scipy.signal", "librosa", "matplotlib.pyplot", "av", "hydra", "torchmetrics", "IPython")


@dataclass
class Attempt:
    "A process that runs a notebook, and how it ended."
    path: Path
    output: tempfile.NamedTemporaryFile
    pid: int
    start: float = field(default_factory=time.monotonic)
    seconds: float = 0.
    peak: float = 0.  # GB
    code: int | None = None  # exit code, or minus the signal
    late: bool = False

    def end(self, status: int, peak_kb: int) -> "Attempt":
        self.code, self.seconds, self.peak = os.waitstatus_to_exitcode(status), time.monotonic() - self.start, peak_kb / 1e6
        return self

    def sentence(self) -> str:
        "How it ended, in words."
        if self.late:
            return f"notebook {self.path} took more than {LIMIT:.0f} s and was ended"
        if self.code < 0:
            return f"notebook {self.path} was killed by signal {-self.code} ({signal.Signals(-self.code).name})"
        return f"notebook {self.path} failed"

    def show(self) -> None:
        "Its output and how it ended."
        self.output.seek(0)
        print(self.output.read().decode(errors="replace"), f"{self.sentence()} after {self.seconds:.0f} s", sep="\n", flush=True)


def run_here(path: Path, flags: list) -> bool:
    "Run the cells of one notebook in this process."
    from nbdev.config import get_config
    from nbdev.test import test_nb
    return test_nb(path, skip_flags=flags, basepath=get_config().config_path)[0]


def begin(path: Path, flags: list) -> Attempt:
    "Fork a process that runs a notebook and ends."
    output = tempfile.NamedTemporaryFile()
    if pid := os.fork():
        return Attempt(path, output, pid)
    code = 1
    try:
        os.setsid()  # its own children end with it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        faulthandler.enable(sys.__stderr__)
        code = 0 if run_here(path, flags) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def stop(pid: int, number: int) -> None:
    "Send a signal to a process and its children, if there are any left."
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def run_all(paths: list, flags: list, jobs: int):
    "Run notebooks, so many at a time; yields each attempt as it ends."
    waiting, running = list(paths), {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                attempt = begin(waiting.pop(0), flags)
                running[attempt.pid] = attempt
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid in running:
                stop(pid, signal.SIGKILL)  # what it started and left behind
                yield running.pop(pid).end(status, usage.ru_maxrss)
            for attempt in running.values():
                over = time.monotonic() - attempt.start - LIMIT
                if over > 0 and not attempt.late:
                    stop(attempt.pid, signal.SIGABRT)  # prints where it stands
                    attempt.late = True
                if over > 5:
                    stop(attempt.pid, signal.SIGKILL)
            time.sleep(.05)
    finally:
        for pid in running:
            stop(pid, signal.SIGKILL)


def check(paths: list, flags: list, jobs: int) -> list:
    "Run notebooks, those that died once more alone; shows what failed and returns all attempts."
    done = []
    for attempt in run_all(paths, flags, jobs):
        done.append(attempt)
        if attempt.code:
            attempt.show()
    again = [attempt.path for attempt in done if attempt.code < 0 and not attempt.late]
    for attempt in run_all(again, flags, 1):
        first = next(i for i, old in enumerate(done) if old.path == attempt.path)
        if attempt.code:
            attempt.show()
        print(f"{done[first].sentence()}; once more, alone, it {'failed' if attempt.code else 'passed'}", flush=True)
        done[first] = attempt
    return done


def compile_librosa() -> None:
    "Let one process compile librosa's functions and store them, and another use them: two that do so at once can damage what is stored."
    for _ in range(2):
        subprocess.run([sys.executable, "-c", "from dnerf.audio.mel import compiled_librosa; compiled_librosa()"], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="run the cells of notebooks, each in a process of its own")
    parser.add_argument("paths", nargs="*", help="notebooks or folders; without one all of nbs/")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count(), 8), help="how many at a time")
    parser.add_argument("--slowest", type=int, default=10, help="how many to list with their seconds and memory")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // args.jobs)))
    os.environ["IN_TEST"] = "1"
    from nbdev.config import get_config
    from nbdev.doclinks import nbglob
    paths = [Path(p).resolve() for path in args.paths or [None] for p in sorted(nbglob(path, as_path=True))]
    compile_librosa()
    load(LIBRARIES)
    done = check(paths, get_config().tst_flags.split(), args.jobs)
    for attempt in sorted(done, key=lambda a: -a.seconds)[:args.slowest]:
        print(f"{attempt.seconds:5.0f} s {attempt.peak:5.1f} GB  {attempt.path.name}")
    failed = [attempt for attempt in done if attempt.code]
    print(*(attempt.sentence() for attempt in failed), f"{len(done) - len(failed)} of {len(done)} notebooks passed", sep="\n")
    return 1 if failed or not done else 0


if __name__ == "__main__":
    sys.exit(main())
