"""Notebook 06. Edits that take a part of the residual away: one form for directions and features.

x' = x - s g p(x), with a part p, a strength s, and a gate g that is 1 or 0. Attention sinks are
never changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..hooks import edit as edit_model
from ..steering import Scale


@dataclass
class Arm:
    """What an edit takes away, and where."""

    parts: Mapping[int | str, Callable[[Tensor], Tensor]]
    """{layer or "writes": p(x), float32}"""
    scales: Mapping[int | str, Scale]
    reading: Callable[[Tensor], Tensor]
    """how much a part points towards what is to go: [..., d_model] to [...]"""
    level: float | None = None
    """of the gate, in median norms; None: there is none"""


def direction_arm(case, r: Tensor, layer: int, everywhere: bool) -> Arm:
    """The component along a direction, of the residual after a layer or of every write."""
    unit, place = normalize(r.float(), dim=0), "writes" if everywhere else layer

    def part(x: Tensor) -> Tensor:
        u = unit.to(x.device)
        return (x.float() @ u)[..., None] * u

    scales = {place: case.scales[layer]}
    return Arm({place: part}, scales, lambda p: p @ unit.to(p.device))


def feature_arm(case, chosen: Sequence[tuple[int, int]]) -> Arm:
    """What a set of features (layer, feature) contributes. ValueError for an empty set."""
    if not chosen:
        raise ValueError("the set of features is empty")

    def part_of(layer: int):
        sae, ids = case.scope.sae(layer), torch.tensor([f for n, f in chosen if n == layer])
        columns = sae.direction(ids).float()
        return lambda x: (sae.some(x, ids).to(columns) @ columns).to(x.device)

    layers = sorted({n for n, _ in chosen})
    scales = {n: case.scales[n] for n in layers}
    return Arm({n: part_of(n) for n in layers}, scales, lambda p: p.norm(dim=-1))


def take(arm: Arm, strength, instead: Tensor | None = None) -> dict:
    """{place: edit}, as `edit` takes it.

    strength: a number, or one for each prompt of a batch; instead: unit vectors [prompts, d_model],
    or [1, d_model], along which as much is taken away: a control of the same size.
    """
    s = torch.as_tensor(strength, dtype=torch.float32).reshape(-1, 1, 1)

    def at(place):
        part, scale = arm.parts[place], arm.scales[place]

        def edit(x: Tensor) -> Tensor:
            p, factor = part(x), s.to(x.device)
            here = (p != 0).any(-1, keepdim=True) & (factor != 0)
            if arm.level is not None:
                here &= arm.reading(p)[..., None] > arm.level * scale.median
            here &= x.float().norm(dim=-1, keepdim=True) <= scale.sink
            if instead is not None:
                p = p.norm(dim=-1, keepdim=True) * instead.to(x.device)[:, None]
            return torch.where(here, (x.float() - factor * p).to(x.dtype), x)

        return edit

    return {place: at(place) for place in arm.parts}


@torch.no_grad()
def gate_level(case, arm: Arm, prompts: Sequence[str], q: float = 0.95) -> float:
    """The reading, in median norms, that a share q of prompts stay below at all tokens and places
    of the edit."""
    peaks: list[float] = []
    seen: list[Tensor] = []

    def watch(place):
        def look(x: Tensor) -> Tensor:
            inside = x.float().norm(dim=-1) <= arm.scales[place].sink
            reading = arm.reading(arm.parts[place](x)) / arm.scales[place].median
            seen.append(reading.where(inside, -torch.inf))
            return x

        return look

    for start in range(0, len(prompts), 64):
        seen.clear()
        batch = case.scope.tokens(prompts[start : start + 64])
        with edit_model(case.scope.model, {place: watch(place) for place in arm.parts}):
            case.scope.model(**batch, use_cache=False, logits_to_keep=1)
        real = batch["attention_mask"].bool()
        peaks += torch.stack(seen).amax(0).where(real, -torch.inf).amax(1).tolist()
    return float(np.quantile(peaks, q))
