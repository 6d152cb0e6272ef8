"""Is a knob real? One procedure for features and directions, with its rules in one place.

Knob            a direction to add at a layer, with its dose, its neighbours and its controls
feature_knob    the knob that a feature is
direction_knob  the knob that a direction is
RULES           what a knob must do to be called validated, in words
try_knob        measure a knob on prompts
KnobTrial       what was measured
verdicts        the table of all knobs that were tried, each validated or not shown
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from .arms import Arm, sweep
from .cards import nearest
from .controls import matched_features, random_directions, shuffled_choice
from .interventions import Scale
from .stats import Estimate, difference, holm, rank_p, sign_flip_p

__all__ = [
    "RULES",
    "Knob",
    "KnobTrial",
    "direction_knob",
    "feature_knob",
    "try_knob",
    "verdicts",
]

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
# Scores of texts that were written after prompts: a number from 0 to 1 for each text.
Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


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

    def nearby(self) -> list[Arm]:
        return [Arm(layer, self.dose, v) for layer, v in self.neighbours.items()]

    def control_arms(self) -> list[tuple[str, int, Arm]]:
        """Control, draw and arm. Ablating: as much is taken away, along another direction."""
        ablates = self.how == "ablate"
        return [
            (name, draw, Arm(self.layer, self.dose, *((self.direction, v) if ablates else (v,))))
            for name, rows in self.controls.items()
            for draw, v in enumerate(rows)
        ]


def feature_knob(
    scope, name: str, layer: int, feature: int, dose: float, density, fires, near, seed: int = 0
) -> Knob:
    """A feature's column of W_dec, with its controls.

    20 random directions; 20 random live features that fire as often (`density`: share of tokens,
    as `Scan.density` gives it); 10 features that the choice by firing contrast finds for shuffled
    labels (`fires`: the two tables of `firing_contrast`). Neighbours: the column most like it in
    each layer of `near`.
    """

    def columns(n: int, features) -> Tensor:
        return scope.sae(n).direction(features)

    around = {n: int(nearest(scope, layer, feature, 1, other=n).feature[0]) for n in near}
    controls = {
        "random directions": random_directions(DRAWS, scope.d_model, seed),
        "matched features": columns(layer, matched_features(density, feature, DRAWS, seed)),
        "shuffled labels": columns(layer, shuffled_choice(*fires, SHUFFLES, seed)),
    }
    neighbours = {n: columns(n, f)[0] for n, f in around.items()}
    own = columns(layer, feature)[0]
    return Knob(f"{name} (feature {feature})", layer, own, dose, neighbours, controls)


def direction_knob(
    scope, name: str, layer: int, directions: Mapping[int, Tensor], dose: float, density, fires,
    seed: int = 0,
) -> Knob:  # fmt: skip
    """A direction {layer: [d_model]}, with the controls of the feature that the same texts choose.

    Neighbours: the directions of the next layers that `directions` has.
    """
    most = int((fires[0].mean(0) - fires[1].mean(0)).argmax())
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
    scope, knob: Knob, scales: Mapping[int, Scale], prompts: Sequence[str], outcome: Score,
    rephrased: Sequence[str], sides: Mapping[str, Score], max_new_tokens: int = 24,
    temperature: float = 0.0, seed: int = 0,
) -> KnobTrial:  # fmt: skip
    """Generate with and without a knob and all its controls, and score the texts.

    outcome and sides are given (texts, prompts) and return a number for each text. ValueError
    for fewer than two prompts, or a knob without controls.
    """
    if min(len(prompts), len(rephrased)) < 2:
        raise ValueError(f"{len(prompts)} prompts, {len(rephrased)} rephrased: give two or more")
    if not knob.controls or not all(map(len, knob.controls.values())):
        raise ValueError(f"knob {knob.name!r} has no controls, so its effect has no meaning")

    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}

    def write(arms: list[Arm], prompts) -> list[list[str]]:
        return sweep(scope, prompts, scales, arms, knob.how, **options) if arms else []

    def scored(score: Score, texts, prompts) -> np.ndarray:
        return np.asarray(score(texts, prompts), float)

    def change(score: Score, texts, plain, prompts) -> Estimate:
        return difference(*(scored(score, t, prompts) for t in (texts, plain)), seed=seed)

    plain, steered, *near = write([*knob.own(), *knob.nearby()], prompts)
    plain_too, steered_too = write(knob.own(), rephrased)
    effect = change(outcome, steered, plain, prompts)
    # A knob without an effect is not causal whatever its controls do.
    controls = knob.control_arms() if effect.low > 0 else []
    zero = scored(outcome, plain, prompts)
    rows = [
        (name, draw, (scored(outcome, texts, prompts) - zero).mean())
        for (name, draw, _), texts in zip(
            controls, write([arm for *_, arm in controls], prompts), strict=True
        )
    ]
    again = [("rephrased", *change(outcome, steered_too, plain_too, rephrased)[:3])]
    for layer, texts in zip(knob.neighbours, near, strict=True):
        again.append((f"layer {layer}", *change(outcome, texts, plain, prompts)[:3]))
    beside = [(name, *change(s, steered, plain, prompts)[:3]) for name, s in sides.items()]
    columns = ["value", "low", "high"]
    return KnobTrial(
        knob,
        effect,
        sign_flip_p(scored(outcome, steered, prompts) - zero, seed),
        pd.DataFrame(rows, columns=["control", "draw", "value"]),
        pd.DataFrame(beside, columns=["score", *columns]),
        pd.DataFrame(again, columns=["where", *columns]),
    )


def verdicts(trials: Sequence[KnobTrial]) -> pd.DataFrame:
    """One row a knob: effect with its interval, n, corrected p, the largest control, the rank
    p-value among all controls, the three rules and the verdict by RULES."""
    corrected = holm([trial.p for trial in trials])
    rows = []
    for trial, p in zip(trials, corrected, strict=True):
        tested = len(trial.controls) > 0
        most = float(trial.controls.value.max()) if tested else np.nan
        near = trial.again[trial.again["where"] != "rephrased"]
        rephrased = trial.again[trial.again["where"] == "rephrased"]
        causal = bool(tested and trial.effect.low > max(0.0, most) and p < ALPHA)
        specific = bool(((trial.sides.low >= -SIDE_LIMIT) & (trial.sides.high <= SIDE_LIMIT)).all())
        stable = bool(tested and (rephrased.low > most).all() and (near.low > most).any())
        rows.append(
            {"knob": trial.knob.name, "layer": trial.knob.layer, "dose": trial.knob.dose}
            | trial.effect._asdict()
            | {"p": p, "largest control": most}
            | {"rank p": rank_p(trial.effect.value, trial.controls.value) if tested else np.nan}
            | {"causal": causal, "specific": specific, "stable": stable}
            | {"verdict": "validated" if causal and specific and stable else "not shown"}
        )
    return pd.DataFrame(rows)
