"""What an SAE refuses, with messages that name the SAE and the way out.

checked_tokens  residuals as [tokens, d_model]: ValueError for another width, NaN or inf
check_features  ValueError for feature numbers that do not exist
check_finite    ValueError for weights with NaN or inf
"""

import torch
from torch import Tensor

__all__ = ["check_features", "check_finite", "checked_tokens"]


def checked_tokens(x: Tensor, sae) -> Tensor:
    """x [..., d_model] as [tokens, d_model] on the SAE's device, of the right width and finite."""
    if x.shape[-1:] != (sae.d_model,):
        raise ValueError(
            f"residuals of shape {tuple(x.shape)} do not fit W_enc {tuple(sae.W_enc.shape)} "
            f"of {sae}; pass [..., {sae.d_model}] or choose an SAE of this model"
        )
    flat = x.reshape(-1, sae.d_model).to(sae.device)
    bad = ~flat.isfinite().all(-1)
    if bad.any():
        first = bad.nonzero()[0, 0].cpu()
        place = [int(i) for i in torch.unravel_index(first, x.shape[:-1] or (1,))]
        raise ValueError(
            f"residual of token {place} given to {sae} holds NaN or inf "
            f"({int(bad.sum())} of {len(flat)} tokens do); look for the layer that makes it"
        )
    return flat


def check_features(ids: Tensor, sae) -> None:
    outside = ids[(ids < 0) | (ids >= sae.d_sae)]
    if outside.numel():
        raise ValueError(
            f"feature {int(outside[0])} of {sae} is out of range; choose from 0 to {sae.d_sae - 1}"
        )


def check_finite(weights: Tensor, name: str) -> None:
    """One pass without a copy: NaN and inf both show in the extremes."""
    if not all(extreme.isfinite() for extreme in torch.aminmax(weights)):
        raise ValueError(f"{name} holds NaN or inf; download the file again")
