"""Small pieces of HTML that keep their meaning where styles and scripts are stripped.

Only div, span, abbr, b, pre and a are used: GitHub and nbconvert's sanitiser keep them and drop
every style. So no meaning is in colour alone.
"""

import html
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from wcwidth import wcswidth

from ..evidence.figures import TINY_FOOTER
from ..evidence.files import short, write_whole

# Black on the strongest colour has a contrast of 9.6 : 1 (WCAG asks for 4.5).
FULL = (230, 159, 0)
TEXT = "#111111"


@dataclass(frozen=True)
class View:
    """What a view shows. In a notebook it shows itself, elsewhere its words.

    data: every number in it, as a DataFrame; alt: what it shows, in words made from the data.
    """

    data: pd.DataFrame
    alt: str
    body: str = field(repr=False)

    def to_html(self, path: str | Path | None = None) -> str:
        """The view as HTML; with `path` also written there as a page of its own."""
        if path is not None:
            head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{esc(self.alt)}"
            write_whole(Path(path), f"{head}</title><body>{self.body}</body></html>\n".encode())
        return self.body

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.body, "text/plain": self.alt}


def esc(text) -> str:
    return html.escape(str(text))


def page(title: str, parts: Iterable[str], tiny: bool) -> str:
    """The HTML of a view: title, parts, and the label of the tiny scope where it belongs."""
    note = f"<div>{TINY_FOOTER}</div>" if tiny else ""
    return f"<div><div><b>{esc(title)}</b></div>{''.join(parts)}{note}</div>"


class Markup(str):
    """HTML that is shown as it is; `shown` is the text that a reader sees of it."""

    shown: str

    def __new__(cls, content: str, shown: str):
        self = super().__new__(cls, content)
        self.shown = shown
        return self


def table(rows: Iterable[Sequence], header: Sequence[str] = ()) -> str:
    """Rows of cells as aligned lines of preformatted text, the header bold.

    Cells are escaped unless they are Markup, and numbers are shortened. It is no <table>: the
    sanitiser shows the tags that browsers add inside one.
    """
    head = [Markup(f"<b>{esc(cell)}</b>", str(cell)) for cell in header]
    lines = [head] * bool(header) + [[_cell(cell) for cell in row] for row in rows]
    widths: list[int] = []
    for line in lines:
        widths += [0] * (len(line) - len(widths))
        for column, cell in enumerate(line[:-1]):  # the last one needs no padding
            widths[column] = max(widths[column], _width(cell.shown))
    out = []
    for line in lines:
        padded = [
            _isolated(cell) + " " * (width - _width(cell.shown))
            for cell, width in zip(line[:-1], widths, strict=False)
        ]
        out.append("  ".join([*padded, *line[-1:]]))
    return f'<pre style="line-height:1.5;overflow-x:auto;white-space:pre">{chr(10).join(out)}</pre>'


def _cell(cell) -> Markup:
    return cell if isinstance(cell, Markup) else Markup(esc(short(cell)), short(cell))


def _isolated(cell: Markup) -> str:
    """Right-to-left words kept from reordering the columns beside them (FSI and PDI marks)."""
    mixed = any(unicodedata.bidirectional(char) in ("R", "AL") for char in cell.shown)
    return f"\u2068{cell}\u2069" if mixed else cell


def _width(text: str) -> int:
    """Columns of a text in a fixed-width font; wcswidth has none for control characters."""
    return columns if (columns := wcswidth(text)) >= 0 else len(text)


def shade(share: float) -> str:
    """A style for a value that is `share` (0 to 1) of the largest: white to orange, dark text."""
    share = min(1.0, max(0.0, share))
    mixed = (round(255 + (full - 255) * share) for full in FULL)
    return f"background:rgb({','.join(map(str, mixed))});color:{TEXT}"


def tokens(shown: Sequence[str], values: Sequence[float], hints: Sequence[str], most: float):
    """A strip: values as shares of `most` colour it, hints appear on hover, the peak is bold."""
    peak = max(range(len(values)), key=lambda i: values[i]) if len(values) else None
    out = []
    for i, (text, value, hint) in enumerate(zip(shown, values, hints, strict=True)):
        inner = esc(text)
        if i == peak and value > 0:
            inner = f"<b>{inner}</b>"
        if value > 0:
            style = f"text-decoration:none;{shade(value / most)}"
            inner = f'<abbr title="{esc(hint)}" style="{style}">{inner}</abbr>'
        out.append(f"<span>{inner}</span>")
    return Markup(f"<span>{''.join(out)}</span>", "".join(shown))
