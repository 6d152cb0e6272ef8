"""The exact float32 TopK of a large encoder on a CPU, found with cheaper products.

The pre-activation of a token x and a row w is r = fl(x . w) + b, a float32 dot product, summed row
by row (`torch.sparse.sampled_addmm`). The TopK is taken by r and, of equal ones, by the smaller
feature number: it depends on no batch, no chunk and no screen.

Why it is exact. Let s be the screen's value of the same number: x' and w' are whole numbers from
-127 to 127 times one scale for each token and each row, and their product is exact but for the
float32 number that it becomes. The few dimensions in which residuals are much larger than in all
others would leave the rest nothing of these 127 steps: there x' is 0, and float32 products are
added. With x for the other dimensions, the unit roundoff u = 2^-24, Cauchy-Schwarz, and
d u sum |x_i w_i| for the error of a float32 sum of d products (Higham 2002, section 3.1),

    |s - r| <= |x| |w - w'| + |x - x'| |w'| + 6 (d + 16) u (|x| |w| + |b|),

the last with the whole of x, and 2^-100 + 2^-125 d (|x| + |w|) for all that underflows. The 16 is
for what is done to a product: since 0 is a step, |x'| <= 2 |x| and |w'| <= 2 |w|. Write it as
|s - r| <= B + v |s|, where v is u here.

Numbers that are not positive count as 0, and rows with r <= 0 are in no TopK.

1. Rows are put in blocks, and the r of the row with the largest s is computed in the k blocks where
   it is largest. The smallest of these r, t, is no more than the k-th largest r of all rows.
2. A row with r >= t has s + v |s| + B >= t. The r of all these rows are computed: no other row can
   be among the k largest.

A token with too many such rows, or with numbers near overflow, is not settled. It is screened again
with float32 products (x' = x, w' = w; v = u, or 2^-8 where torch may shorten factors to bfloat16),
and what that leaves open, as many equal rows do, is done with the r of every row.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

COLUMNS = {"cpu": 4, "cuda": 16}  # of a block of pre-activations that `topk` looks into
BLOCK_BYTES = 2**24  # what one block of widened weights may take
U, V = 2.0**-24, 2.0**-8
LEAST = 2**24  # numbers in W: below, one plain product is as fast
BLOCK = 16  # rows of a block, whose maximum is taken
PART = 1024  # rows whose whole numbers are made at a time: they stay in the cache
MOST = 100  # rows that are looked at, for each place in the TopK
OUTLIERS = 32  # the most dimensions apart, in which a token is
LARGE = 8  # times as large as its root mean square
TINY = 2.0**-100  # the least scale


def linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """x @ W.T + b in float32, x [tokens, d_model] float32, W in any float dtype."""
    if W.dtype == torch.float32:
        return torch.addmm(b, x, W.T)
    # Weights kept in another dtype are widened block by block, never as a whole second copy.
    out = torch.empty(len(x), len(W), device=x.device, dtype=torch.float32)
    rows = max(1, BLOCK_BYTES // (4 * W.shape[1]))
    for start in range(0, len(W), rows):
        part = slice(start, start + rows)
        out[:, part] = torch.addmm(b[part], x, W[part].float().T)
    return out


def topk(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk(pre, k) for pre [tokens, n].

    Its time grows with n, so it is asked twice for less: the k largest numbers are in the k blocks
    with the largest maxima. A block is every so manyth column, so that maxima are taken of whole
    rows of memory.
    """
    n, size = pre.shape[1], COLUMNS.get(pre.device.type, 1)
    if size == 1 or n % size or n < 4 * size * k:
        return torch.topk(pre, k)
    step = n // size
    maxima = pre.view(len(pre), size, step).amax(1)
    blocks = torch.topk(maxima, k, sorted=False).indices
    inside = step * torch.arange(size, device=pre.device)
    columns = (blocks[:, None] + inside[None, :, None]).view(len(pre), size * k)
    values, places = torch.topk(pre.gather(1, columns), k)
    return values, columns.gather(1, places)


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


class Screen(NamedTuple):
    """What is known of W (d_sae, d_model) and b (d_sae,).

    `rows`: w' as whole numbers, int8 (d_sae, d_model), or None on a CPU that does not multiply them
    in hardware; `scale`: what they are times. Float32 (d_sae,), it and the norms of each row,
    `norm` |w|, `short` |w'|, `error` |w - w'|; `bias` is the largest |b|.
    """

    rows: Tensor | None
    scale: Tensor
    norm: Tensor
    short: Tensor
    error: Tensor
    bias: float


def make_screen(W: Tensor, b: Tensor, k: int) -> Screen | None:
    """The screen of an encoder. None for a small one, for weights that are not float32 or not in
    rows, and off the CPU."""
    large = W.numel() >= LEAST and len(W) % BLOCK == 0 and len(W) >= BLOCK * k
    if not large or W.device.type != "cpu" or W.dtype != torch.float32 or not W.is_contiguous():
        return None
    rows = torch.empty(W.shape, dtype=torch.int8) if has_int8() else None
    scale, norm, short, error = torch.empty(4, len(W), dtype=torch.float32)
    for start in range(0, len(W), 64):  # rows that stay in the cache
        part = slice(start, start + 64)
        whole, scale[part] = _whole(W[part])
        shortened = whole * scale[part, None]
        norm[part], short[part] = length_of(W[part]), length_of(shortened)
        error[part] = length_of(W[part] - shortened)
        if rows is not None:
            rows[part] = whole
    return Screen(rows, scale, norm, short, error, float(b.abs().max()))


def has_int8() -> bool:
    """Whether this CPU multiplies int8 in hardware without saturating (AVX512-VNNI)."""
    asked = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(asked and asked())


def _whole(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row as whole numbers from -127 to 127, in float32, times a scale [rows]."""
    scale = (rows.abs().amax(-1) / 127).clamp(min=TINY)
    return (rows / scale[:, None]).round_().clamp_(-127, 127), scale


def screened(x: Tensor, W: Tensor, b: Tensor, k: int, screen: Screen, chunk_bytes: int):
    """(values float32 [tokens, k], indices int64 [tokens, k], settled) of the k largest
    relu(x @ W.T + b), for x float32 [tokens, d_model].

    An empty place has value 0 and a number that no other place of its token has. `settled` {"int8",
    "float32", "all": tokens} says which products were enough. Pre-activations of one chunk take
    about `chunk_bytes` at most, and what is looked into among them up to three times as much.
    """
    values = torch.zeros(len(x), k, dtype=torch.float32)
    indices = torch.zeros(len(x), k, dtype=torch.int64)
    settled = {"int8": 0, "float32": 0, "all": 0}
    open_ = torch.arange(len(x))
    for form in list(settled)[screen.rows is None :]:
        if not len(open_):
            break
        # Bytes of a pre-activation; for "all" with the numbers of its token and feature, sorted.
        size = 64 if form == "all" else 4
        left = [open_[:0]]
        for tokens in open_.split(max(1, chunk_bytes // (size * len(W)))):
            part, mask = x[tokens], torch.zeros(len(tokens), dtype=torch.bool)
            if form == "all":
                pairs = torch.ones(len(part), len(W), dtype=torch.bool).nonzero(as_tuple=True)
                r = _products(part, W, b, *pairs)
            else:
                *pairs, r, mask = _candidates(part, W, b, k, screen, form == "int8")
            values[tokens], indices[tokens] = _largest(*pairs, r, len(part), k)
            settled[form] += int((~mask).sum())
            left.append(tokens[mask])
        open_ = torch.cat(left)
    return values, indices, settled


def _candidates(x: Tensor, W: Tensor, b: Tensor, k: int, screen: Screen, int8: bool):
    """(token, feature, r) of the rows that may be among the k largest [pairs], and a mask [tokens]
    of those that are not settled, which have no pairs."""
    s, v, fixed, error, lost = _screen(x, W, b, screen, int8)
    blocks = s.view(len(x), BLOCK, -1)  # a block is every so manyth row: maxima of whole rows
    maxima = blocks.amax(1)
    m, block = torch.topk(maxima, k, sorted=False)
    row = blocks.gather(2, block[:, None].expand(-1, BLOCK, -1)).argmax(1)
    token = torch.arange(len(x)).repeat_interleave(k)
    r = _products(x, W, b, token, (row * maxima.shape[1] + block).view(-1))
    t = r.view(len(x), k).amin(1).double()

    most = fixed + error * float(screen.error.max()) + lost * float(screen.short.max())
    least = _least(t - most, v)
    safe = (fixed < 2.0**100) & most.isfinite() & m.amax(1).isfinite() & t.isfinite()
    token, block = (maxima >= least.masked_fill(~safe, torch.inf)[:, None]).nonzero(as_tuple=True)
    value = blocks[token, :, block]
    near = value >= least[token, None]
    mask = ~safe | (torch.zeros_like(t).index_add_(0, token, near.sum(1).to(t)) > MOST * k)
    near[mask[token]] = False
    place, row = near.nonzero(as_tuple=True)
    token, feature = token[place], row * maxima.shape[1] + block[place]
    B = fixed[token] + error[token] * screen.error[feature] + lost[token] * screen.short[feature]
    near = value[place, row] >= _least(t[token] - B, v)
    token, feature = token[near], feature[near]
    r = _products(x, W, b, token, feature)
    large = r >= t[token]  # the others are not among the k largest
    return token[large], feature[large], r[large], mask


def _screen(x: Tensor, W: Tensor, b: Tensor, screen: Screen, int8: bool):
    """s [tokens, d_sae], v, and the parts of B for each token, float64 [tokens]: what does not
    depend on the row, the factor of |w - w'|, and the factor of |w'|."""
    length = length_of(x).double()
    lost = torch.zeros_like(length)
    size = length * float(screen.norm.max()) + screen.bias
    fixed = 6 * (x.shape[1] + 16) * U * size + 2.0**-100
    # Factors below 2^-126 may be read as 0, in s or in r.
    fixed = fixed + 2.0**-125 * x.shape[1] * (length + float(screen.norm.max()))
    if not int8:
        s = torch.addmm(b, x, W.T)
        if exact_products():
            return s, U, fixed, lost, lost
        # A float32 product that is not exact may be one of bfloat16 factors.
        fixed = fixed + 1.01 * V * length * float(screen.norm.max()) + V**2 * screen.bias
        return s, V, fixed, lost, lost
    far = (x.abs() / x.square().mean(-1, keepdim=True).sqrt()).nan_to_num_().amax(0)
    apart = far.topk(min(OUTLIERS, len(far))).indices
    apart = apart[far[apart] > LARGE]
    near = x.index_fill(1, apart, 0)
    whole, scale = _whole(near)
    s, whole_rows = x.new_empty(len(x), len(W)), whole.to(torch.int8)
    for start in range(0, len(W), PART):
        part = slice(start, start + PART)
        plus = b[part]
        if len(apart):
            plus = torch.addmm(plus, x[:, apart], W[part].index_select(1, apart).T)
        product = torch._int_mm(whole_rows, screen.rows[part].T) * scale[:, None]
        torch.addcmul(plus, product, screen.scale[part], out=s[:, part])
    norms = (length_of(part).double() for part in (near, near - whole * scale[:, None]))
    return s, U, fixed, *norms


def _least(y: Tensor, v: float) -> Tensor:
    """A float32 number below which every s has s + v |s| < y; v below .0099, so that
    1 / (1 - v) <= 1 + 1.01 v."""
    return (y - (1.01 * v + 2.0**-22) * y.abs() - 2.0**-120).float()


def _products(x: Tensor, W: Tensor, b: Tensor, token: Tensor, feature: Tensor) -> Tensor:
    """relu(fl(x[token] . W[feature]) + b[feature]), float32 [pairs]."""
    order = feature.argsort()  # every row of W is read once
    ends = torch.bincount(feature, minlength=len(W)).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        wanted = torch.sparse_csr_tensor(
            starts,
            token[order],
            torch.zeros(len(order), dtype=torch.float32),
            (len(W), len(x)),
            check_invariants=False,
        )
    dots = torch.empty(len(order), dtype=torch.float32)
    dots[order] = torch.sparse.sampled_addmm(wanted, W, x.T, beta=0.0).values()
    return (dots + b[feature]).relu_()


def _largest(token: Tensor, feature: Tensor, r: Tensor, n: int, k: int):
    """The k largest r of each of n tokens with their features, equal ones by feature. An empty
    place gets a number that no other place of the token has: who scatters by it overwrites none."""
    order = token.argsort(stable=True)
    counts = torch.bincount(token, minlength=n)
    place = torch.arange(len(token)) - (counts.cumsum(0) - counts)[token[order]]
    width = max(k, int(counts.max()))
    features = torch.full((n, width), torch.iinfo(torch.int64).max)
    values = torch.zeros(n, width, dtype=torch.float32)
    features[token[order], place], values[token[order], place] = feature[order], r[order]
    features, order = features.sort(-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    values, features = values[:, :k], features.gather(1, order[:, :k])
    empty = values == 0
    if empty.any():
        taken = features.masked_fill(empty, 2 * k).clamp(max=2 * k)
        free = torch.ones(n, 2 * k + 1, dtype=torch.int8).scatter_(1, taken, 0)[:, : 2 * k]
        spare = free.sort(dim=1, descending=True, stable=True).indices[:, :k]
        features = torch.where(empty, spare, features)
    return values, features


def length_of(rows: Tensor) -> Tensor:
    """No less than the norm of each row but for d u of it, which the 6 in B has room for. Squares
    of numbers below 2^-63 may be lost; 2^-50 is more than what they can make."""
    return torch.linalg.vector_norm(rows, dim=-1) + 2.0**-50
