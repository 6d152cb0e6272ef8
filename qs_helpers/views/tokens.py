"""Tokens as people read them: pieces that are whole characters."""

from typing import NamedTuple

import regex

from ..writing import _decode, visible

MAX_TOKENS = 4  # no character has more bytes than that in UTF-8, so none needs more tokens


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
            text = _decode(tokenizer, ids[start:stop])
            if "\ufffd" not in text or _spells(tokenizer, text, ids[start:stop]):
                break
        else:
            stop, text = start + 1, _decode(tokenizer, ids[start : start + 1])
        parts.append((text, start, stop))
        start = stop
    return _whole_graphemes(parts)


def _spells(tokenizer, text: str, ids: list[int]) -> bool:
    """True if the text has a U+FFFD of its own, not one that stands for half a character."""
    return tokenizer(text, add_special_tokens=False)["input_ids"] == ids


def _whole_graphemes(parts: list[tuple[str, int, int]]) -> list[Piece]:
    """Join neighbours until every piece ends where a user-perceived character ends."""
    ends, length = set(), 0
    for match in regex.finditer(r"\X", "".join(text for text, _, _ in parts)):
        ends.add(match.end())
    out: list[Piece] = []
    text, begin = "", None
    for part, start, stop in parts:
        text, begin = text + part, start if begin is None else begin
        length += len(part)
        if length in ends or stop == parts[-1][2] or not part:
            out.append(Piece(text, visible(text), begin, stop))
            text, begin = "", None
    return out
