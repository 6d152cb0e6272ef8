"""Ablating features and directions: the edits, their controls, their price, at equal effect."""

import copy

import naive
import numpy as np
import pandas as pd
import pytest
import torch

import qs_helpers as qs
from qs_helpers.scoring import (
    decoder_cosines,
)
from qs_helpers.studies import patching
from qs_helpers.studies.data import load_prompts, tiny_twins
from qs_helpers.studies.feature_sets import (
    activation_gap,
    activity,
    best,
    feature_edits,
    random_sets,
    redirected,
    usual_peaks,
)
from qs_helpers.studies.patching import (
    coordinates,
    feature_attribution,
    features,
    gradients,
    recovered,
)
from qs_helpers.studies.refusal import orthogonalised, template_tokens
from qs_helpers.studies.tradeoff import Curve, area, cheapest, cost_at, cost_gap, interpolated


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny-instruct")


@pytest.fixture(scope="module")
def chats(scope):
    found = load_prompts([], {"discovery": 6}, ["en", "ja"])
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


# ---- weights


def test_orthogonalised_weights_equal_hooks_and_tied_heads_are_a_trap(scope, chats, scales):
    r = torch.randn(128, generator=torch.Generator().manual_seed(1))
    batch = scope.tokens(chats[0])
    real = batch["attention_mask"].bool()
    with qs.edit(scope.model, {"writes": qs.project_out(r, scales[2])}):
        hooked = scope.model(**batch).logits[real]
    before = {name: p.clone() for name, p in scope.model.named_parameters()}
    copy_ = orthogonalised(scope.model, r)
    assert (copy_(**batch).logits[real] - hooked).abs().max() < 1e-4
    trap = orthogonalised(scope.model, r, untie=False)
    assert (trap(**batch).logits[real] - hooked).abs().max() > 1e-2
    assert all(torch.equal(p, before[name]) for name, p in scope.model.named_parameters())
    head = copy_.get_output_embeddings().weight
    assert torch.equal(head, scope.model.get_output_embeddings().weight)


def test_a_mixture_of_experts_is_refused_by_name(scope):
    model = copy.deepcopy(scope.model)
    model.model.layers[0].mlp.down_proj = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="no single output projection"):
        orthogonalised(model, torch.ones(128))


# ---- price


# ---- at equal effect


def test_cost_between_doses_is_interpolated():
    reductions, costs = [1.0, 0.5], [3.0, 1.0]
    found = interpolated(reductions, costs, [0, 0.25, 0.5, 0.75, 1.0, 1.1])
    assert np.allclose(found[:5], [0, 0.5, 1, 2, 3]) and np.isnan(found[5])
    assert interpolated(reductions, costs, 0.75) == 2.0
    alone = pd.Series(
        {"reached": interpolated([0.9], [1.0], 0.75), "not": interpolated([0.5], [0.1], 0.75)}
    )
    assert alone.dropna().idxmin() == "reached"
    wanted = [
        np.interp(0.6, [0, *sorted(r)], [0, *np.array(c)[np.argsort(r)]])
        for r, c in (([0.9, 0.4], [2, 1]), ([0.7, 0.8], [5, 6]))
    ]
    both = interpolated([[0.9, 0.4], [0.7, 0.8]], [[2, 1], [5, 6]], [0.6])
    assert np.allclose(both[:, 0], wanted)


@pytest.fixture
def curve():
    rng = np.random.default_rng(0)
    plain = np.ones(200)
    outcome = np.stack([rng.random(200) < p for p in (0.6, 0.1)]).astype(float)
    cost = np.stack([rng.exponential(s, 150) for s in (0.1, 1.0)])
    return Curve(outcome, cost, plain)


def test_cost_at_equal_reduction_has_an_interval_that_holds_it(curve):
    (half,) = cost_at(curve, [0.5])
    reductions = 1 - curve.outcome.mean(1)
    assert half.value == pytest.approx(interpolated(reductions, curve.cost.mean(1), 0.5))
    assert half.low < half.value < half.high and half.n == 150
    (never,) = cost_at(curve, [0.999])
    assert np.isnan(never.value) and curve.reached() == pytest.approx(reductions.max())


def test_gap_is_paired(curve):
    same = cost_gap(curve, curve, 0.5)
    assert same[:3] == (0, 0, 0)
    dearer = Curve(curve.outcome, curve.cost + 0.2, curve.plain)
    gap = cost_gap(dearer, curve, 0.5)
    assert gap.low > 0 and gap.high - gap.low < 0.1, "the noise of the prompts cancels"
    short = Curve(curve.outcome, curve.cost[:, :9], curve.plain)
    with pytest.raises(ValueError, match="different prompts"):
        cost_gap(curve, short, 0.5)


def test_groups_are_drawn_as_a_whole(curve):
    alike = np.repeat(np.arange(30), 5)
    cost = np.repeat(np.random.default_rng(1).exponential(1, (2, 30)), 5, axis=1)
    alone = Curve(curve.outcome, cost, curve.plain)
    grouped = alone._replace(groups=(np.arange(200), alike))
    widths = [e.high - e.low for e in (cost_at(c, [0.5])[0] for c in (alone, grouped))]
    assert widths[1] > 1.5 * widths[0]
    assert cost_at(alone, [0.5])[0].value == cost_at(grouped, [0.5])[0].value


def test_several_gaps_have_wider_intervals(curve):
    other = Curve(curve.outcome, curve.cost[:, ::-1], curve.plain)
    one, four = (cost_gap(curve, other, 0.5, tests=n) for n in (1, 4))
    assert four.low < one.low < one.value < one.high < four.high


def test_a_reduction_that_many_draws_miss_has_no_interval(curve):
    edge = float(curve.reached())
    found = cost_at(curve, [edge])[0]
    assert np.isfinite(found.value) and np.isnan(found.low) and np.isnan(found.high)


def test_area_is_the_mean_cost(curve):
    straight = Curve(np.zeros((1, 50)), np.full((1, 40), 2.0), np.ones(50))
    assert area(straight, 1.0).value == pytest.approx(1.0)
    assert np.isnan(area(curve, 0.99).value)


def test_cheapest_is_the_cheapest_that_reaches():
    tried = pd.DataFrame({"reduction": [0.2, 0.8, 0.9], "cost": [0.0, 3.0, 2.0], "dose": [1, 2, 3]})
    assert cheapest(tried, 0.5).dose == 3 and cheapest(tried, 0.95) is None


# ---- patching


def test_patching_everything_recovers_the_effect_at_the_first_layer_of_the_decision(scope):
    tokens = torch.tensor([ids[0] for ids in scope.ids(["sorry", "no", "i"])])
    pairs = tiny_twins(8, "discovery", ["en"])
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
