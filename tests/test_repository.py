"""The repository itself: exports and README in sync, notebooks well formed, the package complete and light to import."""
import ast
import json
import re
import shutil
import subprocess
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from processes import ROOT, run

NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not p.name.startswith("_") and ".ipynb_checkpoints" not in p.parts)
PAPERMILL = [p for p in NOTEBOOKS if p.parent.name == "nbs" and p.stem != "index" and not re.match(r"\d", p.stem)]
MODULES = sorted(p for p in (ROOT / "dnerf").rglob("*.py") if p.name not in ("__init__.py", "__main__.py", "_modidx.py"))
MACHINE_PATH = re.compile(r"(?<![\w.~/])/(?:work|root|tmp|Users|home/\w+)/")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def cells(path: Path) -> list:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tracked() -> list:
    "Files of the repository, or all but the ignored folders where there is no git."
    done = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / p for p in done.stdout.split("\0") if p and (ROOT / p).is_file()]


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    "The repository's files without git, to try things on."
    folder = tmp_path_factory.mktemp("copy") / "dnerf"
    for path in tracked():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
    return folder


def differences(copy: Path, folder: str, suffix: str) -> list:
    "Names of files below `folder` that differ between the repository and its copy."
    found = [(base, path) for base in (ROOT, copy) for path in (base / folder).rglob("*" + suffix)]
    names = {str(path.relative_to(base)) for base, path in found if ".ipynb_checkpoints" not in path.parts}

    def same(n):
        return (ROOT / n).is_file() and (copy / n).is_file() and (ROOT / n).read_bytes() == (copy / n).read_bytes()

    return sorted(n for n in names if not same(n))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook(path):
    first = source(cells(path)[0]).splitlines()
    assert cells(path)[0]["cell_type"] == "markdown" and first[0].startswith("# "), "the first cell must be a title"
    assert any(line.startswith("> ") for line in first[1:]), "the title needs a one-line summary below it (> ...)"
    assert path.stat().st_size < 300_000, "over 300 kB; make the figures smaller"
    assert all("id" in cell for cell in cells(path)), "cells without an id; run nbdev_clean"
    assert len({cell["id"] for cell in cells(path)}) == len(cells(path)), "two cells have the same id"
    if re.match(r"\d", path.stem):
        assert any("default_exp" in source(cell) for cell in cells(path)), "a numbered notebook exports a module"


def mixed(text: str) -> bool:
    "Does a code cell hold imports beside other code?"
    body = ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", text)).body
    imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
    return any(imports) and not all(imports)


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if re.match(r"\d", p.stem)], ids=name)
def test_imports_have_their_own_cell(path):
    "The documentation runs every cell that imports, and no other example: a mixed one would fail there for want of its data."
    code = [source(cell) for cell in cells(path) if cell["cell_type"] == "code" and "nbdev_export()" not in source(cell)]
    assert [text for text in code if mixed(text)] == []


@pytest.mark.parametrize("path", PAPERMILL, ids=name)
def test_papermill_parameters(path):
    tagged = [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, "papermill needs exactly one cell tagged `parameters`"
    assert not any("#| export" in source(cell) for cell in cells(path)), "a papermill notebook holds no library code"


def test_exports_in_sync(copy):
    run("-c", "from nbdev.doclinks import nbdev_export; nbdev_export()", cwd=copy)
    assert differences(copy, "dnerf", ".py") == [], "run nbdev_export"


def test_notebooks_clean(copy):
    run("-c", "from nbdev.clean import nbdev_clean; nbdev_clean()", cwd=copy)
    assert differences(copy, "nbs", ".ipynb") == [], "run nbdev_clean"


def test_lint():
    "The rules of ruff.toml hold in notebooks, tests and .ci."
    pytest.importorskip("ruff", reason="ruff is not installed: pip install -c constraints.txt -e '.[dev]'")
    run("-m", "ruff", "check", "--quiet", "--output-format", "concise")


def test_types():
    "What pyrightconfig.json names has consistent types."
    pytest.importorskip("pyright", reason="pyright is not installed: pip install -c constraints.txt -e '.[types]'")
    run(".ci/typecheck.py")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_has_a_notebook(path):
    edit = re.search(r"File to edit: (\S+\.ipynb)", path.read_text(encoding="utf-8"))
    assert edit, "every module is exported from a notebook"
    assert (path.parent / edit[1]).resolve() in NOTEBOOKS, f"{edit[1]} is gone; remove the module"


def test_readme_up_to_date():
    run(".ci/readme.py", "--check")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_one_version():
    "Settings, package, citation and the newest entry of the changelog."
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    version = settings["DEFAULT"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "dnerf" / "__init__.py").read_text(encoding="utf-8"), "run nbdev_export"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version and citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[1] == version


def test_quarto_yml_is_shared():
    link = ROOT / "nbs" / "_quarto.yml"
    assert link.is_symlink() and link.resolve() == ROOT / "_quarto.yml"


def shown_text(path: Path) -> str:
    "The text of a file as a reader sees it: of a notebook the sources and printed outputs, not the pictures."
    text = path.read_bytes()
    if b"\0" in text:
        return ""
    if path.suffix != ".ipynb":
        return text.decode("utf-8", "replace")
    parts = []
    for cell in cells(path):
        parts.append(source(cell))
        for output in cell.get("outputs", []):
            plain = {k: v for k, v in output.get("data", {}).items() if k.startswith("text/")}
            parts.append(json.dumps([output.get("text"), plain, output.get("traceback")]))
    return "\n".join(parts)


def test_no_machine_paths():
    found = {name(p): MACHINE_PATH.search(shown_text(p))[0] for p in tracked() if MACHINE_PATH.search(shown_text(p))}
    assert not found


IMPORT_ALL = """
import importlib, json, sys
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_imports_are_light():
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in MODULES]
    loaded = set(json.loads(run("-c", IMPORT_ALL, json.dumps(names)).splitlines()[-1]))
    assert "dnerf" in loaded and not loaded & {"mediapipe", "jupyterlab", "papermill", "nbdev"}


def test_wheel(copy, tmp_path):
    "The sdist of the same source is the same, whenever, and with whatever permissions, its files were written (the release compares both)."
    built = []
    for k, words in enumerate(((), ("--sdist",))):
        run(copy / ".ci" / "dist.py", tmp_path / str(k), *words, cwd=copy, SOURCE_DATE_EPOCH="1700000000")
        built.append({p.name: p.read_bytes() for p in (tmp_path / str(k)).iterdir()})
        shutil.rmtree(copy / "build", ignore_errors=True)
        (copy / "setup.py").touch()
        (copy / "README.md").chmod(0o600)
    assert built[1].items() <= built[0].items() and len(built[0]) == 2 and len(built[1]) == 1
    (wheel,) = (tmp_path / "0").glob("dnerf-*.whl")
    packed = zipfile.ZipFile(wheel)
    inside = set(packed.namelist())
    wanted = {name(p) for p in tracked() if p.is_relative_to(ROOT / "dnerf")}
    assert wanted <= inside, f"missing from the wheel: {sorted(wanted - inside)}"
    assert {Path(n).name for n in inside if ".dist-info/" in n} >= {"LICENSE", "NOTICE", "METADATA"}
    assert not any(n.startswith(("tests/", "nbs/")) for n in inside)
    (about,) = [packed.read(n).decode() for n in inside if n.endswith("METADATA")]
    pictures, links = re.findall(r"!\[[^\]]*\]\(([^)]+)", about), re.findall(r"\]\(([^)]+)", about)
    assert any(p.startswith("https://raw.githubusercontent.com/dnerf/dnerf/main/nbs/images/") for p in pictures)
    assert [link for link in links if not link.startswith(("https://", "#"))] == [], "links of the package's page must be absolute"
    (entries,) = [packed.read(n).decode() for n in inside if n.endswith("entry_points.txt")]
    assert "[console_scripts]\ndnerf = dnerf.cli:main" in entries.replace("dnerf=dnerf.cli:main", "dnerf = dnerf.cli:main")


def test_no_placeholders():
    text = "\n".join(source(cell) for cell in cells(ROOT / "nbs" / "index.ipynb"))
    assert re.findall(r"<<\w+>>", text) == [], "fill in the measured numbers"


DYING = {  # notebook -> its cell
    "passes": "assert True",
    "fails": "assert 1 == 2, 'seven'",
    "dies": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "dies_once": "import os\nif not os.path.exists('died'):\n    os.mkdir('died')\n    os.kill(os.getpid(), 9)",
    "hangs": "import time; time.sleep(600)",
}
CHECK = """
import sys; sys.path.insert(0, '.ci')
import notebooks
from pathlib import Path
notebooks.LIMIT = 20.
print({a.path.stem: a.code for a in sorted(notebooks.check([*Path(sys.argv[1]).glob('*.ipynb')], [], 5), key=str)})
"""


def test_a_notebook_whose_process_dies_is_named(tmp_path):
    title = dict(cell_type="markdown", id="00000000", metadata={}, source="# A notebook")
    for stem, code in DYING.items():
        cell = dict(cell_type="code", id="00000001", metadata={}, execution_count=None, outputs=[], source=code)
        kernel = dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))
        (tmp_path / f"{stem}.ipynb").write_text(json.dumps(dict(cells=[title, cell], metadata=kernel, nbformat=4, nbformat_minor=5)))
    said = run("-c", CHECK, tmp_path)
    assert str(dict(dies=-11, dies_once=0, fails=1, hangs=-6, passes=0)) in said
    assert "dies.ipynb was killed by signal 11 (SIGSEGV); once more, alone, it failed" in said
    assert "dies_once.ipynb was killed by signal 9 (SIGKILL); once more, alone, it passed" in said
    assert "hangs.ipynb took more than 20 s and was ended" in said and "AssertionError: seven" in said
