"""Damaged, awkward and hostile files for every verb: `python tests/fuzz.py --draws 400 --seed 0`.

Draw number i damages a copy of a small home in one way (`fuzz_kinds.py`) and calls one verb in a process of its own, which must end with
its result or with one sentence: no traceback, no hang, no kill, no foreign code, nothing written outside, nothing half-made, nothing lost.
A draw depends on the seed and its number alone: `--only 17` repeats it, `--keep DIR` leaves its folder. Processes are forked from one that
has loaded the libraries, so that a draw costs what its verb costs.
"""

import argparse
import atexit
import contextlib
import ctypes
import faulthandler
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / ".ci"))
import libraries

CPU, WALL = 60, 300  # seconds that a draw may compute, and that it may take where other programs have the cores
MEMORY = 4 << 30  # bytes of address space above what the libraries take
LIBRARIES = (
    "torch",
    "lightning.pytorch",
    "torch.utils.tensorboard",
    "scipy.signal",
    "scipy.interpolate",
    "librosa.filters",
    "numba",
    "matplotlib.pyplot",
    "matplotlib.image",
    "av",
    "cv2",
    "hydra",
    "torchmetrics",
    "mediapipe.tasks.python.vision",
    "pooch",
    "IPython",
)
LEFT = re.compile(r"\.partial|\.pieces|\.retired|\.rendered|^tmp|\.part$")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate", "os.chmod", "shutil.rmtree"}
BAD = ("traceback", "hang", "killed", "foreign code", "outside", "half-made", "lost", "no sentence")


@dataclass
class Box:
    "The folder of one draw."

    folder: Path

    home = property(lambda self: self.folder / "home")  # data/ and runs/
    files = property(lambda self: self.folder / "files")  # sound, videos, an AD-NeRF folder; the working directory
    outside = property(lambda self: self.folder / "outside")  # of somebody else; nothing here may change
    tmp = property(lambda self: self.folder / "tmp")
    canary = property(lambda self: self.folder / "foreign")  # what the payloads of hostile files would create
    toy = property(lambda self: self.home / "data" / "toy")

    def run(self, name: str) -> Path:
        return self.home / "runs" / "toy" / name


@dataclass
class Call:
    "What is asked of the program after a file was damaged."

    words: list  # a verb and its arguments
    note: str  # what was damaged, for the report
    env: dict = field(default_factory=dict)  # a value of None removes the variable
    weak: bool = False  # without the rights of root to read and write everything
    stdout: str = ""  # a device, or `closed` for a pipe that nobody reads
    encoding: str = ""  # of the output
    may_change: tuple = ()  # files that are asked to be replaced
    disk: int = 1 << 30  # bytes that a file may have: the disk is full from there on
    memory: int = MEMORY  # bytes of address space above what the libraries take


@dataclass
class Result:
    "How a draw ended."

    number: int
    kind: str
    call: Call
    outcome: str
    detail: str = ""
    seconds: float = 0.0


def load() -> None:
    "Load what the verbs import, and what they compile."
    libraries.load(LIBRARIES)
    from dnerf.audio.mel import compiled_librosa
    compiled_librosa()
    for thread in threading.enumerate()[1:]:
        thread.join(20)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a thread was begun, so that processes cannot be forked safely")
    import matplotlib.figure

    def blank(figure, path, *args, **kwargs):
        "Figures take two thirds of an evaluation's time and are not what is tried here."
        matplotlib.image.imsave(path, [[0.0]], format="png")

    matplotlib.figure.Figure.savefig = blank


def fork(job, output, *, memory: int = 0, disk: int = 1 << 30) -> int:
    "Run a job in a process of its own, which ends with the job's value; its process number."
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        faulthandler.enable(sys.__stderr__)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1, errors="backslashreplace")
        if memory:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory, resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 5))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk, 1 << 30))
        code = job()
        atexit._run_exitfuncs()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 120  # as the interpreter ends
        os._exit(code & 255)


def waited(pid: int) -> tuple:
    "How a process ended: exit code or minus the signal, whether it took too long, seconds of computing."
    start, late = time.monotonic(), 0
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - start
        if done:
            try:
                os.killpg(pid, signal.SIGKILL)  # what it left running
            except (ProcessLookupError, PermissionError):
                pass
            code = os.waitstatus_to_exitcode(status)
            return code, bool(late) or code == -signal.SIGXCPU, used.ru_utime + used.ru_stime
        if seconds > WALL + 5 * late:
            os.killpg(pid, signal.SIGKILL if late else signal.SIGABRT)  # the first prints where it stands
            late += 1
        time.sleep(0.01)


def watch_writes(box: Box) -> None:
    "From now on say on standard error when this process changes something outside the box, or what is not its own inside."
    free = [os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, Path(__file__).parents[1] / "dnerf", "/dev", "/proc")]
    inside, other = os.path.realpath(box.folder), os.path.realpath(box.outside)

    def within(path, folder):
        return path == folder or path.startswith(folder + os.sep)

    def hook(event, args):
        writes = event == "open" and isinstance(args[2], int) and args[2] & WRITES
        if not writes and event not in CHANGES:
            return
        for path in args[: 2 if event in ("os.rename", "os.link") else 1]:
            if isinstance(path, (str, bytes, os.PathLike)):
                name = os.fsdecode(path)
                real = (
                    os.path.realpath(name)
                    if event == "open" and not args[2] & getattr(os, "O_NOFOLLOW", 0)
                    else os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
                )
                if within(real, other) or not any(within(real, folder) for folder in (inside, *free)):
                    os.write(2, f"\nWRITES OUTSIDE: {event} {real}\n".encode("utf-8", "replace"))

    sys.addaudithook(hook)


def give_up_rights() -> None:
    "Root may read and write everything; from now on this process may only what the bits of a file allow."
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    if libc.capget(header, data) == 0:
        for i in (0, 1):
            data[i] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.capset(header, data)


def stream_to(place: str) -> None:
    "Send standard output to a device or into a pipe that nobody reads."
    if place == "closed":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(place, os.O_WRONLY)
    os.dup2(writer, 1)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does


def act(box: Box, call: Call) -> int:
    "Call the verb as the program would be called in the box."
    from dnerf.cli import call_verb, main

    environment = {"DNERF_HOME": str(box.home), "HOME": str(box.folder / "user"), "TMPDIR": str(box.tmp)} | call.env
    for key, value in environment.items():
        os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, str(value))
    tempfile.tempdir = None
    os.chdir(box.files)
    if call.encoding:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding=call.encoding, errors="strict" if stream is sys.stdout else "backslashreplace")
    if call.stdout:
        stream_to(call.stdout)
    if call.weak:
        give_up_rights()
    watch_writes(box)
    other = {"open": open_all, "adnerf": import_folder}.get(call.words[0])
    return call_verb(other, dict(name=call.words[1])) if other else main(call.words)


def open_all(name: str) -> int:
    "Open a run, or a subject with all that is in it."
    from dnerf.nerf.run import load_run
    from dnerf.subject import Subject

    if "/" in name:
        load_run(name, "cpu")
        return 0
    subject = Subject.load(name)
    for part in (*Subject.arrays, "torso", "torso_modes", "torso_shape", "background", "wav", "tracked", "blendshape_names"):
        getattr(subject, part)
    for split in ("train", "val", "test"):
        subject.frames[list(subject.split(split))]
    return 0


def import_folder(name: str) -> int:
    "Import the AD-NeRF folder of the box."
    from dnerf.adnerf import import_adnerf

    import_adnerf(name, "guo", size=32, show=False)
    return 0


def contents(folder: Path) -> dict:
    "Every file below a folder -> a hash of what is in it; of a link where it points; of a folder nothing."
    found = {}
    for base, folders, files in os.walk(folder):
        for path in (os.path.join(base, name) for name in (*files, *folders)):
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isdir(path):
                found[path] = None
            elif os.path.isfile(path):
                about = os.stat(path)
                small = about.st_size < 1 << 20
                found[path] = hashlib.sha1(Path(path).read_bytes()).hexdigest() if small else f"{about.st_size} {about.st_mtime_ns}"
    return found


def kept(box: Box, path: str, call: Call) -> bool:
    "Whether a verb may neither change nor remove a file."
    if path in map(str, call.may_change):
        return False
    if Path(path).is_relative_to(box.files) or Path(path).is_relative_to(box.outside):
        return True
    parts = Path(path).relative_to(box.folder).parts[1:]
    if any(part.startswith(".") for part in parts):
        return False  # what was begun before
    if parts[:1] == ("data",):
        return len(parts) > 2 and parts[-2] not in ("embeddings", "f0")
    made = Path(path).name in ("config.yaml", "inputs.json", "state.json", "best.ckpt")
    return made and "half" not in parts


def judge(box: Box, call: Call, before: dict, ended: tuple, said: str) -> tuple:
    "The outcome of a draw, in a word, and what shows it."
    code, late, _ = ended
    lines = [line for line in said.splitlines() if line.strip()]
    after = contents(box.folder)
    if box.canary.exists():
        return "foreign code", "the payload ran"
    if "WRITES OUTSIDE" in said:
        return "outside", next(line for line in lines if "WRITES OUTSIDE" in line)
    if late:
        return "hang", place(said, "File ")
    if code < 0:
        return "killed", f"signal {-code}; {place(said, 'File ')}"
    if "Traceback (most recent call last)" in said or "Exception ignored" in said or "Segmentation fault" in said:
        return "traceback", f"{lines[-1]}; {place(said, 'File ', last=True)}"
    lost = [path for path, content in before.items() if content and after.get(path) != content and kept(box, path, call)]
    if lost:
        return "lost", f"{len(lost)} changed or gone: {os.path.relpath(lost[0], box.folder)}"
    new = [p for p in after.keys() - before.keys() if LEFT.search(os.path.relpath(p, box.folder)) or Path(p).is_relative_to(box.tmp)]
    if new:
        return "half-made", ", ".join(sorted(os.path.relpath(p, box.folder) for p in new)[:3])
    if code == 0:
        return "works", lines[-1] if lines else ""
    if call.words[0] == "doctor":
        return "works", lines[-1]
    sentence = next((line for line in reversed(lines) if line.startswith("dnerf")), "")  # standard output may come behind it
    words = re.match(r"(dnerf( \w+)?: (error: )?)?(.*)", sentence)[4]
    if len(words) >= 15:
        return "sentence", sentence
    unread = call.stdout == "closed" and not lines
    return ("works", "the reader was gone") if unread else ("no sentence", f"exit code {code}: {lines[-1][:200] if lines else ''}")


def place(said: str, marker: str, last: bool = False) -> str:
    "Where a process stood: the innermost line of this package in a printed stack."
    found = [m for m in re.findall(r'File "[^"]*/(dnerf/[^"]+)", line (\d+)', said)]
    return "{}:{}".format(*(found[-1] if last else found[0])) if found else "not in the package"


def copy_base(base: Path, folder: Path) -> Box:
    "A box with its own copy of the small home; large files are linked, and a mutation writes them anew."

    def copy(source, target):
        os.link(source, target) if os.path.getsize(source) > 1 << 20 else shutil.copy2(source, target)

    shutil.copytree(base, folder, copy_function=copy, symlinks=True)
    return Box(folder)


def draw(base: Path, number: int, seed: int, names: list | None, keep: Path | None) -> Result:
    "Make and judge one draw."
    from fuzz_kinds import KINDS

    known = names or list(KINDS)
    kind = known[number % len(known)]
    rng = random.Random(f"{seed}/{kind}/{number}")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=keep)) / "box"
    box = copy_base(base, folder)
    with open(folder.parent / "output", "w+b") as output:
        code, late, _ = waited(fork(lambda: mutate(KINDS[kind], rng, box, folder.parent), output))
        if code or late:
            raise RuntimeError(
                f"draw {number} ({kind}) could not be made: " + (folder.parent / "output").read_text(errors="replace")[-2000:]
            )
        call = Call(**eval((folder.parent / "call").read_text(encoding="utf-8", errors="surrogateescape")))
        before = contents(box.folder)
        output.truncate(0)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output) as sink:  # not bounded in size as the files of the draw are
            ended = waited(fork(lambda: act(box, call), sink.stdin, memory=call.memory, disk=call.disk))
        said = (folder.parent / "output").read_text(encoding="utf-8", errors="replace").lstrip("\0").replace("\r", "\n")
    outcome, detail = judge(box, call, before, ended, said)
    if keep is None:
        throw_away(folder.parent)
    else:
        detail += f" [{folder.parent}]"
    return Result(number, kind, call, outcome, detail.replace(str(box.folder), "BOX"), ended[2])


def mutate(kind, rng: random.Random, box: Box, folder: Path) -> int:
    "Damage the box; what is asked then is handed over in a file, because mutations load and run what this process must not."
    call = kind(rng, box)
    (folder / "call").write_text(repr(vars(call)), encoding="utf-8", errors="surrogateescape")
    return 0


def table(results: list) -> str:
    "How many draws of each kind ended how."
    columns = ["works", "sentence", *(b for b in BAD if any(r.outcome == b for r in results))]
    counts = Counter((r.kind, r.outcome) for r in results)
    kinds = sorted({r.kind for r in results})
    rows = [["kind", *columns], *([k, *(str(counts[k, c] or "") for c in columns)] for k in kinds)]
    rows.append(["all", *(str(sum(r.outcome == c for r in results)) for c in columns)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in rows)


def failures(results: list, seed: int) -> str:
    "Draws that ended otherwise than they may, with the words that repeat each alone."
    lines = []
    for r in sorted((r for r in results if r.outcome in BAD), key=lambda r: (r.kind, r.number)):
        words = " ".join(r.call.words).encode("utf-8", "backslashreplace").decode()
        lines += [
            f"{r.outcome} (make fuzz SEED={seed} ONLY={r.number}) {r.kind}: {r.call.note}; dnerf {words[:200]}",
            f"    {r.detail[:400]}",
        ]
    return "\n".join(lines).replace("\0", "\\0")


@contextlib.contextmanager
def small_home(base: Path | None):
    "Load the libraries; the folder of the small home, which is made unless it is there. Without a folder it is a temporary one."
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    load()
    start, folder = time.monotonic(), base or Path(tempfile.mkdtemp(prefix="fuzz-base-"))
    try:
        if not (folder / "outside" / "toy").is_dir():
            from fuzz_base import make_base
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile() as output:
                if waited(fork(lambda: make_base(folder), output))[0]:
                    output.seek(0)
                    sys.exit("the small home could not be made: " + output.read().decode(errors="replace")[-3000:])
        print(f"a small home in {time.monotonic() - start:.0f} s", flush=True)
        yield folder
    finally:
        if base is None:  # not a TemporaryDirectory, which every fork would remove as it ends
            shutil.rmtree(folder, ignore_errors=True)


def throw_away(folder: Path) -> None:
    "Remove the folder of a draw, whatever may be done in it."
    for base, folders, _ in os.walk(folder):
        for name in folders:
            if not os.path.islink(os.path.join(base, name)):
                os.chmod(os.path.join(base, name), 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def show(r: Result, width: int) -> None:
    "One line for a draw."
    shown = f"{r.number:4d} {r.seconds:5.1f} s  {r.kind}: {r.call.note}: {r.outcome}: {r.detail}"
    print(shown.encode("ascii", "backslashreplace").decode()[:width], flush=True)


def run(base: Path, numbers, args: argparse.Namespace) -> int:
    "Make these draws and print what came of them; 1 if one failed."
    results, start = [], time.monotonic()
    for number in numbers:
        results.append(draw(base, number, args.seed, args.kinds, args.keep))
        if not args.quiet or args.only:
            show(results[-1], 2000 if args.only else 300)
    used = sum(r.seconds for r in results)
    bad = sum(r.outcome in BAD for r in results)
    said = failures(results, args.seed).encode("ascii", "backslashreplace").decode()
    print(table(results), *([said] if said else []), sep="\n")
    print(f"{bad} of {len(results)} draws failed; {time.monotonic() - start:.0f} s, of which the verbs computed {used:.0f} s", flush=True)
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="try damaged files on every verb")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of draws to repeat")
    parser.add_argument("--kinds", nargs="*", help="draw from these kinds alone; another numbering")
    parser.add_argument("--keep", type=Path, help="a folder for the folders of the draws, which are removed otherwise")
    parser.add_argument("--base", type=Path, help="a folder for the small home, used again if it is there")
    parser.add_argument("--quiet", action="store_true", help="no line for each draw")
    args = parser.parse_args()
    with small_home(args.base) as base:
        return run(base, args.only or range(args.draws), args)


if __name__ == "__main__":
    sys.exit(main())
