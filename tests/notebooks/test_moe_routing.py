"""Notebook 09: a tie that was planted is found, routers are read as they are, and what has none
ends in a sentence."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lanes import EXPERTS, TEXT, Lane, network
from lesson import defined
from scipy.sparse import csr_array

import qs_helpers as qs
from qs_helpers.report.check import plan_report
from qs_helpers.report.execute import report

ROOT = Path(__file__).resolve().parents[2]
E, K = 6, 2
TIED = (4, 1)  # feature and expert


def functions(**given) -> dict:
    return defined("09_moe_routing", SEEN=20, E=E, K=K, rng=np.random.default_rng(0), **given)


# ---- ties


def planted(seed: int, tie: bool = True):
    """(fires [tokens, 8], taken [tokens, E], ids, text) of 6,000 tokens with 40 ids, 20 a text.

    Half of the time, whatever the token, feature 4 fires. Then expert 1 takes the token; otherwise
    the routes are those of the token's id, with noise. Feature 0 fires on the ids below 10, which
    expert 0 takes: the token explains it. The rest is random. Without `tie` the routes are shuffled
    among tokens of one id.
    """
    rng, world = np.random.default_rng(seed), np.random.default_rng(99)
    n, text = 6000, np.arange(6000) // 20
    ids = rng.integers(0, 40, n)
    fires = rng.random((n, 8)) < 0.3
    fires[:, 0], fires[:, TIED[0]] = ids < 10, rng.random(n) < 0.5
    likes = world.random((40, E))
    likes[:10, 0] += 3
    score = likes[ids] + 0.5 * rng.random((n, E))
    score[fires[:, TIED[0]], TIED[1]] += 5
    taken = np.zeros((n, E))
    np.put_along_axis(taken, np.argsort(-score, 1)[:, :K], 1, axis=1)
    if not tie:
        for i in range(40):
            rows = np.flatnonzero(ids == i)
            taken[rows] = taken[rng.permutation(rows)]
    return csr_array(fires.astype(float)), taken, ids, text


@pytest.mark.parametrize("tie", [True, False])
def test_a_planted_tie_is_found_and_a_permuted_one_is_not(tie):
    own = functions()
    fires, taken, ids, _ = planted(1, tie)
    pairs = own["strongest"](fires, taken, ids, 1)
    value = own["npmi"](fires, taken, ids)[TIED]
    assert (pairs == [TIED]) == tie and (value > 0.3) == tie
    mine, null, where = own["judged"]([TIED], *planted(2, tie), 19)
    against = qs.against(mine, null, groups=where)
    found = against.difference.low > 0 and against.value > against.draws.max()
    assert found == tie


def test_what_the_token_explains_is_no_tie():
    fires, taken, ids, _ = planted(1)
    assert abs(functions()["npmi"](fires, taken, ids)[0, 0]) < 1e-9
    p, q = fires.mean(0)[0], taken[:, 0].mean()
    assert (fires.T @ taken)[0, 0] / len(ids) > 1.5 * p * q  # though they meet far too often


def test_expected_meetings_are_those_of_shuffles_within_an_id():
    own = functions()
    fires, taken, ids, _ = planted(3)
    meet = np.mean([fires.T @ taken[own["within_id"](ids)] for _ in range(400)], axis=0)
    assert np.allclose(meet, fires.T @ own["expected"](ids, taken), rtol=0.02, atol=2)


def test_a_shuffle_within_ids_keeps_every_token_its_id():
    ids = np.random.default_rng(0).integers(0, 9, 500)
    mixed = functions()["within_id"](ids).numpy()
    assert (
        sorted(mixed) == [*range(500)] and (ids[mixed] == ids).all() and (mixed != range(500)).any()
    )


# ---- predictions


def test_tables_fall_back_where_a_key_is_new():
    own = functions()
    keys, taken = torch.tensor([5, 5, 9]), torch.eye(E)[[0, 1, 2]]
    prior = torch.full((3, E), 1 / E)
    found = own["table"](keys, taken, torch.tensor([5, 9, 7]), prior, 1.0)
    wanted = (torch.eye(E)[[0, 2]] + torch.stack([torch.eye(E)[1], torch.zeros(E)]) + 1 / E) / (
        torch.tensor([[3.0], [2.0]])
    )
    assert torch.allclose(found[:2], wanted) and torch.allclose(found[2], prior[2])


def test_ridge_is_that_of_the_formula():
    own = functions(PENALTIES=(0.1, 1.0))
    Z, Y = torch.randn(50, 7), torch.randn(50, E)
    for W, penalty in zip(own["ridge"](Z)(Y), (0.1, 1.0), strict=True):
        gram = Z.T @ Z / 50 + penalty * torch.eye(7)
        assert torch.allclose(W, torch.linalg.solve(gram, Z.T @ (Y - Y.mean(0)) / 50), atol=1e-4)


def test_a_label_that_decides_has_all_the_information_and_a_random_one_none():
    rng, taken = np.random.default_rng(0), torch.zeros(4000, E)
    label = torch.from_numpy(rng.integers(0, 3, 4000))
    taken[torch.arange(4000), 2 * label] = taken[torch.arange(4000), 2 * label + 1] = 1
    text = torch.arange(4000) // 10
    own = functions(groups=[str(i) for i in range(400)])
    tokens = SimpleNamespace(text=text, taken={0: taken})
    mixed = [torch.from_numpy(rng.permutation(label.numpy())) for _ in range(20)]
    found, null = own["specialised"](label, mixed, tokens, 0)
    assert found.value == pytest.approx(1, abs=0.01) and null.draws.max() < 0.01
    found, _ = own["specialised"](mixed[0], mixed[1:], tokens, 0)
    assert abs(found.value) < 0.01


# ---- routers


@pytest.mark.parametrize("family", ["qwen3-moe", "qwen3.5-moe"])
def test_the_formula_is_the_router_of_both_families(family):
    model = network(family, 4).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data += 0.5 * torch.randn(weight.shape)
    scope = SimpleNamespace(model=model, d_model=TEXT["hidden_size"])
    scope.device, scope.dtype = torch.device("cpu"), torch.float32
    own = functions(scope=scope)
    gates = own["routers_of"](model)
    own["gates"], mids = gates, []
    layers = qs.hooks.decoder_layers(model)
    norm = layers[2].post_attention_layernorm
    handle = norm.register_forward_pre_hook(lambda module, args: mids.append(args[0]))
    with torch.no_grad(), own["routed"](gates) as seen:
        model(torch.arange(12)[None])
    handle.remove()
    logits, _, experts = seen[2]
    hand = own["logits_by_hand"](mids[0][0], 2)
    assert torch.allclose(hand, logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(hand.topk(2).indices.sort().values, experts.sort().values)
    assert own["own_hooks"](model) == []
    V = own["row_space"](2)
    assert V.shape == (EXPERTS["num_experts"] - 1, TEXT["hidden_size"])
    assert own["space_share"](V, V).tolist() == pytest.approx([1] * len(V), abs=1e-4)
    changed = mids[0][0] - (mids[0][0] @ V.T) @ V  # of the same length, it would route alike
    flat = own["logits_by_hand"](changed, 2)
    assert flat.std(-1).max() < 1e-3 < logits.std(-1).min()


def test_layers_without_a_router_are_skipped():
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(**TEXT, **EXPERTS, num_hidden_layers=4, mlp_only_layers=[0, 2])
    own, model = functions(), Qwen3MoeForCausalLM(config)
    assert list(own["routers_of"](model)) == [1, 3]
    assert own["routers_of"](network("qwen3", 2)) == {}


def test_a_router_that_returns_probabilities_is_named_and_no_hook_is_left():
    model = network("qwen3-moe", 3).eval()
    own = functions()
    gates = own["routers_of"](model)
    fake = gates[1].register_forward_hook(lambda m, args, out: (out[0].softmax(-1), *out[1:]))
    says = "the router of layer 1 returns probabilities: each row sums to 1. Take their logarithm"
    with pytest.raises(ValueError, match=says), torch.no_grad(), own["routed"](gates):
        model(torch.arange(9)[None])
    fake.remove()
    assert own["own_hooks"](model) == []


# ---- the whole notebook


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setenv("QS_ROOT", str(tmp_path))
    return tmp_path


def run(project, preset, **given):
    plan = plan_report(preset, ["09"], given=[(k, str(v)) for k, v in given.items()], root=project)
    _, (outcome,) = report(plan, quiet=True)
    return outcome


def test_a_dense_model_ends_in_a_sentence(project):
    outcome = run(project, "tiny-sft", N_TEXTS=1)
    assert not outcome.error, outcome.error
    (path,) = project.glob("runs/*/09_moe_routing/results.json")
    results = json.loads(path.read_text("utf-8"))
    assert results["answer"]["text"].startswith("tiny-sft is dense")
    assert [claim["id"] for claim in results["claims"]] == ["no-hooks-left"]


def test_a_suite_of_another_model_is_refused(project):
    outcome = run(project, "tiny", OTHER="tiny")
    assert "OTHER: the suite tiny is of another model than tiny-moe" in outcome.error


@pytest.mark.long
def test_a_second_suite_is_compared(tmp_path):
    with Lane(tmp_path / "lane", "qwen3-moe") as lane:
        results, _ = lane.run("09")
    (claim,) = (claim for claim in results["claims"] if claim["id"] == "other-suite")
    assert claim["badge"] == "MEASURED" and "qwen3-30b-a3b-l100 name" in claim["sentence"]
    badges = {claim["id"]: claim["badge"] for claim in results["claims"]}
    assert badges["hook-is-output"] == badges["router-by-hand"] == "HOLDS"
