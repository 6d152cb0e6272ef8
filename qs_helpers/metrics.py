"""Numbers that say how good a reconstruction, a prediction or a reading of a file is.

sink_mask            which tokens are attention sinks, by their norm
fvu                  fraction of variance unexplained by a reconstruction
token_cross_entropy  nats per token from logits
cross_entropy        nats per token of a model on its input
Reading              one way to read an SAE file (convention, layer) and its FVU
compare_readings     the FVU with b_dec subtracted or not, for each layer's residuals
check_reading        the same, and an error that names the better reading if there is one
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .formats import CONVENTIONS

__all__ = [
    "Reading",
    "check_reading",
    "compare_readings",
    "cross_entropy",
    "fvu",
    "sink_mask",
    "token_cross_entropy",
]

SINK_FACTOR = 10  # a token whose norm exceeds this many medians is a sink


@torch.no_grad()
def sink_mask(x: Tensor, factor: float = SINK_FACTOR, mask: Tensor | None = None) -> Tensor:
    """Tokens whose residual norm exceeds `factor` times the median norm.

    x is [..., d_model]; the result is bool [...], True at sinks. `mask` (bool or 0/1, [...]) says
    which tokens are real: padding does not enter the median and is never a sink. The median is
    the lower one when the count is even. ValueError if no token is real or a real one has NaN.
    """
    norms = torch.linalg.vector_norm(x.float(), dim=-1)
    real = torch.ones_like(norms, dtype=torch.bool) if mask is None else _token_mask(mask, norms)
    if not real.any():
        raise ValueError("sink_mask got no real token; pass at least one")
    if not norms[real].isfinite().all():
        raise ValueError("sink_mask got NaN or inf residuals; look for the layer that makes them")
    return (norms > factor * norms[real].median()) & real


@torch.no_grad()
def fvu(x: Tensor, x_hat: Tensor, mask: Tensor | None = None) -> float:
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean|^2, in float64.

    x and x_hat are [..., d_model]; `mask` (bool or 0/1, [...]) says which tokens count, and the
    mean is over those same tokens. 0 is perfect; 1 is as good as the mean. ValueError on unequal
    shapes, on NaN or inf, and if fewer than two different tokens are kept.
    """
    if x.shape != x_hat.shape:
        raise ValueError(
            f"fvu got x {tuple(x.shape)} and x_hat {tuple(x_hat.shape)}; make them equal"
        )
    keep = torch.ones_like(x[..., 0], dtype=torch.bool)
    keep = keep if mask is None else _token_mask(mask, keep)
    x, x_hat = x[keep].double(), x_hat.to(x.device)[keep].double()
    total = (x - x.mean(0)).square().sum().item() if len(x) else 0.0
    error = (x - x_hat).square().sum().item()
    if not (torch.isfinite(torch.tensor([total, error])).all()):
        name = "x" if not x.isfinite().all() else "x_hat"
        raise ValueError(f"fvu got NaN or inf in {name}; look for the layer that makes them")
    if total == 0:
        raise ValueError(
            f"fvu needs two different tokens, {len(x)} kept do not vary; pass more text"
        )
    return error / total


@torch.no_grad()
def token_cross_entropy(
    logits: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """-log p(token j+1 | tokens up to j) in nats: float32 [batch, seq-1].

    logits [batch, seq, vocab], input_ids [batch, seq] int64. NaN where token j or token j+1 is
    padding, so that nothing predicted from or at padding is averaged in by mistake.
    """
    targets = input_ids[:, 1:].to(logits.device)
    # Row by row: the float32 copy of the logits is then one sequence, not the batch.
    rows = [
        functional.cross_entropy(row[:-1].float(), target, reduction="none")
        for row, target in zip(logits, targets, strict=True)
    ]
    nats = torch.stack(rows)
    if attention_mask is None:
        return nats
    real = attention_mask.to(logits.device).bool()
    return nats.masked_fill(~(real[:, 1:] & real[:, :-1]), float("nan"))


@torch.no_grad()
def cross_entropy(model, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """`token_cross_entropy` of a causal LM on a batch; one forward pass, no cache.

    Returns float32 [batch, seq-1] nats, NaN at padding; average it with `.nanmean()`.
    """
    output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    return token_cross_entropy(output.logits, input_ids, attention_mask)


class Reading(NamedTuple):
    """FVU when the residuals after `layer` are read with `convention`."""

    convention: str
    layer: int | None
    fvu: float


def compare_readings(sae, residuals) -> list[Reading]:
    """FVU with b_dec subtracted or not, for residuals of one or more layers; best first.

    `residuals` is a tensor [..., d_model] of the SAE's own layer, or a dict {layer: tensor} as
    `capture` fills it (say layers n-1, n, n+1). Pass real tokens only; sinks are left out here.
    """
    if isinstance(residuals, Tensor):
        residuals = {sae.layer: residuals}
    own = CONVENTIONS[sae.convention]
    # The same layout, with b_dec subtracted and not; a scaled suite has only its own reading.
    names = [
        row.name
        for row in CONVENTIONS.values()
        if (row.transposed, row.scaled) == (own.transposed, own.scaled)
    ]
    return sorted(
        (
            Reading(name, layer, fvu(x, sae.read_as(name).reconstruct(x), ~sink_mask(x)))
            for layer, x in residuals.items()
            for name in names
        ),
        key=lambda reading: reading.fvu,
    )


def check_reading(sae, residuals) -> list[Reading]:
    """`compare_readings`, and a ValueError that names the better reading if there is one.

    `residuals` must hold the SAE's own layer.
    """
    if not isinstance(residuals, Tensor) and sae.layer not in residuals:
        raise ValueError(f"residuals of layers {sorted(residuals)} miss layer {sae.layer} of {sae}")
    readings = compare_readings(sae, residuals)
    own = next(r for r in readings if r[:2] == (sae.convention, sae.layer))
    best = readings[0]
    # Neighbouring layers resemble each other: a lead of less than a tenth decides nothing.
    if best.fvu < 0.9 * own.fvu:
        raise ValueError(
            f"{sae} read as {own.convention!r} at layer {own.layer} has FVU {own.fvu:.3g}, but as "
            f"{best.convention!r} at layer {best.layer} only {best.fvu:.3g}; load it that way"
        )
    return readings


def _token_mask(mask: Tensor, like: Tensor) -> Tensor:
    if mask.shape != like.shape:
        raise ValueError(f"mask is {tuple(mask.shape)} but the tokens are {tuple(like.shape)}")
    return mask.to(like.device).bool()
