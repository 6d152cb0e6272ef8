"""The TopK of a screened encoder is the float32 TopK, whatever the numbers are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qs_helpers import TopKSAE
from qs_helpers.fast import topk as screening
from qs_helpers.fast.topk import make_screen, may_fire, screened, topk

D_MODEL, D_SAE, TOKENS = 24, 512, 9
CHUNK = 2**14  # a few tokens at a time

int8 = pytest.mark.skipif(
    not screening.has_int8(), reason="this CPU has no int8 products (AVX512-VNNI)"
)
SLOW_START = settings(deadline=None)  # the first product of a process takes long


pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")


@pytest.fixture(autouse=True)
def small_encoders_too(monkeypatch):
    monkeypatch.setattr(screening, "LEAST", 0)


def exact(x, W, b, k):
    """The definition: r of every row, the k largest, equal ones by feature."""
    pattern = torch.ones(len(W), len(x)).to_sparse_csr()
    dots = torch.sparse.sampled_addmm(pattern, W, x.T, beta=0.0).to_dense().T
    values, indices = (dots + b).relu().sort(dim=-1, descending=True, stable=True)
    return values[:, :k], indices[:, :k]


def assert_same(found, wanted, d_sae):
    values, indices = wanted
    torch.testing.assert_close(found[0], values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found[1][values != 0], indices[values != 0])
    assert (found[1].sort(1).values.diff(dim=1) > 0).all()  # no number twice, empty or not
    assert 0 <= found[1].min() and found[1].max() < d_sae


def test_an_empty_place_takes_no_other_features_number():
    """Feature 0 fires, and fewer than k do: what scatters or edits by index must not touch it."""
    W, b = normal(256, 16), torch.full((256,), -9.0)
    b[0] = 5.0
    sae = TopKSAE(W, normal(16, 256, seed=1), b, torch.zeros(16), k=8)
    x = normal(40, 16, seed=2)
    acts = sae.encode(x)
    empty = (acts.values == 0).sum(1)
    assert empty.max() > 1 and ((acts.indices == 0) & (acts.values > 0)).any()
    z = torch.zeros(40, 256).scatter(1, acts.indices, acts.values)
    wanted = (x @ W.T + b).relu()
    assert torch.allclose(z, wanted * (z > 0), atol=1e-5) and (z[:, 0] > 0).any()
    assert torch.equal(z[:, 0] > 0, ((acts.indices == 0) & (acts.values > 0)).any(1))
    assert torch.equal(sae.splice(x, lambda acts: acts), x)


def forms(screen):
    """The screen, and what it is on a CPU without int8 products."""
    return [screen, screen._replace(rows=None)]


def assert_exact(x, W, b, k):
    values, indices = exact(x, W, b, k)
    total = []
    for screen in forms(make_screen(W, b, k)):
        found = screened(x, W, b, k, screen, CHUNK)
        assert_same(found[:2], (values, indices), len(W))
        assert sum(found[2].values()) == len(x)
        total.append(found[2])
    return total


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hard_cases(kind: str, seed: int):
    """x, W, b of one adversarial kind."""
    x, W, b = normal(TOKENS, D_MODEL, seed=seed), normal(D_SAE, D_MODEL, seed=seed + 1), None
    b = normal(D_SAE, seed=seed + 2) / 10
    near = normal(D_SAE, D_MODEL, seed=seed + 3)
    if kind == "near ties":  # rows that differ in the last bits of float32
        W = W[:40].repeat(13, 1)[:D_SAE] * (1 + 2.0**-22 * near)
    elif kind == "ties of few digits":  # rows that are the same in int8 and bfloat16
        W = W[:1] * (1 + 2.0**-10 * near)
    elif kind == "equal rows":
        W, b = W[:3].repeat(171, 1)[:D_SAE], b[:3].repeat(171)[:D_SAE]
    elif kind == "huge tokens":
        x[::2] *= 1e18
    elif kind == "overflow":
        x[0] *= 1e30
        W[5] *= 1e30
    elif kind == "tiny":
        x, W, b = x * 1e-25, W * 1e-15, b * 0
    elif kind == "denormals":
        x, b = x * 1e-39, b * 0
        W[::3] *= 1e15
    elif kind == "zeros":
        x[::2], W[::5], b[::4] = 0, 0, 0
    elif kind == "few are positive":
        b -= 9
    elif kind == "none is positive":
        b -= 1e4
    elif kind == "one row is large":
        W[seed % D_SAE] *= 1e6
    elif kind == "massive dimension":  # as residual streams of real models have
        x[:, 3] = 3000
    elif kind == "massive dimensions":  # some tokens have them, and rows that read them
        x[::2, :5] *= 1e4
        W[:, 2] *= 50
    elif kind == "cancels":  # tokens at right angles to a row but for rounding
        x -= (x @ W[0] / W[0].dot(W[0]))[:, None] * W[0]
        b[0] = 0
    return x, W, b


KINDS = [
    "plain",
    "near ties",
    "ties of few digits",
    "equal rows",
    "huge tokens",
    "overflow",
    "tiny",
    "denormals",
    "zeros",
    "few are positive",
    "none is positive",
    "one row is large",
    "massive dimension",
    "massive dimensions",
    "cancels",
]


@SLOW_START
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.sampled_from([1, 3, 30]))
def test_screened_is_exact(kind, seed, k):
    assert_exact(*hard_cases(kind, seed), k)


@SLOW_START
@given(st.integers(0, 10**6), st.integers(-20, 20), st.integers(-20, 20), st.integers(0, 24))
def test_screened_is_exact_at_any_size(seed, of_x, of_w, digits):
    """Numbers of few digits make ties; powers of two move everything up and down."""
    x, W, b = hard_cases("plain", seed)
    x, W = x * 2.0**of_x, W * 2.0**of_w
    keep = 2.0**digits
    x, W = (t * (keep / t.abs().max()) for t in (x, W))
    assert_exact(x.round() * 2.0**of_x, W.round() * 2.0**of_w, b, 5)


@SLOW_START
@given(st.integers(0, 10**6), st.sampled_from([0.0, 2.0**-8, 0.009]), st.sampled_from([1, 4, 30]))
def test_any_error_within_the_bound_changes_nothing(seed, v, k):
    """The certificate alone: s is anything that |s - r| <= B + v |s| allows, often the worst."""
    chance = torch.Generator().manual_seed(seed)
    x, W, b = hard_cases("plain", seed)
    b -= 5.0 * (seed % 3)  # at 10 hardly a number is positive
    every = torch.ones(TOKENS, D_SAE, dtype=torch.bool).nonzero(as_tuple=True)
    r = screening._products(x, W, b + 100, *every).view(TOKENS, D_SAE).double() - 100
    fixed, error, lost = 0.01 + torch.rand(3, TOKENS, generator=chance).double() / 3
    screen = make_screen(W, b, k)._replace(
        error=torch.rand(D_SAE, generator=chance), short=torch.rand(D_SAE, generator=chance)
    )
    bound = fixed[:, None] + error[:, None] * screen.error + lost[:, None] * screen.short
    worst = torch.where(torch.rand(r.shape, generator=chance) < 0.5, -1.0, 1.0) * 0.999
    s = r + worst * bound
    s = s / (1 - worst * v * s.sign())  # |s' - s| = v |s'|

    def any_screen(x, W, b, screen, int8):
        return s.float(), v, fixed, error, lost

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screening, "_screen", any_screen)
        patch.setattr(screening, "MOST", 10**6)
        *pairs, mask = screening._candidates(x, W, b, k, screen, True)
    assert not mask.any()
    found = screening._largest(*pairs, TOKENS, k)
    assert_same(found, exact(x, W, b, k), D_SAE)


def test_a_result_that_rounds_down_is_found():
    """256 + 1.003 is 256 in bfloat16, and 257.0002 is 258."""
    x, W, b = torch.ones(1, 4), torch.zeros(D_SAE, 4), torch.zeros(D_SAE)
    W[100], W[201] = torch.tensor([256, 1.003, 0, 0]), torch.tensor([256, 1, 0.0002, 0])
    for screen in forms(make_screen(W, b, 1)):
        assert screened(x, W, b, 1, screen, CHUNK)[1].tolist() == [[100]]


SCALES = [(1.0, 1.0), (1e10, 1e-22), (1e-30, 1e-12), (1e-39, 1e17), (1e17, 1e-39), (1e-20, 1e-20)]


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("d_model", [24, 512, 5120])
def test_the_bound_holds_and_is_not_empty(d_model, scales):
    """No screened value is further from r than B + v |s|; and the bound leaves most rows out."""
    x, W = normal(20, d_model), normal(D_SAE, d_model, seed=1) / d_model**0.5
    x[:, 1] *= 50
    x, W, b = x * scales[0], W * scales[1], torch.zeros(D_SAE)
    if scales == (1.0, 1.0):
        b = normal(D_SAE, seed=2) * torch.logspace(-4, 2, D_SAE)
    screen = make_screen(W, b, 5)
    r = x.double() @ W.double().T + b  # the exact number; r itself is far closer than B
    for int8 in (True, False) if screen.rows is not None else (False,):
        s, v, fixed, error, lost = screening._screen(x, W, b, screen, int8)
        bound = fixed[:, None] + error[:, None] * screen.error + lost[:, None] * screen.short
        assert ((s.double() - r).abs() <= bound + v * s.double().abs()).all()
        if scales == (1.0, 1.0):
            assert (bound < 0.05 * x.norm(dim=-1, keepdim=True) * W.norm(dim=-1)).all()


def test_r_is_the_dot_product():
    x, W = normal(9, 2048), normal(D_SAE, 2048, seed=1)
    b = normal(D_SAE, seed=2)
    every = torch.ones(9, D_SAE, dtype=torch.bool).nonzero(as_tuple=True)
    found = screening._products(x, W, b, *every).view(9, D_SAE)
    assert torch.allclose(found.double(), (x.double() @ W.double().T + b).relu(), atol=1e-3)


@int8
def test_which_products_settle():
    x, W, b = hard_cases("plain", 0)
    usual, plain = assert_exact(x, W / 5, b, 5)
    assert usual == {"int8": TOKENS, "float32": 0, "all": 0}
    assert plain == {"int8": 0, "float32": TOKENS, "all": 0}
    # Rows that are one in int8: float32 tells them apart. Equal ones: nothing does.
    row, step = W[:1], 2.0**-12 * normal(D_SAE, 1, seed=7)
    assert assert_exact(x, row * (1 + step), b * 0, 1)[0]["float32"] > 0
    assert assert_exact(x, row.expand(D_SAE, -1).contiguous(), b * 0, 1)[0]["all"] > 0
    # The hard ones are not all settled by giving up.
    for kind in set(KINDS) - {"equal rows", "overflow", "tiny", "denormals"}:
        assert assert_exact(*hard_cases(kind, 1), 1)[0]["all"] < TOKENS, kind


@pytest.mark.parametrize("said", ["medium", "a backend's own setting"])
def test_float32_products_of_less_precision_are_not_trusted(said, monkeypatch):
    """They are made of bfloat16 factors here, as some machines do."""

    def precision():
        if said != "medium":
            raise RuntimeError("mixed settings")
        return said

    whole = torch.addmm
    monkeypatch.setattr(torch, "get_float32_matmul_precision", precision)
    monkeypatch.setattr(
        torch,
        "addmm",
        lambda b, x, W: whole(b, x.bfloat16().float(), W.bfloat16().float()),
    )
    for seed in range(20):
        x, W, b = hard_cases("plain", seed)
        close = W[:1] * (1 + 2.0**-7 * normal(D_SAE, D_MODEL, seed=seed))
        assert_exact(x, close, b * 0, 5)
    sae = TopKSAE(W, W.T.contiguous(), b, torch.zeros(D_MODEL), k=5)
    acts = sae.encode(x)
    dense = torch.zeros(TOKENS, D_SAE).scatter_(1, acts.indices, acts.values)
    assert torch.equal(sae.some(x, torch.arange(40)), dense[:, :40])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_default_dtypes_change_nothing(dtype):
    x, W, b = hard_cases("near ties", 3)
    sae = TopKSAE(W, W.T.contiguous(), b, torch.zeros(D_MODEL), k=5)
    small = TopKSAE(W[:-1], W[:-1].T.contiguous(), b[:-1], torch.zeros(D_MODEL), k=5)

    def everything(sae):
        acts = sae.encode(x)
        return *acts, sae.decode(acts), sae.some(x, acts.indices[0]), sae.direction(3)

    before = torch.get_default_dtype()
    for one in (sae, small):  # screened, and plain
        wanted = everything(one)
        fresh = one.to()
        with torch.autocast("cpu", dtype):
            found = everything(fresh)
        assert all(map(torch.equal, found, wanted))
        try:
            torch.set_default_dtype(dtype)
            found = everything(one.to())
        finally:
            torch.set_default_dtype(before)
        assert all(map(torch.equal, found, wanted))


def test_a_token_has_the_same_features_in_any_batch():
    x, W, b = hard_cases("near ties", 3)
    sae = TopKSAE(W, W.T.contiguous(), b, torch.zeros(D_MODEL), k=5)
    whole = sae.encode(x)
    for i in range(TOKENS):
        assert torch.equal(sae.encode(x[i : i + 1]).values[0], whole.values[i])
        assert torch.equal(sae.encode(x[i], chunk_bytes=1).indices, whole.indices[i])
    assert sum(sae.settled.values()) == 3 * TOKENS
    ids = whole.indices[0]
    dense = torch.zeros(TOKENS, D_SAE).scatter_(1, whole.indices, whole.values)
    assert torch.equal(sae.some(x, ids), dense[:, ids])


def test_screened_and_plain_agree(monkeypatch):
    x, W, b = hard_cases("plain", 11)
    sae = TopKSAE(W, W.T.contiguous(), b, torch.zeros(D_MODEL), k=7)
    found = sae.encode(x)
    monkeypatch.setattr(screening, "LEAST", 2**40)
    plain = sae.to().encode(x)
    assert torch.equal(found.indices, plain.indices)
    assert torch.allclose(found.values, plain.values, rtol=1e-6, atol=1e-6)


def test_what_is_not_screened():
    x, W, b = hard_cases("plain", 0)
    assert make_screen(W, b, 5) is not None
    assert make_screen(W, b, D_SAE // screening.BLOCK + 1) is None, "more places than blocks"
    assert make_screen(W[:-1], b[:-1], 5) is None, "not in whole blocks"
    assert make_screen(W.bfloat16(), b, 5) is None
    assert make_screen(W.T.contiguous().T, b, 5) is None, "rows that are not in one piece"
    assert make_screen(W.to("meta"), b, 5) is None, "another device"


# ---- parts: the largest by blocks, tokens at which nothing can fire


@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([2, 50]), st.integers(1, 4))
def test_the_largest_by_blocks_are_those_of_topk(seed, k, levels, times):
    """Whole numbers: ties are the rule. What is kept has the same values, and no column twice."""
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randint(0, levels, (7, 16 * k * times), generator=generator).float()
    values, columns = topk(pre, k)
    assert torch.equal(values, torch.topk(pre, k).values)
    assert torch.equal(values, pre.gather(1, columns))
    assert all(len(set(row)) == k for row in columns.tolist())


@given(st.integers(0, 10**6), st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
def test_a_token_that_is_left_out_has_no_positive_value(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(3, 12, generator=generator)
    x = torch.randn(30, 12, generator=generator) * scale
    # Pairs that nearly cancel: tokens orthogonal to a row but for rounding.
    x[:10] -= (x[:10] @ W[0] / W[0].dot(W[0]))[:, None] * W[0]
    b = torch.zeros(3)
    near = may_fire(x, W, b)
    exact = x.double() @ W.double().T
    assert not (exact[~near] > 0).any()
    assert not ((x[~near] @ W.T) > 0).any() and not ((W @ x[~near].T) > 0).any()
