"""Notebook 03. Is a knob real? One procedure for features and directions, with its rules."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import regex
import torch
from torch import Tensor

from ..controls import matched_features, random_directions
from ..evidence.stats import Estimate, difference, holm, mean, rank_p, sign_flip_p
from ..forward import read_texts, residuals
from ..generation import Arm, sweep
from ..scoring import cross_entropy, firing_gap, more_common, nearest, text_nats
from ..steering import Scale
from ..writing import UNITS, loops

ALPHA, SIDE_LIMIT = 0.05, 0.2
DRAWS, SHUFFLES = 20, 10  # controls of a knob
RULES = {
    "causal": "the interval of its effect lies above 0 and above the mean effect of every control, "
    f"and the sign-flip p-value, corrected for all knobs by Holm, is below {ALPHA}",
    "specific": "the interval of the change of everything else that is scored lies within "
    f"±{SIDE_LIMIT}",
    "stable": "with rephrased prompts, and at a neighbouring layer, the interval of the effect "
    "lies above the mean effect of every control",
}
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
    features = torch.as_tensor(features, dtype=torch.int64).reshape(-1)
    parts = []
    for part in residuals(scope, texts, [layer]):
        new = change(part.x[None])[0]
        moved = torch.linalg.vector_norm(new.float() - part.x.float(), dim=-1)
        share = moved / torch.linalg.vector_norm(part.x.float(), dim=-1)
        acts = [scope.sae(layer).some(x, features) for x in (part.x, new)]
        parts.append((moved > 0, share, part.text, *acts))
    columns = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    touched, share, text, before, after = columns
    if not touched.any():
        raise ValueError(f"the edit of layer {layer} changes no token of these {len(texts)} texts")
    share, before, after = share[touched], before[touched].mean(0), after[touched].mean(0)
    if len(text[touched].unique()) > 1:
        size = mean(share, text[touched])
    else:
        size = Estimate(share.mean().item(), 0.0, float("inf"), 1)
    return EditReport(mean(touched.float(), text), size, before, after)


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
    [max_tokens + 1]. Entry n is for the first n tokens of the texts: short texts surprise more.

    NaN below 2 tokens. ValueError where no text has `max_tokens`.
    """
    ids = [tokens[:max_tokens] for tokens in scope.ids(list(texts)) if len(tokens) >= max_tokens]
    if not ids:
        raise ValueError(f"none of {len(texts)} texts has {max_tokens} tokens; give longer ones")
    batches = torch.tensor(ids, device=scope.device).split(64)
    each = torch.cat([cross_entropy(scope.model, batch) for batch in batches])
    so_far = each.double().cumsum(1) / torch.arange(1, max_tokens, device=each.device)
    limits = so_far.quantile(0.95, dim=0).cpu().numpy()
    return np.concatenate([[np.nan, np.nan], limits])


def fluent(scope, texts: Texts, limits: np.ndarray, among=None) -> np.ndarray:
    """Which texts the plain model finds no more surprising than real ones, and do not end in a
    loop: bool [texts]. Both are needed: a loop is not surprising. Less than two tokens is not
    fluent. `limits` as `usual_nats` gives them; longer texts are held against its last entry.
    `among` (bool [texts]) saves the work for texts that do not count: they are not fluent."""
    texts = [text.strip() for text in texts]
    if among is not None:
        texts = [text if counts else "" for text, counts in zip(texts, among, strict=True)]
    lengths = [len(i) for i in scope.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    limit = limits[np.minimum(lengths, len(limits) - 1)]
    looping = np.array([loops(text) for text in texts], bool)
    return (text_nats(scope, texts) <= limit) & ~looping


def firing_contrast(scope, positive: Texts, negative: Texts, layer: int):
    """In which texts each feature fires: bool [positive, d_sae] and [negative, d_sae].

    The contrast of a feature is the difference of the two column means.
    """
    fires = read_texts(scope, [*positive, *negative], [layer], ["peak"])[layer].peak > 0
    return fires[: len(positive)], fires[len(positive) :]


def typical_tokens(scope, positive: Texts, negative: Texts) -> Tensor:
    """Ids of tokens that make up a larger share of `positive` than of `negative`, by a factor of
    ten or more: int64 [tokens]. ValueError if there are none."""
    ids = [np.concatenate(scope.ids(list(texts))) for texts in (positive, negative)]
    found = more_common(*ids)
    if not len(found):
        raise ValueError("no token is ten times as common in the positive texts; give other texts")
    return torch.from_numpy(found)


def sentences_with(text: str, words: Iterable[str]) -> float:
    """The share of a text's sentences that hold one of `words`; 0 for a text without any.

    Case is ignored. Words match whole, but anywhere in scripts that put no spaces between them.
    """
    found = [s for s in regex.split(r"(?<=[.!?。！？])|\n", text) if regex.search(r"\p{L}", s)]
    any_of = "|".join(map(regex.escape, words))
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


class Knob(NamedTuple):
    """A direction, and what is done with it."""

    name: str
    layer: int
    direction: Tensor
    """[d_model]; for a feature, its column of W_dec"""
    dose: float
    """add: in median norms of the layer; ablate: the share of the component that is taken out"""
    neighbours: Mapping[int, Tensor]
    """the same knob at other layers, {layer: [d_model]}: for a feature, the column most like it"""
    controls: Mapping[str, Tensor]
    """name to [n, d_model]: used in place of the direction with equal |x' - x| at every token"""
    how: str = "add"
    """"add" after the layer, or "ablate" from everything that is written to the stream"""

    def own(self) -> list[Arm]:
        """Dose 0 and the knob itself."""
        return [Arm(self.layer, dose, self.direction) for dose in (0.0, self.dose)]

    def control_arms(self) -> list[tuple[str, int, Arm]]:
        """Control, draw and arm. Ablating: as much is taken away, along another direction."""
        first = (self.direction,) if self.how == "ablate" else ()
        return [
            (name, draw, Arm(self.layer, self.dose, *first, v))
            for name, rows in self.controls.items()
            for draw, v in enumerate(rows)
        ]


def feature_knob(scope, name, layer, feature, dose, density, fires, near, seed=0) -> Knob:
    """A feature's column of W_dec, with its controls.

    20 random directions; 20 random live features that fire as often (`density`: share of tokens,
    as `Scan.density` gives it); 10 features that the choice by firing contrast finds for shuffled
    labels (`fires`: the two tables of `firing_contrast`). Neighbours: the column most like it in
    each layer of `near`.
    """

    columns = scope.sae(layer).direction
    controls = {
        "random directions": random_directions(DRAWS, scope.d_model, seed),
        "matched features": columns(matched_features(density, feature, DRAWS, seed)),
        "shuffled labels": columns(shuffled_choice(*fires, SHUFFLES, seed)),
    }
    around = {n: int(nearest(scope, layer, feature, 1, other=n).feature[0]) for n in near}
    neighbours = {n: scope.sae(n).direction(f)[0] for n, f in around.items()}
    own = columns(feature)[0]
    return Knob(f"{name} (feature {feature})", layer, own, dose, neighbours, controls)


def direction_knob(scope, name, layer, directions, dose, density, fires, seed=0) -> Knob:
    """One of `directions` ({layer: [d_model]}), with the controls of the feature that the same
    texts choose.

    Neighbours: the directions of the next layers that `directions` has.
    """
    label = np.repeat([True, False], [len(rows) for rows in fires])
    most = int(firing_gap(np.concatenate(fires), label).argmax())
    controls = feature_knob(scope, name, layer, most, dose, density, fires, (), seed).controls
    around = {n: directions[n] for n in (layer - 1, layer + 1) if n in directions}
    return Knob(name, layer, directions[layer], dose, around, controls)


class KnobTrial(NamedTuple):
    """What was measured for a knob; effects are paired with the same prompts at dose 0."""

    knob: Knob
    effect: Estimate
    p: float
    """sign-flip p-value of the effect, one-sided"""
    controls: pd.DataFrame
    """control, draw, value (mean effect); empty where the effect's interval reaches 0"""
    sides: pd.DataFrame
    """score, value, low, high: the change of everything else"""
    again: pd.DataFrame
    """where ("rephrased", "layer 3"), value, low, high"""


def try_knob(
    scope,
    knob: Knob,
    scales: Mapping[int, Scale],
    prompts: Texts,
    outcome: Score,
    rephrased: Texts,
    sides: Mapping[str, Score],
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    seed: int = 0,
) -> KnobTrial:
    """Generate with and without a knob and all its controls, and score the texts.

    outcome and sides are given (texts, prompts) and return a number for each text. ValueError
    for fewer than two prompts, or a knob without controls.
    """
    if min(len(prompts), len(rephrased)) < 2:
        raise ValueError(f"{len(prompts)} prompts, {len(rephrased)} rephrased: give two or more")
    if not knob.controls or not all(map(len, knob.controls.values())):
        raise ValueError(f"knob {knob.name!r} has no controls, so its effect has no meaning")

    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}

    def write(arms: list[Arm], prompts: Texts) -> list[list[str]]:
        return sweep(scope, prompts, scales, arms, knob.how, **options) if arms else []

    def change(score: Score, texts: Texts, plain: Texts, prompts: Texts = prompts) -> Estimate:
        return difference(score(texts, prompts), score(plain, prompts), seed=seed)

    nearby = [Arm(layer, knob.dose, v) for layer, v in knob.neighbours.items()]
    plain, steered, *near = write([*knob.own(), *nearby], prompts)
    plain_too, steered_too = write(knob.own(), rephrased)
    effect = change(outcome, steered, plain)
    # A knob without an effect is not causal whatever its controls do.
    controls = knob.control_arms() if effect.low > 0 else []
    written = write([arm for *_, arm in controls], prompts)
    zero = np.asarray(outcome(plain, prompts), float)
    rows = [
        (name, draw, np.subtract(outcome(texts, prompts), zero).mean())
        for (name, draw, _), texts in zip(controls, written, strict=True)
    ]
    again = [("rephrased", *change(outcome, steered_too, plain_too, rephrased)[:3])]
    for layer, texts in zip(knob.neighbours, near, strict=True):
        again.append((f"layer {layer}", *change(outcome, texts, plain)[:3]))
    beside = [(name, *change(score, steered, plain)[:3]) for name, score in sides.items()]
    p = sign_flip_p(np.subtract(outcome(steered, prompts), zero), seed)
    drawn = pd.DataFrame(rows, columns=["control", "draw", "value"])
    changed = pd.DataFrame(beside, columns=["score", "value", "low", "high"])
    repeated = pd.DataFrame(again, columns=["where", "value", "low", "high"])
    return KnobTrial(knob, effect, p, drawn, changed, repeated)


def verdicts(trials: Sequence[KnobTrial]) -> pd.DataFrame:
    """One row a knob: effect with its interval, n, corrected p, the largest control, the rank
    p-value among all controls, the three rules and the verdict by RULES."""
    corrected = holm([trial.p for trial in trials])
    rows = []
    for trial, p in zip(trials, corrected, strict=True):
        tested = len(trial.controls) > 0
        most = float(trial.controls.value.max()) if tested else np.nan
        rank = rank_p(trial.effect.value, trial.controls.value) if tested else np.nan
        beaten, rephrased = trial.again.low > most, trial.again["where"] == "rephrased"
        causal = bool(tested and trial.effect.low > max(0.0, most) and p < ALPHA)
        specific = bool(((trial.sides.low >= -SIDE_LIMIT) & (trial.sides.high <= SIDE_LIMIT)).all())
        stable = bool(tested and beaten[rephrased].all() and beaten[~rephrased].any())
        rows.append(
            {"knob": trial.knob.name, "layer": trial.knob.layer, "dose": trial.knob.dose}
            | trial.effect._asdict()
            | {"p": p, "largest control": most, "rank p": rank}
            | {"causal": causal, "specific": specific, "stable": stable}
            | {"verdict": "validated" if causal and specific and stable else "not shown"}
        )
    return pd.DataFrame(rows)
