"""The math against plain loops."""

import naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sae import D_MODEL, D_SAE, K, save, weights

from qs_helpers.loading.saefile import load_sae
from qs_helpers.sae import CONVENTIONS, SparseActs, TopKSAE, sparse_change


@pytest.fixture
def sae():
    return TopKSAE(**weights(), k=K, layer=3)


@pytest.fixture
def x():
    return torch.randn(2, 7, D_MODEL, generator=torch.Generator().manual_seed(9))


def acts_of(values, indices):
    return SparseActs(torch.tensor(values), torch.tensor(indices))


# ---- the math


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_encoder_gives_the_pre_activations_of_every_convention(convention, x):
    sae = TopKSAE(**weights(), k=D_SAE, convention=convention, input_scale=0.5)
    W, b = sae.encoder()
    acts = sae.encode(x)  # k is d_sae: every pre-activation that is positive
    dense = torch.zeros(*x.shape[:-1], D_SAE).scatter(-1, acts.indices, acts.values)
    assert torch.allclose((x @ W.T + b).relu(), dense, atol=1e-5)
    few, some = sae.encoder([3, 1])
    assert torch.equal(few, W[[3, 1]]) and torch.allclose(some, b[[3, 1]])
    if CONVENTIONS[convention].subtract_b_dec:
        assert not torch.allclose(b, sae.b_enc), "what is subtracted is folded in"


@settings(max_examples=40, deadline=None)
@given(
    d_model=st.integers(1, 6),
    d_sae=st.integers(1, 20),
    tokens=st.integers(0, 5),
    seed=st.integers(0, 10**6),
    chunk=st.integers(1, 400),
    data=st.data(),
)
def test_encode_and_decode_equal_the_loops(d_model, d_sae, tokens, seed, chunk, data):
    k = data.draw(st.integers(1, d_sae))
    subtract = data.draw(st.booleans())
    w = weights(d_model, d_sae, seed)
    # Whole numbers make ties, zeros and negative pre-activations common.
    w = {name: tensor.mul(2).round() for name, tensor in w.items()}
    sae = TopKSAE(**w, k=k, convention="centered" if subtract else "official")
    x = torch.randn(tokens, d_model, generator=torch.Generator().manual_seed(seed)).mul(2).round()
    acts = sae.encode(x, chunk_bytes=chunk)
    assert acts.values.shape == acts.indices.shape == (tokens, k)
    lists = {name: tensor.tolist() for name, tensor in w.items()}
    for token, values, indices in zip(x.tolist(), *acts, strict=True):
        b_dec = lists["b_dec"] if subtract else None
        every = naive.encode(token, lists["W_enc"], lists["b_enc"], d_sae, b_dec)
        # Ties may be broken either way: the values are given, and each sits at its own feature.
        assert values.tolist() == [value for value, _ in every[:k]]
        pre = {index: value for value, index in every}
        assert [pre[i] for i in indices.tolist()] == values.tolist()
        assert len(set(indices.tolist())) == k
        entries = list(zip(values.tolist(), indices.tolist(), strict=True))
        wanted = naive.decode(entries, lists["W_dec"], lists["b_dec"])
        got = sae.decode(SparseActs(values, indices))
        assert got.tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-4)


def test_shapes_and_dtypes(sae, x):
    acts = sae.encode(x)
    assert acts.values.shape == acts.indices.shape == (2, 7, K)
    assert acts.values.dtype == torch.float32 and acts.indices.dtype == torch.int64
    assert (acts.values.diff(dim=-1) <= 0).all(), "in descending order"
    assert sae.decode(acts).shape == (2, 7, D_MODEL)
    assert torch.equal(sae.reconstruct(x), sae.decode(acts))
    assert sae.encode(x[0, 0]).values.shape == (K,)
    assert sae.reconstruct(x[0, 0]).shape == (D_MODEL,)
    assert sae.encode(x[:0]).values.shape == (0, 7, K)
    assert sae.reconstruct(x[:0]).shape == (0, 7, D_MODEL)
    assert sae.encode(x.bfloat16()).values.dtype == torch.float32
    assert torch.equal(sae.encode(x.bfloat16()).values, sae.encode(x.bfloat16().float()).values)


def test_chunks_do_not_change_the_result(sae, x):
    whole, single = sae.encode(x), sae.encode(x, chunk_bytes=1)
    assert torch.equal(whole.indices, single.indices)
    assert torch.allclose(whole.values, single.values, atol=1e-6)


def test_only_positive_features_are_active():
    w = weights()
    w["b_enc"] -= 100
    w["b_enc"][:2] = 100
    acts = TopKSAE(**w, k=K).encode(torch.ones(3, D_MODEL))
    assert ((acts.values > 0).sum(-1) == 2).all()
    assert torch.allclose(
        TopKSAE(**w, k=K).decode(acts), TopKSAE(**w, k=2).reconstruct(torch.ones(3, D_MODEL))
    )


def test_by_columns_lays_w_dec_out_anew_and_computes_the_same(sae, x):
    columns, acts = sae.by_columns(), sae.encode(x)
    assert columns.W_dec.T.is_contiguous() and not sae.W_dec.T.is_contiguous()
    assert torch.equal(columns.W_dec, sae.W_dec) and columns.W_enc is sae.W_enc
    assert torch.equal(columns.decode(acts), sae.decode(acts))
    assert torch.equal(columns.direction([3, 0]), sae.direction([3, 0]))
    empty = SparseActs(acts.values * 0, acts.indices)
    assert torch.equal(columns.decode(empty), sae.decode(empty))

    def louder(acts):
        return SparseActs(acts.values * 2, acts.indices)

    assert torch.equal(columns.splice(x, louder), sae.splice(x, louder))


def test_decoding_changes_nothing_in_the_sae(sae, x):
    before = {name: id(value) for name, value in vars(sae).items()}
    strides = sae.W_dec.stride()
    acts = sae.encode(x)
    for _ in range(5):
        sae.decode(acts)
    assert sae.W_dec.stride() == strides
    assert {name: id(value) for name, value in vars(sae).items()} == before


def test_read_as_shares_what_was_checked_and_counts_anew(sae, x):
    sae.encode(x)
    other = sae.read_as("centered")
    assert other.W_enc is sae.W_enc and other._known is sae._known
    assert sum(other.settled.values()) == 0 and other.convention == "centered"
    with pytest.raises(ValueError, match="no convention 'upside down'"):
        sae.read_as("upside down")


def test_direction_is_a_column_of_w_dec(sae):
    assert torch.equal(sae.direction([3, 0]), sae.W_dec[:, [3, 0]].T)
    assert sae.direction(7).shape == (1, D_MODEL)
    assert torch.equal(sae.direction(torch.tensor([7])), sae.direction(7))
    assert sae.direction([]).shape == (0, D_MODEL)
    one = sae.decode(acts_of([[2.0]], [[7]])) - sae.decode(acts_of([[0.0]], [[7]]))
    assert torch.allclose(one, 2 * sae.direction(7), atol=1e-6)


def test_weights_kept_in_bfloat16(sae, x):
    half = sae.to(dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and sae.dtype == torch.float32
    wide = half.to(dtype=torch.float32)
    assert torch.allclose(half.encode(x).values, wide.encode(x).values, atol=1e-5)
    assert torch.allclose(half.reconstruct(x), wide.reconstruct(x), atol=1e-5)
    assert half.direction(1).dtype == torch.float32


# ---- splice


def test_splice_without_a_change_is_x_itself(sae, x):
    x = x.bfloat16()
    assert sae.splice(x) is x
    assert sae.splice(x, lambda acts: acts) is x
    reordered = sae.splice(x, lambda a: SparseActs(a.values.flip(-1), a.indices.flip(-1)))
    assert reordered is x


def test_splice_adds_the_decoded_difference(sae, x):
    def double(acts):
        return SparseActs(acts.values * 2, acts.indices)

    wanted = x + (sae.reconstruct(x) - sae.b_dec)
    assert torch.allclose(sae.splice(x, double), wanted, atol=1e-5)
    full = sae.splice(x, lambda a: acts_of([[[1.5, 2.0]] * 7] * 2, [[[4, 9]] * 7] * 2))
    error = x - sae.reconstruct(x)
    wanted = error + sae.b_dec + 1.5 * sae.direction(4) + 2 * sae.direction(9)
    assert torch.allclose(full, wanted, atol=1e-5)


def test_splice_leaves_other_tokens_bit_for_bit(sae, x):
    def one_token(acts):
        acts.values[0, 3, 0] += 1  # the edit owns its copy
        return acts

    feature = sae.encode(x).indices[0, 3, 0]
    for residual in (x, x.bfloat16()):
        out = sae.splice(residual, one_token)
        same = (out == residual).all(-1)
        assert out.dtype == residual.dtype and int((~same).sum()) == 1 and not same[0, 3]
    assert torch.allclose(sae.splice(x, one_token)[0, 3], x[0, 3] + sae.direction(feature)[0])
    before = x.clone()
    sae.splice(x, one_token)
    assert torch.equal(x, before)


def test_sparse_change_cancels_exactly():
    old = acts_of([[3.0, 1.0, 0.0]], [[5, 2, 9]])
    new = acts_of([[1.0, 3.0, 2.0, 2.0]], [[2, 5, 9, 9]])  # 9 twice: an empty place before
    change = sparse_change(old, new)
    assert change.values.tolist() == [[0, 0, 0, 0, 0, 2, 2]]
    assert sparse_change(old, old).values.abs().max() == 0
    empty = acts_of([[3.0, 2.0, 0.0, 0.0]], [[7, 0, 0, 0]])  # empty places under one number
    assert sparse_change(empty, empty).values.abs().max() == 0
    twice = acts_of([[1.0, 3.0]], [[5, 5]])
    assert sparse_change(old, twice).values.tolist() == [[1.0, -1.0, 0.0, 0.0, 0.0]]


# ---- bad input


def test_residuals_of_another_width_are_named(sae):
    with pytest.raises(ValueError, match=r"shape \(2, 9\) do not fit W_enc \(40, 8\) .*\[..., 8\]"):
        sae.encode(torch.ones(2, 9))
    with pytest.raises(ValueError, match=r"shape \(\) do not fit"):
        sae.encode(torch.tensor(1.0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_residuals_are_named(sae, x, bad):
    x[1, 4, 2] = bad
    x[1, 6, 0] = bad
    with pytest.raises(ValueError, match=r"token \[1, 4\] given to .*layer 3.*2 of 14 tokens"):
        sae.encode(x)
    with pytest.raises(ValueError, match=r"token \[0\] given to"):
        sae.encode(x[1, 4])


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
def test_nan_weights_are_named_before_any_number(tmp_path, x, name, bad):
    tensors = weights()
    tensors[name].view(-1)[-1] = bad
    path = save(tmp_path, tensors, d_model=D_MODEL, k=K)
    message = rf"{name} of TopKSAE\(layer 3, .*layer3.sae.pt\) holds NaN or inf; download"
    with pytest.raises(ValueError, match=message):
        load_sae(path).reconstruct(x)
    if name in ("W_enc", "b_enc", "b_dec"):
        with pytest.raises(ValueError, match=message):
            load_sae(path).encode(x)
    if name in ("W_dec", "b_dec"):
        with pytest.raises(ValueError, match=message):
            load_sae(path).decode(acts_of([[1.0]], [[0]]))
    if name == "W_dec":
        assert load_sae(path).direction(0).isfinite().all(), "its numbers are whole"
        with pytest.raises(ValueError, match=message):
            load_sae(path).direction(D_SAE - 1)
        with pytest.raises(ValueError, match=message):
            load_sae(path).splice(x, lambda acts: SparseActs(acts.values * 2, acts.indices))


@pytest.mark.parametrize("feature", [-1, D_SAE])
def test_features_out_of_range_are_named(sae, x, feature):
    message = rf"feature {feature} of TopKSAE\(layer 3.* is out of range; choose from 0 to 39"
    with pytest.raises(ValueError, match=message):
        sae.direction([0, feature])
    with pytest.raises(ValueError, match=message):
        sae.decode(acts_of([[1.0]], [[feature]]))
    with pytest.raises(ValueError, match=message):
        sae.splice(x, lambda acts: SparseActs(acts.values, torch.full_like(acts.indices, feature)))


def test_wrong_arguments_are_named(sae, x):
    with pytest.raises(ValueError, match="whole numbers, not torch.float32"):
        sae.direction([0.5])
    with pytest.raises(ValueError, match=r"values \(1, 2\) but indices \(1, 1\)"):
        sae.decode(acts_of([[1.0, 2.0]], [[0]]))
    with pytest.raises(ValueError, match=r"the edit made \(1,\) of acts \(2, 7, 5\)"):
        sae.splice(x, lambda acts: acts_of([1.0], [1]))
    for k in (0, 41, -1, 5.0, "5", True):
        with pytest.raises(ValueError, match=rf"k is {k!r} for .* from 1 to 40"):
            TopKSAE(**weights(), k=k)
    with pytest.raises(ValueError, match=r"W_enc \(40, 8\) but .*\(40, 8\).*make them \(d_sae"):
        TopKSAE(**weights() | {"W_dec": weights()["W_enc"]}, k=5)
    with pytest.raises(ValueError, match="no convention 'qwen'; choose one of .*'official'"):
        TopKSAE(**weights(), k=5, convention="qwen")


def test_every_convention_has_its_own_reading():
    assert all(name == row.name and row.used_by for name, row in CONVENTIONS.items())
    readings = {(row.keys, row.transposed, row.subtract_b_dec) for row in CONVENTIONS.values()}
    assert len(readings) == len(CONVENTIONS)


# ---- reading no more than needed


def test_encode_leaves_w_dec_alone(x):
    w = weights()
    absent = w | {"W_dec": w["W_dec"].to("meta")}  # has a shape and no numbers
    acts = TopKSAE(**absent, k=K).encode(x)
    assert torch.equal(acts.values, TopKSAE(**w, k=K).encode(x).values)


# ---- a few features


def some_by_encoding(sae, x, ids):
    """What `some` must give: all features encoded, then looked up."""
    acts = sae.encode(x)
    return (acts.values[..., None] * (acts.indices[..., None] == ids)).sum(-2)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1e6])
def test_some_features_are_those_of_encode(scale):
    torch.manual_seed(0)
    sae = TopKSAE(**weights(16, 64), k=4)
    x = torch.randn(3, 40, 16) * scale
    ids = torch.tensor([3, 17, 3, 63])
    found = sae.some(x, ids)
    assert found.shape == (3, 40, 4) and (found > 0).any() and (found == 0).any()
    assert torch.allclose(found, some_by_encoding(sae, x, ids), rtol=1e-5, atol=1e-6 * scale)
    assert torch.equal(sae.some(x[:, :0], ids), torch.zeros(3, 0, 4))
    x[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or inf"):
        sae.some(x, ids)


def test_tokens_at_which_none_of_them_can_fire_are_not_encoded(monkeypatch):
    torch.manual_seed(0)
    sae, seen = TopKSAE(**weights(16, 64), k=4), []
    whole = sae._top_k

    def counted(x, *args):
        seen.append(len(x))
        return whole(x, *args)

    monkeypatch.setattr(sae, "_top_k", counted)
    x, ids = torch.randn(500, 16), torch.tensor([5])
    pre = x @ sae.W_enc[5] + sae.b_enc[5]
    sae.some(x, ids)
    assert seen == [int((pre > -1e-4).sum())] and seen[0] < 400
    sae.some(x[pre < -0.1], ids)
    assert len(seen) == 1  # nothing to encode


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (3e38, torch.float32),
        (float("inf"), torch.float32),
        (float("nan"), torch.float32),
        (float("-inf"), torch.float32),
        (3e38, torch.bfloat16),
    ],
)
def test_a_decode_that_overflows_says_so(sae, value, dtype):
    large = sae.to(dtype=dtype)
    large.W_dec = large.W_dec * 100
    acts = SparseActs(torch.full((2, K), value), torch.arange(K).expand(2, K))
    with pytest.raises(ValueError, match="activations up to .* decode to inf or NaN in .*float32"):
        large.decode(acts)


def test_a_splice_that_leaves_the_range_of_its_dtype_says_so(sae, x):
    with pytest.raises(ValueError, match="decode to inf or NaN in torch.float16; give smaller"):
        sae.splice(x.half(), lambda acts: SparseActs(acts.values + 1e6, acts.indices))


def test_residuals_whose_product_overflows_say_so(sae):
    with pytest.raises(ValueError, match="residuals up to 3e.38 overflow in TopKSAE"):
        sae.encode(torch.full((1, D_MODEL), 3e38) * sae.W_enc[:1].sign())
