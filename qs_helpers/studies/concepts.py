"""Notebooks 02 and 04. Texts that have a concept, texts that do not, and copies of texts."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import regex
from scipy.sparse import csr_array, vstack

from ..forward import Readings, read_texts
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


def reads_once(scope, layers: Sequence[int]) -> Callable[..., dict[int, Readings]]:
    """`read_texts` of these layers, as a function of texts and pools, that reads a text only once:
    several concepts share texts, and on a large model reading is what takes the time.

    Rows are kept sparse. Pools are peak, mean, last and rate.
    """
    kept: dict[tuple, csr_array] = {}

    def read(texts: Sequence[str], pools: Sequence[str] = ("peak",)) -> dict[int, Readings]:
        wanted = [(n, pool) for n in layers for pool in pools]
        fresh = [t for t in dict.fromkeys(texts) if any((t, *key) not in kept for key in wanted)]
        for n, part in (read_texts(scope, fresh, layers, pools) if fresh else {}).items():
            for pool in pools:
                rows = csr_array(getattr(part, pool))
                kept.update({(text, n, pool): rows[[i]] for i, text in enumerate(fresh)})
        nothing = np.zeros((0, scope.d_sae), np.float32)
        return {
            n: Readings(
                **{
                    pool: vstack([kept[text, n, pool] for text in texts]).toarray()
                    if len(texts)
                    else nothing
                    for pool in pools
                }
            )
            for n in layers
        }

    return read
