"""The documentation site, built without quarto: whole, offline, readable with and without pictures, on a desk and on a phone."""
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from browser import chromium  # noqa: F401 (a fixture)
from dnerf._modidx import d as INDEX
from dnerf.video.media import probe

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs").rglob("*.ipynb")
                   if not p.name.startswith("_") and ".ipynb_checkpoints" not in p.parts)
PAGES = [re.sub(r"(^|/)\d+[a-z]*_", r"\1", p.with_suffix(".html").as_posix()) for p in NOTEBOOKS]
SOURCE = "https://github.com/dnerf/dnerf/blob/main/"

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the site is built with Python 3.11 or newer (smalldocs)")


class Page(HTMLParser):
    "What a page is made of: `tags` with attributes, `ids`, title, and the text that is not inside of another script."

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.ids, self.title, self.inside = [], set(), "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids |= {v for k, v in attrs if k in ("id", "name") and v}
        self.inside = [tag]

    def handle_data(self, data):
        if self.inside == ["title"]:
            self.title += data

    def handle_endtag(self, tag):
        self.inside = []

    def values(self, *names):
        return [(tag, attrs[n]) for tag, attrs in self.tags for n in names if attrs.get(n)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The folder of the built site; built in a copy of the repository, which stays as it is."
    copy = tmp_path_factory.mktemp("site") / "dnerf"
    left_out = ".git", ".venv", "_*docs", "_proc", "_site_src", "data", "runs", "__pycache__", ".ipynb_checkpoints"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    done = subprocess.run([sys.executable, ".ci/build_site.py"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("warning:")], done.stderr
    return copy / "_docs"


@pytest.fixture(scope="module")
def pages(site):
    return {p.relative_to(site).as_posix(): Page(p) for p in sorted(site.rglob("*.html"))}


def test_cell_options_are_yaml():
    import yaml
    bad = []
    for path in NOTEBOOKS:
        for cell in json.loads((ROOT / "nbs" / path).read_text(encoding="utf-8"))["cells"]:
            options = [line[3:] for line in "".join(cell["source"]).splitlines() if re.match(r"#\| [\w-]+: ", line)]
            try:
                yaml.safe_load("\n".join(options))
            except yaml.YAMLError:
                bad.append(f"{path}: {options}")
    assert not bad, "captions with a colon need quotes"


def test_every_page_is_there_and_in_the_sidebar(pages):
    assert set(pages) == {*PAGES, "functions.html"}
    listed = re.findall(r"- (\S+\.ipynb)", (ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(p.as_posix() for p in NOTEBOOKS), "list each notebook once in the sidebar of _quarto.yml"


def test_index_of_functions(site, pages):
    "Every public function and class of the package with a sentence and a link."
    text = (site / "functions.html").read_text(encoding="utf-8")
    rows = dict(re.findall(r'<tr[^>]*>\s*<td[^>]*><a href="([^"]+)"[^>]*><code>[^<]+</code></a></td>\s*<td[^>]*>(.*?)</td>', text, re.S))
    names = {full.removeprefix(module + ".") for module, listed in INDEX["syms"].items() for full in listed}
    public = {name for name in names if not re.search(r"(^|\.)_", name) and "." not in name}
    assert len(public) > 500 and [name for name in public if f"<code>{name}</code>" not in text] == []
    assert len(rows) > 500 and [href for href, sentence in rows.items() if not sentence.strip()] == []
    assert sum("#" in href for href in rows) > len(rows) / 2, "links lead to the place on the page"


def test_titles(pages):
    titles = [page.title for page in pages.values()]
    assert all(titles) and len(set(titles)) == len(titles)


def test_links(site, pages):
    broken = []
    for name, page in pages.items():
        for _, href in page.values("href", "src", "poster"):
            url = urlsplit(href)
            if url.scheme or href in ("", "#"):
                continue
            path = (site / name).parent / unquote(url.path) if url.path else site / name
            path = path.resolve()
            target = pages.get(path.relative_to(site.resolve()).as_posix()) if path.is_relative_to(site.resolve()) else None
            if not path.is_file() or (url.fragment and target and unquote(url.fragment) not in target.ids):
                broken.append(f"{name}: {href}")
    assert not broken


def test_links_to_the_source(pages):
    broken = []
    for name, page in pages.items():
        for _, href in page.values("href"):
            if href.startswith(SOURCE):
                path, _, line = href.removeprefix(SOURCE).partition("#L")
                if not (ROOT / path).is_file() or (line and int(line) > len((ROOT / path).read_text(encoding="utf-8").splitlines())):
                    broken.append(f"{name}: {href}")
    assert not broken


def test_pictures_have_text(pages):
    pictures = [(name, attrs) for name, page in pages.items() for tag, attrs in page.tags if tag == "img"]
    without_text = [(name, attrs.get("src", "")[:60]) for name, attrs in pictures if not (attrs.get("alt") or "").strip()]
    assert len(pictures) > 50 and without_text == []


def test_figures_have_captions(site, pages):
    output = re.compile(r'<div class="cell-output cell-output-display">(?:(?!<div class="cell-output).)*?<img\b.*?</(?:figure|div)>', re.S)
    shown = [(name, figure) for name in pages for figure in output.findall((site / name).read_text(encoding="utf-8"))]
    assert len(shown) > 50 and [(name, figure[-300:]) for name, figure in shown if "<figcaption" not in figure] == []


def test_nothing_from_elsewhere(site, pages):
    loaded = [(name, address) for name, page in pages.items() for tag, attrs in page.tags if tag != "a" and attrs.get("rel") != "canonical"
              for address in (attrs.get("src"), attrs.get("href"), attrs.get("poster")) if address and re.match(r"(https?:)?//", address)]
    assert not loaded
    remote = re.compile(r"(?:@import\s+[\"']|url\(\s*[\"']?)(?:https?:)?//[^)\"']+")
    styles = {p.name: remote.findall(p.read_text(encoding="utf-8")) for p in site.rglob("*.css")}
    assert not {name: found for name, found in styles.items() if found}


def test_formulae_and_links_are_drawn(site, pages):
    formulae = 0
    for name in pages:
        text = (site / name).read_text(encoding="utf-8")
        left = re.findall(r'<span class="math[^"]*">(?!<math).{0,80}', text)
        assert not left, f"{name}: {left}"
        assert "](http" not in text and "mathvariant=\"bold\"" not in text, name
        formulae += text.count("<math ")
    assert formulae > 200 and "](http" not in (site / "search.json").read_text(encoding="utf-8")


def test_home_page(site, pages):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert 0 < text.find('src="images/talking.mp4"') < text.find('id="three-commands"')
    film = probe(site / "images" / "talking.mp4")
    assert 5 < film.duration < 8 and film.has_audio and (site / "images" / "talking.mp4").stat().st_size < 300_000
    tutorials = {f"tutorials/{p.stem}.html" for p in (ROOT / "nbs" / "tutorials").glob("*.ipynb")}
    assert tutorials <= {href for _, href in pages["index.html"].values("href")}


@pytest.fixture(scope="module")
def served(site):
    "The address of the site on this machine."
    class Quiet(http.server.SimpleHTTPRequestHandler):
        "Serves files and writes no log."

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def opened(chromium, served, **options):  # noqa: F811
    "A tab without a network, and the list of its errors."
    context = chromium.new_context(**options)
    errors = []

    def refuse(route):
        errors.append(f"asks for {route.request.url}")
        route.abort()

    context.route(lambda url: not url.startswith((served, "data:", "blob:")), refuse)
    tab = context.new_page()
    tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    return tab, errors


def test_pages_in_a_browser(chromium, served, pages):  # noqa: F811
    tab, errors = opened(chromium, served, viewport={"width": 390, "height": 844})
    found = {}
    for name in list(pages)[::1 if os.environ.get("EVERY_PAGE") else 3] + ["index.html"]:  # all of them: EVERY_PAGE=1
        tab.goto(served + name)
        if tab.locator("main h1").count() < 1 or tab.locator("main").inner_text().strip() == "":
            errors.append("no title is shown")
        errors += tab.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => 'not drawn: ' + i.alt)")
        if (width := tab.evaluate("document.documentElement.scrollWidth")) > 390:
            errors.append(f"{width} px wide on a phone of 390")
        if errors:
            found[name] = list(errors)
            errors.clear()
    tab.context.close()
    assert not found


def test_code_is_not_cut_off(chromium, served, pages):  # noqa: F811
    tab, _ = opened(chromium, served, viewport={"width": 1200, "height": 900})
    cut = {}
    for name in list(pages)[::8] + ["index.html"]:
        tab.goto(served + name)
        inside = "[...document.querySelectorAll('main pre')].filter(p => p.clientWidth && p.scrollWidth > p.clientWidth + 1).length"
        if n := tab.evaluate(inside):
            cut[name] = n
    tab.context.close()
    assert not cut


def test_formulae_in_a_browser(chromium, served):  # noqa: F811
    tab, _ = opened(chromium, served)
    tab.goto(served + "nerf/rendering.html")
    height, width = tab.evaluate("(r => [r.height, r.width])(document.querySelector('.math.display math').getBoundingClientRect())")
    fraction = tab.evaluate("getComputedStyle(document.querySelector('math')).display")
    tab.context.close()
    assert height > 25 and width > 200 and "math" in fraction  # drawn as a formula, not as a line of text


def test_search(chromium, served):  # noqa: F811
    tab, errors = opened(chromium, served, viewport={"width": 1280, "height": 900})
    tab.goto(served + "index.html")
    box = tab.locator("#quarto-search input").first
    box.click()
    box.press_sequentially("SpeechSplit", delay=5)
    hit = tab.locator("#quarto-search a[href*='speechsplit']").first
    hit.wait_for(timeout=10_000)
    hit.click()
    tab.wait_for_url("**speechsplit**")
    tab.context.close()
    assert not errors


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(chromium, served, scheme):  # noqa: F811
    tab, _ = opened(chromium, served, color_scheme=scheme)
    tab.goto(served + "nerf/rendering.html")
    ground, ink = (tab.evaluate(f"getComputedStyle(document.body).{what}") for what in ("backgroundColor", "color"))
    field = tab.locator(".navbar .smalldocs-search input").first
    box = [field.evaluate(f"e => getComputedStyle(e).{what}") for what in ("backgroundColor", "color")]
    tab.context.close()

    def brightness(colour):
        return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3 / 255

    for back, front in ((ground, ink), box):
        if scheme == "dark":
            assert brightness(back) < .3 < .6 < brightness(front)
        else:
            assert brightness(back) > .9 > .4 > brightness(front)
