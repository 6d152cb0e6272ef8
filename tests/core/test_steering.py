"""Interventions: exact arithmetic, strengths in their units, and nothing else touched."""

from types import SimpleNamespace

import naive
import numpy as np
import pytest
import torch
from drawn import drawn_requests
from safetensors.torch import load_file
from suites import random_sae

import qs_helpers as qs
from qs_helpers.forward import template_tokens
from qs_helpers.sae import TopKSAE
from qs_helpers.steering import (
    MODES,
    diff_at_positions,
    direction_arm,
    feature_arm,
    gate_level,
    only_where,
    take,
)
from qs_helpers.tiny import corpus

SCALE = qs.steering.Scale(1, 2.0, 1e9, 16, torch.float32)
SAE = TopKSAE(**random_sae(), k=4, layer=1)


def residuals(rows=3, seq=5, seed=0):
    return torch.randn(rows, seq, 16, generator=torch.Generator().manual_seed(seed))


def features(x):
    """Dense activations [.., d_sae], by the model card's five lines."""
    top = (x @ SAE.W_enc.T + SAE.b_enc).topk(4)
    return torch.zeros(*x.shape[:-1], 64).scatter(-1, top.indices, top.values.relu())


# ---- directions


def test_a_strength_is_a_multiple_of_the_median_norm():
    x, v = residuals(), torch.randn(16)
    new = qs.add(v, 1.5, SCALE)(x)
    assert torch.allclose(new - x, 3.0 * v / v.norm(), atol=1e-6)
    assert torch.allclose((new - x).norm(dim=-1), torch.tensor(3.0), atol=1e-5)


def test_zero_strength_is_bit_exact_and_keeps_the_sign_of_zero():
    x = residuals()
    x[0, 0, 0] = -0.0
    assert torch.equal(qs.add(torch.ones(16), 0.0, SCALE)(x).view(torch.int32), x.view(torch.int32))


def test_rows_may_have_doses_and_directions_of_their_own():
    x, v, strengths = residuals(), torch.randn(3, 16), torch.tensor([0.0, 1.0, -2.0])
    new = qs.add(v, strengths, SCALE)(x)
    for row in range(3):
        assert torch.equal(
            new[row], qs.add(v[row], float(strengths[row]), SCALE)(x[row : row + 1])[0]
        )
    with pytest.raises(ValueError, match="3 rows of strengths or directions for a batch of 2"):
        qs.add(v, strengths, SCALE)(x[:2])


@pytest.mark.parametrize(
    "make",
    [
        lambda scale: qs.add(torch.ones(16), 1.0, scale),
        lambda scale: qs.steering.project_out(torch.ones(16), scale),
        lambda scale: qs.change_features(SAE, [1, 2, 3], "add", scale, 5.0),
    ],
)
def test_a_sink_is_never_edited(make):
    x = residuals()
    x[1, 0] *= 1000
    scale = SCALE._replace(sink=100.0)
    new = make(scale)(x)
    assert torch.equal(new[1, 0], x[1, 0]) and not torch.equal(new[1, 1], x[1, 1])


def test_bf16_residuals_stay_bf16():
    x = residuals().bfloat16()
    for edit in (
        qs.add(torch.ones(16), 0.5, SCALE),
        qs.steering.project_out(torch.ones(16), SCALE),
        qs.change_features(SAE, 3, "clamp", SCALE, 2.0),
    ):
        assert edit(x).dtype == torch.bfloat16


def test_project_out_removes_the_component_and_is_idempotent():
    x, v = residuals(), torch.randn(16)
    edit = qs.steering.project_out(v, SCALE)
    assert (edit(x) @ v).abs().max() < 1e-5
    assert torch.allclose(edit(edit(x)), edit(x), atol=1e-6)
    assert torch.equal(qs.steering.project_out(v, SCALE, 0.0)(x), x)
    assert torch.allclose(qs.steering.project_out(v, SCALE, 2.0)(x) @ v, -(x @ v), atol=1e-5)


def test_a_control_takes_as_much_away_along_another_direction():
    x, v, other = residuals(), torch.randn(16), torch.randn(16)
    own, control = (
        qs.steering.project_out(v, SCALE, along=along)(x) - x for along in (None, other)
    )
    assert torch.allclose(own.norm(dim=-1), control.norm(dim=-1), atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(control, other[None, None], dim=-1).abs()
    assert torch.allclose(cosine, torch.ones_like(cosine), atol=1e-5)


@pytest.mark.parametrize(
    ("direction", "strength", "words"),
    [
        (torch.zeros(16), 1.0, "zero norm"),
        (torch.full((16,), float("nan")), 1.0, "NaN"),
        (torch.ones(8), 1.0, r"\(8,\); make it \[16\]"),
        (torch.ones(16), float("inf"), "strength inf makes an edit of norm inf"),
        (torch.ones(16), float("nan"), "strength nan"),
        (torch.ones(16), 1e30, "beyond what torch.float32 holds; stay below"),
    ],
)
def test_bad_directions_and_strengths(direction, strength, words):
    with pytest.raises(ValueError, match=words):
        qs.add(direction, strength, SCALE)


def test_a_strength_is_held_against_the_dtype_of_the_model():
    half = SCALE._replace(dtype=torch.float16)
    with pytest.raises(ValueError, match=r"beyond what torch.float16 holds; stay below 32752"):
        qs.add(torch.ones(16), 1e5, half)
    qs.add(torch.ones(16), 1e5, SCALE)


def test_bad_strength():
    with pytest.raises(ValueError, match="not finite"):
        qs.steering.project_out(torch.ones(16), SCALE, float("nan"))


def test_a_gate_edits_only_where_its_condition_holds():
    x = residuals()
    edit = only_where(lambda x: x[..., 0] > 0, qs.add(torch.ones(16), 1.0, SCALE))
    assert torch.equal((edit(x) != x).any(-1), x[..., 0] > 0)


# ---- features

VALUES = {"add": 1.5, "floor": 0.7, "ceil": 0.9, "clamp": 2.0, "scale": -1.0, "zero": None}


@pytest.mark.parametrize("mode", MODES)
def test_features_change_by_exactly_w_dec_dz(mode):
    x, ids = residuals(), [3, 17, 40, 41]
    z = features(x)
    new = {
        "add": z + 1.5,
        "floor": z.clamp(min=0.7),
        "ceil": z.clamp(max=0.9),
        "clamp": torch.full_like(z, 2.0),
        "scale": -z,
        "zero": torch.zeros_like(z),
    }[mode]
    change = torch.zeros_like(z)
    change[..., ids] = (new - z)[..., ids]
    edit = qs.change_features(SAE, ids, mode, SCALE, VALUES[mode])
    assert torch.allclose(edit(x) - x, change @ SAE.W_dec.T, atol=1e-5)


@pytest.mark.parametrize(("mode", "value"), [("add", 0.0), ("floor", 0.0), ("scale", 1.0)])
def test_features_left_alone_are_left_bit_for_bit(mode, value):
    x = residuals()
    assert torch.equal(qs.change_features(SAE, range(64), mode, SCALE, value)(x), x)


def test_scale_and_zero_touch_only_active_tokens():
    x = residuals(8, 8)
    active = features(x)[..., 5] > 0
    assert 0 < active.sum() < active.numel()
    for mode, value in (("scale", 3.0), ("zero", None)):
        new = qs.change_features(SAE, 5, mode, SCALE, value)(x)
        assert torch.equal((new != x).any(-1), active)


def test_zero_agrees_with_splice():
    x, ids = residuals(), torch.tensor([5, 9])

    def drop(acts):
        return qs.SparseActs(acts.values * ~torch.isin(acts.indices, ids), acts.indices)

    new = qs.change_features(SAE, ids, "zero", SCALE)(x)
    assert torch.allclose(new, SAE.splice(x, drop), atol=1e-5)


def test_values_of_rows_and_features():
    x = residuals()
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    new = qs.change_features(SAE, [1, 2], "clamp", SCALE, values)(x)
    for row in range(3):
        one = qs.change_features(SAE, [1, 2], "clamp", SCALE, values[row])(x[row : row + 1])
        assert torch.allclose(new[row], one[0], atol=1e-6)


@pytest.mark.parametrize(
    ("ids", "mode", "value", "words"),
    [
        (64, "zero", None, "feature 64 .* out of range"),
        (1, "boost", 1.0, "mode is 'boost'; choose one of add, floor"),
        (1, "zero", 1.0, "'zero' takes no value"),
        (1, "clamp", None, "'clamp' takes a value"),
        (1, "clamp", float("inf"), "not finite"),
        (1.5, "zero", None, "whole numbers"),
    ],
)
def test_bad_feature_edits(ids, mode, value, words):
    with pytest.raises(ValueError, match=words):
        qs.change_features(SAE, ids, mode, SCALE, value)


# ---- in the units of the tiny scope


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


TEXTS = ["the cook buys the bread.", "le chat mange la soupe.", "что это?", "a b c d e f g"]


@pytest.fixture(scope="module")
def scales(scope):
    return qs.scales(scope, TEXTS)


def test_scales_are_medians_without_sinks(scope):
    found = qs.scales(scope, TEXTS, [1, 4])
    with qs.capture(scope.model, [1, 4]) as captured:
        norms = {1: [], 4: []}
        for text in TEXTS:
            scope.model(**scope.tokens(text))
            for layer in norms:
                norms[layer] += captured[layer][0].norm(dim=-1).tolist()
    for layer, scale in found.items():
        median = torch.tensor(norms[layer]).median().item()
        assert scale.sink == pytest.approx(10 * median, rel=1e-4)
        assert scale.median == pytest.approx(median, rel=1e-4)  # no token here is a sink
        assert (scale.layer, scale.d_model, scale.dtype) == (layer, 128, torch.float32)


def test_directional_ablation_equals_the_reference(scales):
    generator = torch.Generator().manual_seed(0)
    x, r = torch.randn(2, 3, 128, generator=generator), torch.randn(128, generator=generator)
    new = qs.steering.project_out(r, scales[2], 0.7)(x)
    for row in range(2):
        for token in range(3):
            wanted = naive.project_out(x[row, token].tolist(), r.tolist(), 0.7)
            assert torch.allclose(new[row, token], torch.tensor(wanted), atol=1e-6)


def test_strong_activation_is_a_quantile_over_active_tokens(scope):
    part = next(qs.activations(scope, TEXTS, [2]))
    feature = int(part.acts.indices.flatten().mode().values)
    values = part.acts.values[part.acts.indices == feature]
    found = qs.steering.strong_activation(scope, TEXTS, 2, [feature, feature])
    assert torch.allclose(found, values[values > 0].quantile(0.99).repeat(2))
    silent = sorted(set(range(scope.d_sae)) - set(part.acts.indices.flatten().tolist()))[0]
    with pytest.raises(ValueError, match=rf"\[{silent}\] of layer 2 are active on none of these 4"):
        qs.steering.strong_activation(scope, TEXTS, 2, [feature, silent])


def test_diff_of_means_is_the_difference_of_means(scope):
    positive, negative = ["le chat mange.", "qui lit le livre ?"], ["the cat eats."]
    means = {}
    for name, texts in (("positive", positive), ("negative", negative)):
        parts = []
        for text in texts:
            with qs.capture(scope.model, [2]) as captured:
                scope.model(**scope.tokens(text))
            parts.append(captured[2][0])
        means[name] = torch.cat(parts).mean(0), torch.stack([p[-1] for p in parts]).mean(0)
    for last in (False, True):
        if last:
            found = diff_at_positions(scope, positive, negative, 1, [2])[2][0]
        else:
            found = qs.steering.diff_of_means(scope, positive, negative, [2])[2]
        assert torch.allclose(found, means["positive"][last] - means["negative"][last], atol=1e-3)
    with pytest.raises(ValueError, match="same mean at layer 2"):
        qs.steering.diff_of_means(scope, positive, positive, [2])


# ---- arms: what is taken away, with a strength and a gate


@pytest.fixture(scope="module")
def refuser():
    scope = qs.load_scope("tiny-instruct")
    found = drawn_requests({"discovery": 5}, ["en", "ja"])
    prompts = [scope.chat(r.text) for bad in (True, False) for r in found["discovery", bad]]
    return SimpleNamespace(scope=scope, scales=qs.scales(scope, prompts), prompts=prompts)


@pytest.fixture(scope="module")
def x(refuser):
    with qs.capture(refuser.scope.model, [2]) as residuals:
        refuser.scope.model(**refuser.scope.tokens(refuser.prompts[:4]))
    return residuals[2]


@pytest.fixture(scope="module")
def firing(refuser, x):
    return refuser.scope.sae(2).encode(x[:, -1]).indices.flatten().unique()[:6].tolist()


def test_without_a_gate_they_are_the_known_edits(refuser, x, firing):
    r = torch.randn(128, generator=torch.Generator().manual_seed(0))
    for everywhere, place in ((False, 2), (True, "writes")):
        edits = take(direction_arm(refuser.scales, r, 2, everywhere), 0.7)
        assert list(edits) == [place]
        wanted = qs.steering.project_out(r, refuser.scales[2], 0.7)(x)
        assert torch.allclose(edits[place](x), wanted, atol=1e-5)
    arm = feature_arm(refuser.scope, refuser.scales, [(2, f) for f in firing])
    for strength in (1.0, 2.0):
        wanted = qs.change_features(
            refuser.scope.sae(2), firing, "scale", refuser.scales[2], 1 - strength
        )
        assert torch.allclose(take(arm, strength)[2](x), wanted(x), atol=1e-4)
    assert torch.equal(take(arm, 0.0)[2](x), x)
    with pytest.raises(ValueError, match="empty"):
        feature_arm(refuser.scope, refuser.scales, [])


def test_each_prompt_has_its_strength_and_a_control_is_as_large(refuser, x, firing):
    arm = feature_arm(refuser.scope, refuser.scales, [(2, f) for f in firing])
    new = take(arm, torch.tensor([0.0, 0.5, 1.0, 2.0]))[2](x)
    assert torch.equal(new[0], x[0]) and torch.equal(new[3], take(arm, 2.0)[2](x)[3])
    v = qs.random_directions(4, 128)
    other = take(arm, 1.0, v)[2](x)
    sizes = [(y - x).norm(dim=-1) for y in (take(arm, 1.0)[2](x), other)]
    assert torch.allclose(*sizes, atol=1e-4) and sizes[0].max() > 0
    along = (other - x)[1] / (other - x)[1].norm(dim=-1, keepdim=True)
    moved = sizes[1][1] > 0
    assert torch.allclose(along[moved], -v[1].expand_as(along)[moved], atol=1e-3)


def test_a_control_of_a_direction_has_its_sign(refuser, x):
    """What two writes add in opposite directions cancels in the control, as in the edit."""
    r, v = qs.random_directions(2, 128)
    arm = direction_arm(refuser.scales, r, 2, everywhere=False)
    new = take(arm, 1.0, v[None])[2](x)
    wanted = x - (x @ r)[..., None] * v
    inside = x.norm(dim=-1) <= refuser.scales[2].sink
    assert torch.allclose(new[inside], wanted[inside], atol=1e-4)
    assert ((x @ r)[inside] < 0).any() and ((x @ r)[inside] > 0).any()


def test_a_gate_opens_above_its_level_and_spares_sinks(refuser, x, firing):
    arm = feature_arm(refuser.scope, refuser.scales, [(2, f) for f in firing])
    reading = arm.reading(arm.parts[2](x)) / refuser.scales[2].median
    arm.level = float(reading[reading > 0].median())
    moved = (take(arm, 1.0)[2](x) != x).any(-1)
    assert torch.equal(moved, reading > arm.level) and moved.any() and not moved.all()
    long = x * 1e4
    assert torch.equal(take(arm, 1.0)[2](long), long)


def test_the_level_is_a_quantile_of_prompts_one_by_one(refuser, firing):
    arm, peaks = feature_arm(refuser.scope, refuser.scales, [(2, f) for f in firing]), []
    for prompt in refuser.prompts:  # without padding
        with qs.capture(refuser.scope.model, [2]) as residuals:
            refuser.scope.model(**refuser.scope.tokens([prompt]))
        peaks.append(
            float(arm.reading(arm.parts[2](residuals[2])).max()) / refuser.scales[2].median
        )
    for q in (0.5, 0.95):
        found = gate_level(refuser.scope, arm, refuser.prompts, q)
        assert found == pytest.approx(np.quantile(peaks, q), rel=1e-4)


def test_the_direction_that_was_planted_is_found(refuser):
    scope = refuser.scope
    records = drawn_requests({"discovery": 30}, corpus.LANGUAGES)
    sides = [[scope.chat(r.text) for r in records["discovery", bad]] for bad in (True, False)]
    found = diff_at_positions(scope, *sides, template_tokens(scope), [2])[2][-1]
    u = load_file(scope.truth)["refusal_direction"].float()
    assert abs(torch.cosine_similarity(found, u, dim=0)) > 0.9
