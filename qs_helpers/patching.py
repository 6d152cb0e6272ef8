"""Activation patching: how much of a decision a few components carry.

differences   residuals of a source prompt minus those of its twin, at the last tokens
patched_odds  the log-odds of the next token after such a difference was added
Basis         one way to cut a difference into components
coordinates   Basis: the coordinates of the residual stream, or rotated ones
features      Basis: SAE features, whose activations are patched
along         Basis: one direction, and nothing else
recovered     the share of the effect that the k best components recover, for some k

The metric is the log-odds of a set of tokens, in nats, and not a probability; the share is
(patched - plain) / (source - plain) (Heimersheim and Nanda 2024; Zhang and Nanda 2024). Pairs
whose log-odds differ by less than half a nat are left out and counted.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from .attribution import gradients
from .forward import ends
from .replay import reuse_below
from .selection import token_odds
from .stats import ratio

__all__ = ["Basis", "along", "coordinates", "differences", "features", "patched_odds", "recovered"]

LEAST = 0.5  # nats between the two prompts of a pair
BATCH = 128


def differences(scope, prompts: Sequence[str], sources: Sequence[str], layer: int, n: int):
    """Residuals of the prompts and of their sources after a layer: two float32 [pairs, n,
    d_model], the last n tokens of each."""
    out = []
    for texts in (prompts, sources):
        found = torch.empty(len(texts), n, scope.d_model)
        for _, x, numbers in ends(scope, texts, n, [layer]):
            found[numbers] = x.float().cpu()
        out.append(found)
    return out


@torch.no_grad()
def patched_odds(scope, prompts: Sequence[str], layer: int, delta: Tensor, tokens: Tensor):
    """Log-odds (nats) of the next token being one of `tokens`, float64 [prompts], when delta
    [prompts, n, d_model] is added to the residuals of the last n tokens after a layer."""
    out = []
    for start in range(0, len(prompts), BATCH):
        rows = list(prompts[start : start + BATCH])
        step = delta[start : start + BATCH].to(scope.device)

        def added(x: Tensor, step=step) -> Tensor:
            # Prompts are padded on the left, so their last tokens are in the last columns.
            return (x.float() + pad(step, (0, 0, x.shape[1] - step.shape[1], 0))).to(x.dtype)

        out.append(token_odds(scope, rows, tokens, {layer: added}, in_order=True))
    return np.concatenate(out)


class Basis(NamedTuple):
    """A way to cut differences of residuals into components."""

    name: str
    values: Callable[[Tensor], Tensor]
    """residuals [..., d_model] to components [..., components]"""
    back: Callable[[Tensor], Tensor]
    """components to residuals"""
    pull: Callable[[Tensor], Tensor]
    """gradients of residuals [..., d_model] to gradients of components"""


def coordinates(rotation: Tensor | None = None) -> Basis:
    """The coordinates of the residual stream, or those after an orthogonal `rotation`
    [d_model, d_model], whose columns are then the components."""
    if rotation is None:
        return Basis("coordinates", lambda x: x, lambda c: c, lambda g: g)
    turned = lambda x: x @ rotation  # noqa: E731
    return Basis("rotated", turned, lambda c: c @ rotation.T, turned)


def features(sae) -> Basis:
    """Activations of SAE features; what the SAE does not explain stays as it is."""

    def values(x: Tensor) -> Tensor:
        acts = sae.encode(x.to(sae.device))
        dense = torch.zeros(*x.shape[:-1], sae.d_sae, device=sae.device)
        return dense.scatter_(-1, acts.indices, acts.values).cpu()

    columns = sae.direction(range(sae.d_sae)).float().cpu()
    return Basis("SAE features", values, lambda c: c @ columns, lambda g: g @ columns.T)


def along(direction: Tensor) -> Basis:
    """One component: the coordinate along a direction [d_model]."""
    unit = normalize(direction.float(), dim=0)
    part = lambda x: x @ unit[:, None]  # noqa: E731
    return Basis("one direction", part, lambda c: c * unit, part)


def recovered(
    scope, basis: Basis, ranked_on, judged_on, layer: int, n: int, tokens: Tensor,
    sizes: Sequence[int], seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """One row a size: size, value with its interval over pairs, n (pairs that count).

    ranked_on, judged_on: (prompts, sources), pairs of a discovery and of a test split. Components
    are ranked by gradient times difference, the mean over the first; the sign is that of the
    effect, so that a component that works against it comes last. ValueError if no pair counts.
    """
    order = _ranking(scope, basis, *ranked_on, layer, n, tokens)
    prompts, sources = judged_on
    here, there = differences(scope, prompts, sources, layer, n)
    change = basis.values(there) - basis.values(here)
    plain, goal = (token_odds(scope, texts, tokens) for texts in judged_on)
    counts = np.abs(goal - plain) >= LEAST
    if not counts.any():
        raise ValueError(f"the odds of none of {len(prompts)} pairs differ by {LEAST} nats")
    rows = []
    with reuse_below(scope.model):
        for size in sizes:
            kept = torch.zeros_like(change)
            kept[..., order[:size]] = change[..., order[:size]]
            odds = patched_odds(scope, prompts, layer, basis.back(kept), tokens)
            found = ratio((odds - plain)[counts], (goal - plain)[counts], seed=seed)
            rows.append({"basis": basis.name, "size": int(size)} | found._asdict())
    return pd.DataFrame(rows)


def _ranking(scope, basis: Basis, prompts, sources, layer: int, n: int, tokens: Tensor) -> Tensor:
    """Components by how much they move the odds towards those of the sources, best first."""
    here, there = differences(scope, prompts, sources, layer, n)
    change = basis.values(there) - basis.values(here)
    slope = torch.zeros_like(here)
    for part in gradients(scope, prompts, tokens, [layer]):
        slope[part.rows] = part.gradient[:, -n:].cpu()
    goal, plain = (token_odds(scope, texts, tokens).mean() for texts in (sources, prompts))
    score = (basis.pull(slope) * change).sum(1).mean(0) * np.sign(goal - plain)
    return score.argsort(descending=True)
