"""Build the documentation site into _docs/ without the quarto program: notebooks processed by nbdev, rendered by smalldocs."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs

NUMBER = re.compile(r"(?m)(^|[/ ])\d+[a-zA-Z0-9]*_(?=[^/\n]+\.(?:ipynb|qmd))")
LINK = re.compile(r"(?<=\]\()[^)\s]+\.ipynb")


def unnumbered(text: str) -> str:
    "`nerf/00_rays.ipynb` -> `nerf/rays.ipynb`, as quarto names the pages."
    return NUMBER.sub(r"\1", text)


def main() -> int:
    cfg = get_config()
    _build_modidx()
    refresh_quarto_yml()
    nbdev_sidebar.__wrapped__()
    stage = cfg.config_path / "_site_src"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(proc_nbs(force=True), stage)
    for page in list(stage.rglob("*.ipynb")):
        page.write_text(LINK.sub(lambda link: unnumbered(link[0]), page.read_text(encoding="utf-8")), encoding="utf-8")
        page.rename(page.with_name(unnumbered(page.name)))
    sidebar = stage / "sidebar.yml"
    sidebar.write_text(unnumbered(sidebar.read_text()))
    done = subprocess.run([sys.executable, "-m", "smalldocs.cli", "render", str(stage)], stderr=subprocess.PIPE, text=True)
    print(*(line for line in done.stderr.splitlines() if "output-file is not read" not in line), sep="\n", file=sys.stderr)
    if done.returncode == 0:
        shutil.rmtree(cfg.doc_path, ignore_errors=True)
        shutil.move(stage / Path(cfg.doc_path).name, cfg.doc_path)
        print(f"{cfg.doc_path.relative_to(cfg.config_path)}/index.html")
    shutil.rmtree(stage, ignore_errors=True)
    return done.returncode


if __name__ == "__main__":
    if sys.version_info < (3, 11):
        sys.exit("make docs needs smalldocs, which needs Python 3.11 or newer; make the environment with PYTHON=python3.11")
    sys.exit(main())
