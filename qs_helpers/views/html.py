"""Tokens as people read them, and small pieces of HTML that mean the same without styles.

Only div, span, abbr, b, pre and a are used as tags: GitHub and nbconvert's sanitiser keep them
and drop every style. So no meaning is in colour alone.
"""

import html
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import regex
from wcwidth import wcswidth

from ..evidence.figures import TINY_FOOTER
from ..evidence.files import short, write_whole

# Black on the strongest colour has a contrast of 9.6 : 1 (WCAG asks for 4.5).
MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "·"}
HIDDEN = ("Cc", "Cf", "Zl", "Zp", "Co", "Cn")  # categories of control and format characters
MAX_TOKENS = 4  # no character has more bytes than that in UTF-8, so none needs more tokens
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


class Markup(NamedTuple):
    """HTML that is shown as it is; `shown` is the text that a reader sees of it."""

    html: str
    shown: str


def table(rows: Iterable[Sequence], header: Sequence[str]) -> str:
    """Rows of cells as aligned lines of preformatted text, the header bold.

    Cells are escaped unless they are Markup, and numbers are shortened. It is no <table>: the
    sanitiser shows the tags that browsers add inside one.
    """
    lines = [[Markup(f"<b>{esc(cell)}</b>", str(cell)) for cell in header]]
    lines += [[_cell(cell) for cell in row] for row in rows]
    widths = [max(_width(cell.shown) for cell in column) for column in zip(*lines, strict=True)]
    # The last cell of a line needs no padding.
    out = ["  ".join([*map(_padded, line[:-1], widths), line[-1].html]) for line in lines]
    return f'<pre style="line-height:1.5;overflow-x:auto;white-space:pre">{chr(10).join(out)}</pre>'


def _cell(cell) -> Markup:
    return cell if isinstance(cell, Markup) else Markup(esc(short(cell)), short(cell))


def _padded(cell: Markup, width: int) -> str:
    """A cell filled up with spaces. FSI and PDI marks keep right-to-left words from reordering the
    columns beside them."""
    mixed = any(unicodedata.bidirectional(char) in ("R", "AL") for char in cell.shown)
    text = f"\u2068{cell.html}\u2069" if mixed else cell.html
    return text + " " * (width - _width(cell.shown))


def _width(text: str) -> int:
    """Columns of a text in a fixed-width font; wcswidth has none for control characters."""
    return columns if (columns := wcswidth(text)) >= 0 else len(text)


def shade(share: float) -> str:
    """A style for a value that is `share` (0 to 1) of the largest: white to orange, dark text."""
    share = min(1.0, max(0.0, share))
    mixed = (round(255 + (full - 255) * share) for full in FULL)
    return f"background:rgb({','.join(map(str, mixed))});color:{TEXT}"


def coloured(inner: str, value: float, most: float) -> str:
    """HTML on the colour of its value, the value on hover; as it is where the value is 0."""
    if value <= 0:
        return inner
    style = f"text-decoration:none;{shade(value / most)}"
    return f'<abbr title="{esc(short(value))}" style="{style}">{inner}</abbr>'


def tokens(shown: list[str], values: list[float], most: float) -> Markup:
    """A strip: values as shares of `most` colour it and appear on hover, the peak is bold."""
    inner, peak = [esc(text) for text in shown], values.index(max(values))
    if values[peak] > 0:
        inner[peak] = f"<b>{inner[peak]}</b>"
    spans = [f"<span>{coloured(*pair, most)}</span>" for pair in zip(inner, values, strict=True)]
    return Markup(f"<span>{''.join(spans)}</span>", "".join(shown))


class Piece(NamedTuple):
    """`text` of tokens `start` to `stop` (exclusive); `shown` has whitespace marked."""

    text: str
    shown: str
    start: int
    stop: int


def pieces(tokenizer, ids) -> list[Piece]:
    """Token ids as pieces, in order and without gaps.

    A byte-level tokenizer may split one character over several tokens, and an emoji with joiners
    or an accent over several characters; such tokens are joined. What never becomes a whole
    character is shown as U+FFFD.
    """
    ids = [int(i) for i in ids]
    parts, start = [], 0
    while start < len(ids):
        for stop in range(start + 1, min(start + MAX_TOKENS, len(ids)) + 1):
            some = ids[start:stop]
            text = _decode(tokenizer, some)
            # A text may have a U+FFFD of its own, which does not stand for half a character.
            if "\ufffd" not in text or tokenizer.encode(text, add_special_tokens=False) == some:
                break
        else:
            stop, text = start + 1, _decode(tokenizer, ids[start : start + 1])
        parts.append((text, stop))
        start = stop
    # Neighbours are joined until every piece ends where a user-perceived character ends.
    ends = {match.end() for match in regex.finditer(r"\X", "".join(text for text, _ in parts))}
    out, text, start, length = [], "", 0, 0
    for part, stop in parts:
        text, length = text + part, length + len(part)
        if length in ends or stop == len(ids) or not part:
            out.append(Piece(text, visible(text), start, stop))
            text, start = "", stop
    return out


def token(tokenizer, number: int) -> str:
    """One token as `visible` text, or as its bytes, "‹E4 B8›", where it is no whole character."""
    text = _decode(tokenizer, [number])
    if "\ufffd" not in text:
        return visible(text)
    # Byte-level vocabularies spell a byte as a character: itself where it prints, else 256 + n.
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in prints]
    spelled = {chr(b): b for b in prints} | {chr(256 + n): b for n, b in enumerate(others)}
    codes = [spelled.get(char) for char in tokenizer.convert_ids_to_tokens(number)]
    return "‹" + " ".join(f"{code:02X}" for code in codes) + "›" if None not in codes else text


def visible(text: str) -> str:
    """Spaces, line breaks and tabs as marks; other control and format characters as ‹U+…›."""
    # The joiner belongs to a visible character.
    hidden = [c for c in {*text} - {"\u200d", *MARKS} if unicodedata.category(c) in HIDDEN]
    marks = MARKS | {char: f"‹U+{ord(char):04X}›" for char in hidden}
    return text.translate(str.maketrans(marks)) or "∅"


def _decode(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
