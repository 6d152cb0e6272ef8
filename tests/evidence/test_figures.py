"""Figures: their words and numbers beside the picture, its size and style, what is refused."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qs_helpers.evidence import figures


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as (bundle, metadata)."""
    seen = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, raw, metadata: seen.append((data, metadata))
    )
    return seen


def test_a_table_in_words_has_intervals_where_there_are_any():
    table = pd.DataFrame({"value": [0.5, 0.25], "low": [0.4, np.nan], "high": [0.6, np.nan]})
    assert figures.in_words("F1", ["en", "fr"], table) == "F1: en 0.5 [0.4, 0.6], fr 0.25."
    assert figures.in_words("F1", ["en"], table[["value"]][:1]) == "F1: en 0.5."


def saved(run) -> dict:
    return json.loads((run.folder / "results.json").read_text(encoding="utf-8"))


def test_figure_with_alt_text_and_csv_twin(run, shown):
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    figures.save_figure(fig, "a-line", "A line from 1 to 2.", pd.DataFrame({"y": [1, 2 / 3]}))
    png = (run.folder / "figures" / "a-line.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) < figures.MAX_PNG_BYTES
    assert (run.folder / "figures" / "a-line.csv").read_text() == "y\n1\n0.666667\n"
    bundle, metadata = shown[0]
    assert metadata == {"image/png": {"alt": "A line from 1 to 2."}}
    assert bundle["text/plain"] == "A line from 1 to 2."
    assert saved(run)["figures"] == [{"slug": "a-line", "alt": "A line from 1 to 2."}]
    assert [text.get_text() for text in fig.texts] == [figures.TINY_FOOTER]
    assert not plt.fignum_exists(fig.number)


@pytest.mark.parametrize(
    ("slug", "alt", "data", "message"),
    [
        ("A line", "alt", [1], "figure slug 'A line': use only a-z, 0-9, - and _"),
        ("../x", "alt", [1], "figure slug"),
        ("x", " ", [1], "figure 'x' has no alt text: say in words what it shows"),
        ("x", "alt", [], "figure 'x' has no data: pass the plotted points as a DataFrame"),
    ],
)
def test_figures_that_are_refused(run, shown, slug, alt, data, message):
    with pytest.raises(ValueError, match=message):
        figures.save_figure(plt.figure(), slug, alt, pd.DataFrame({"y": data}))
    plt.close("all")
    assert saved(run)["figures"] == [] and not shown


@pytest.mark.parametrize(
    ("inches", "dots"),
    [(2.4, 110), (4, 90)],  # full resolution with fewer colours; then a lower resolution too
)
def test_heavy_figure_loses_colours_then_resolution(run, shown, inches, dots):
    figures.save_figure(noise(inches), "noise", "Noise.", pd.DataFrame({"y": [1]}))
    path = run.folder / "figures" / "noise.png"
    assert path.stat().st_size <= figures.MAX_PNG_BYTES
    with Image.open(path) as picture:
        assert picture.mode == "P"
        # the margins and the footer add .3 to .4 inches
        assert picture.height / (inches + 0.35) == pytest.approx(dots, rel=0.08)


def test_too_heavy_figure_is_refused(run, shown):
    with pytest.raises(ValueError, match="figure 'big' is .* kB, above 150 kB: draw few"):
        figures.save_figure(noise(8), "big", "Noise.", pd.DataFrame({"y": [1]}))
    plt.close("all")


def noise(inches):
    fig = plt.figure(figsize=(inches, inches))
    pixels = np.random.default_rng(0).random((700, 700, 3))
    fig.add_axes((0, 0, 1, 1)).imshow(pixels, interpolation="nearest")
    return fig


def test_missing_glyphs_give_one_line(run, shown, capsys, monkeypatch):
    fig, ax = plt.subplots()
    ax.set_title("\U000f0000\U000f0001")  # private-use characters, which no font has
    figures.save_figure(fig, "x", "Empty axes.", pd.DataFrame({"y": [1]}))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "in figure 'x': install Noto Sans CJK or set QS_FONT to a font file" in out


def test_plot_style_is_colour_blind_safe():
    with plt.rc_context():
        figures.plot_style()
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"][:2] == ["#0072B2", "#E69F00"]
        assert plt.rcParams["image.cmap"] == "cividis"
        assert plt.rcParams["figure.facecolor"] == "white"
        assert plt.rcParams["font.family"][0] == "DejaVu Sans"


def test_a_drawing_is_not_called_a_measurement(run, shown):
    fig = plt.figure()
    figures.save_figure(fig, "x", "A box.", pd.DataFrame({"y": [1]}), measured=False)
    assert fig.texts == []


def test_a_font_that_was_installed_after_matplotlib_looked_is_found(monkeypatch):
    from matplotlib import font_manager

    manager = font_manager.fontManager
    ours = font_manager.findfont("DejaVu Sans Mono")
    monkeypatch.setattr(figures, "CJK_FONTS", ("DejaVu Sans Mono",))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [ours, "/nowhere/broken.ttf"])
    others = [font for font in manager.ttflist if font.name != "DejaVu Sans Mono"]
    monkeypatch.setattr(manager, "ttflist", others)
    monkeypatch.setattr(font_manager, "get_font_names", lambda: [f.name for f in manager.ttflist])
    assert figures._cjk_fonts() == []
    with plt.rc_context():
        figures.plot_style()
        assert plt.rcParams["font.family"] == ["DejaVu Sans", "DejaVu Sans Mono"]


def test_what_no_font_has_is_a_box_and_a_dollar_is_no_formula():
    with plt.rc_context({"font.family": ["DejaVu Sans"]}):
        assert figures.drawable("a\U000f0000 5$") == "a□ 5＄"
    with plt.rc_context({"font.family": ["sans-serif"]}):
        assert figures.drawable("plain") == "plain"


def test_labels_that_would_overlap_move_up():
    assert figures.apart([0.5, 0.0, 0.02], 0.06) == [0.5, 0.0, 0.06]
    assert figures.apart([0.1, 0.1, 0.1], 0.5) == pytest.approx([0.1, 0.6, 1.1])
    assert figures.apart([], 1) == []
