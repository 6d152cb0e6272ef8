"""Many interventions on the same prompts, in few batches.

Arm        one intervention: a direction with its dose at a layer
sweep      what a model writes after some prompts, under each of some arms
dose_grid  the scores of what it writes, for each layer, dose and prompt
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .generation import generate
from .interventions import Scale, add, project_out

__all__ = ["Arm", "dose_grid", "sweep"]

HOW = ("add", "ablate")


class Arm(NamedTuple):
    """One intervention. Adding: `dose` median norms of `direction` after `layer`. Ablating: the
    share `dose` of `direction` is taken out of everything that is written to the stream."""

    layer: int
    dose: float
    direction: Tensor
    """[d_model]"""
    along: Tensor | None = None
    """ablating, for a control: take away as much, token by token, along this direction"""


def sweep(
    scope, prompts: Sequence[str], scales: Mapping[int, Scale], arms: Sequence[Arm],
    how: str = "add", **options,
) -> list[list[str]]:  # fmt: skip
    """One list of texts for each arm, in the order of the prompts.

    Prompts of all arms at a layer share batches, which saves most of the time. `how` is "add" or
    "ablate"; `options` go to `generate`. ValueError without arms.
    """
    if how not in HOW:
        raise ValueError(f"how is {how!r}; choose one of {', '.join(HOW)}")
    if not arms:
        raise ValueError("sweep got no arms")
    texts: list[list[str]] = [[] for _ in arms]
    for layer in sorted({arm.layer for arm in arms}):
        here = [i for i, arm in enumerate(arms) if arm.layer == layer]
        steer = _steering([arms[i] for i in here], scales[layer], how, len(prompts))
        made = generate(scope, list(prompts) * len(here), steer, **options)
        for place, i in enumerate(here):
            texts[i] = made[place * len(prompts) : (place + 1) * len(prompts)]
    return texts


def dose_grid(
    scope, prompts: Sequence[str], scales: Mapping[int, Scale], directions: Mapping[int, Tensor],
    doses: Sequence[float], scores: Mapping[str, Callable[[Sequence[str]], Sequence[float]]],
    how: str = "add", **options,
) -> pd.DataFrame:  # fmt: skip
    """One row for each layer of `directions`, dose and prompt: layer, dose, prompt (its number),
    text, and one column for each of `scores`, which are given the texts of an arm."""
    arms = [Arm(layer, float(dose), v) for layer, v in directions.items() for dose in doses]
    parts = []
    for arm, texts in zip(arms, sweep(scope, prompts, scales, arms, how, **options), strict=True):
        about = {"layer": arm.layer, "dose": arm.dose, "prompt": range(len(texts)), "text": texts}
        values = {name: np.asarray(score(texts), float) for name, score in scores.items()}
        parts.append(pd.DataFrame(about | values))
    return pd.concat(parts, ignore_index=True)


def _steering(arms: list[Arm], scale: Scale, how: str, n: int):
    """What `generate` needs for n prompts under each of some arms at one layer."""

    def stack(vectors) -> Tensor:
        return torch.stack([torch.as_tensor(v).float().cpu() for v in vectors])

    doses = torch.tensor([float(arm.dose) for arm in arms])
    own = stack(arm.direction for arm in arms)
    along = stack(arm.direction if arm.along is None else arm.along for arm in arms)

    def steer(rows: Tensor) -> dict:
        arm = rows // n
        if how == "add":
            return {scale.layer: add(own[arm], doses[arm], scale)}
        return {"writes": project_out(own[arm], scale, doses[arm], along[arm])}

    return steer
