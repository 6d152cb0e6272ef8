"""Abliteration as it is usually done, on a copy of the weights in memory: to check the hooks.

orthogonalised  a copy of a model whose writes have no component along a direction

Nothing here is saved.
"""

import copy

import torch
from torch import Tensor, nn

from .blocks import decoder_layers, writers

__all__ = ["orthogonalised"]


@torch.no_grad()
def orthogonalised(model, direction: Tensor, untie: bool = True):
    """A copy of a causal LM that cannot write along `direction` [d_model] (Arditi et al. 2024).

    The embedding and the output projection of every attention and MLP, with their biases, lose
    their component along it: W - unit unit^T W, for the embedding row by row. Small Qwen3 models
    tie the embedding to the output head, which would change with it: `untie` gives the head a
    copy of its own first; False shows the trap. ValueError for a writer that is no single
    projection (a mixture of experts).
    """
    new = copy.deepcopy(model)
    embedding, head = new.get_input_embeddings(), new.get_output_embeddings()
    if untie and head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
    unit = direction / torch.linalg.vector_norm(direction)
    unit = unit.to(embedding.weight.device, torch.float32)

    def take_out(rows: Tensor) -> None:  # [..., d_model], in place
        left = rows.float() - (rows.float() @ unit)[..., None] * unit
        rows.copy_(left.to(rows.dtype))

    take_out(embedding.weight)
    for layer in decoder_layers(new):
        for module in writers(layer):
            projection = _projection(module)
            take_out(projection.weight.T)
            if projection.bias is not None:
                take_out(projection.bias)
    return new


def _projection(module: nn.Module) -> nn.Linear:
    """The last linear map of an attention or MLP, the one that writes."""
    for name in ("o_proj", "out_proj", "down_proj"):
        found = getattr(module, name, None)
        if isinstance(found, nn.Linear):
            return found
    raise ValueError(
        f"{type(module).__name__} has no single output projection, so its weights cannot be "
        "orthogonalised here; hooks can ablate what it writes"
    )
