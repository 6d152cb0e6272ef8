"""The exact float32 TopK of a large encoder on a CPU, found with cheaper products.

The pre-activation of a token x and a row w is r = fl(x . w) + b, a float32 dot product, summed row
by row (`torch.sparse.sampled_addmm`). The TopK is taken by r and, of equal ones, by the smaller
feature number: it depends on no batch, no chunk and no screen.

Why it is exact. Let s be the screen's value of the same number: bfloat16 factors x' and w', with b
as two more columns, summed in float32 in any order, rounded to bfloat16. With the unit roundoffs of
the two types, u = 2^-24 and v = 2^-8, Cauchy-Schwarz, and d u sum |x_i w_i| for the error of a
float32 sum of d products (Higham 2002, section 3.1),

    |s - r| <= |x| |w - w'| + |x - x'| |w'| + 4 (d + 4) u (|x| |w| + |b|) + v^2 |b| + v |s|,

and 2^-100 + 2^-125 d (|x| + |w|) for all that underflows. Write it as |s - r| <= B + v |s|.

Numbers that are not positive count as 0, and rows with r <= 0 are in no TopK.

1. Rows are put in blocks, and m is the k-th largest maximum of a block. So at least k rows have
   s >= m, and the k-th largest r is no less than m - B - v |m|. The r of all rows with s >= m are
   computed. Their smallest, t, is such a bound too, and a better one.
2. A row with r >= t has s + v |s| + B >= t. The r of all these rows are computed as well: no other
   row can be among the k largest.

A token with too many such rows, or with numbers near overflow, is not settled. It is screened again
with float32 products (x' = x, w' = w, v = u), and what that leaves open, as many equal rows do, is
done with the r of every row.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

COLUMNS = 4  # of a block of pre-activations that `topk` looks into
BLOCK_BYTES = 2**24  # what one block of widened weights may take
U, V = 2.0**-24, 2.0**-8
LEAST = 2**24  # numbers in W: below, one plain product is as fast
BLOCK = 16  # rows of a block
MOST = 6  # blocks that are looked into, for each place in the TopK


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

    On a CPU its time grows with n, so it is asked twice for less: the k largest numbers are in the
    k blocks with the largest maxima. A block is every (n / 4)th column, so that maxima are taken
    of whole rows of memory.
    """
    n = pre.shape[1]
    if pre.device.type != "cpu" or n % COLUMNS or n < 4 * COLUMNS * k:
        return torch.topk(pre, k)
    step = n // COLUMNS
    maxima = pre.view(len(pre), COLUMNS, step).amax(1)
    blocks = torch.topk(maxima, k, sorted=False).indices
    columns = blocks[:, None] + step * torch.arange(COLUMNS)[None, :, None]
    columns = columns.view(len(pre), COLUMNS * k)
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

    `rows`: W and b in bfloat16, (d_sae, d_model + 2), or None on a CPU without such products.
    Norms of each row, float32 (d_sae,): `norm` |w|, `short` |w'|, `error` |w - w'|. `bias`: the
    largest |b|.
    """

    rows: Tensor | None
    norm: Tensor
    short: Tensor
    error: Tensor
    bias: float


def make_screen(W: Tensor, b: Tensor, k: int) -> Screen | None:
    """The screen of an encoder. None for a small one, for weights that are not float32 or not in
    rows, and on a GPU, where it is slower (benchmarks/README.md): there the plain product is
    taken."""
    large = W.numel() >= LEAST and len(W) % BLOCK == 0 and len(W) >= BLOCK * k
    if not large or W.device.type != "cpu" or W.dtype != torch.float32 or not W.is_contiguous():
        return None
    rows = torch.empty(len(W), W.shape[1] + 2, dtype=torch.bfloat16) if has_bf16() else None
    norm, short, error = torch.empty(3, len(W), dtype=torch.float32)
    for start in range(0, len(W), 64):  # rows that stay in the cache
        part = slice(start, start + 64)
        shortened = W[part].bfloat16()
        norm[part], short[part] = _length(W[part]), _length(shortened.float())
        error[part] = _length(W[part] - shortened.float())
        if rows is not None:
            rows[part, :-2] = shortened
    if rows is not None:
        rows[:, -2] = b
        rows[:, -1] = b - rows[:, -2].float()
    return Screen(rows, norm, short, error, float(b.abs().max()))


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16), as oneDNN asks."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(asked and asked())


def screened(x: Tensor, W: Tensor, b: Tensor, k: int, screen: Screen, chunk_bytes: int):
    """(values float32 [tokens, k], indices int64 [tokens, k], settled) of the k largest
    relu(x @ W.T + b), for x float32 [tokens, d_model].

    An empty place has value 0 and index 0. `settled` {"bfloat16", "float32", "all": tokens} says
    which products were enough. Pre-activations of one chunk take about `chunk_bytes` at most, and
    what is looked into among them up to three times as much.
    """
    values = torch.zeros(len(x), k, dtype=torch.float32)
    indices = torch.zeros(len(x), k, dtype=torch.int64)
    settled = {"bfloat16": 0, "float32": 0, "all": 0}
    open_ = torch.arange(len(x))
    for form in list(settled)[screen.rows is None :]:
        if not len(open_):
            break
        # Bytes of a pre-activation; for "all" with the numbers of its token and feature, sorted.
        size = {"bfloat16": 2, "float32": 4, "all": 64}[form]
        left = [open_[:0]]
        for tokens in open_.split(max(1, chunk_bytes // (size * len(W)))):
            part, mask = x[tokens], torch.zeros(len(tokens), dtype=torch.bool)
            if form == "all":
                pairs = torch.ones(len(part), len(W), dtype=torch.bool).nonzero(as_tuple=True)
                r = _products(part, W, b, *pairs)
            else:
                *pairs, r, mask = _candidates(part, W, b, k, screen, form == "bfloat16")
            values[tokens], indices[tokens] = _largest(*pairs, r, len(part), k)
            settled[form] += int((~mask).sum())
            left.append(tokens[mask])
        open_ = torch.cat(left)
    return values, indices, settled


def _candidates(x: Tensor, W: Tensor, b: Tensor, k: int, screen: Screen, bf16: bool):
    """(token, feature, r) of the rows that may be among the k largest [pairs], and a mask [tokens]
    of those that are not settled, which have no pairs."""
    s, v, fixed, error, lost = _screen(x, W, b, screen, bf16)
    most = fixed + error * float(screen.error.max()) + lost * float(screen.short.max())
    blocks = len(W) // BLOCK  # a block is every blocks-th row: maxima of whole rows of memory
    maxima = s.view(len(x), BLOCK, blocks).amax(1).float()
    m = torch.topk(maxima, k, sorted=False).values.amin(1)
    # The k-th largest r is no less than `bound`; what is not positive counts as 0.
    bound = (m.double() - v * m.double().abs() - most).clamp(min=0)
    start = torch.maximum(m, _least(bound - most, v))
    near = maxima >= start[:, None]
    safe = (fixed < 2.0**100) & most.isfinite() & m.isfinite()
    mask = ~safe | (near.sum(1) > MOST * k)
    near[mask] = False
    token, feature, _ = _rows(s, near, start)
    r = _products(x, W, b, token, feature)

    t = torch.full_like(m, torch.inf).scatter_reduce_(0, token, r, "amin").double()
    least = _least(t - most, v)
    near = maxima >= least[:, None]
    mask |= near.sum(1) > MOST * k
    near[mask] = False
    also, others, value = _rows(s, near, least)
    rows = fixed[also] + error[also] * screen.error[others] + lost[also] * screen.short[others]
    new = (value < start[also]) & (value >= _least(t[also] - rows, v))
    also, others = also[new], others[new]

    kept = ~mask[token]
    token, feature = torch.cat([token[kept], also]), torch.cat([feature[kept], others])
    return token, feature, torch.cat([r[kept], _products(x, W, b, also, others)]), mask


def _rows(s: Tensor, near: Tensor, least: Tensor):
    """(token, feature, s) of the rows of some blocks [tokens, blocks] with s >= least [tokens]."""
    token, block = near.nonzero(as_tuple=True)
    feature = block[:, None] + near.shape[1] * torch.arange(BLOCK)
    value = s.view(-1)[(token * s.shape[1])[:, None] + feature]
    inside = value >= least[token][:, None]  # most rows of these blocks are small
    return token[:, None].expand_as(feature)[inside], feature[inside], value[inside]


def _screen(x: Tensor, W: Tensor, b: Tensor, screen: Screen, bf16: bool):
    """s [tokens, d_sae], v, and the parts of B for each token, float64 [tokens]: what does not
    depend on the row, the factor of |w - w'|, and the factor of |w'|."""
    length = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)
    lost = torch.zeros_like(length)
    size = length * float(screen.norm.max()) + screen.bias
    fixed = 4 * (x.shape[1] + 4) * U * size + 2.0**-100
    # Factors below 2^-126 may be read as 0, in s (as AVX512-BF16 does) or in r.
    fixed = fixed + 2.0**-125 * x.shape[1] * (length + float(screen.norm.max()))
    if not bf16 and exact_products():
        return torch.addmm(b, x, W.T), U, fixed, lost, lost
    # A float32 product that is not exact may be one of bfloat16 factors.
    short = x.bfloat16()
    fixed = fixed + V**2 * screen.bias
    lost = torch.linalg.vector_norm(x - short.float(), dim=-1, dtype=torch.float64)
    if not bf16:
        return torch.addmm(b, x, W.T), V, fixed, length, lost
    s = torch.cat([short, short.new_ones(len(x), 2)], 1) @ screen.rows.T
    return s, V, fixed, length, lost


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
    """The k largest r of each of n tokens with their features, equal ones by feature."""
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
    return values, features.masked_fill(values == 0, 0)


def _length(rows: Tensor) -> Tensor:
    """No less than the norm of each row but for d u of it, which the 4 in B has room for. Squares
    of numbers below 2^-63 may be lost; 2^-50 is more than what they can make."""
    return torch.linalg.vector_norm(rows, dim=-1) + 2.0**-50
