"""The float32 TopK of a large encoder on a GPU, found with float16 products.

r = fl(x . w) + b is the pre-activation of a token x and a row w, a float32 dot product. Its screen
s is the same sum of x' and w': x and w in float16 after a division by a power of two, one for each
token and one for W. Products of them are exact in float32. They are summed in slices of SLICE
dimensions, and the slices then added; a tensor core cuts where other units round, and may cut the
sum as well as the products of 4 dimensions or more, so that a slice errs by at most 2.5 SLICE u in
all (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores"), where u = 2^-24. So with
Cauchy-Schwarz, d dimensions, and d u sum |x_i w_i| for the error of a float32 sum of d products in
any order (Higham 2002, section 3.1),

    |s - r| <= B = |x| |w - w'| + |x - x'| |w'| + (3 SLICE + 1.1 d + 64) u (|x| |w| + |b|)

with the largest norms of a row in W. What is more than 2.5 SLICE + d is for the sums of slices, for
x' and w', which may be longer than x and w, and for the norms themselves.

Let s_k be the k-th largest s. The k rows with the largest s have r >= s_k - B, and any row with
s < s_k - 2 B has a smaller r: it is not among the k largest. The r of all other rows are computed.
There are few of them, since B is a few hundredths of the spread of a token's pre-activations. A
token with more than WIDTH k of them, or with numbers near overflow, is left to the plain product.
So are a few tokens: what is done here in many steps pays for many.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from .topk import LEAST, U, exact_products, length_of, linear, topk

SLICE = 1024  # dimensions that are summed in one go
MANY = 2**36  # tokens times numbers in W: with half as many an H100 was slower than without
WIDTH = 2  # rows that are looked at, for each place in the TopK
GATHER_BYTES = 2**27  # of rows that are multiplied anew, at a time
LEAST_SCALE = 2.0**-60


class Halves(NamedTuple):
    """What is known of W (d_sae, d_model) and b: `rows` float16 (d_sae, d_model), W over `scale`;
    the largest |w|, |w'| and |w - w'| of a row; the largest |b|."""

    rows: Tensor
    scale: float
    norm: float
    short: float
    error: float
    bias: float


def make_halves(W: Tensor, b: Tensor, k: int) -> Halves | None:
    """The screen of an encoder. None for a small one, and for weights that are not float32 or not
    on an NVIDIA GPU: there the plain product is taken."""
    small = W.numel() < LEAST or len(W) < 100 * k
    if small or W.device.type != "cuda" or not torch.version.cuda or W.dtype != torch.float32:
        return None
    return halves_of(W, b)


def halves_of(W: Tensor, b: Tensor) -> Halves:
    """The screen of any encoder."""
    scale = float(_scale(W.abs().max()))
    rows = torch.empty(W.shape, dtype=torch.float16, device=W.device)
    most = torch.zeros(3, device=W.device, dtype=torch.float32)
    for start in range(0, len(W), 4096):  # no second copy in float32
        part = slice(start, start + 4096)
        rows[part] = W[part] / scale
        short = rows[part].float() * scale
        norms = [length_of(made).amax() for made in (W[part], short, W[part] - short)]
        most = torch.maximum(most, torch.stack(norms))
    return Halves(rows, scale, *most.tolist(), float(b.abs().max()))


def halved(x: Tensor, W: Tensor, b: Tensor, k: int, halves: Halves, chunk_bytes: int):
    """(values float32 [tokens, k], indices int64 [tokens, k], settled) of the k largest
    relu(x @ W.T + b), for x float32 [tokens, d_model].

    `settled` {"float16", "all": tokens} says which products were enough.
    """
    # Products that are to be fast ones are not what the bound is for.
    exact = exact_products() and not torch.backends.cuda.matmul.allow_fp16_accumulation
    parts, settled = [], {"float16": 0, "all": 0}
    for part in x.split(max(1, chunk_bytes // (4 * len(W)))):
        if exact and len(part) * W.numel() >= MANY:
            values, indices, left = _candidates(part, W, b, k, halves)
            if len(left):
                values[left], indices[left] = _plain(part[left], W, b, k)
        else:
            values, indices, left = *_plain(part, W, b, k), part
        settled["float16"] += len(part) - len(left)
        settled["all"] += len(left)
        parts.append((values, indices))
    values, indices = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(indices), settled


def _plain(x: Tensor, W: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return topk(linear(x, W, b).relu_(), k)


def _candidates(x: Tensor, W: Tensor, b: Tensor, k: int, halves: Halves):
    """values and indices [tokens, k], and the tokens [n] at which they are not settled."""
    s, scale, B = _screen(x, b, halves)
    s, rows = topk(s, WIDTH * k)
    near = s >= (s[:, k - 1] - 2.0 * (1 + 2.0**-20) * B / scale)[:, None]
    counts = near.sum(1)
    open_ = (counts == WIDTH * k) | ~(B.isfinite() & s[:, 0].isfinite())
    # One question to the GPU: the most rows of a settled token, and how many are not settled.
    most, left = torch.stack([counts.masked_fill(open_, k).amax(), open_.sum()]).tolist()
    rows = rows[:, :most]
    values, order = torch.topk(_products(x, W, b, rows), k)
    return values, rows.gather(1, order), open_.nonzero()[:, 0] if left else range(0)


def _screen(x: Tensor, b: Tensor, halves: Halves) -> tuple[Tensor, Tensor, Tensor]:
    """s over a scale [tokens, d_sae], the scale [tokens], and B [tokens]."""
    own = _scale(x.abs().amax(-1))
    half = (x / own[:, None]).half()
    length, lost = length_of(x), length_of(x - half.float() * own[:, None])
    scale = own * halves.scale
    s = torch.outer(1 / scale, b)
    for start in range(0, x.shape[1], SLICE):
        part = slice(start, start + SLICE)
        _add_product(s, half[:, part], halves.rows[:, part].T)
    sums = (3 * SLICE + 1.1 * x.shape[1] + 64) * U
    B = length * halves.error + lost * halves.short + sums * (length * halves.norm + halves.bias)
    # What underflows in float16 is in `lost` and `error`; in float32 it is less than this.
    return s, scale, B + 2.0**-100


def _add_product(s: Tensor, a: Tensor, b: Tensor) -> None:
    """s += a @ b, of float16 summed in float32."""
    if s.device.type == "cuda":
        torch.addmm(s, a, b, out_dtype=torch.float32, out=s)
    else:  # torch has this product for GPUs only: here is the same one, for tests
        s.addmm_(a.float(), b.float())


def _products(x: Tensor, W: Tensor, b: Tensor, rows: Tensor) -> Tensor:
    """relu(fl(x . W[row]) + b[row]) for rows [tokens, n]: float32 [tokens, n]."""
    out = torch.empty(rows.shape, device=x.device, dtype=torch.float32)
    tokens = max(1, GATHER_BYTES // (4 * W.shape[1] * rows.shape[1]))
    for start in range(0, len(x), tokens):
        part = slice(start, start + tokens)
        out[part] = torch.bmm(embedding(rows[part], W), x[part, :, None])[..., 0]
    return out.add_(b[rows]).relu_()


def _scale(most: Tensor) -> Tensor:
    """A power of two that is at least half of `most`, 1 / 2^60 at least."""
    return torch.exp2(most.clamp(min=LEAST_SCALE).log2().floor())
