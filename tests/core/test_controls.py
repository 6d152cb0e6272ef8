"""Controls: random directions, features that fire as often, edits of equal size."""

import numpy as np
import pytest
import torch
from drawn import drawn_requests
from torch.nn.functional import normalize

import qs_helpers as qs
from qs_helpers.controls import matched_set


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


def test_random_directions_are_unit_and_far_from_the_start_of_the_saes():
    rows = qs.random_directions(50, 128)
    assert torch.allclose(rows.norm(dim=1), torch.ones(50))
    start = torch.randn(50, 128, generator=torch.Generator().manual_seed(0))
    assert (normalize(rows, dim=1) @ normalize(start, dim=1).T).abs().max() < 0.5


def test_matched_features_fire_as_often():
    density = np.concatenate([np.zeros(100), np.linspace(0.001, 0.5, 400)])
    found = qs.matched_features(density, 300, 20)
    assert len(set(found)) == 20 and 300 not in found
    ranks = np.searchsorted(density[100:], density[found])
    assert (ranks * 10 // 400 == (300 - 100) * 10 // 400).all()
    assert (found == qs.matched_features(density, 300, 20)).all()


def test_matched_features_of_a_small_decile_are_the_nearest():
    density = np.concatenate([np.zeros(10), np.linspace(0.01, 0.5, 50)])
    found = qs.matched_features(density, 12, 20)
    assert set(found) <= set(range(10, 33)) - {12} and len(set(found)) == 20


def test_matched_features_refuses():
    with pytest.raises(ValueError, match="feature 0 is dead"):
        qs.matched_features(np.array([0, 0.5, 0.5]), 0, 1)
    with pytest.raises(ValueError, match="only 2 features are live; 5 controls need more"):
        qs.matched_features(np.array([0, 0.5, 0.5]), 1, 5)


def test_edit_sizes_count_tokens_and_norms(scope, chats, scales):
    step = torch.zeros(128)
    step[0] = 1.0
    steer = {n: qs.add(step, 0.5, scales[n]) for n in (1, 3)}
    table = qs.edit_sizes(scope, chats[0], steer)
    assert (table.edited == 1).all() and len(table) == len(chats[0])
    assert np.allclose(table["size"], 0.5 * (scales[1].median + scales[3].median), rtol=1e-4)
    assert qs.edit_sizes(scope, chats[0], {1: lambda x: x}).to_numpy().max() == 0
    last = {
        2: lambda x: torch.where(
            torch.arange(x.shape[1])[None, :, None] == x.shape[1] - 1, x + 1, x
        )
    }
    table = qs.edit_sizes(scope, chats[0], last)
    lengths = [len(ids) for ids in scope.ids(chats[0])]
    assert np.allclose(table.edited, 1 / np.array(lengths))


def test_a_matched_set_fires_as_often_and_holds_nothing_twice():
    density = np.linspace(0, 1, 400).round(4)  # feature 0 is dead
    own = [0, 5, 6, 7, 200, 390]
    for seed in range(5):
        drawn = matched_set(density, own, seed)
        assert len(drawn) == len(own) == len({*drawn.tolist()} - {*own})
        assert np.abs(density[drawn] - density[own]).max() < 0.11
    assert (matched_set(density, own, 1) == matched_set(density, own, 1)).all()
    assert (matched_set(density, own, 1) != matched_set(density, own, 2)).any()
    few = np.array([0.1, 0.2, 0.3, 0.0, 0.0])
    assert matched_set(few, [0, 1]).tolist() == [2]
