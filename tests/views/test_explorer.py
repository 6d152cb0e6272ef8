"""`explore` in a real browser: JupyterLab on loopback, headless Chromium, a slider that is moved.

Without Chromium or its driver the test skips and says so; `.ci/run` installs them. Screenshots
go to the folder that QS_ARTIFACTS names, else to a temporary one.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

import qs_helpers as qs

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
    folder = Path(os.environ.get("QS_ARTIFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / "explore.png")
    assert (folder / "explore.png").stat().st_size > 10_000
