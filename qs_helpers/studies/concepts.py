"""Notebook 02. Texts that have a concept, and texts that do not."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

import numpy as np
import regex

from ..texts import Text

# A letter of a script that puts spaces between words.
LETTER = r"[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]"


def two_sides(
    texts: Iterable[Text],
    keep: Callable[[Text], bool],
    n: int,
    alike: Callable[[Text], Hashable] | None = None,
    seed: int = 0,
) -> tuple[list[Text], list[Text]]:
    """At most n texts for which keep(text) holds, and as many others, drawn at random.

    alike: if given, each of the others has the same alike(text) as one of the kept, such as its
    language. What has no partner is left out.
    """
    texts = list(texts)
    others: dict[Hashable, list[Text]] = defaultdict(list)
    kept = []
    for i in np.random.default_rng(seed).permutation(len(texts)):
        if keep(texts[i]):
            kept.append(texts[i])
        else:
            others[alike(texts[i]) if alike else None].append(texts[i])
    pairs = []
    for text in kept:
        same = others[alike(text) if alike else None]
        if same and len(pairs) < n:
            pairs.append((text, same.pop()))
    return [pos for pos, _ in pairs], [neg for _, neg in pairs]


def mentions(words: Iterable[str]) -> Callable[[str], bool]:
    """A function that says whether a text holds one of some words, in any case.

    They must stand there as whole words ("pain" is not in "painter"), but for those of scripts that
    put no spaces between words. A str is one word; "", which would stand everywhere, is none.
    """
    words = [words] if isinstance(words, str) else words
    whole = [rf"(?<!{LETTER}){regex.escape(word)}(?!{LETTER})" for word in words if word]
    pattern = regex.compile("|".join(whole) or r"(?!)", regex.IGNORECASE | regex.V1)
    return lambda text: pattern.search(text) is not None
