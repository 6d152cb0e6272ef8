"""Edits that take a part away: the same as the other forms, gated, of equal size, and no edit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn import drawn_requests

import qs_helpers as qs
from qs_helpers.studies.parts import direction_arm, feature_arm, gate_level, take


@pytest.fixture(scope="module")
def case():
    scope = qs.load_scope("tiny-instruct")
    found = drawn_requests({"discovery": 5}, ["en", "ja"])
    prompts = [scope.chat(r.text) for bad in (True, False) for r in found["discovery", bad]]
    return SimpleNamespace(scope=scope, scales=qs.scales(scope, prompts), prompts=prompts)


@pytest.fixture(scope="module")
def x(case):
    with qs.capture(case.scope.model, [2]) as residuals:
        case.scope.model(**case.scope.tokens(case.prompts[:4]))
    return residuals[2]


@pytest.fixture(scope="module")
def features(case, x):
    return case.scope.sae(2).encode(x[:, -1]).indices.flatten().unique()[:6].tolist()


def test_without_a_gate_they_are_the_known_edits(case, x, features):
    r = torch.randn(128, generator=torch.Generator().manual_seed(0))
    for everywhere, place in ((False, 2), (True, "writes")):
        edits = take(direction_arm(case, r, 2, everywhere), 0.7)
        assert list(edits) == [place]
        wanted = qs.project_out(r, case.scales[2], 0.7)(x)
        assert torch.allclose(edits[place](x), wanted, atol=1e-5)
    arm = feature_arm(case, [(2, f) for f in features])
    for strength in (1.0, 2.0):
        wanted = qs.change_features(
            case.scope.sae(2), features, "scale", case.scales[2], 1 - strength
        )
        assert torch.allclose(take(arm, strength)[2](x), wanted(x), atol=1e-4)
    assert torch.equal(take(arm, 0.0)[2](x), x)
    with pytest.raises(ValueError, match="empty"):
        feature_arm(case, [])


def test_each_prompt_has_its_strength_and_a_control_is_as_large(case, x, features):
    arm = feature_arm(case, [(2, f) for f in features])
    new = take(arm, torch.tensor([0.0, 0.5, 1.0, 2.0]))[2](x)
    assert torch.equal(new[0], x[0]) and torch.equal(new[3], take(arm, 2.0)[2](x)[3])
    v = qs.random_directions(4, 128)
    other = take(arm, 1.0, v)[2](x)
    sizes = [(y - x).norm(dim=-1) for y in (take(arm, 1.0)[2](x), other)]
    assert torch.allclose(*sizes, atol=1e-4) and sizes[0].max() > 0
    along = (other - x)[1] / (other - x)[1].norm(dim=-1, keepdim=True)
    moved = sizes[1][1] > 0
    assert torch.allclose(along[moved], -v[1].expand_as(along)[moved], atol=1e-3)


def test_a_gate_opens_above_its_level_and_spares_sinks(case, x, features):
    arm = feature_arm(case, [(2, f) for f in features])
    reading = arm.reading(arm.parts[2](x)) / case.scales[2].median
    arm.level = float(reading[reading > 0].median())
    moved = (take(arm, 1.0)[2](x) != x).any(-1)
    assert torch.equal(moved, reading > arm.level) and moved.any() and not moved.all()
    long = x * 1e4
    assert torch.equal(take(arm, 1.0)[2](long), long)


def test_the_level_is_a_quantile_of_prompts_one_by_one(case, features):
    arm, peaks = feature_arm(case, [(2, f) for f in features]), []
    for prompt in case.prompts:  # without padding
        with qs.capture(case.scope.model, [2]) as residuals:
            case.scope.model(**case.scope.tokens([prompt]))
        peaks.append(float(arm.reading(arm.parts[2](residuals[2])).max()) / case.scales[2].median)
    for q in (0.5, 0.95):
        found = gate_level(case, arm, case.prompts, q)
        assert found == pytest.approx(np.quantile(peaks, q), rel=1e-4)
