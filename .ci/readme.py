"""Make README.md from nbs/index.ipynb without the quarto program. `--check` only compares."""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = re.compile(r"^#\|\s*(hide|include:\s*false)\b", re.M)
LINK = re.compile(r"\]\((?![a-z]+:|[#/])")  # of a file beside the notebook
BLOB = re.compile(r"\]\(https://github\.com/dnerf/dnerf/blob/main/")  # of a file of this repository outside nbs/
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)


def readme() -> str:
    "The text of README.md: the shown cells of the index notebook as Markdown."
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    nb.cells = [c for c in nb.cells if not HIDDEN.search(c.source)]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.source = DIRECTIVE.sub("", cell.source)
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = BLOB.sub("](", LINK.sub("](nbs/", re.sub(r"[ \t]+\n", "\n", text)))
    note = "<!-- Made from nbs/index.ipynb by `make readme`; edit the notebook, not this file. -->\n\n"
    return note + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> int:
    path, text = ROOT / "README.md", readme()
    if "--check" in sys.argv[1:]:
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        print("README.md is up to date" if same else "README.md differs from nbs/index.ipynb; run: make readme")
        return 0 if same else 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
