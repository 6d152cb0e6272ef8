"""metrics.py against plain loops."""

import math
from types import SimpleNamespace

import naive
import pytest
import torch

from qs_helpers.forward import sink_mask
from qs_helpers.sae import TopKSAE
from qs_helpers.scoring import (
    check_reading,
    compare_readings,
    cross_entropy,
    fvu,
    token_cross_entropy,
)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_sink_mask_equals_the_loop(rng):
    x = torch.randn(12, 8, generator=rng)
    x[3] *= 100
    x[7] *= 11
    assert sink_mask(x).tolist() == naive.sink_mask(x.tolist(), 10)
    assert sink_mask(x, factor=2).tolist() == naive.sink_mask(x.tolist(), 2)
    assert sink_mask(x)[3]


def test_sink_mask_leaves_padding_out_of_the_median(rng):
    x = torch.randn(2, 6, 8, generator=rng)
    x[0, 3:], x[1, 1:] = 0, 0  # padding with tiny norms would drag the median down
    x[0, 0] *= 100
    real = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    flat = naive.sink_mask(x.view(12, 8).tolist(), 10, real.view(12).bool().tolist())
    assert sink_mask(x, mask=real).view(12).tolist() == flat
    assert sink_mask(x, mask=real).sum() == 1


def test_sink_mask_names_what_is_wrong():
    with pytest.raises(ValueError, match="sink_mask got no real token"):
        sink_mask(torch.ones(2, 3), mask=torch.zeros(2))
    with pytest.raises(ValueError, match="sink_mask got NaN or inf residuals"):
        sink_mask(torch.tensor([[1.0], [math.nan]]))
    with pytest.raises(ValueError, match=r"mask is \(3,\) but the tokens are \(2,\)"):
        sink_mask(torch.ones(2, 3), mask=torch.ones(3))


def test_fvu_equals_the_loop(rng):
    x = torch.randn(2, 9, 5, generator=rng)
    y = x + 0.3 * torch.randn(2, 9, 5, generator=rng)
    keep = torch.rand(2, 9, generator=rng) > 0.3
    expected = naive.fvu(x.view(18, 5).tolist(), y.view(18, 5).tolist(), keep.view(18).tolist())
    assert fvu(x, y, keep) == pytest.approx(expected, rel=1e-9)
    assert fvu(x, x) == 0
    assert fvu(x, x.mean((0, 1)).expand_as(x)) == pytest.approx(1, rel=1e-6)


def test_fvu_is_accurate_far_from_the_origin():
    # In float32 the mean of these would swallow the differences.
    x = 1e4 + torch.tensor([[0.0], [1.0], [2.0]])
    assert fvu(x, x + 0.5) == pytest.approx(0.75 / 2, rel=1e-9)


def test_fvu_names_what_is_wrong():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"x \(3, 2\) and x_hat \(2, 2\)"):
        fvu(x, x[:2])
    with pytest.raises(ValueError, match="two different tokens, 3 kept do not vary"):
        fvu(x, x)
    with pytest.raises(ValueError, match="two different tokens, 0 kept"):
        fvu(x, x, torch.zeros(3))
    with pytest.raises(ValueError, match="NaN or inf in x_hat"):
        fvu(torch.eye(3), torch.full((3, 3), math.inf))


def test_token_cross_entropy_equals_the_loop(rng):
    logits = 3 * torch.randn(2, 6, 11, generator=rng)
    ids = torch.randint(11, (2, 6), generator=rng)
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    for row, got in enumerate(token_cross_entropy(logits, ids, mask)):
        want = naive.cross_entropy(
            logits[row].tolist(), ids[row].tolist(), mask[row].bool().tolist()
        )
        assert got.tolist() == pytest.approx(want, rel=1e-5, nan_ok=True)
    assert token_cross_entropy(logits, ids, mask)[1].isnan().tolist() == [True, True] + [False] * 3
    assert not token_cross_entropy(logits, ids).isnan().any()


def test_cross_entropy_asks_the_model_once(rng):
    logits = torch.randn(1, 4, 7, generator=rng)
    calls = []

    def model(**kwargs):
        calls.append(kwargs)
        return SimpleNamespace(logits=logits)

    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(cross_entropy(model, ids), token_cross_entropy(logits, ids))
    assert len(calls) == 1 and calls[0]["use_cache"] is False


def autoencoder(rng, convention="official"):
    """An SAE that reconstructs its own residuals well when read as `convention`."""
    dictionary = torch.nn.functional.normalize(torch.randn(64, 16, generator=rng), dim=1)
    bias = torch.randn(16, generator=rng)
    centred = convention in ("centered", "openinterpretability")
    sae = TopKSAE(
        dictionary,
        dictionary.T.contiguous(),
        # Either way the encoder must see the residual without its offset.
        torch.zeros(64) if centred else -dictionary @ bias,
        bias,
        k=1,
        convention=convention,
        layer=3,
    )
    one = dictionary[torch.randint(64, (200,), generator=rng)]
    return sae, bias + 5 * one


@pytest.mark.parametrize("convention", ["official", "centered"])
def test_the_better_reading_is_named(rng, convention):
    sae, x = autoencoder(rng, convention)
    other = {"official": "centered", "centered": "official"}[convention]
    readings = check_reading(sae, x)
    assert [r.convention for r in readings] == [convention, other]
    assert readings[0].layer == 3 and readings[0].fvu < readings[1].fvu
    assert readings[0].fvu == fvu(x, sae.reconstruct(x))
    with pytest.raises(
        ValueError, match=f"read as '{other}' at layer 3.*'{convention}' at layer 3"
    ):
        check_reading(sae.read_as(other), x)


def test_a_wrong_layer_is_named(rng):
    sae, x = autoencoder(rng)
    noise = {2: torch.randn(200, 16, generator=rng), 3: torch.randn(200, 16, generator=rng)}
    assert check_reading(sae, {2: noise[2], 3: x, 4: noise[3]})[0][:2] == ("official", 3)
    with pytest.raises(ValueError, match="at layer 3 has FVU .* as 'official' at layer 4 only"):
        check_reading(sae, noise | {4: x})
    with pytest.raises(ValueError, match=r"residuals of layers \[2, 4\] miss layer 3"):
        check_reading(sae, {2: noise[2], 4: x})


def test_readings_leave_sinks_out(rng):
    sae, x = autoencoder(rng)
    with_sink = torch.cat([1000 * torch.randn(1, 16, generator=rng), x])
    assert compare_readings(sae, with_sink) == compare_readings(sae, x)


def test_readings_of_other_layouts(rng):
    sae, x = autoencoder(rng, "openinterpretability")
    assert {r.convention for r in compare_readings(sae, x)} == {
        "transposed",
        "openinterpretability",
    }
    scaled = sae.read_as("leoninverse")
    assert [r.convention for r in compare_readings(scaled, x)] == ["leoninverse"]
    scaled.input_scale = 0.1
    both = compare_readings(scaled, x)
    assert [r.convention for r in both] == ["leoninverse without its input scale", "leoninverse"]


def test_a_reading_that_explains_little_refutes_none(rng):
    sae, x = autoencoder(rng)
    other = x.roll(1, 0) + 3 * torch.randn(x.shape, generator=rng)
    assert check_reading(sae, {3: other, 4: other / 2})[0].fvu > 0.6
    near = {3: x, 4: x + 0.001 * torch.randn(x.shape, generator=rng)}
    check_reading(sae, near)
