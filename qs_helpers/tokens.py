"""Tokens as people read them.

Piece    one or more tokens that make whole characters, and how to show them
pieces   the pieces of a list of token ids
token    one token as text, or as bytes where it is half a character
visible  text with whitespace and control characters made visible
checked  refuse texts that cannot be tokenized, by their number
batches  numbers of texts of like length, for little padding
"""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import regex

__all__ = ["Piece", "batches", "checked", "pieces", "token", "visible"]

MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "·"}
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
    out = []
    for char in text:
        category = unicodedata.category(char)
        # The joiner and the emoji selector belong to a visible character.
        hidden = category in ("Cc", "Cf", "Zl", "Zp", "Co", "Cn") and char != "\u200d"
        out.append(MARKS.get(char) or (f"‹U+{ord(char):04X}›" if hidden else char))
    return "".join(out) or "∅"


def checked(texts, first: int = 0) -> list[str]:
    """Texts as a list. ValueError names the first that is empty, no string or half a character.

    Numbers in the message count from `first`.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ValueError("texts is empty; give at least one text")
    for number, text in enumerate(texts, first):
        if not isinstance(text, str) or not text:
            raise ValueError(f"text {number} is {text!r}; each text must be a non-empty string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text {number} holds half a character at position {error.start}; "
                "decode whole characters, or with errors='replace'"
            ) from None
    return texts


def _decode(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


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


def batches(lengths: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """Numbers of texts, given their lengths: texts of like length together, each batch of at most
    `most` tokens with its padding (or of one text). At most a tenth is padding, but in batches of
    less than an eighth of `most`, which are not worth a call of their own."""
    batch: list[int] = []
    real = 0
    for i in sorted(lengths, key=lengths.get):
        padded = (len(batch) + 1) * lengths[i]
        wasteful = real >= most / 8 and real + lengths[i] < 0.9 * padded
        if batch and (padded > most or wasteful):
            yield batch
            batch, real = [], 0
        batch.append(i)
        real += lengths[i]
    if batch:
        yield batch
