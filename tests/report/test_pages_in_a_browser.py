"""The pages of the committed notebooks in Chromium, with the network refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from qs_helpers.report import pages
from qs_helpers.report.compare import compare_runs

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
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


@pytest.fixture
def index(tmp_path):
    """The index of the committed runs, as a report writes it."""
    outcomes = []
    for path in NOTEBOOKS[1:]:
        folder = ROOT / "figures" / path.stem
        (tmp_path / path.stem).mkdir()
        (tmp_path / path.stem / "figures").symlink_to(folder)
        run = SimpleNamespace(
            results=folder / "results.json",
            notebook=path,
            stem=path.stem,
            folder=tmp_path / path.stem,
        )
        seconds = json.loads((folder / "results.json").read_text())["seconds"]
        outcomes.append(SimpleNamespace(run=run, error=None, seconds=seconds, kept=""))
    plan = SimpleNamespace(preset=SimpleNamespace(name="tiny"), out=tmp_path)
    return pages.write_index(plan, outcomes, NOTEBOOKS[0])


def test_the_index_answers_on_its_first_screens(browser, index):
    assert index.stat().st_size < 3_000_000
    context = browser.new_context(offline=True, viewport={"width": 1920, "height": 1080})
    page = context.new_page()
    page.goto(index.as_uri())
    cards = page.locator(".card")
    assert cards.count() == len(NOTEBOOKS) - 1
    last = cards.last.bounding_box()
    assert last["y"] + last["height"] < 1.5 * 1080, "answers take a screen and a half"
    assert page.locator(".card img").count() == cards.count()
    assert page.locator(".card .caution").count() >= 5
    # Invariants, claims and provenance are there, and folded.
    assert page.locator("details[open]").count() == 0
    assert not page.locator("td >> text=hook").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    context.close()


@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_of_the_index_stands_in_the_way_of_a_keyboard(browser, index, width):
    serious(browser, index, width)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_nothing_of_a_page_stands_in_the_way_of_a_keyboard(browser, path, tmp_path):
    nb = nbformat.read(path, as_version=4)
    results = json.loads((ROOT / "figures" / path.stem / "results.json").read_text())
    html = pages.notebook_page(nb, path.stem, "tiny", set(), results)
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    assert len(html.encode()) < 3_000_000
    serious(browser, tmp_path / "page.html", 1280)


@pytest.fixture
def comparison(tmp_path):
    """The committed runs of two models compared."""
    figures = ROOT / "figures"
    return compare_runs([figures, figures / "smollm2"], tmp_path / "compared.html")


@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_of_a_comparison_stands_in_the_way_of_a_keyboard(browser, comparison, width):
    serious(browser, comparison, width)


@pytest.mark.parametrize("page", ["index", "comparison", "03_steer"])
def test_what_is_folded_is_printed(browser, page, request, tmp_path):
    if page == "03_steer":
        path, nb = tmp_path / "page.html", nbformat.read(ROOT / "notebooks/03_steer.ipynb", 4)
        path.write_text(pages.notebook_page(nb, page, "tiny", set()), encoding="utf-8")
    else:
        path = request.getfixturevalue(page)
    context = browser.new_context(offline=True)
    view = context.new_page()
    view.goto(path.as_uri())
    shown = """[...document.querySelectorAll('details:not([open]) > :not(summary)')].map(
        e => e.checkVisibility({contentVisibilityAuto: true}) && e.offsetHeight > 0)"""
    # What content-visibility hides is known once a frame is painted, not at once.
    frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    view.evaluate(frame)
    on_screen = view.evaluate(shown)
    view.emulate_media(media="print")
    view.evaluate(frame)
    printed = view.evaluate(shown)
    context.close()
    assert len(printed) > 2 and not any(on_screen) and all(printed)


def serious(browser, path, width):
    """axe finds nothing serious on a page, with all that is folded unfolded."""
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe.Axe().run(page).response["violations"]
    context.close()
    bad = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in bad] == []
