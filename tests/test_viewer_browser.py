"""The viewer in a real JupyterLab with a real browser: it opens, a slider is dragged, the picture changes, nothing complains."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--no-first-run"]
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}
PIXELS = """img => { const c = document.createElement('canvas'); c.width = img.naturalWidth; c.height = img.naturalHeight;
                     const g = c.getContext('2d'); g.drawImage(img, 0, 0); return c.toDataURL(); }"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(ask, seconds: float, what: str):
    "The first true answer."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if answer := ask():
                return answer
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


@pytest.fixture
def lab(tmp_path):
    "A function from the sources of two cells to the address of their notebook in a JupyterLab of this test alone."
    servers = []

    def start(*sources, **env) -> str:
        cells = [nbformat.v4.new_code_cell(text) for text in sources]
        kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "look.ipynb")
        settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(NO_NEWS))
        port = free_port()
        names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
        folders = {k: str(tmp_path / k.lower()) for k in names} | {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
                   "--ServerApp.token=", "--ServerApp.password=", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
                   f"--ServerApp.root_dir={tmp_path}"]
        environment = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | folders | env
        with open(tmp_path / "lab.log", "w") as log:
            servers.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT))
        wait_for(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status").status == 200, 60, "the start of JupyterLab")
        return f"http://127.0.0.1:{port}/lab/tree/look.ipynb"

    yield start
    for server in servers:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture
def page(tmp_path):
    "A page of Chromium; `page.complaints` are the errors of its console."
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs Playwright: pip install -e '.[browser]'")
    if not CHROMIUM:
        pytest.skip("the browser test needs Chromium, e.g. apt-get install chromium")
    with sync_api.sync_playwright() as p:
        profile, window = str(tmp_path / "profile"), {"width": 1280, "height": 1000}
        browser = p.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=QUIET, viewport=window)
        page = browser.pages[0]
        page.complaints = []
        page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: page.complaints.append(str(e)))
        yield page
        browser.close()


def run_all(page, address: str):
    "Open a notebook and run its cells; the viewer's pictures are there afterwards."
    page.goto(address)
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'", timeout=60_000)
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")           # not waited for
    page.wait_for_selector(".jp-OutputArea-output .widget-image", timeout=60_000)


def slider(page, name: str):
    "The handle of a slider."
    return page.locator(f".widget-slider:has(label:text-is('{name}')) .noUi-handle")


def drag(page, handle, dx: int, steps: int = 4):
    "Take a handle with the mouse and move it to the right."
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y, steps=steps)
    page.mouse.up()


def test_viewer_in_jupyterlab(page, lab, dnerf_home):
    from dnerf.audio.embedding import embed_subject
    from dnerf.nerf.config import compose_config
    from dnerf.nerf.training import train
    from dnerf.subject import toy_subject

    toy = toy_subject(dnerf_home / "data" / "toy", n=88)
    config = compose_config("tiny", subject="toy", audio="mel", name="tiny")
    train(toy, embed_subject(toy, "mel", bar=False), config, show=False)
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    run_all(page, lab("from dnerf.talk.viewer import viewer", "viewer('toy/tiny', size=32)", DNERF_HOME=str(dnerf_home), PYTHONPATH=path))
    shown = page.locator("img.widget-image")
    real, first = shown.nth(0).evaluate(PIXELS), shown.nth(1).evaluate(PIXELS)
    drag(page, slider(page, "right (mm)"), 60)
    wait_for(lambda: shown.nth(1).evaluate(PIXELS) != first, 20, "a change of the rendered picture")
    assert shown.nth(0).evaluate(PIXELS) == real

    page.get_by_role("button", name="all as it was").click()
    wait_for(lambda: shown.nth(1).evaluate(PIXELS) == first, 20, "the return of the first picture")

    page.get_by_role("button", name="play with sound").click()
    page.wait_for_function("[...document.querySelectorAll('video')].some(v => v.currentTime > 0 && v.videoWidth == 512)", timeout=30_000)
    assert page.complaints == []
