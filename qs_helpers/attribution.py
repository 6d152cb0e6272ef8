"""What a decision owes to each direction: gradients of the log-odds of a set of next tokens.

gradients           residuals and gradients at every token of some prompts
Gradients           of one layer and batch
feature_attribution how much each SAE feature adds to the log-odds, to first order
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .hooks import edit
from .tokens import batches

__all__ = ["Gradients", "feature_attribution", "gradients"]


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


def gradients(
    scope, prompts: Sequence[str], tokens: Tensor, layers: Sequence[int]
) -> Iterator[Gradients]:
    """Gradients of the log-odds (nats) of the next token being one of `tokens`, batch by batch.

    One forward and one backward pass a batch serve all `layers`.
    """
    ids = scope.ids(list(prompts))
    for rows in batches({i: len(tokens) for i, tokens in enumerate(ids)}, scope.batch_tokens):
        batch = scope.tokens([ids[i] for i in rows])
        x: dict[int, Tensor] = {}
        probes: dict[int, Tensor] = {}

        def probe(layer: int, x=x, probes=probes):
            # The gradient of a sum at a zero that is added to the residuals is theirs.
            def added(residual: Tensor) -> Tensor:
                x[layer] = residual.detach()
                probes[layer] = torch.zeros_like(residual, requires_grad=True)
                return residual + probes[layer]

            return added

        with torch.enable_grad(), edit(scope.model, {n: probe(n) for n in layers}):
            logits = scope.model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1]
            logp = logits.float().log_softmax(-1)
            inside = torch.zeros(logp.shape[-1], dtype=torch.bool, device=logp.device)
            inside[tokens.to(logp.device)] = True
            odds = logp[:, inside].logsumexp(-1) - logp[:, ~inside].logsumexp(-1)
            found = torch.autograd.grad(odds.sum(), [probes[n] for n in layers])
        real = batch["attention_mask"].bool()
        for layer, gradient in zip(layers, found, strict=True):
            yield Gradients(layer, rows, x[layer].float(), gradient.float(), real)


def feature_attribution(
    scope, prompts: Sequence[str], tokens: Tensor, layers: Sequence[int]
) -> dict[int, Tensor]:
    """{layer: float64 [d_sae]}: mean over prompts of the sum over tokens of z_j (gradient . d_j).

    The first-order estimate of what the log-odds would lose if the feature were zeroed ("AtP",
    Nanda 2023; linear attribution in Marks et al. 2024). Tokens where a feature is not in the
    TopK count nothing. Position 0 of each prompt is left out (often an attention sink).
    """
    totals = {n: torch.zeros(scope.d_sae, dtype=torch.float64) for n in layers}
    for part in gradients(scope, prompts, tokens, layers):
        sae = scope.sae(part.layer)
        inner = part.real & (part.real.cumsum(1) > 1)
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
