"""The pages of the committed notebooks in Chromium, with the network refused."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from qs_helpers.report import pages

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_page_shows_everything_without_a_network(browser, path, scheme, tmp_path):
    nb = nbformat.read(path, as_version=4)
    results = json.loads((ROOT / "figures" / path.stem / "results.json").read_text())
    html = pages.notebook_page(nb, path.stem, "tiny", set(), results, with_code=scheme == "dark")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")

    asked, failed, said = [], [], []
    context = browser.new_context(offline=True, color_scheme=scheme)
    page = context.new_page()
    page.on("request", lambda r: asked.append(r.url) if r.url.startswith("http") else None)
    page.on("requestfailed", lambda r: failed.append(r.url))
    page.on("console", lambda m: said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_load_state()
    images = page.evaluate(
        "[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt.trim().length])"
    )
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    context.close()

    assert (asked, failed, said) == ([], [], [])
    figures = sum(
        "image/png" in output.get("data", {})
        for cell in nb.cells
        for output in cell.get("outputs", [])
    )
    assert len(images) == figures >= 2
    assert all(shown and alt > 20 for shown, alt in images)
    assert colour == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    assert wide <= 0  # nothing sticks out to the right
