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
VIDEO = re.compile(r'<video [^>]*poster="([^"]+)" src="([^"]+)"[^>]* aria-label="([^"]+)"></video>')  # GitHub plays no film of a repository
SITE = "https://dnerf.github.io/dnerf/"
ACTION = "https://github.com/dnerf/dnerf/actions/workflows/test.yaml"
BADGES = (  # text, picture, link
    ("tests", f"{ACTION}/badge.svg", ACTION),
    ("documentation", "https://img.shields.io/badge/documentation-dnerf.github.io-2780e3", SITE),
    ("Python 3.10 to 3.12", "https://img.shields.io/badge/python-3.10_to_3.12-2780e3", "#what-it-needs-and-how-long-it-takes"),
    ("Open in Colab", "https://colab.research.google.com/assets/colab-badge.svg",
     "https://colab.research.google.com/github/dnerf/dnerf/blob/main/nbs/tutorials/colab.ipynb"),
    ("licence Apache 2.0", "https://img.shields.io/badge/licence-Apache_2.0-2780e3", "LICENSE"),
)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)


def readme() -> str:
    "The text of README.md: the shown cells of the index notebook as Markdown."
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    nb.cells = [c for c in nb.cells if not HIDDEN.search(c.source)]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.source = DIRECTIVE.sub("", cell.source)
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = VIDEO.sub(lambda film: f"[![{film[3]}]({film[1]})]({SITE}{film[2]})\\\n[**Play the film, with sound**]({SITE}{film[2]})", text)
    text = BLOB.sub("](", LINK.sub("](nbs/", re.sub(r"[ \t]+\n", "\n", text)))
    note = "<!-- Made from nbs/index.ipynb by `make readme`; edit the notebook, not this file. -->\n\n"
    badges = "\n".join(f"[![{name}]({picture})]({link})" for name, picture, link in BADGES)
    text = text.replace("\n>", f"\n{badges}\n\n>", 1)  # below the title
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
