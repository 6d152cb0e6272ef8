"""Is a knob real? One procedure for features and directions, with its rules in one place.

Knob       a direction to add at a layer, with its dose, its neighbours and its controls
RULES      what a knob must do to be called validated, in words
try_knob   measure a knob on prompts
KnobTrial  what was measured
verdicts   the table of all knobs that were tried, each validated or not shown
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from .arms import Arm, sweep
from .interventions import Scale
from .stats import Estimate, difference, holm, rank_p, sign_flip_p

__all__ = ["RULES", "Knob", "KnobTrial", "try_knob", "verdicts"]

ALPHA, SIDE_LIMIT = 0.05, 0.2
RULES = {
    "causal": "the interval of its effect lies above the mean effect of every control, and the "
    f"sign-flip p-value, corrected for all knobs by Holm, is below {ALPHA}",
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

    def arms(self) -> list[Arm]:
        """Dose 0, the knob, its controls, its neighbours."""

        def control(v):
            if self.how == "add":
                return Arm(self.layer, self.dose, v)
            return Arm(self.layer, self.dose, self.direction, along=v)

        own = [Arm(self.layer, dose, self.direction) for dose in (0.0, self.dose)]
        controls = [control(v) for rows in self.controls.values() for v in rows]
        return own + controls + [Arm(n, self.dose, v) for n, v in self.neighbours.items()]


class KnobTrial(NamedTuple):
    """What was measured for a knob; effects are paired with the same prompts at dose 0."""

    knob: Knob
    effect: Estimate
    p: float
    """sign-flip p-value of the effect, one-sided"""
    controls: pd.DataFrame
    """control, draw, value (mean effect)"""
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
    plain, steered, *rest = sweep(scope, prompts, scales, knob.arms(), knob.how, **options)
    plain_too, steered_too = sweep(scope, rephrased, scales, knob.arms()[:2], knob.how, **options)
    controls = [(name, draw) for name, rows in knob.controls.items() for draw in range(len(rows))]

    def scored(score: Score, texts, prompts) -> np.ndarray:
        return np.asarray(score(texts, prompts), float)

    zero = scored(outcome, plain, prompts)
    change = scored(outcome, steered, prompts) - zero
    rows = [
        (name, draw, (scored(outcome, texts, prompts) - zero).mean())
        for (name, draw), texts in zip(controls, rest, strict=False)
    ]
    again = [
        (f"layer {layer}", *difference(scored(outcome, texts, prompts), zero, seed=seed)[:3])
        for layer, texts in zip(knob.neighbours, rest[len(controls) :], strict=True)
    ]
    effect = difference(
        scored(outcome, steered_too, rephrased), scored(outcome, plain_too, rephrased), seed=seed
    )
    again.insert(0, ("rephrased", *effect[:3]))
    beside = []
    for name, score in sides.items():
        pair = [scored(score, texts, prompts) for texts in (steered, plain)]
        beside.append((name, *difference(*pair, seed=seed)[:3]))
    columns = ["value", "low", "high"]
    return KnobTrial(
        knob,
        difference(change, np.zeros(len(change)), seed=seed),
        sign_flip_p(change, seed),
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
        most = float(trial.controls.value.max())
        near = trial.again[trial.again["where"] != "rephrased"]
        rephrased = trial.again[trial.again["where"] == "rephrased"]
        causal = bool(trial.effect.low > most and p < ALPHA)
        specific = bool(((trial.sides.low >= -SIDE_LIMIT) & (trial.sides.high <= SIDE_LIMIT)).all())
        stable = bool((rephrased.low > most).all() and (near.low > most).any())
        rows.append(
            {"knob": trial.knob.name, "layer": trial.knob.layer, "dose": trial.knob.dose}
            | trial.effect._asdict()
            | {"p": p, "largest control": most}
            | {"rank p": rank_p(trial.effect.value, trial.controls.value)}
            | {"causal": causal, "specific": specific, "stable": stable}
            | {"verdict": "validated" if causal and specific and stable else "not shown"}
        )
    return pd.DataFrame(rows)
