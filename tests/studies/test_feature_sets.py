"""Sets of features: which are chosen, how they are edited, and sets at random beside them."""

import naive
import numpy as np
import pytest
import torch
from drawn import drawn_requests

import qs_helpers as qs
from qs_helpers.scoring import decoder_cosines
from qs_helpers.studies.feature_sets import (
    activation_gap,
    activity,
    best,
    feature_edits,
    random_sets,
    redirected,
    usual_peaks,
)


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny-instruct")


@pytest.fixture(scope="module")
def chats(scope):
    found = drawn_requests({"discovery": 6}, ["en", "ja"])
    return [[scope.chat(r.text) for r in found["discovery", bad]] for bad in (True, False)]


@pytest.fixture(scope="module")
def scales(scope, chats):
    return qs.scales(scope, chats[1])


# ---- edits


def test_feature_edits_zero_scale_and_gate(scope, chats, scales):
    chosen = [(1, 5), (2, 7), (2, 9)]
    edits = feature_edits(scope, chosen, scales, -1.0)
    assert sorted(edits) == [1, 2]
    with qs.capture(scope.model, [2], stop=False) as captured:
        scope.model(**scope.tokens(chats[0][0]))
    x = captured[2]
    wanted = qs.change_features(scope.sae(2), [7, 9], "scale", scales[2], -1.0)(x)
    assert torch.equal(edits[2](x), wanted)
    assert torch.equal(feature_edits(scope, chosen, scales, 1.0)[2](x), x), "factor 1: nothing"
    shut = feature_edits(scope, chosen, scales, -1.0, {1: 1e9, 2: 1e9})
    assert torch.equal(shut[2](x), x)
    wide = feature_edits(scope, chosen, scales, -1.0, {1: -1.0, 2: -1.0})
    assert torch.equal(wide[2](x), wanted)
    with pytest.raises(ValueError, match="empty"):
        feature_edits(scope, [], scales)


def test_usual_peaks_are_quantiles_of_the_largest_sum(scope, chats):
    rates, _ = activity(scope, chats[1], [2])
    ids = np.argsort(-rates[2])[:3].tolist()
    found = usual_peaks(scope, chats[1], [[(2, f) for f in ids], [(1, 0)]], 0.5)
    sums = []
    for text in chats[1]:
        with qs.capture(scope.model, [2]) as captured:
            scope.model(**scope.tokens(text))
        acts = naive.activations(scope.sae(2), captured[2][0])
        sums.append(acts[:, ids].sum(1).max().item())
    assert found[0][2] == pytest.approx(np.median(sums), rel=1e-4) and sorted(found[1]) == [1]


# ---- scores


def test_feature_scores_equal_the_reference(scope, chats, scales):
    acts = []
    for side in chats:
        rows = []
        for text in side[:2]:
            with qs.capture(scope.model, [1]) as captured:
                scope.model(**scope.tokens(text))
            rows += naive.activations(scope.sae(1), captured[1][0]).double().tolist()
        acts.append(rows)
    gap = activation_gap(scope, chats[0][:2], chats[1][:2], {1: scales[1]})[1]
    assert np.allclose(gap, naive.activation_gap(*acts, scales[1].median), atol=1e-6)
    r = torch.randn(128, generator=torch.Generator().manual_seed(3))
    cosines = decoder_cosines(scope.sae(1), r)
    for f in (0, 7, 900):
        column = scope.sae(1).W_dec[:, f].double().tolist()
        assert cosines[f] == pytest.approx(naive.cosine(column, r.double().tolist()), abs=1e-6)


def test_best_ranks_over_layers_and_leaves_out_what_is_not_positive():
    scores = {1: [0.0, 3.0, -1.0], 4: [2.0, 0.5, 9.0]}
    assert best(scores, 3) == [(4, 2), (1, 1), (4, 0)]
    assert len(best(scores, 64)) == 4


# ---- controls


def test_random_sets_match_layer_and_rate_and_share_nothing_with_the_choice():
    rng = np.random.default_rng(0)
    rates = {n: np.where(rng.random(400) < 0.2, 0, rng.random(400)) for n in (1, 2)}
    live = [(n, int(f)) for n in (1, 2) for f in np.flatnonzero(rates[n])[:5]]
    dead = (1, int(np.flatnonzero(rates[1] == 0)[0]))
    for drawn in random_sets(rates, [*live, dead], 20):
        assert len(drawn) == len(set(drawn)) == len(live) and not set(drawn) & set(live)
        for (layer, f), (other, g) in zip(live, drawn, strict=True):
            assert layer == other and abs(rates[layer][f] - rates[layer][g]) < 0.3


def test_a_redirected_edit_changes_as_much_at_each_token_and_nothing_where_the_true_one_does_not(
    scope, chats, scales
):
    rates, _ = activity(scope, chats[0], [2])
    live = np.flatnonzero((rates[2] > 0.02) & (rates[2] < 0.5))
    true = feature_edits(scope, [(2, int(f)) for f in live[:3]], scales, -1.0)
    other = [(2, int(f)) for f in live[5:8]]
    with qs.capture(scope.model, [2], stop=False) as captured:
        scope.model(**scope.tokens(chats[0]))
    x = captured[2]
    wanted = torch.linalg.vector_norm(true[2](x) - x, dim=-1)
    found = torch.linalg.vector_norm(redirected(scope, true, other)[2](x) - x, dim=-1)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3) and 0 < (found > 0).sum()
    assert ((found > 0) == (wanted > 0)).all() and (wanted == 0).any()
    twice = torch.linalg.vector_norm(redirected(scope, true, other, 2.0)[2](x) - x, dim=-1)
    assert torch.allclose(twice, 2 * found, rtol=1e-3, atol=1e-3)
    assert redirected(scope, true, [(1, 0)]) == {}
