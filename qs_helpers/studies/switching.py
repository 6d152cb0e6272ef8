"""Notebook 05. Code-switching: letters of a script that a language does not use.

Han is shared by Chinese and Japanese, so neither is foreign in the other by Han alone; English in
French cannot be told by script. Code, LaTeX, links and what is copied from the prompt do not count,
nor do digits and punctuation of any width.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import regex
import torch
from torch import Tensor

from ..controls import matched_features
from ..writing import SCRIPTS

SCRIPTS_OF = {
    "en": ("Latin",),
    "fr": ("Latin",),
    "ru": ("Cyrillic",),
    "ja": ("Han", "Kana"),
    "zh": ("Han",),
}
# Words of these scripts stand right behind a link or an address, without a space.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]"
SPACED = rf"(?!{UNSPACED})"
IN_LINK = r"[\w\-./?=&%#~:+,;@!]"
# What is written in another script by right.
QUOTED = regex.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$"
    # A formula, but not what stands between two prices: a dollar before a number closes none, and
    # what begins with a number ends right behind a letter or digit.
    r"|(?<![\\\dA-Za-z])\$(?![ \t]?\.?\d)[^$\n]+\$(?!\.?\d)"
    r"|(?<![\\\dA-Za-z])\$(?=\.?\d)[^$\n]+(?<=[^\s\\])\$(?![ \t]?\.?\d)"
    r"|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{.*?\\end\{[^}]*\}"
    # A link; deep in a path its last part may be a title in such a script.
    rf"|(?:https?://|www\.)(?:{SPACED}{IN_LINK})+"
    rf"(?:(?<=\w/{IN_LINK}*[/=_]){UNSPACED}{IN_LINK}*)?"
    rf"|(?:{SPACED}[\w.+-])+@(?:{SPACED}[\w-])+\.(?:{SPACED}[\w.])+",
    regex.DOTALL,
)


class Switching(NamedTuple):
    """Foreign letters of one text, what does not count left aside."""

    any: bool
    """is there a run?"""
    share: float
    """foreign letters over letters, 0 for a text without letters"""
    runs: tuple[tuple[int, int], ...]
    """start and stop of each run of two foreign letters or more (one of Han or Kana)"""
    onset: int | None
    """where the first run starts, in characters"""


def switching(text: str, language: str, prompt: str = "") -> Switching:
    """Runs of letters in `text` that are not in a script of `language`.

    A run that stands in `prompt` too was copied and does not count. ValueError for a language
    that SCRIPTS_OF does not know.
    """
    if language not in SCRIPTS_OF:
        raise ValueError(f"no scripts for {language!r}; choose one of {', '.join(SCRIPTS_OF)}")
    own = "".join(SCRIPTS[name].strip("[]") for name in SCRIPTS_OF[language])
    plain = QUOTED.sub(lambda match: " " * len(match[0]), text)
    letters = len(regex.findall(r"\p{L}", plain))
    # A run goes on over marks, apostrophes and hyphens inside a word.
    found = regex.finditer(rf"[^\P{{L}}{own}](?:[\p{{M}}'’-]?[^\P{{L}}{own}])*", plain)
    runs, foreign = [], 0
    for match in found:
        long = len(regex.findall(r"\p{L}", match[0]))
        if prompt and match[0] in prompt:
            continue
        foreign += long
        if long >= 2 or regex.search(r"[\p{Han}\p{Hiragana}\p{Katakana}]", match[0]):
            runs.append(match.span())
    share, onset = foreign / letters if letters else 0.0, runs[0][0] if runs else None
    return Switching(bool(runs), share, tuple(runs), onset)


def foreign_token(scope, text: str, language: str) -> int | None:
    """Place in `own_ids` of the first token that overlaps a switch; None without one."""
    onset = switching(text, language).onset
    if onset is None:
        return None
    spans = scope.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return next(i for i, (_, stop) in enumerate(spans["offset_mapping"]) if stop > onset)


def foreign_ids(scope, scripts: tuple[str, ...]) -> Tensor:
    """Ids of tokens that hold a letter of one of `scripts` ("Latin", ...): int64 [tokens].

    Half characters and special tokens are not among them.
    """
    pattern = regex.compile("|".join(SCRIPTS[name] for name in scripts))
    special = set(scope.tokenizer.all_special_ids)
    found = [
        i
        for i in range(len(scope.tokenizer))
        if i not in special and pattern.search(scope.tokenizer.decode([i]))
    ]
    return torch.tensor(found, dtype=torch.int64)


@contextmanager
def logit_mask(scope, ids: Tensor | None) -> Iterator[None]:
    """In the block the model gives tokens `ids` no probability, when it reads too; None: no mask.

    Text that holds one of them then has an infinite cross-entropy.
    """

    def mask(module, args, logits: Tensor) -> Tensor:
        return logits if ids is None else logits.index_fill(-1, ids.to(logits.device), -torch.inf)

    handle = scope.model.get_output_embeddings().register_forward_hook(mask)
    try:
        yield
    finally:
        handle.remove()


def alike_places(
    texts: Sequence[Sequence[int]],
    places: Sequence[int],
    others: Sequence[Sequence[int]],
    lead: int = 1,
) -> list[tuple[int, int] | None]:
    """For a place in each text, one in other texts that comes after the same token.

    texts, others: token ids; places: a position in each of `texts`, with `lead` tokens before it
    or more. Of the places in `others`, the one before which most tokens are the same (four at
    most) is taken, then the one nearest in distance from the start; none twice. Returns (number of
    the other text, position) for each text; None where there is none, or its place comes too early.
    """
    after = defaultdict(set)
    for number, ids in enumerate(others):
        for place in range(max(lead, 1), len(ids)):
            after[ids[place - 1]].add((number, place))

    def alike(ids, place, number, other) -> int:
        pairs = zip(ids[:place][:-5:-1], others[number][:other][:-5:-1], strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), 4)

    found: list[tuple[int, int] | None] = []
    for ids, place in zip(texts, places, strict=True):
        free = after[ids[place - 1]] if place >= max(lead, 1) else set()
        best = max(
            free, key=lambda at: (alike(ids, place, *at), -abs(at[1] - place), at), default=None
        )
        free.discard(best)
        found.append(best)
    return found


def matched_set(density: np.ndarray, features: Sequence[int], seed: int = 0) -> np.ndarray:
    """Other live features that fire as often as these, one for each and none twice: int64.

    density: share of tokens on which each feature fires, [d_sae]. A feature that does not fire is
    matched as if it were the rarest that does. Fewer where too few features are live.
    """
    live = np.flatnonzero(density > 0)
    rarest = int(live[density[live].argmin()])
    own, taken = {int(f) for f in features}, []
    count = min(2 * len(features), len(live) - 1)
    for i, feature in enumerate(features):
        feature = int(feature) if density[feature] > 0 else rarest
        near = matched_features(density, feature, count, seed=1000 * seed + i)
        taken += [f for f in near.tolist() if f not in own and f not in taken][:1]
    return np.array(taken, dtype=np.int64)
