"""A page in headless Chromium, and what goes wrong in it."""

import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine: pages are not tried in a browser")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(chromium, file, look, wrong):
    """A page at a width, in a colour scheme; what goes wrong is appended to `wrong`."""
    width, scheme = look
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(240_000)
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if _outside(request.url, file.parent) else None)
    page.goto(file.as_uri())
    return page


def _outside(address, folder):
    parsed = urlparse(address)
    inside = parsed.scheme == "file" and Path(unquote(parsed.path)).is_relative_to(folder.parent)
    return not inside and parsed.scheme not in ("blob", "data")


def serious(page):
    """What axe finds that keeps somebody from reading the page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
