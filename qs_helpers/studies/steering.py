"""Notebook 03. Remarks cut before the word that makes them toxic, and words in sentences."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import regex


def sentences_with(text: str, words: Iterable[str]) -> float:
    """The share of a text's sentences that hold one of `words`; 0 for a text without any.

    Case is ignored. Words match whole, but anywhere in scripts that put no spaces between them. A
    str is one word; "", which would stand everywhere, is none.
    """
    words = [words] if isinstance(words, str) else words
    found = [s for s in regex.split(r"(?<=[.!?。！？])|\n", text) if regex.search(r"\p{L}", s)]
    any_of = "|".join(map(regex.escape, filter(None, words))) or "(?!)"
    whole = rf"(?i)(?<![\p{{Latin}}\p{{Cyrillic}}])(?:{any_of})(?![\p{{Latin}}\p{{Cyrillic}}])"
    return sum(bool(regex.search(whole, s)) for s in found) / len(found) if found else 0.0


class HalfRemark(NamedTuple):
    """A toxic remark up to its word, and two words that could end it."""

    head: str
    group: str
    """the frame of the remark: the word is gone"""
    toxic: str
    """with the space before it, where there is one"""
    clean: str


def remark_words(remarks: Iterable) -> dict[str, dict[str, list[str]]]:
    """The words that make remarks toxic or clean, {label: {language: sorted words}}.

    They are the word parts of the groups ("frame|word") which stand in their texts. A word of toxic
    remarks is none of clean ones, though harmless remarks may hold it.
    """
    found = {"toxic": defaultdict(set), "clean": defaultdict(set)}
    for text in remarks:
        _, _, word = text.group.partition("|")
        if word and word in text.text:
            found[text.label][text.language].add(word)
    for language, words in found["clean"].items():
        words -= found["toxic"][language]
    return {
        label: {language: sorted(words) for language, words in of.items() if words}
        for label, of in found.items()
    }


def half_remarks(remarks: Iterable, words: Mapping, n: int, seed: int = 0) -> list[HalfRemark]:
    """At most n toxic remarks, cut before their word; no two begin alike.

    words: as `remark_words` gives them; both ends are drawn from those of the remark's language.
    Remarks whose group has no word, that begin with it, or in whose language one label has no
    words, are left out.
    """
    rng, found = np.random.default_rng(seed), {}
    remarks = list(remarks)
    for i in rng.permutation(len(remarks)):
        text = remarks[i]
        frame, _, word = text.group.partition("|")
        head = text.text.partition(word)[0] if word and word in text.text else ""
        ends = [words[label].get(text.language) for label in ("toxic", "clean")]
        if text.label == "toxic" and (start := head.rstrip()) and all(ends):
            tails = (head[len(start) :] + str(rng.choice(end)) for end in ends)
            found.setdefault(start, HalfRemark(start, frame, *tails))
    return list(found.values())[:n]
