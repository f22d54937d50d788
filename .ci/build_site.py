"""Build the documentation site into _docs/ without the quarto program.

The notebooks are processed by nbdev and rendered by smalldocs; the pages are then made to work offline.
"""
import ast
import html
import re
import shutil
import subprocess
import sys
from pathlib import Path
from posixpath import relpath

from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

NUMBER = re.compile(r"(?m)(^|[/ ])\d+[a-zA-Z0-9]*_(?=[^/\n]+\.(?:ipynb|qmd))")
LINK = re.compile(r"(?<=\]\()[^)\s]+\.ipynb")
FORMULA = re.compile(r'(<span class="math (inline|display)">)\\[(\[](.*?)\\[)\]](</span>)', re.S)
BOLD = re.compile(r'<mi mathvariant="bold">(\w)</mi>', re.A)
COMMENT_LINK = re.compile(r"\[(`[^`\n]+`)\]\((https?://[^)\s]+)\)")
FONTS = re.compile(r'@import\s+url\(["\']?https?:[^)]*\);?')  # a theme's letters; without them those of the reader's machine
KATEX = re.compile(r'<(?:link|script)\b[^>]*katex[^>]*>(?:\s*</script>)?\s*')
REMOTE_PICTURE = re.compile(r'<img\b(?=[^>]*\bsrc="https?:)(?=[^>]*\balt="([^"]+)")[^>]*>')  # a badge
NO_MATTER = re.compile("output-file is not read|commonmark is not built|keep-md is ignored")  # what smalldocs says of settings for quarto


def unnumbered(text: str) -> str:
    "`nerf/00_rays.ipynb` -> `nerf/rays.ipynb`, as quarto names the pages."
    return NUMBER.sub(r"\1", text)


def formula(tex: str, display: bool) -> str:
    "LaTeX as MathML, which browsers draw without scripts or fonts from elsewhere."
    from latex2mathml.converter import convert
    mathml = convert(re.sub(r"\\arg\b", r"\\operatorname{arg}", tex), display="block" if display else "inline")
    if "\\" in mathml:
        raise ValueError(f"the formula {tex!r} has a command that MathML does not get: {mathml}")
    return BOLD.sub(lambda m: f"<mi>{bold(m[1])}</mi>", mathml)


def bold(letter: str) -> str:
    "The bold letter of Unicode: browsers that follow MathML Core know no other."
    first, start = next((a, b) for a, b in (("a", 0x1D41A), ("A", 0x1D400), ("0", 0x1D7CE)) if letter >= a)
    return chr(start + ord(letter) - ord(first))


def offline(page: str, text: str, site: str) -> str:
    "The HTML of a page with MathML for LaTeX, no scripts or pictures from elsewhere, and links to the site itself that work in any folder."
    text = FORMULA.sub(lambda m: m[1] + formula(html.unescape(m[3]).strip(), m[2] == "display") + m[4], text)
    text = REMOTE_PICTURE.sub(r"\1", text)
    text, here = COMMENT_LINK.sub(r'<a href="\2">\1</a>', KATEX.sub("", text)), str(Path(page).parent)
    return re.sub(rf'href="{re.escape(site)}/([^"#]*)', lambda m: f'href="{relpath(m[1] or "index.html", here)}', text)


def sentences(file: Path) -> dict:
    "Name of a function, class or `Class.method` of a module, in its order, to the first paragraph of its docstring, without links."
    found = {}

    def read(body, before=""):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                owner = node.args.args[0].annotation if not isinstance(node, ast.ClassDef) and not before and node.args.args else None
                patched = any("patch" in ast.unparse(d) for d in node.decorator_list) and owner
                for cls in ast.unparse(owner).split("|") if patched else [""]:
                    name = before + (cls.strip() + "." if cls else "") + node.name
                    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                    found[name] = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
                if isinstance(node, ast.ClassDef):
                    read(node.body, node.name + ".")

    read(ast.parse(file.read_text(encoding="utf-8")).body)
    return found


def functions(root: Path) -> str:
    "The page with every public name of the package: what it does, and where it is explained."
    lines = ["---", "title: Functions", 'description: "Every public name of the package, in one sentence"', "---", ""]
    for module, names in index_of(root).items():
        known, page = sentences(root / (module.replace(".", "/") + ".py")), next(iter(names.values()))[0].partition("#")[0]
        public = [(n, known[n]) for n in known if f"{module}.{n}" in names and not re.search(r"(^|\.)_", n)]
        rows = [f"| [`{n}`]({names[f'{module}.{n}'][0]}) | {doc.replace('|', chr(92) + '|')} |" for n, doc in public if doc]
        if rows:
            lines += [f"## [{module}]({page}) {{#{module.replace('.', '-')}}}", "", "| name | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def index_of(root: Path) -> dict:
    "Module -> full name -> (page with its place, file), as nbdev has stored it."
    scope: dict = {}
    exec((root / "dnerf" / "_modidx.py").read_text(encoding="utf-8"), scope)
    return scope["d"]["syms"]


def with_places(text: str, site: Path) -> str:
    "The page of functions, with links to the top of a page where the page has no place of that name."
    ids = {page: set(re.findall(r'\bid="([^"]+)"', (site / page).read_text(encoding="utf-8")))
           for page in set(re.findall(r'href="([^":#]+\.html)#', text))}
    return re.sub(r'href="([^":#]+\.html)#([^"]+)"', lambda m: m[0] if m[2] in ids[m[1]] else f'href="{m[1]}"', text)


def main() -> int:
    cfg = get_config()
    _build_modidx()
    refresh_quarto_yml()
    stage = cfg.config_path / "_site_src"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(proc_nbs(force=True), stage)
    for page in list(stage.rglob("*.ipynb")):
        page.write_text(LINK.sub(lambda link: unnumbered(link[0]), page.read_text(encoding="utf-8")), encoding="utf-8")
        page.rename(page.with_name(unnumbered(page.name)))
    (stage / "functions.qmd").write_text(functions(cfg.config_path), encoding="utf-8")
    settings = stage / "_quarto.yml"
    settings.write_text(unnumbered(settings.read_text(encoding="utf-8")), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "smalldocs.cli", "render", str(stage)], stderr=subprocess.PIPE, text=True)
    print(*(line for line in done.stderr.splitlines() if not NO_MATTER.search(line)), sep="\n", file=sys.stderr)
    if done.returncode == 0:
        shutil.rmtree(cfg.doc_path, ignore_errors=True)
        shutil.move(stage / Path(cfg.doc_path).name, cfg.doc_path)
        for page in cfg.doc_path.rglob("*.html"):
            name = page.relative_to(cfg.doc_path).as_posix()
            page.write_text(offline(name, page.read_text(encoding="utf-8"), cfg.doc_host + cfg.doc_baseurl), encoding="utf-8")
        index = cfg.doc_path / "functions.html"
        index.write_text(with_places(index.read_text(encoding="utf-8"), cfg.doc_path), encoding="utf-8")
        found = cfg.doc_path / "search.json"
        found.write_text(COMMENT_LINK.sub(r"\1", found.read_text(encoding="utf-8")), encoding="utf-8")
        for theme in (cfg.doc_path / "site_libs" / "themes").glob("*.css"):
            theme.write_text(FONTS.sub("", theme.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"{cfg.doc_path.relative_to(cfg.config_path)}/index.html")
    shutil.rmtree(stage, ignore_errors=True)
    return done.returncode


if __name__ == "__main__":
    if sys.version_info < (3, 11):
        sys.exit("make docs needs smalldocs, which needs Python 3.11 or newer; make the environment with PYTHON=python3.11")
    sys.exit(main())
