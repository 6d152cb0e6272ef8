"""Notebook 06. What a decision owes to each direction: attribution to features, and patching.

The metric is the log-odds of a set of tokens, in nats, and not a probability; the share is
(patched - plain) / (source - plain) (Heimersheim and Nanda 2024; Zhang and Nanda 2024). Pairs
whose log-odds differ by less than half a nat are left out and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from ..fast.reuse import reuse_below
from ..forward import batches, ends, listed
from ..hooks import edit
from ..scoring import log_odds, token_odds
from .tradeoff import quotient

LEAST = 0.5  # nats between the two prompts of a pair
BATCH = 128


class Gradients(NamedTuple):
    """Of one batch after one layer; padding on the left."""

    layer: int
    rows: list[int]
    """numbers of the prompts"""
    x: Tensor
    """residuals, float32 [rows, seq, d_model]"""
    gradient: Tensor
    """d log-odds / d x, the effect through all later layers; 0 at padding"""
    real: Tensor
    """bool [rows, seq]"""


def gradients(scope, prompts, tokens: Tensor, layers) -> Iterator[Gradients]:
    """Gradients of the log-odds (nats) of the next token being one of `tokens` (int64 [tokens]),
    batch by batch.

    One forward and one backward pass a batch serve all `layers`.
    """

    def probe(layer: int, seen: dict, residual: Tensor) -> Tensor:
        # The gradient of a sum at a zero that is added to the residuals is theirs.
        zero = torch.zeros_like(residual, requires_grad=True)
        seen[layer] = residual.detach().float(), zero
        return residual + zero

    ids = scope.ids(prompts)
    for rows in batches({i: len(tokens) for i, tokens in enumerate(ids)}, scope.batch_tokens):
        batch, seen = scope.tokens([ids[i] for i in rows]), {}
        edits = {layer: partial(probe, layer, seen) for layer in layers}
        with torch.enable_grad(), edit(scope.model, edits):
            logits = scope.model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1]
            odds = log_odds(logits, tokens).sum()
            found = torch.autograd.grad(odds, [seen[n][1] for n in layers])
        real = batch["attention_mask"].bool()
        for layer, gradient in zip(layers, found, strict=True):
            yield Gradients(layer, rows, seen[layer][0], gradient.float(), real)


def feature_attribution(scope, prompts, tokens: Tensor, layers) -> dict[int, Tensor]:
    """{layer: float64 [d_sae]}: mean over prompts of the sum over tokens of z_j (gradient . d_j).

    The first-order estimate of what the log-odds would lose if the feature were zeroed ("AtP",
    Nanda 2023; linear attribution in Marks et al. 2024). Tokens where a feature is not in the
    TopK count nothing. The first token of each prompt is left out (often an attention sink), or the
    tokenizer's prefix where it has one.
    """
    prompts = listed(prompts)
    totals = {n: torch.zeros(scope.d_sae, dtype=torch.float64) for n in layers}
    for part in gradients(scope, prompts, tokens, layers):
        sae = scope.sae(part.layer)
        inner = part.real & (part.real.cumsum(1) > max(1, len(scope.prefix)))
        x, gradient = part.x[inner], part.gradient[inner]
        acts = sae.encode(x)
        # z_j (g . d_j) for the k active features of each token only.
        for start in range(0, len(x), 256):
            here = slice(start, start + 256)
            index = acts.indices[here]
            columns = sae.direction(index.flatten()).view(*index.shape, -1).to(gradient)
            shares = (columns @ gradient[here, :, None])[..., 0] * acts.values[here].to(gradient)
            totals[part.layer].index_add_(0, index.flatten().cpu(), shares.flatten().double().cpu())
    return {n: total / len(prompts) for n, total in totals.items()}


def differences(scope, basis, prompts: Sequence[str], sources: Sequence[str], layer: int, n: int):
    """Components of the sources after a layer minus those of the prompts, at the last n tokens:
    float32 [pairs, n, components]."""
    prompts, sources = listed(prompts), listed(sources)
    here, there = torch.empty(2, len(prompts), n, scope.d_model)
    for texts, out in ((prompts, here), (sources, there)):
        for _, x, numbers in ends(scope, texts, n, [layer]):
            out[numbers] = x.float().cpu()
    return basis.values(there) - basis.values(here)


@torch.no_grad()
def patched_odds(scope, prompts: Sequence[str], layer: int, delta: Tensor, tokens: Tensor):
    """Log-odds (nats) of the next token being one of `tokens`, float64 [prompts], when delta
    [prompts, n, d_model] is added to the residuals of the last n tokens after a layer."""
    out, prompts = [], listed(prompts)
    for start in range(0, len(prompts), BATCH):
        rows = prompts[start : start + BATCH]
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
    return Basis(
        "rotated", lambda x: x @ rotation, lambda c: c @ rotation.T, lambda g: g @ rotation
    )


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
    unit = normalize(direction.float(), dim=0)[:, None]
    return Basis("one direction", lambda x: x @ unit, lambda c: c @ unit.T, lambda g: g @ unit)


def recovered(
    scope,
    basis: Basis,
    ranked_on,
    judged_on,
    layer: int,
    n: int,
    tokens: Tensor,
    sizes,
    groups=None,
    family: int = 1,
) -> pd.DataFrame:
    """One row a size: size, the estimate of the share of the effect, and in "shares" what each pair
    brings, whose mean it is (float64 [pairs], NaN for pairs that do not count).

    ranked_on, judged_on: (prompts, sources), pairs of a discovery and of a test split; groups
    [pairs] and family are those of the interval over the second. Components are ranked by gradient
    times difference, the mean over the first; the sign is that of the effect, so that a component
    that works against it comes last. ValueError if no pair counts.
    """
    ranked_on, judged_on = (tuple(map(listed, pair)) for pair in (ranked_on, judged_on))
    order = _ranking(scope, basis, *ranked_on, layer, n, tokens)
    change = differences(scope, basis, *judged_on, layer, n)
    plain, goal = (token_odds(scope, texts, tokens) for texts in judged_on)
    counts = np.abs(goal - plain) >= LEAST
    if not counts.any():
        raise ValueError(f"the odds of none of {len(counts)} pairs differ by {LEAST} nats")
    alike = None if groups is None else np.asarray(groups)[counts]
    rows = []
    with reuse_below(scope.model):
        for size in sizes:
            kept = torch.zeros_like(change)
            kept[..., order[:size]] = change[..., order[:size]]
            odds = patched_odds(scope, judged_on[0], layer, basis.back(kept), tokens)
            moved, whole = odds - plain, goal - plain
            found = quotient(moved[counts], whole[counts], alike, family)
            shares = np.where(counts, moved / whole[counts].mean(), np.nan)
            row = {"basis": basis.name, "size": int(size), "shares": shares}
            rows.append(row | found._asdict())
    return pd.DataFrame(rows)


def _ranking(scope, basis: Basis, prompts, sources, layer: int, n: int, tokens: Tensor) -> Tensor:
    """Components by how much they move the odds towards those of the sources, best first."""
    change = differences(scope, basis, prompts, sources, layer, n)
    slope = torch.zeros(len(prompts), n, scope.d_model)
    for part in gradients(scope, prompts, tokens, [layer]):
        slope[part.rows] = part.gradient[:, -n:].cpu()
    goal, plain = (token_odds(scope, texts, tokens).mean() for texts in (sources, prompts))
    score = (basis.pull(slope) * change).sum(1).mean(0) * np.sign(goal - plain)
    return score.argsort(descending=True)
