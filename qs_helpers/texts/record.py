"""The record of a text, the kinds of text, and when two texts are the same."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import regex

# The labels of each kind, the positive one first; none where a label is free, and not needed.
KINDS = {
    "passages": (),
    "openings": (),
    "remarks": ("toxic", "clean"),
    "requests": ("harmful", "harmless"),
    "questions": (),
    "items": (),
}


class Text(NamedTuple):
    """One text."""

    text: str
    language: str = ""
    """ISO 639-1 code, or "" where nobody said"""
    label: str = ""
    """one of its kind's two, see KINDS; anything, or "", in the other kinds"""
    group: str = ""
    """what makes texts alike, such as a sentence frame or an article; "frame|word" has two parts,
    and texts that share one of them are alike"""
    split: str = ""
    """"discovery", "validation" or "test"; "" before split_texts"""
    source: str = ""
    """the file or dataset"""


def normal(text: str) -> str:
    """A text without what does not count: case, width, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def own_group(text: str) -> str:
    """The group of a text that is like no other: the same for the same text."""
    return f"text/{hashlib.sha256(normal(text).encode()).hexdigest()[:10]}"


def draw(seed: int, purpose: str, name: str) -> str:
    """Hexadecimal digits that put names in a random order, whatever order they come in."""
    return hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).hexdigest()


def masked(text: str, raw: bool = False) -> str:
    """A text with only the first letter of each word left; as it is with `raw`."""
    return text if raw else regex.sub(r"(?<=[\p{L}\p{N}])[\p{L}\p{M}\p{N}]", "•", text)


# A letter of a script that puts spaces between words.
LETTER = r"[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]"


def mentions(words: Iterable[str]) -> Callable[[str], bool]:
    """A function that says whether a text holds one of some words, in any case.

    They must stand there as whole words ("pain" is not in "painter"), but for those of scripts that
    put no spaces between words. A str is one word; "", which would stand everywhere, is none.
    """
    words = [words] if isinstance(words, str) else words
    whole = [rf"(?<!{LETTER}){regex.escape(word)}(?!{LETTER})" for word in words if word]
    pattern = regex.compile("|".join(whole) or r"(?!)", regex.IGNORECASE | regex.V1)
    return lambda text: pattern.search(text) is not None


@lru_cache(maxsize=20_000)
def letters(text: str) -> str:
    """Letters and digits of a text, in lower case: what is left when it is respelled."""
    return "".join(filter(str.isalnum, text.casefold()))


class Copied(NamedTuple):
    """How near a text comes to others."""

    held: float  # share of `source` that stands in the text: the largest
    source: str
    taken: float  # share of the text that stands in `origin`: the largest
    origin: str


def copied(text: str, others: Iterable[str]) -> Copied:
    """How much of other texts a text holds, and how much of it is taken from one of them.

    Counted are letters, in bytes of UTF-8: those of another text that stand in this one six or more
    in a row (two of Chinese), and those of this one that stand in another twelve or more in a row,
    as a long text has most short runs of any. Of fewer than twelve bytes nothing is a copy.
    """
    mine, others = letters(text).encode(), list(others)
    written = [letters(other).encode() for other in others]
    held = [_share_in(other, mine, 6) for other in written]
    taken = [_share_in(mine, other, 12) for other in written]
    source, origin = int(np.argmax(held)), int(np.argmax(taken))
    return Copied(held[source], others[source], taken[origin], others[origin])


def _share_in(part: bytes, whole: bytes, n: int) -> float:
    """Share of the bytes of a part that stand in the whole, n or more in a row."""
    if len(part) < 12:
        return 0.0
    stands = np.zeros(len(part), bool)
    for i in range(len(part) - n + 1):
        if part[i : i + n] in whole:
            stands[i : i + n] = True
    return float(stands.mean())
