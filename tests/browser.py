"""Chromium for tests; where it or its Python client is missing, tests that need it are skipped and say so."""
import shutil

import pytest


@pytest.fixture(scope="module")
def chromium():
    "A running Chromium: Debian's package `chromium`, or the one that Playwright has downloaded."
    client = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install -e '.[browser]'")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with client.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except client.Error as e:
            pytest.skip(f"no Chromium that starts (apt-get install chromium): {str(e).splitlines()[0]}")
        yield browser
        browser.close()
