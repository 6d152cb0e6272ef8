"""The arithmetic of a TopK SAE as plain functions on tensors.

SparseActs       the k active features of each token: values and indices
topk_linear      the k largest of relu(x @ W.T + b), chunk by chunk
exact_products   whether float32 products are computed in float32
may_fire         tokens at which one of a few rows of W gives more than 0
columns_of       the values of a few features among sparse activations
weighted_columns sums of weighted columns of a matrix, reading only the columns in use
sparse_change    the entries by which one set of active features differs from another
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

__all__ = [
    "SparseActs",
    "columns_of",
    "exact_products",
    "may_fire",
    "sparse_change",
    "topk_linear",
    "weighted_columns",
]

BLOCK = 4  # columns of a block of pre-activations
BLOCK_BYTES = 2**24  # what one block of widened or gathered weights may take


class SparseActs(NamedTuple):
    """Active features: `values` float32 [..., k] in descending order, `indices` int64 [..., k].

    An entry of value 0 is an empty place (fewer than k features were positive); its index means
    nothing. Count features with `values > 0`.
    """

    values: Tensor
    indices: Tensor


def topk_linear(x: Tensor, W: Tensor, b: Tensor, k: int, chunk_bytes: int) -> SparseActs:
    """The k largest of relu(x @ W.T + b) for x [tokens, d_model], W (d_sae, d_model), b (d_sae,).

    In float32; the dense (tokens, d_sae) matrix exists for one chunk of `chunk_bytes` at a time.
    """
    values = torch.empty(len(x), k, device=x.device, dtype=torch.float32)
    indices = torch.empty(len(x), k, device=x.device, dtype=torch.int64)
    step = max(1, chunk_bytes // (4 * len(W)))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        pre = _linear(x[part].float(), W, b).relu_()
        values[part], indices[part] = _largest(pre, k)
    return SparseActs(values, indices)


def _largest(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk(pre, k) for pre [tokens, n].

    On a CPU its time grows with n, so it is asked twice for less: the k largest numbers are in the
    k blocks with the largest maxima. A block is every (n / 4)th column, so that maxima are taken
    of whole rows of memory.
    """
    n = pre.shape[1]
    if pre.device.type != "cpu" or n % BLOCK or n < 4 * BLOCK * k:
        return torch.topk(pre, k)
    step = n // BLOCK
    maxima = pre.view(len(pre), BLOCK, step).amax(1)
    blocks = torch.topk(maxima, k, sorted=False).indices
    columns = blocks[:, None] + step * torch.arange(BLOCK)[None, :, None]
    columns = columns.view(len(pre), BLOCK * k)
    values, places = torch.topk(pre.gather(1, columns), k)
    return values, columns.gather(1, places)


def _linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    if W.dtype == torch.float32:
        return torch.addmm(b, x, W.T)
    # Weights kept in another dtype are widened block by block, never as a whole second copy.
    out = torch.empty(len(x), len(W), device=x.device, dtype=torch.float32)
    rows = max(1, BLOCK_BYTES // (4 * W.shape[1]))
    for start in range(0, len(W), rows):
        part = slice(start, start + rows)
        out[:, part] = torch.addmm(b[part], x, W[part].float().T)
    return out


def exact_products() -> bool:
    """Whether torch computes float32 products in float32: it may be told to be faster instead."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # said by a backend's own setting, which this cannot tell
        return False


def may_fire(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Tokens of x [tokens, d_model] at which x @ W.T + b may be above 0 in a row: bool [tokens].

    W is a few rows (n, d_model). A float32 sum of d products differs from the exact one by at
    most d u sum |x_i w_i| (u = 2^-24, to first order; Higham 2002, section 3.1), and that sum is
    at most max|x| * sum|w|. Two ways of summing differ by less than twice that, with room for what
    underflows: a token that is left out has no positive value either way. Where products are not
    exact, no token is left out.
    """
    if not exact_products():
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    x, W, d = x.float(), W.float(), W.shape[1]
    most = torch.outer(x.abs().amax(-1), W.abs().sum(-1)) + b.abs()
    return (torch.addmm(b, x, W.T) > -d * (2.0**-22 * most + 2.0**-120)).any(-1)


def columns_of(acts: SparseActs, ids: Tensor, d_sae: int) -> Tensor:
    """The values of the features `ids` [n] in acts [tokens, k], 0 where one is not active:
    float32 [tokens, n]."""
    place = torch.full((d_sae,), len(ids), device=acts.indices.device)
    place[ids] = torch.arange(len(ids), device=place.device)
    out = torch.zeros(len(acts.values), len(ids) + 1, device=place.device, dtype=torch.float32)
    out.scatter_add_(1, place[acts.indices], acts.values)
    return out[:, place[ids]]


def weighted_columns(W: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """Sum over e of values[t, e] * W[:, indices[t, e]]: float32 [tokens, d_model].

    W is (d_model, d_sae), values and indices [tokens, entries]. Columns that lie in one piece
    (W.T is contiguous) are read where they are. Others are gathered for one block of rows at a
    time and turned; the block stays in cache and W is never copied whole. Entries of value 0 cost
    nothing.
    """
    filled = values != 0
    counts = filled.sum(-1)
    offsets, weights = counts.cumsum(0) - counts, values[filled]
    if W.dtype == torch.float32 and W.T.is_contiguous():
        return embedding_bag(indices[filled], W.T, offsets, mode="sum", per_sample_weights=weights)
    used, places = torch.unique(indices[filled], return_inverse=True)
    out = torch.zeros(len(values), len(W), device=W.device, dtype=torch.float32)
    if not len(used):
        return out
    rows = min(128, max(1, BLOCK_BYTES // (4 * len(used))))
    for start in range(0, len(W), rows):
        part = slice(start, start + rows)
        block = W[part].index_select(1, used).float().T.contiguous()
        out[:, part] = embedding_bag(places, block, offsets, mode="sum", per_sample_weights=weights)
    return out


def sparse_change(old: SparseActs, new: SparseActs) -> SparseActs:
    """new - old as entries [tokens, k_old + k_new], exactly zero where nothing changed.

    A feature that `new` names twice counts twice, as it does in a decode.
    """
    same = old.indices[:, :, None] == new.indices[:, None, :]
    kept = torch.where(same, new.values[:, None, :], 0).sum(-1)
    fresh = new.values.masked_fill(same.any(1), 0)
    return SparseActs(
        torch.cat([kept - old.values, fresh], -1), torch.cat([old.indices, new.indices], -1)
    )
