"""Notebook 03. What an edit does, what texts are worth, and steering beside its controls."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import regex
import torch
from torch import Tensor

from ..controls import matched_features, random_directions
from ..evidence.stats import Estimate, mean, share
from ..forward import listed, read_texts, residuals
from ..generation import Arm, sweep
from ..scoring import cross_entropy, firing_gap, more_common, nearest, text_nats
from ..steering import Scale
from ..writing import UNITS, loops

MATCHED, SHUFFLES = 10, 10  # other features that are tried beside one
Texts = Sequence[str]
# Scores of texts that were written after prompts: a number from 0 to 1 for each text.
Score = Callable[[Texts, Texts], Sequence[float]]


class EditReport(NamedTuple):
    """What an edit did to the tokens of some texts; intervals are over texts."""

    edited: Estimate
    """share of tokens that changed"""
    size: Estimate
    """mean |x' - x| / |x| over tokens that changed"""
    before: Tensor
    """mean activation of each feature over tokens that changed, [features]"""
    after: Tensor
    """the same after the edit, from encoding x' again: other features compete for the TopK"""


@torch.no_grad()
def report_edit(scope, texts: Texts, layer: int, change: Callable, features=()) -> EditReport:
    """Apply an edit to the residuals of texts after `layer` and read the result with the SAE.

    change: residuals [..., d_model] to new ones. ValueError if the edit changes no token.
    """
    texts, features = listed(texts), torch.as_tensor(features, dtype=torch.int64).reshape(-1)
    parts = []
    for part in residuals(scope, texts, [layer]):
        new = change(part.x[None])[0]
        moved = torch.linalg.vector_norm(new.float() - part.x.float(), dim=-1)
        relative = moved / torch.linalg.vector_norm(part.x.float(), dim=-1)
        acts = [scope.sae(layer).some(x, features) for x in (part.x, new)]
        parts.append((moved > 0, relative, part.text, *acts))
    columns = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    touched, relative, text, before, after = columns
    if not touched.any():
        raise ValueError(f"the edit of layer {layer} changes no token of these {len(texts)} texts")
    relative, before, after = relative[touched], before[touched].mean(0), after[touched].mean(0)
    if len(text[touched].unique()) > 1:
        size = mean(relative, text[touched])
    else:  # one text gives no interval
        size = Estimate(relative.mean().item(), np.nan, np.nan, len(relative), 1)
    return EditReport(share(touched, text), size, before, after)


def dose_grid(
    scope, prompts: Texts, scales, directions, doses, scores, how: str = "add", **options
) -> pd.DataFrame:
    """One row for each layer of `directions` ({layer: [d_model]}), dose and prompt: layer, dose,
    prompt (its number), text, and one column for each of `scores` ({name: function}), which are
    given the texts of an arm and return a number for each. options: of `sweep`."""
    arms = [Arm(layer, float(dose), v) for layer, v in directions.items() for dose in doses]
    parts = []
    for arm, texts in zip(arms, sweep(scope, prompts, scales, arms, how, **options), strict=True):
        about = {"layer": arm.layer, "dose": arm.dose, "prompt": range(len(texts)), "text": texts}
        values = {name: np.asarray(score(texts), float) for name, score in scores.items()}
        parts.append(pd.DataFrame(about | values))
    return pd.concat(parts, ignore_index=True)


def shuffled_choice(positive, negative, n: int = 20, seed: int = 0) -> np.ndarray:
    """The feature that differs most between two random halves, for n shuffles: int64 [n].

    positive, negative: whether each feature fires in each text, bool [texts, d_sae]. The choice
    is that of the largest difference of firing shares, as for the true labels.
    """
    fires = np.concatenate([np.asarray(positive, bool), np.asarray(negative, bool)])
    label = np.repeat([True, False], [len(positive), len(negative)])
    rng = np.random.default_rng(seed)
    return np.array([firing_gap(fires, rng.permutation(label)).argmax() for _ in range(n)], int)


@torch.no_grad()
def usual_nats(scope, texts: Texts, max_tokens: int) -> np.ndarray:
    """The cross-entropy, in nats per token, below which 19 of 20 real texts lie: float64
    [max_tokens + 1]. Entry n is for the first n ids of the texts: short texts surprise more.

    NaN where `text_nats` scores none of them. ValueError where no text has `max_tokens`.
    """
    texts = listed(texts)
    ids = [tokens[:max_tokens] for tokens in scope.ids(texts) if len(tokens) >= max_tokens]
    if not ids:
        raise ValueError(f"none of {len(texts)} texts has {max_tokens} tokens; give longer ones")
    batches = torch.tensor(ids, device=scope.device).split(64)
    each = torch.cat([cross_entropy(scope.model, batch) for batch in batches])
    each = each[:, max(0, len(scope.prefix) - 1) :]  # as `text_nats` scores them
    so_far = each.double().cumsum(1) / torch.arange(1, 1 + each.shape[1], device=each.device)
    limits = so_far.quantile(0.95, dim=0).cpu().numpy()
    return np.concatenate([np.full(max_tokens + 1 - len(limits), np.nan), limits])


def fluent(scope, texts: Texts, limits: np.ndarray, among=None) -> np.ndarray:
    """Which texts the plain model finds no more surprising than real ones, and do not end in a
    loop: bool [texts]. Both are needed: a loop is not surprising. Less than two tokens is not
    fluent. `limits` as `usual_nats` gives them; longer texts are held against its last entry.
    `among` (bool [texts]) saves the work for texts that do not count: they are not fluent."""
    texts = [text.strip() for text in listed(texts)]
    if among is not None:
        texts = [text if counts else "" for text, counts in zip(texts, among, strict=True)]
    own = scope.tokenizer(texts, add_special_tokens=False)["input_ids"]
    lengths = [len(scope.prefix) + len(ids) for ids in own]
    limit = limits[np.minimum(lengths, len(limits) - 1)]
    looping = np.array([loops(text) for text in texts], bool)
    return (text_nats(scope, texts) <= limit) & ~looping


def firing_contrast(scope, positive: Texts, negative: Texts, layer: int):
    """In which texts each feature fires: bool [positive, d_sae] and [negative, d_sae].

    The contrast of a feature is the difference of the two column means.
    """
    positive, negative = listed(positive), listed(negative)
    fires = read_texts(scope, positive + negative, [layer], ["peak"])[layer].peak > 0
    return fires[: len(positive)], fires[len(positive) :]


def typical_tokens(scope, positive: Texts, negative: Texts) -> Tensor:
    """Ids of tokens that make up a larger share of `positive` than of `negative`, by a factor of
    ten or more: int64 [tokens]. ValueError if there are none."""
    ids = [np.concatenate(scope.own_ids(texts)) for texts in (positive, negative)]
    found = more_common(*ids)
    if not len(found):
        raise ValueError("no token is ten times as common in the positive texts; give other texts")
    return torch.from_numpy(found)


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


def distinct_n(text: str, n: int = 3) -> float:
    """Distinct n-grams over n-grams (Li et al. 2016); 1 for a text of fewer than n units."""
    units = UNITS.findall(text.lower())
    grams = list(zip(*(units[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0


def harmonic_mean(effect: float, fluency: float) -> float:
    """2ab / (a + b) of two numbers from 0 to 1; 0 if one of them is 0 (AxBench, Wu et al. 2025)."""
    if not (0 <= effect <= 1 and 0 <= fluency <= 1):
        raise ValueError(f"harmonic_mean of {effect} and {fluency}: give two numbers from 0 to 1")
    return 2 * effect * fluency / (effect + fluency) if effect and fluency else 0.0


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


class Knob(NamedTuple):
    """A direction, and what is done with it."""

    name: str
    layer: int
    direction: Tensor
    """[d_model]; for a feature, its column of W_dec"""
    dose: float
    """add: in median norms of the layer; ablate: the share of the component that is taken out"""
    neighbours: Mapping[int, Tensor]
    """the same at other layers, {layer: [d_model]}: for a feature, the column most like it"""
    nulls: Tensor
    """null draws [draws, d_model]: used in its place with equal |x' - x| at every token"""
    matched: Mapping[str, Tensor] = {}
    """for a feature: others to compare it with, name to [d_model]"""
    how: str = "add"
    """"add" after the layer, or "ablate" from everything that is written to the stream"""

    def own(self) -> list[Arm]:
        """Dose 0 and the direction itself."""
        return [Arm(self.layer, dose, self.direction) for dose in (0.0, self.dose)]

    def instead(self, directions: Iterable[Tensor]) -> list[Arm]:
        """Other directions in its place. Ablating: as much is taken away, along them."""
        first = (self.direction,) if self.how == "ablate" else ()
        return [Arm(self.layer, self.dose, *first, v) for v in directions]


def feature_knob(scope, name, layer, feature, dose, density, fires, near, draws, seed=0) -> Knob:
    """A feature's column of W_dec. Null draws: random directions.

    Matched: 10 random live features that fire as often (`density`: share of tokens, as
    `Scan.density` gives it; none where that corpus is too small for it to fire), and those that the
    choice by firing contrast finds for 10 shuffles of the labels (`fires`: the two tables of
    `firing_contrast`). Neighbours: the column most like it in each layer of `near`.
    """
    columns = scope.sae(layer).direction
    others = [*matched_features(density, feature, MATCHED, seed)] if density[feature] > 0 else []
    others += [*shuffled_choice(*fires, SHUFFLES, seed)]
    matched = {f"feature {f}": columns(int(f))[0] for f in others if f != feature}
    around = {n: int(nearest(scope, layer, feature, 1, other=n).feature[0]) for n in near}
    neighbours = {n: scope.sae(n).direction(f)[0] for n, f in around.items()}
    nulls, own = random_directions(draws, scope.d_model, seed), columns(feature)[0]
    return Knob(f"{name} ({feature})", layer, own, dose, neighbours, nulls, matched)


def direction_knob(name, layer, directions, dose, draws, seed=0) -> Knob:
    """One of `directions` ({layer: [d_model]}). Null draws: random directions. Neighbours: the
    directions of the next layers that `directions` has."""
    own = directions[layer]
    around = {n: directions[n] for n in (layer - 1, layer + 1) if n in directions}
    return Knob(name, layer, own, dose, around, random_directions(draws, len(own), seed))


class KnobTrial(NamedTuple):
    """What was written with and without an edit and its controls, scored."""

    knob: Knob
    texts: pd.DataFrame
    """one row a prompt. The outcome: "before" (dose 0), "after", "rephrased before", "rephrased",
    and "layer n" for each neighbour; all else as it should be: "kept before", "kept" """
    nulls: np.ndarray
    """the outcome under each null draw [draws, prompts]"""
    matched: Mapping[str, float]
    """the mean outcome of each matched feature"""


def try_knob(
    scope,
    knob: Knob,
    scales: Mapping[int, Scale],
    prompts: Texts,
    outcome: Score,
    rephrased: Texts,
    kept: Score,
    drawn: np.ndarray | None = None,
    **options,
) -> KnobTrial:
    """Generate with and without an edit and all its controls, and score the texts.

    outcome and kept are given (texts, prompts) and return a number for each text; rephrased: each
    prompt in other words; drawn: the outcome under the null draws [draws, prompts], where an edit
    of the same layer and dose had the same ones; options: of `generate`. ValueError without
    prompts or null draws.
    """
    prompts, rephrased = listed(prompts), listed(rephrased)
    if not len(prompts) or len(prompts) != len(rephrased):
        raise ValueError(f"{len(prompts)} prompts, {len(rephrased)} rephrased: give as many")
    if not len(knob.nulls):
        raise ValueError(f"{knob.name!r} has no null draws, so its effect has no meaning")
    arms = knob.own() + [Arm(n, knob.dose, v) for n, v in knob.neighbours.items()]
    arms += knob.instead([*knob.matched.values(), *(knob.nulls if drawn is None else ())])
    before, after, *others = sweep(scope, prompts, scales, arms, knob.how, **options)
    again = sweep(scope, rephrased, scales, knob.own(), knob.how, **options)
    hits = [np.asarray(outcome(texts, prompts), float) for texts in others]
    columns = {"before": outcome(before, prompts), "after": outcome(after, prompts)}
    columns |= {"kept before": kept(before, prompts), "kept": kept(after, prompts)}
    for name, texts in zip(("rephrased before", "rephrased"), again, strict=True):
        columns[name] = outcome(texts, rephrased)
    near, of_others = hits[: len(knob.neighbours)], hits[len(knob.neighbours) :]
    columns |= {f"layer {n}": row for n, row in zip(knob.neighbours, near, strict=True)}
    values = (float(row.mean()) for row in of_others)
    matched = dict(zip(knob.matched, values, strict=False))
    nulls = np.stack(of_others[len(matched) :]) if drawn is None else drawn
    return KnobTrial(knob, pd.DataFrame(columns).astype(float), nulls, matched)
