"""Notebook 05. Code-switching: words of a script, or of a language, that a text does not use.

Han is shared by Chinese and Japanese, so neither is foreign in the other by Han alone. English in
French, and the other way round, is told sentence by sentence. Code, formulas, links, addresses,
names, units, quotations and what is copied from the prompt do not count, nor do digits and
punctuation of any width.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import regex
import torch
from torch import Tensor

from ..controls import matched_features
from ..evidence.stats import auroc
from ..forward import activations
from ..writing import LATIN, SCRIPTS
from ..writing import language as spoken
from .finetuning import pre_activations

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
    rf"|(?:{SPACED}[\w.+-])+@(?:{SPACED}[\w-])+\.(?:{SPACED}[\w.])+"
    # A file name or an identifier, and a unit behind its number.
    r"|[A-Za-z0-9]+(?:[._/\\][A-Za-z0-9]+)+"
    r"|(?<=\d[ \u00a0]?)"
    r"(?:[kcm]?m|[km]?g|[km]?l|m?s|[kMG]?Hz|k?Wh?|[kMGT]?B|min|h|t|px)(?![\p{L}\d])",
    regex.DOTALL,
)
# Marks that belong together: what they hold is a quotation, or the gloss of a term, if all of it
# is foreign. One in the text's own script with a foreign word in it is speech like any other.
MARKS = '“” „“ ‘’ "" 「」 『』 «» 《》 () （） []'.split()
MENTIONED = regex.compile(
    "|".join(rf"{regex.escape(a)}[^{regex.escape(a + b)}\n]+{regex.escape(b)}" for a, b in MARKS)
)
SENTENCE = regex.compile(r"[^.!?…\n。！？]+")
WORDS = 5  # of a sentence, from which on its language can be told


class Switching(NamedTuple):
    """Foreign words of one text, what does not count left aside."""

    any: bool
    """is there a run?"""
    share: float
    """foreign letters over letters, 0 for a text without letters"""
    runs: tuple[tuple[int, int], ...]
    """start and stop of each run: a word of two foreign letters or more (one of Han or Kana), or a
    sentence in the other of English and French"""
    onset: int | None
    """where the first run starts, in characters"""


def switching(
    text: str, language: str, prompt: str = "", scripts: Collection[str] = tuple(SCRIPTS)
) -> Switching:
    """Runs of `text` that are not in a script of `language`, but in one of `scripts`.

    A run that stands in `prompt` too was copied and does not count. A word with a capital letter
    is taken for a name. ValueError for a language that SCRIPTS_OF does not know.
    """
    if language not in SCRIPTS_OF:
        raise ValueError(f"no scripts for {language!r}; choose one of {', '.join(SCRIPTS_OF)}")
    own = "".join(SCRIPTS[name].strip("[]") for name in SCRIPTS_OF[language])
    left = QUOTED.sub(_blank, text)
    left = MENTIONED.sub(lambda m: m[0] if regex.search(f"[{own}]", m[0]) else _blank(m), left)
    letters = len(regex.findall(r"\p{L}", left))
    # A run goes on over marks, apostrophes and hyphens inside a word.
    found = regex.finditer(rf"[^\P{{L}}{own}](?:[\p{{M}}'’-]?[^\P{{L}}{own}])*", left)
    wanted = regex.compile("|".join(SCRIPTS[name] for name in scripts))
    runs, foreign = [], 0
    for match in found:
        long = len(regex.findall(r"\p{L}", match[0]))
        copied = prompt and match[0] in prompt
        if copied or regex.search(r"\p{Lu}", match[0]) or not wanted.search(match[0]):
            continue
        foreign += long
        if long >= 2 or regex.search(r"[\p{Han}\p{Hiragana}\p{Katakana}]", match[0]):
            runs.append(match.span())
    if language in LATIN and "Latin" in scripts:
        for match in _other_language(text, left, language, prompt):
            foreign += len(regex.findall(r"\p{L}", match[0]))
            runs.append(match.span())
    runs = tuple(sorted(runs))
    share, onset = foreign / letters if letters else 0.0, runs[0][0] if runs else None
    return Switching(bool(runs), share, runs, onset)


def _blank(match) -> str:
    return " " * len(match[0])


def _other_language(text: str, left: str, language: str, prompt: str):
    """Sentences in the other one of English and French; short ones cannot be told."""
    for match in SENTENCE.finditer(left):
        words = regex.findall(r"\p{L}+", match[0])
        if len(words) >= WORDS and spoken(match[0]) in {*LATIN} - {language}:
            if not (prompt and match[0].strip() in prompt):
                yield match


def token_at(scope, text: str, character: int) -> int:
    """Place in `own_ids` of the token that holds a character of a text."""
    spans = scope.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return next(i for i, (_, stop) in enumerate(spans["offset_mapping"]) if stop > character)


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


def activity(scope, texts: Sequence[str], layers) -> tuple[dict, dict]:
    """Share of tokens on which each feature fires, and its mean activation over all tokens: two
    {layer: float64 [d_sae]}. Sinks do not count."""
    rates = {n: np.zeros(scope.d_sae) for n in layers}
    means = {n: np.zeros(scope.d_sae) for n in layers}
    tokens = dict.fromkeys(layers, 0)
    for part in activations(scope, texts, layers):
        index, values = part.acts.indices[part.keep], part.acts.values[part.keep].double()
        index, values = index.flatten().numpy(), values.flatten().numpy()
        rates[part.layer] += np.bincount(index, values > 0, scope.d_sae)
        means[part.layer] += np.bincount(index, values, scope.d_sae)
        tokens[part.layer] += int(part.keep.sum())
    return tuple({n: x[n] / max(1, tokens[n]) for n in layers} for x in (rates, means))


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


def with_other_seeds(own: dict, made_by, path: Path) -> pd.DataFrame:
    """One row a seed, in order: `own`, with its "seed" and "value", and those of an earlier table
    that have a value and were made by the same. made_by: settings and weights, as a JSON has them.

    A run without a value is alone: what others found is nothing to set beside it.
    """
    digest = hashlib.sha256(json.dumps(made_by, default=str).encode()).hexdigest()[:16]
    own, then = own | {"made by": digest}, pd.DataFrame(columns=["seed", "value", "made by"])
    if path.is_file() and "value" in own:
        then = pd.read_csv(path)
        then = then.dropna(subset="value") if "value" in then else then[:0]
    then = then[(then["made by"] == digest) & (then.seed != own["seed"])].to_dict("records")
    return pd.DataFrame([own, *then]).sort_values("seed", ignore_index=True)


def tongues(texts: Sequence[str], asked: Sequence) -> str:
    """What language the Latin words of slips are in, as far as they tell: "12 in English, 3 in
    French". asked: the record of each text's prompt."""
    counts = {"in English": 0, "in French": 0}
    for text, q in zip(texts, asked, strict=True):
        runs = switching(text, q.language, q.text, ["Latin"]).runs
        if runs:
            words = spoken(" ".join(text[a:b] for a, b in runs))
            name = {"en": "in English", "fr": "in French"}.get(words, "unclear")
            counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def single_feature(values, places, lead: int, groups):
    """How well the feature that tells slips best on every second pair tells those between: the
    AUROC. values: an array [tokens, features] a text, all slips before all matched places; places:
    where each is; lead: tokens before it; groups: of all of them."""
    at = np.stack([one[place - lead] for one, place in zip(values, places, strict=True)])
    n = len(at) // 2
    slip, other = at[:n], at[n:]
    best = (slip[::2, None] > other[None, ::2]).mean((0, 1)).argmax()
    both = np.concatenate([slip[1::2, best], other[1::2, best]])
    labels = [*groups[:n][1::2], *groups[n:][1::2]]
    return auroc(both, np.repeat([True, False], len(both) // 2), labels)


def open_share(scope, texts: Sequence[str], signal) -> float:
    """Share of the tokens of texts at which a feature of a Signal is above its usual level."""
    values = pre_activations(scope, texts, signal.layer, signal.features)
    return float((np.concatenate(values) > np.array(signal.usual)).any(1).mean())
