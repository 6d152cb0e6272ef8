"""Gradients, attribution and patching against references and finite differences."""

import copy

import naive
import numpy as np
import pytest
import torch
from drawn import drawn_requests

import qs_helpers as qs
from qs_helpers.studies import patching
from qs_helpers.studies.patching import (
    coordinates,
    feature_attribution,
    features,
    gradients,
    recovered,
)
from qs_helpers.studies.refusal import template_tokens
from qs_helpers.texts.load import load_pairs


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny-instruct")


@pytest.fixture(scope="module")
def chats(scope):
    found = drawn_requests({"discovery": 6}, ["en", "ja"])
    return [[scope.chat(r.text) for r in found["discovery", bad]] for bad in (True, False)]


def test_attribution_equals_the_reference(scope, chats):
    tokens, text = torch.tensor([3, 77]), chats[0][0]
    (part,) = gradients(scope, [text], tokens, [2])
    acts = naive.activations(scope.sae(2), part.x[0, 1:])
    columns = scope.sae(2).W_dec.T.tolist()
    wanted = naive.attribution(acts.tolist(), part.gradient[0, 1:].tolist(), columns)
    found = feature_attribution(scope, [text], tokens, [2])[2]
    assert np.allclose(found.numpy(), wanted, atol=1e-6)


def test_gradients_are_those_of_the_log_odds(scope, chats):
    """Against central differences of the same model in float64."""
    tokens, text = torch.tensor([3, 77]), chats[0][1]
    (part,) = gradients(scope, [text], tokens, [2])
    model = copy.deepcopy(scope.model).double()  # but for its norms, which stay in float32
    for place in (3, -1):
        direction, values = int(part.gradient[0, place].abs().argmax()), []
        for step in (0.5, -0.5):

            def moved(x, step=step, place=place, direction=direction):
                x = x.clone()
                x[0, place, direction] += step
                return x

            with torch.no_grad(), qs.edit(model, {2: moved}):
                logits = model(**scope.tokens(text)).logits[0, -1].tolist()
            values.append(naive.odds(logits, tokens.tolist()))
        slope = values[0] - values[1]
        assert part.gradient[0, place, direction] == pytest.approx(slope, rel=1e-2)


def test_gradients_of_a_batch_are_those_of_each_prompt(scope, chats):
    tokens = torch.tensor([3, 77])
    both = sorted(chats[0][:2], key=len)
    batch = list(gradients(scope, both, tokens, [1]))
    assert sum(len(part.rows) for part in batch) == 2
    for part in batch:
        for place, row in enumerate(part.rows):
            (single,) = gradients(scope, [both[row]], tokens, [1])
            own = part.gradient[place][part.real[place]]
            assert torch.allclose(own, single.gradient[0], atol=1e-5)
            assert (part.gradient[place][~part.real[place]] == 0).all()


# ---- patching


def test_patching_everything_recovers_the_effect_at_the_first_layer_of_the_decision(scope):
    tokens = torch.tensor([ids[0] for ids in scope.ids(["sorry", "no", "i"])])
    pairs = load_pairs("tiny", "discovery", ["en"], 8)
    sides = [[scope.chat(r.text) for r in side] for side in zip(*pairs, strict=True)]
    n = template_tokens(scope)
    last = scope.n_layers - 1
    table = recovered(
        scope, coordinates(), sides, sides, last, n, tokens, [0, 1, 128], seed=0
    ).set_index("size")
    assert table.value[0] == 0 and table.value[128] == pytest.approx(1, abs=1e-3)
    assert list(table.n) == [8] * 3
    # In any orthogonal basis, all components make the whole.
    square = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    rotated = coordinates(torch.linalg.qr(square)[0])
    whole = recovered(scope, rotated, sides, sides, last, n, tokens, [128])
    assert whole.value.item() == pytest.approx(1, abs=1e-3)


def test_feature_basis_gives_back_the_reconstruction(scope, chats):
    sae = scope.sae(2)
    with qs.capture(scope.model, [2]) as captured:
        scope.model(**scope.tokens(chats[0][0]))
    x = captured[2][0]
    basis = features(sae)
    assert torch.allclose(basis.back(basis.values(x)) + sae.b_dec, sae.reconstruct(x), atol=1e-3)


def test_one_direction_is_one_component(scope):
    basis = patching.along(torch.ones(128) * 3)
    x = torch.randn(5, 128)
    assert basis.values(x).shape == (5, 1)
    assert torch.allclose(basis.back(basis.values(torch.ones(1, 128))), torch.ones(1, 128))


def test_pairs_that_do_not_differ_are_refused(scope, chats):
    tokens = torch.tensor([3])
    with pytest.raises(ValueError, match="differ by 0.5 nats"):
        recovered(
            scope, coordinates(), (chats[0], chats[0]), (chats[0], chats[0]), 2, 2, tokens, [1]
        )
