"""The TopK of an encoder on a GPU is a float32 TopK. Here its float16 products are made on the CPU;
the long test at the end asks a GPU, where there is one."""

import pytest
import torch
from fast.test_topk import D_SAE, KINDS, SCALES, TOKENS, hard_cases, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from qs_helpers import TopKSAE
from qs_helpers.fast import halves as screening
from qs_helpers.fast.halves import halved, halves_of, make_halves

CHUNK = 2**14  # a few tokens at a time
SLOW_START = settings(deadline=None)


@pytest.fixture(autouse=True)
def small_encoders_in_slices(monkeypatch):
    monkeypatch.setattr(screening, "SLICE", 10)
    monkeypatch.setattr(screening, "MANY", 0)


def found_in(x, W, b, k):
    values, indices, settled = halved(x, W, b, k, halves_of(W, b), CHUNK)
    assert sum(settled.values()) == len(x) and values.shape == indices.shape == (len(x), k)
    return values, indices, settled


def assert_top_k(x, W, b, k):
    """Every value is that of its feature, and no other feature has a larger one, but for the error
    of float32 sums, in which any two of them may differ."""
    values, indices, settled = found_in(x, W, b, k)
    r = (x.double() @ W.double().T + b.double()).relu()
    size = x.double().norm(dim=1) * W.double().norm(dim=1).max() + b.double().abs().max()
    error = (2 * (x.shape[1] + 16) * 2.0**-24 * size + 2.0**-100)[:, None]
    small = (r.amax(1) < 2.0**127) & (size < 2.0**127)  # what float32 holds
    values, indices, r, error = values[small].double(), indices[small], r[small], error[small]
    assert (values.diff(dim=1) <= 0).all()
    assert all(len(row.unique()) == k for row in indices)
    assert ((values - r.gather(1, indices)).abs() <= error).all()
    assert (r.scatter(1, indices, 0) <= values[:, -1:] + error).all()
    return settled


@SLOW_START
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.sampled_from([1, 3, 30]))
def test_what_is_found_are_the_k_largest(kind, seed, k):
    assert_top_k(*hard_cases(kind, seed), k)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("d_model", [24, 512, 5120])
def test_the_bound_holds_and_is_not_empty(d_model, scales, monkeypatch):
    monkeypatch.setattr(screening, "SLICE", 1024)
    x, W = normal(20, d_model), normal(D_SAE, d_model, seed=1) / d_model**0.5
    x[:, 1] *= 50
    x, W, b = x * scales[0], W * scales[1], torch.zeros(D_SAE)
    if scales == (1.0, 1.0):
        b = normal(D_SAE, seed=2) * torch.logspace(-4, 2, D_SAE)
    r = x.double() @ W.double().T + b
    s, scale, B = screening._screen(x, b, halves_of(W, b))
    off = (s.double() * scale.double()[:, None] - r).abs()
    assert (off <= B.double()[:, None]).all()
    if scales == (1.0, 1.0):
        # The worst that rounding both factors to float16 can do is half of this.
        rows = x.norm(dim=-1) * W.norm(dim=-1).max() + b.abs().max()
        assert (B < 2.0**-9 * rows).all()


@SLOW_START
@given(st.integers(0, 10**6), st.sampled_from([1, 4, 30]))
def test_any_error_within_the_bound_changes_nothing(seed, k):
    """The certificate alone: s is anything that |s - r| <= B allows, often the worst."""
    chance = torch.Generator().manual_seed(seed)
    x, W, b = hard_cases("plain", seed)
    b -= 5.0 * (seed % 3)
    every = torch.arange(D_SAE).expand(TOKENS, -1)
    r = screening._products(x, W, b + 100, every).double() - 100
    B = 0.01 + torch.rand(TOKENS, generator=chance).double() / 3
    worst = torch.where(torch.rand(r.shape, generator=chance) < 0.5, -1.0, 1.0) * 0.999
    scale = torch.rand(TOKENS, generator=chance) + 0.5
    s = (r + worst * B[:, None]).float() / scale[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screening, "_screen", lambda *given: (s, scale, B))
        patch.setattr(screening, "WIDTH", D_SAE // k)
        values, indices, left = screening._candidates(x, W, b, k, None)
    assert not len(left)
    wanted = torch.topk(r, k)
    assert torch.allclose(values.double(), wanted.values.relu(), atol=1e-4)
    positive = wanted.values > 0
    assert torch.equal(indices[positive], wanted.indices[positive])


def test_which_products_settle():
    x, W, b = hard_cases("plain", 0)
    assert found_in(x, W, b, 5)[2] == {"float16": TOKENS, "all": 0}
    # Rows that are one in float16: it is left to the plain product.
    near = W[:1] * (1 + 2.0**-16 * normal(D_SAE, 1, seed=7))
    assert found_in(x, near, b * 0, 5)[2] == {"float16": 0, "all": TOKENS}
    # One token near overflow leaves the others as they are.
    x[4] = 3e38
    assert found_in(x, W, b, 5)[2]["all"] == 1
    for kind in ("massive dimension", "massive dimensions", "zeros", "few are positive"):
        assert found_in(*hard_cases(kind, 1), 1)[2]["all"] < TOKENS, kind


def test_few_tokens_take_the_plain_product(monkeypatch):
    x, W, b = hard_cases("plain", 0)
    monkeypatch.setattr(screening, "MANY", len(x) * W.numel() + 1)
    assert found_in(x, W, b, 5)[2] == {"float16": 0, "all": TOKENS}
    assert assert_top_k(x, W, b, 5)["all"] == TOKENS


def test_where_products_may_be_fast_ones_the_plain_product_is_taken(monkeypatch):
    plain = {"float16": 0, "all": TOKENS}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
        assert found_in(*hard_cases("plain", 0), 5)[2] == plain
    products = torch.backends.cuda.matmul
    before = products.allow_fp16_accumulation
    try:
        products.allow_fp16_accumulation = True
        assert found_in(*hard_cases("plain", 0), 5)[2] == plain
    finally:
        products.allow_fp16_accumulation = before


def test_off_a_gpu_there_is_no_such_screen():
    W, b = torch.zeros(2**14, 2**10), torch.zeros(2**14)
    assert make_halves(W, b, 5) is None
    assert make_halves(W.to("meta"), b, 5) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_default_dtype_changes_nothing(dtype):
    x, W, b = hard_cases("near ties", 3)
    wanted, before = found_in(x, W, b, 5), torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        found = found_in(x, W, b, 5)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


@pytest.mark.long
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [(2048, 32768, 50), (4096, 65536, 100), (5120, 81920, 100)])
def test_a_gpu_finds_what_the_plain_product_finds(shape, monkeypatch):
    monkeypatch.setattr(screening, "SLICE", 1024)
    d_model, d_sae, k = shape
    draw = torch.Generator("cuda").manual_seed(0)
    W = torch.randn(d_sae, d_model, device="cuda", generator=draw) / d_model**0.5
    b = torch.randn(d_sae, device="cuda", generator=draw) / 100
    x = torch.randn(600, d_model, device="cuda", generator=draw)
    x[0, :3] *= 1000
    sae = TopKSAE(W, W.T.contiguous(), b, torch.zeros(d_model, device="cuda"), k=k)
    acts = sae.encode(x)
    assert sae.settled["float16"] > 0.9 * len(x)
    r = x.double() @ W.double().T + b.double()
    wanted = r.topk(k)
    assert torch.allclose(acts.values.double(), wanted.values, atol=1e-4)
    same = (acts.indices.sort().values == wanted.indices.sort().values).all(1)
    assert same.double().mean() > 0.98
