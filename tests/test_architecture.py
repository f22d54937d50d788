"""The architecture, read from the source of the modules: which module may import which, and how large a piece of code may be."""
import ast
import re
from collections import deque
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

from test_repository import MODULES, NOTEBOOKS, ROOT, cells, name, source

# From the ground floor up. A module imports from its own floor and from those below, nowhere from above: not inside functions either.
FLOORS = (
    "errors core schema settings program checkpoint download",
    "subject adnerf* face",
    "audio.* video.*",
    "nerf.*",
    "talk.*",
    "evaluation.*",
    "cli parser doctor api shelf many app.*",
)

# What does not know each other on allowed floors: modules, what they must not import, and why.
SEPARATE = (
    ("audio.*", "video.*", "speech features need a wav and a sample rate only"),
    ("video.*", "audio.*", "a subject is prepared without knowing which embedding will be used"),
    ("nerf.*", "audio.* video.*", "a portrait is trained from a subject, an embedding's array and cues, not from media or a tracker"),
)
# Modules that are excepted, and the ones they may import all the same.
OPENERS = {"nerf.sweeps": "audio.embedding video.sources"}  # each job of a sweep opens its subject and its embedding by name
# The same for packages of others: media and landmarks end where the subject begins.
NOT_IN_NERF = {"av", "cv2", "librosa", "mediapipe"}
# A run is opened, for driving or measuring, without loading what trains one.
OPENING, TRAINING = ("nerf.run", "nerf.playback"), ("nerf.training", "nerf.watch")

FILE_LINES, FUNCTION_LINES, PARAMETERS, COLUMNS = 450, 45, 8, 140
# Verbs for people: each parameter is an option of the command line or a knob of a papermill notebook, documented one by one.
VERBS = {"cli.train", "cli.table1", "api.train"}

PYTHON = sorted([*(ROOT / "dnerf").rglob("*.py"), *(ROOT / "tests").glob("*.py"), *(ROOT / ".ci").glob("*.py")])


class Import(NamedTuple):
    "One name that a module imports from another one of this package, or from a package of others."
    module: str    # without the leading `dnerf.`; of others the name of the package
    name: str      # that is imported from it, or ''
    line: int
    at_start: bool # when the importing module is loaded, not first when a function is called
    ours: bool


def dotted(path: Path) -> str:
    "`dnerf/nerf/rays.py` -> `nerf.rays`"
    return ".".join(path.relative_to(ROOT / "dnerf").with_suffix("").parts)


PATHS = {dotted(path): path for path in MODULES}


def matches(module: str, patterns: str) -> bool:
    return any(fnmatch(module, pattern) for pattern in patterns.split())


def floor(module: str) -> int | None:
    "The number of the module's floor."
    return next((i for i, patterns in enumerate(FLOORS) if matches(module, patterns)), None)


@lru_cache(None)
def tree(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text(encoding="utf-8"))


def statements(node: ast.AST, at_start: bool = True):
    "Every import statement below a node, with whether it runs when the module is loaded."
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, at_start
        later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        never = isinstance(child, ast.If) and re.search("TYPE_CHECKING|__name__", ast.unparse(child.test))
        yield from statements(child, at_start and not later and not never)


def imports(module: str) -> list:
    "All imports of a module, those inside functions too."
    found = []
    for node, at_start in statements(tree(module)):
        if isinstance(node, ast.Import):
            targets = [(alias.name.split("."), "") for alias in node.names]
        else:
            here = ["dnerf", *module.split(".")]
            base = [*(here[:-node.level] if node.level else []), *(node.module.split(".") if node.module else [])]
            targets = [([*base, a.name], "") if ".".join([*base[1:], a.name]) in PATHS else (base, a.name) for a in node.names]
        for parts, what in targets:
            ours = parts[0] == "dnerf"
            if parts != ["dnerf"]:  # `from dnerf import __version__`
                found.append(Import(".".join(parts[1:]) if ours else parts[0], what, node.lineno, at_start, ours))
    return found


IMPORTS = {module: imports(module) for module in PATHS}


@lru_cache(None)
def defined(module: str) -> set:
    "Names that a module defines or imports, wherever: enough to notice what has moved away."
    names = {i.name for i in IMPORTS[module]}
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def reached(module: str) -> dict:
    "Modules that are loaded with this one -> the chain of imports that leads there."
    chains, queue = {}, deque([(module, [])])
    while queue:
        here, chain = queue.popleft()
        for i in IMPORTS.get(here, ()):
            if i.ours and i.at_start and i.module not in chains:
                chains[i.module] = [*chain, f"{name(PATHS[here])}:{i.line} imports {i.module}"]
                queue.append((i.module, chains[i.module]))
    return chains


def notebook(path: Path) -> str:
    "Which notebook to edit for a module, as its first line says."
    edit = re.search(r"File to edit: (\S+\.ipynb)", path.read_text(encoding="utf-8"))
    return f" (edit {name((path.parent / edit[1]).resolve())})" if edit else ""


def report(faults: list) -> None:
    "Fail with one line for each fault."
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.mark.parametrize("module", PATHS)
def test_imports_go_down(module):
    here, faults = floor(module), []
    if here is None:
        report([f"{name(PATHS[module])} has no floor; add it to FLOORS in {name(Path(__file__))}"])
    for i in IMPORTS[module]:
        place = f"{name(PATHS[module])}:{i.line}: {module} imports {i.module}"
        if not i.ours:
            if matches(module, "nerf.*") and i.module in NOT_IN_NERF:
                faults.append(f"{place}; read media and landmarks in video or audio, and hand over arrays")
            continue
        if i.module not in PATHS:
            faults.append(f"{place}, which does not exist; import the module in which {i.name or 'its contents'} is now")
        elif i.name and i.name != "*" and i.name not in defined(i.module):
            faults.append(f"{place}, which has no {i.name}; import it from where it is now")
        elif floor(i.module) is not None and floor(i.module) > here:
            faults.append(f"{place}, which is on a higher floor; move what both need down, or hand it over as an argument")
        for some, others, why in SEPARATE:
            if matches(module, some) and matches(i.module, others) and not matches(i.module, OPENERS.get(module, "")):
                faults.append(f"{place}, but {why}; move what both need down, or hand it over as an argument")
    report([fault + notebook(PATHS[module]) for fault in faults])


@pytest.mark.parametrize("module", PATHS)
def test_imports_make_no_circle(module):
    chain = reached(module).get(module)
    if chain:
        report(["; ".join(chain) + "; move what both need into a module of its own"])


def test_modules_of_opening_and_training_exist():
    assert {*OPENING, *TRAINING} <= PATHS.keys(), "renamed? then rename it in OPENING or TRAINING above"


@pytest.mark.parametrize("module", OPENING)
def test_a_run_opens_without_what_trains_it(module):
    chains = reached(module)
    report(["; ".join(chains[m]) + "; move what opening a run needs out of it" for m in TRAINING if m in chains])


def functions(module: str):
    "Every function of a module, inner ones too, with its parameters; `self` and `cls` are not counted."
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parameters = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            yield node, parameters[1:] if parameters[:1] in (["self"], ["cls"]) else parameters


@pytest.mark.parametrize("module", PATHS)
def test_sizes(module):
    path, faults = PATHS[module], []
    length = len(path.read_text(encoding="utf-8").splitlines())
    if length > FILE_LINES:
        faults.append(f"{name(path)}:{length}: over {FILE_LINES} lines; split the notebook in two, each with a title that needs no 'and'")
    for node, parameters in functions(module):
        place, lines = f"{name(path)}:{node.lineno}: {node.name}", node.end_lineno - node.lineno + 1
        if lines > FUNCTION_LINES:
            faults.append(f"{place} has {lines} lines, over {FUNCTION_LINES}; give one of its steps a name and a cell")
        if len(parameters) > PARAMETERS and f"{module}.{node.name}" not in VERBS:
            faults.append(f"{place} has {len(parameters)} parameters, over {PARAMETERS}; join those that travel together in a dataclass")
    report([fault + notebook(path) for fault in faults])


def test_exceptions_are_needed():
    "What the tables above except is still there."
    long = {f"{module}.{node.name}" for module in PATHS for node, parameters in functions(module) if len(parameters) > PARAMETERS}
    faults = [f"VERBS: {verb} has at most {PARAMETERS} parameters or is gone; take it out" for verb in sorted(VERBS - long)]
    used = {(module, i.module) for module in OPENERS for i in IMPORTS.get(module, ())}
    faults += [f"OPENERS: {a} does not import {b}; take it out" for a in OPENERS for b in OPENERS[a].split() if (a, b) not in used]
    patterns = " ".join(FLOORS).split()
    faults += [f"FLOORS: no module is called {p}; take it out" for p in patterns if not any(fnmatch(module, p) for module in PATHS)]
    report(faults)


def code_lines(path: Path):
    "Lines of code of a file, each with its place; of a notebook those of its code cells."
    if path.suffix != ".ipynb":
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield f"{name(path)}:{n}", line
        return
    for n, cell in enumerate(cells(path), 1):
        if cell["cell_type"] == "code":
            yield from ((f"{name(path)}: cell {n}, line {m}", line) for m, line in enumerate(source(cell).splitlines(), 1))


@pytest.mark.parametrize("path", [p for p in PYTHON if p.name != "_modidx.py"] + NOTEBOOKS, ids=name)
def test_lines(path):
    hint = notebook(path) if path.suffix == ".py" else ""
    report([f"{place}: {len(line)} characters, over {COLUMNS}; give a part of it a name, or break it where a reader would{hint}"
            for place, line in code_lines(path) if len(line) > COLUMNS])


def test_librosa_is_loaded_by_one_process_at_a_time():
    "Only the cell that holds the lock imports librosa: two processes that compile it at once leave a cache that crashes all later ones."
    lines = [(path, place, line) for path in NOTEBOOKS for place, line in code_lines(path) if re.match(r"\s*(import|from) librosa\b", line)]
    assert lines, "the lock's cell is gone; name here what replaced it"
    faults = [(place, line) for path, place, line in lines if path.stem != "00_mel"]
    report([f"{place}: {line.strip()}; take it from dnerf.audio.mel.compiled_librosa()" for place, line in faults])
