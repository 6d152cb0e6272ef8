"""`explore` and the page to try things on, by themselves and in a real browser.

JupyterLab and Voila on loopback, headless Chromium, keys that are pressed. Without Chromium, its
driver or Voila these tests skip and say so; `.ci/run` and `make test-long` install them.
Screenshots go to the folder that QS_ARTIFACTS names, else to a temporary one.
"""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest

import qs_helpers as qs
from qs_helpers.views import explorer

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "explore.ipynb"
CODE = """import qs_helpers as qs
qs.views.explore(qs.load_scope("tiny"), "you are a fool!", 2, 7)"""


def test_in_a_report_the_static_view_stands_alone(monkeypatch, capsys):
    shown = []
    monkeypatch.setenv("QS_STATIC", "1")
    monkeypatch.setattr("qs_helpers.views.explorer.display", shown.append)
    qs.views.explore(qs.load_scope("tiny"), "you are a fool!", 2, 7)
    assert [type(view).__name__ for view in shown] == ["View"]
    assert "in JupyterLab" in capsys.readouterr().out


def test_controls_redraw_and_say_what_cannot_be_shown(monkeypatch):
    shown = []
    monkeypatch.delenv("QS_STATIC", raising=False)
    monkeypatch.setattr("qs_helpers.views.explorer.display", shown.append)
    qs.views.explore(qs.load_scope("tiny"), "you are a fool!", 2, 7)
    text, layer, feature, band, picture = shown[1].children
    before = picture.value
    assert "layer 2, feature 7" in before
    layer.value = 3
    assert "layer 3, feature 7" in picture.value
    feature.value = 9
    assert "feature 9" in picture.value
    text.value = ""
    assert "must be a non-empty string" in picture.value
    assert list(band.options) == ["text"]


ENDLESS = {
    "": "text 0 is ''; each text must be a non-empty string",
    "a " * 2000: "2001 tokens; split it: the model reads at most 1024",
    "a" * 100_000_000: "the text has 100,000,000 characters, and at most 20,000 are shown",
}


@pytest.mark.parametrize("text", ENDLESS)
@pytest.mark.parametrize("static", [True, False])
def test_an_empty_or_endless_text_is_said_and_can_be_mended(monkeypatch, capsys, text, static):
    shown = []
    monkeypatch.setenv("QS_STATIC", "1") if static else monkeypatch.delenv("QS_STATIC", False)
    monkeypatch.setattr("qs_helpers.views.explorer.display", shown.append)
    qs.views.explore(qs.load_scope("tiny"), text, 2, 7)
    assert ENDLESS[text] in capsys.readouterr().out
    assert len(shown) == (0 if static else 1)
    if not static:
        text_box, *_, picture = shown[0].children
        assert ENDLESS[text].replace("'", "&#x27;") in picture.value
        text_box.value = "you are a fool!"
        assert "layer 2, feature 7" in picture.value


def test_a_feature_that_fires_nowhere_is_said_in_every_band(monkeypatch, tmp_path):
    shown, scope = [], qs.load_scope("tiny")
    found = qs.views.scan_corpus(scope, ["you are a fool!"], [2], tmp_path)
    silent = int((found.density(2) == 0).argmax())
    monkeypatch.delenv("QS_STATIC", raising=False)
    monkeypatch.setattr("qs_helpers.views.explorer.display", shown.append)
    qs.views.explore(scope, "you are a fool!", 2, silent, found)
    *_, band, picture = shown[1].children
    assert "does not fire on any of" in picture.value
    for name in band.options[1:]:
        band.value = name
        assert "silent: it fires nowhere in these" in picture.value


@pytest.mark.parametrize(("layer", "feature"), [(2, 100_000), (9, 7)])
def test_a_place_that_there_is_not_is_refused(layer, feature):
    with pytest.raises(ValueError, match=f"{max(layer, feature)}"):
        qs.views.explore(qs.load_scope("tiny"), "you are a fool!", layer, feature)


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    """What `explore_app` is given: a scope, a scan of two layers, their scales."""
    scope = qs.load_scope("tiny")
    texts = ["you are a fool!", "the baker learns the anthem.", "le chat mange le poisson."]
    found = qs.views.scan_corpus(scope, texts, [2, 3], tmp_path_factory.mktemp("scan"))
    return scope, found, qs.scales(scope, texts, [2, 3])


@pytest.fixture
def tabs(monkeypatch, explored):
    """The three tabs; each a list of its controls, the picture last."""
    shown = []
    monkeypatch.delenv("QS_STATIC", raising=False)
    monkeypatch.setattr(explorer, "display", shown.append)
    qs.views.explore_app(*explored, "you are a fool!", "the baker thinks that")
    _, tabs = shown[0].children
    assert tabs.titles == ("Analyze", "Compare", "Steer")
    return [list(tab.children) for tab in tabs.children]


def test_a_text_leads_to_its_map_and_to_its_strongest_feature(tabs, explored):
    box, cells, hint, chosen, picture = tabs[0]
    (layer, feature), ranked = chosen.children[0].children, chosen.children[1]
    data = qs.views.layer_map(explored[0], box.value, [2, 3]).data
    strongest = data.loc[data[data.layer == 3].value.idxmax()]
    assert (layer.value, feature.value) == (3, str(strongest.feature))
    assert ranked.value == strongest.feature
    assert ranked.options[0][0].startswith(f"{strongest.feature}: ")
    assert picture.value.count(f"layer 3, feature {strongest.feature}<") == 2  # strip and card
    assert "Layer 3: largest" in hint.value

    box.value = "le chat mange le poisson."
    data = qs.views.layer_map(explored[0], box.value, [2, 3]).data
    assert feature.value == str(data.loc[data[data.layer == 3].value.idxmax()].feature)
    columns = 1 + data.start.nunique()
    assert len(cells.children) == 3 * columns  # tokens, layer 2, layer 3
    assert "poisson" in picture.value.replace("</span><span>", "")


def test_a_cell_or_a_row_of_the_list_is_a_choice(tabs):
    _, cells, _, chosen, picture = tabs[0]
    (layer, feature), ranked = chosen.children[0].children, chosen.children[1]
    cell = next(c for c in cells.children if "layer 2, " in (c.tooltip or "") and not c.disabled)
    cell.click()
    assert (layer.value, feature.value) == (2, cell.description)
    assert f"layer 2, feature {cell.description}<" in picture.value
    ranked.value = ranked.options[1][1]
    assert f"layer 2, feature {ranked.value}<" in picture.value
    layer.value = 3
    assert feature.value == str(ranked.options[0][1]) and "layer 3, " in picture.value


def test_a_long_text_has_a_map_of_its_beginning(tabs):
    box, cells, hint, *_ = tabs[0]
    box.value = "the baker learns the anthem. " * 20
    assert len(cells.children) == 3 * (1 + explorer.COLUMNS)
    assert f"The first {explorer.COLUMNS} of " in hint.value


@pytest.mark.parametrize(
    ("typed", "said"),
    {
        "99999": "feature 99999 is out of range; choose 0 to 1023",
        "seven": "feature 'seven' is no number; choose 0 to 1023",
        "-1": "feature '-1' is no number; choose 0 to 1023",
    }.items(),
)
def test_an_unknown_feature_is_refused_in_words(tabs, typed, said):
    (_, feature), picture = tabs[0][3].children[0].children, tabs[0][-1]
    *_, button, steered = tabs[2]
    feature.value = typed
    button.click()
    for shown in (picture, steered):
        assert f'role="alert">{html.escape(said)}<' in shown.value
    feature.value = "7"
    button.click()
    for shown in (picture, steered):
        assert "layer 3, feature 7<" in shown.value


def test_an_empty_text_is_refused_in_every_tab_and_can_be_mended(tabs):
    for box, picture, press in (
        (tabs[0][0], tabs[0][-1], lambda: None),
        (tabs[1][1], tabs[1][-1], tabs[1][-2].click),
        (tabs[2][0], tabs[2][-1], tabs[2][-2].click),
    ):
        before, box.value = box.value, ""
        press()
        assert "must be a non-empty string" in picture.value
        box.value = before
        press()
        assert "alert" not in picture.value and picture.value


def test_two_texts_are_compared(tabs):
    a, b, button, picture = tabs[1]
    a.value, b.value = "you are a fool!", "le chat mange le poisson."
    assert picture.value == ""  # not before it is asked for
    button.click()
    assert "b: le chat mange le poisson." in picture.value


def test_a_steered_text_differs_and_strength_0_does_not(tabs, explored):
    _, layer, feature, row, button, picture = tabs[2]
    layer.value, feature.value, strength = 2, "7", row.children[0]
    strength.value = 1.0
    button.click()
    made = qs.views.steer_beside(explored[0], explored[2], "the baker thinks that", (2, 7), 1.0)
    assert made.edit.tolist() == ["unedited", "layer 2, feature 7", "a random direction"]
    assert made.text.nunique() == 3
    for text in made.text:
        assert html.escape(text.strip()) in picture.value
    median = explored[2][2].median
    assert f"Both edits are {median:.3g} long" in picture.value
    strength.value = 0.0
    button.click()
    assert picture.value.count("(the same as unedited)") == 2


@pytest.mark.parametrize("strength", [-1.5, 0.4])
def test_the_random_direction_is_as_large_as_the_feature(explored, strength):
    scope, _, scales = explored
    made = qs.views.steer_beside(scope, scales, "the baker thinks that", (2, 7), strength)
    arms = [{2: qs.add(arm.direction, arm.strength, scales[2])} for arm in made.arm]
    sizes = [float(qs.edit_sizes(scope, ["you are a fool!"], arm)["size"][0]) for arm in arms]
    assert np.allclose(sizes, [0, *2 * [abs(strength) * scales[2].median]], rtol=1e-4)
    one, other = (arm.direction / arm.direction.norm() for arm in made.arm[1:])
    assert abs(float(one @ other)) < 0.5


def test_a_chat_model_that_writes_nothing_is_asked_in_its_template(monkeypatch, explored):
    scope, asked = qs.load_scope("tiny-instruct"), []

    def silent(scope, prompts, scales, arms, **options):
        asked.extend(prompts)
        return [[""], ["a"], ["b"]] if len(asked) == 1 else [["c"], ["d"], ["e"]]

    monkeypatch.setattr(explorer, "sweep", silent)
    made = qs.views.steer_beside(scope, explored[2], "the baker", (2, 7), 1.0)
    assert made.text.tolist() == ["c", "d", "e"]
    assert asked == ["the baker", scope.chat("Continue this text.") + "the baker"]


def test_what_fails_is_said_and_the_next_try_works(tabs, monkeypatch):
    *_, button, picture = tabs[2]

    def full(*args, **options):
        raise RuntimeError("out of <memory>")

    with monkeypatch.context() as broken:
        broken.setattr(explorer, "sweep", full)
        button.click()
        assert "RuntimeError: out of &lt;memory&gt;" in picture.value
    button.click()
    assert "unedited" in picture.value


def test_in_a_report_the_map_stands_alone(monkeypatch, capsys, explored):
    shown = []
    monkeypatch.setenv("QS_STATIC", "1")
    monkeypatch.setattr(explorer, "display", shown.append)
    qs.views.explore_app(*explored, "you are a fool!", "the baker thinks that")
    assert [type(view).__name__ for view in shown] == ["View"]
    assert "make explore" in capsys.readouterr().out


def test_the_notebook_of_the_page_runs(monkeypatch, tmp_path):
    shown, names = [], {}
    monkeypatch.setenv("QS_STATIC", "1")
    monkeypatch.setenv("QS_PRESET", "tiny")
    monkeypatch.setenv("QS_RUNS", str(tmp_path))
    monkeypatch.setattr(explorer, "display", shown.append)
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert not any(cell.outputs for cell in cells)  # no stamp says when they would be stale
    for cell in cells:
        exec(cell.source.replace("100, cfg.N_DOCS", "5, cfg.N_DOCS"), names)
    assert len(shown) == 1 and names["found"].layers == names["scope"].layers


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab whose folder holds one notebook, explore.ipynb."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(CODE)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "explore.ipynb")
    port = _free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    command += ["--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={folder}"]
    env = {name: value for name, value in os.environ.items() if name != "QS_STATIC"}
    env |= {"JUPYTER_CONFIG_DIR": str(folder / ".config"), "HOME": str(folder)}
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api", server, folder / "lab.log")
            yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb"
        finally:
            server.terminate()
            server.wait(20)


def _wait_for(address: str, server, log: Path) -> None:
    for _ in range(120):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                json.load(answer)
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not answer: {log.read_text()}")


@pytest.fixture
def page():
    """A page of headless Chromium; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1200, "height": 900})
        browser.close()


@pytest.mark.long
def test_the_layer_slider_changes_the_picture_in_a_real_browser(lab, page, tmp_path):
    page.set_default_timeout(60_000)
    page.goto(lab)
    cell = page.locator(".jp-CodeCell").first
    cell.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # or the keys below are lost
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    picture = page.locator(".qs-explore .widget-html-content")
    picture.get_by_text("layer 2, feature 7").first.wait_for()
    before = picture.inner_html()

    page.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    picture.get_by_text("layer 3, feature 7").first.wait_for()
    assert picture.inner_html() != before
    _shoot(page, tmp_path, "explore.png")


@pytest.fixture(scope="module")
def voila(tmp_path_factory):
    """The process that serves notebooks/explore.ipynb, and the address with its token."""
    package = pytest.importorskip("voila", reason="voila is not installed: make explore does")
    folder, port = tmp_path_factory.mktemp("voila"), _free_port()
    share = Path(package.__file__).parents[1] / "share" / "jupyter"
    env = {name: value for name, value in os.environ.items() if name != "QS_STATIC"}
    env |= {"QS_PRESET": "tiny", "QS_RUNS": str(folder), "JUPYTER_PATH": str(share)}
    env |= {"JUPYTER_CONFIG_DIR": str(folder / ".config"), "HOME": str(folder)}
    command = [sys.executable, "-m", "voila", NOTEBOOK.name, "--no-browser", f"--port={port}"]
    with open(folder / "voila.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=NOTEBOOK.parent)
        try:
            for _ in range(120):
                said = (folder / "voila.log").read_text()
                assert server.poll() is None, said
                if address := re.search(rf"http://127\.0\.0\.1:{port}/\?token=\w+", said):
                    break
                time.sleep(0.5)
            assert address, f"Voila did not answer: {said}"
            yield server, address.group()
        finally:
            server.terminate()
            server.wait(20)


@pytest.mark.long
def test_the_page_is_for_this_machine_and_who_has_the_token(voila):
    server, address = voila
    with urllib.request.urlopen(address.split("?")[0], timeout=20) as answer:
        assert "/login" in answer.url
    heard = [
        c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"
    ]
    assert set(heard) == {"127.0.0.1"}


def _opened(browser, address: str, foreign: list):
    page = browser.new_page(viewport={"width": 1200, "height": 1400})
    page.set_default_timeout(60_000)

    def note(request) -> None:  # what the page asks for elsewhere, and who stopped it
        if request.url.startswith("http") and "//127.0.0.1:" not in request.url:
            foreign.append((request.url, request.failure))

    for end in ("requestfinished", "requestfailed"):
        page.on(end, note)
    page.goto(address)
    page.locator(".qs-explore").first.get_by_text("nearest feature").wait_for()
    return page


def _tab_to(page, selector: str) -> None:
    """Tab until what has the focus is that."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"Tab does not lead to {selector}")


@pytest.mark.long
def test_by_keyboard_alone_and_one_visitor_beside_another(voila, page, tmp_path):
    (server, address), foreign = voila, []
    page.close()
    own = _opened(page.context.browser, address, foreign)
    first = set(_kernels(server))
    pictures = own.locator(".qs-explore .widget-html-content")

    _tab_to(own, "textarea")
    own.keyboard.press("Control+A")
    own.keyboard.type("le chat mange le poisson.")
    _tab_to(own, "select[size]")  # which leaves the text, so that it counts
    pictures.first.get_by_text("poisson").first.wait_for()
    own.keyboard.press("ArrowDown")
    listed = own.locator("select[size] option:checked").inner_text().split(":")[0]
    pictures.first.get_by_text(f"feature {listed}").first.wait_for()

    own.keyboard.press("Shift+Tab")
    own.keyboard.press("Control+A")
    own.keyboard.type("99999")
    own.keyboard.press("Enter")
    alert = own.get_by_role("alert").get_by_text("feature 99999 is out of range; choose 0 to 1023")
    alert.wait_for()
    own.keyboard.press("Control+A")
    own.keyboard.type("7")
    own.keyboard.press("Enter")
    pictures.first.get_by_text("layer 3, feature 7").first.wait_for()
    _shoot(own, tmp_path, "explore-analyze.png")
    _accessible(own)

    for _ in range(30):  # back to the tabs
        own.keyboard.press("Shift+Tab")
        if own.evaluate("document.activeElement.getAttribute('role')") == "tab":
            break
    own.keyboard.press("ArrowRight")
    own.keyboard.press("ArrowRight")
    own.keyboard.press("Enter")
    _tab_to(own, "button")
    own.keyboard.press("Enter")
    own.get_by_text("Both edits are").wait_for()
    unedited, steered, random = own.locator(".qs-steered").all_inner_texts()
    assert steered != unedited and steered != random
    _shoot(own, tmp_path, "explore-steer.png")
    _accessible(own)

    other = _opened(page.context.browser, address, foreign)
    assert len(set(_kernels(server)) - first) == 1
    for kernel in first:
        kernel.kill()
    other.get_by_role("tab", name="Compare").click()
    other.get_by_role("button", name="compare").click()
    other.get_by_text("Two texts compared by firing rate").wait_for()
    assert [asked for asked in foreign if asked[1] != "csp"] == []


def _kernels(server) -> list:
    children = psutil.Process(server.pid).children(recursive=True)
    return [child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())]


def _accessible(page) -> None:
    """axe finds nothing serious in what a visitor sees."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not there")
    found = axe.Axe().run(page).response["violations"]
    bad = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], v["nodes"][0]["html"], v["nodes"][0]["any"][0]["data"]) for v in bad] == []


def _shoot(page, folder: Path, name: str) -> None:
    folder = Path(os.environ.get("QS_ARTIFACTS") or folder)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / name)
    assert (folder / name).stat().st_size > 10_000
