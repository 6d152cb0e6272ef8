"""Figures of a run: a PNG with alt text, the plotted points as CSV, one style for all.

Both files go to the folder of the current run: figures/<slug>.png and figures/<slug>.csv.
"""

import base64
import io
import math
import os
import re
import warnings
from contextlib import suppress
from itertools import pairwise

from .files import write_whole
from .record import add_entry, current_run

MAX_PNG_BYTES = 150_000
TINY_FOOTER = "tiny scope: a test bed, not a finding about Qwen"
# Fonts with Chinese and Japanese glyphs, in order of preference, as systems name them.
CJK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC"),
    *("Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "Arial Unicode MS"),
)


def save_figure(fig, slug: str, alt: str, data, measured: bool = True) -> None:
    """Save a figure as PNG and its points as CSV, show it with its alt text, and close it.

    slug: file name, of a-z, 0-9, - and _; alt: what the figure shows, in words made from the
    data; data: DataFrame of exactly the plotted points; measured: False for a drawing or a plan,
    which says nothing about the tiny scope.
    Raises ValueError for a bad slug, no alt text, no data, or a PNG above 150 kB.
    """
    from IPython.display import display
    from matplotlib import pyplot as plt

    run = current_run()
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", slug):
        raise ValueError(f"figure slug {slug!r}: use only a-z, 0-9, - and _")
    if not alt.strip():
        raise ValueError(f"figure {slug!r} has no alt text: say in words what it shows")
    if data is None or not len(data):
        raise ValueError(f"figure {slug!r} has no data: pass the plotted points as a DataFrame")
    if run.tiny and measured:
        fig.text(1, -0.01, TINY_FOOTER, ha="right", va="top", size=7, color="0.35")
    png = _png(fig, slug)
    plt.close(fig)
    folder = run.folder / "figures"
    write_whole(folder / f"{slug}.png", png)
    csv = data.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_whole(folder / f"{slug}.csv", csv.encode())
    add_entry(run, "figures", {"slug": slug, "alt": alt}, "slug")
    bundle = {"image/png": base64.b64encode(png).decode(), "text/plain": alt}
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})


def intervals(ax, places, table, across: bool = False, **style) -> None:
    """Dots at table.value with bars from table.low to table.high; `across`: values run along x.

    places: where on the other axis, names or numbers; table: DataFrame with value, low, high.
    """
    bars = [table.value - table.low, table.high - table.value]
    x, y = (table.value, places) if across else (places, table.value)
    style = {"fmt": "o", "capsize": 3, "ms": 5, "xerr" if across else "yerr": bars} | style
    ax.errorbar(x, y, **style)


def in_words(title: str, names, table) -> str:
    """A table as a sentence: "Title: en 0.95 [0.93, 0.97], fr …", intervals where it has them."""
    parts = []
    for name, row in zip(names, table.to_dict("records"), strict=True):
        known = not math.isnan(row.get("low", math.nan))
        bounds = f" [{row['low']:.3g}, {row['high']:.3g}]" if known else ""
        parts.append(f"{name} {row['value']:.3g}{bounds}")
    return f"{title}: {', '.join(parts)}."


def apart(places, least: float) -> list[float]:
    """Places of labels on an axis, moved up where two are less than `least` apart."""
    out = [float(place) for place in places]
    for low, high in pairwise(sorted(range(len(out)), key=out.__getitem__)):
        out[high] = max(out[high], out[low] + least)
    return out


def drawable(text: str) -> str:
    """A text for a figure: □ for what no font of `plot_style` can draw, and no character that
    matplotlib takes for mathematics."""
    from matplotlib import font_manager, rcParams

    families = [font_manager.FontProperties(family=[name]) for name in rcParams["font.family"]]
    fonts = [font_manager.get_font(font_manager.findfont(family)) for family in families]
    has = [any(font.get_char_index(ord(char)) for font in fonts) for char in text]
    return "".join(c if ok else "□" for c, ok in zip(text, has, strict=True)).replace("$", "＄")


def plot_style() -> None:
    """Set matplotlib's defaults: Okabe-Ito colours, cividis, white face, fonts for all scripts.

    The first installed font of CJK_FONTS, or the file that $QS_FONT names, is used for the
    characters that DejaVu Sans lacks.
    """
    import matplotlib as mpl
    from matplotlib import font_manager

    okabe_ito = "#0072B2 #E69F00 #009E73 #D55E00 #56B4E9 #CC79A7 #F0E442 #000000".split()
    if own := os.environ.get("QS_FONT"):
        font_manager.fontManager.addfont(own)
        cjk = [font_manager.FontProperties(fname=own).get_name()]
    else:
        cjk = _cjk_fonts() or _cjk_fonts(look_again=True)
    mpl.rcParams |= {
        "axes.prop_cycle": mpl.cycler(color=okabe_ito),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.facecolor": "white",
        "font.family": ["DejaVu Sans", *cjk],
        "image.cmap": "cividis",
    }


def _cjk_fonts(look_again: bool = False) -> list[str]:
    """The first of CJK_FONTS that matplotlib knows, if any. It lists the fonts of a machine once;
    `look_again` adds those that were installed since."""
    from matplotlib import font_manager

    if look_again:
        known = {font.fname for font in font_manager.fontManager.ttflist}
        for path in sorted({*font_manager.findSystemFonts()} - known):
            with suppress(Exception):  # whatever a font file that cannot be read makes it raise
                font_manager.fontManager.addfont(path)
    installed = set(font_manager.get_font_names())
    return [name for name in CJK_FONTS if name in installed][:1]


def _png(fig, slug: str) -> bytes:
    """The figure as PNG, where needed with 256 colours or at a lower resolution to stay below
    MAX_PNG_BYTES."""
    missing = set()
    # No Software entry: the same figure gives the same bytes under another matplotlib.
    look = {"facecolor": "white", "bbox_inches": "tight", "metadata": {"Software": None}}
    for dpi in (110, 90, 72):
        buffer = io.BytesIO()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fig.savefig(buffer, dpi=dpi, **look)
        for note in caught:
            if glyph := re.search(r"Glyph (\d+) .* missing from", str(note.message)):
                missing.add(chr(int(glyph[1])))
            else:
                warnings.warn_explicit(note.message, note.category, note.filename, note.lineno)
        if buffer.tell() > MAX_PNG_BYTES:  # small text suffers more from fewer dots than colours
            buffer = _fewer_colours(buffer)
        if buffer.tell() <= MAX_PNG_BYTES:
            break
    else:
        raise ValueError(
            f"figure {slug!r} is {buffer.tell() // 1000} kB, above {MAX_PNG_BYTES // 1000} kB: "
            "draw fewer points or a smaller figure"
        )
    if missing:
        print(
            f"No font for {''.join(sorted(missing))} in figure {slug!r}: "
            "install Noto Sans CJK or set QS_FONT to a font file"
        )
    return buffer.getvalue()


def _fewer_colours(png: io.BytesIO) -> io.BytesIO:
    """A PNG with a palette of 256 colours."""
    from PIL import Image

    small = io.BytesIO()
    Image.open(png).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return small
