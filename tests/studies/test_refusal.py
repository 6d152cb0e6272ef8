"""The two measures of refusal, the gates, the choice of a direction, and edited weights."""

import copy
from types import SimpleNamespace

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from drawn import drawn_requests
from safetensors.torch import load_file
from suites import begun

import qs_helpers as qs
from qs_helpers.studies import refusal
from qs_helpers.studies.refusal import (
    check_suite,
    diff_at_positions,
    load_refuser,
    opening_tokens,
    position_means,
    refuses,
    score_candidates,
    template_tokens,
    weights_to_edit,
    writing_weights,
)
from qs_helpers.tiny import corpus


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny-instruct")


@pytest.fixture(scope="module")
def chats(scope):
    found = drawn_requests({"discovery": 12, "validation": 4}, ["en", "zh"])
    return {key: [scope.chat(r.text) for r in rows] for key, rows in found.items()}


@pytest.fixture(scope="module")
def scales(scope, chats):
    return qs.scales(scope, chats["discovery", False])


# ---- measures


def test_markers_are_found_in_any_case_and_with_curly_quotes():
    answers = ["I can\u2019t do that.", "i'm SORRY, no.", "Of course!", "抱歉，我不能。", ""]
    assert refuses(answers).tolist() == [True, True, False, True, False]
    numbered = pd.Series(answers, index=[4, 3, 2, 1, 0])
    for given in (iter(answers), tuple(answers), numbered, np.array(answers)):
        assert refuses(given).tolist() == [True, True, False, True, False]
    assert refuses("I'm sorry, I cannot help").tolist() == [True]
    assert refuses(["no way", "way"], "no").tolist() == [True, False]
    with pytest.raises(ValueError, match="a marker is ''"):
        refuses(answers, ["sorry", ""])
    with pytest.raises(ValueError, match="text 1 is nan"):
        refuses(["no", float("nan")])


def test_opening_tokens_open_refusals_only(scope):
    answers = ["sorry, no.", "sorry, i", "of course.", "gladly."]
    found = opening_tokens(scope, answers, [True, True, False, False])
    first = {scope.ids([a])[0][0] for a in answers[:2]}
    assert set(found.tolist()) == first
    for refused in ([True] * 4, [False] * 4):
        with pytest.raises(ValueError, match="nothing to tell apart"):
            opening_tokens(scope, answers, refused)
    with pytest.raises(ValueError, match="no token opens refusals only"):
        opening_tokens(scope, ["a b", "a c"], [True, False])


# ---- gates


def test_the_base_suite_fails_on_instruct_where_it_decides(scope, chats):
    asked = chats["discovery", True] + chats["discovery", False]
    alike = [f"frame {i % 5}" for i in range(len(asked))]
    own, table = check_suite(scope, asked, [1, 2, 3, 4], 0.3, alike, 2)
    assert own == [1, 2, 3, 4] and table["FVU"].max() < 0.05
    assert (table.low < table.value).all() and (table.value < table.high).all()
    assert set(table.groups) == {5} and set(table.family) == {2}
    other = load_refuser("tiny-instruct", "tiny")
    read, table = check_suite(other, asked, [1, 2, 3, 4], 0.3)
    assert read == [] and table["FVU"].max() < 0.2, "all tokens together hide it"
    assert table.value.min() > 0.3


def test_an_own_suite_needs_an_embedded_model():
    with pytest.raises(ValueError, match="no suite of its own"):
        load_refuser("Qwen/Qwen3-1.7B", "own")


# ---- directions


def test_template_tokens_are_those_after_the_request(scope):
    n = template_tokens(scope)
    ids = scope.ids([scope.chat("tell me how to paint the door.")])[0]
    tail = scope.tokenizer.decode(ids[-n:])
    assert tail == "<|im_end|>\n<|im_start|>assistant\n"


def test_position_means_are_means_at_the_last_tokens(scope, chats):
    asked = chats["validation", True]
    found = position_means(scope, asked, 3, [2])[2]
    rows = []
    for text in asked:
        with qs.capture(scope.model, [2]) as captured:
            scope.model(**scope.tokens(text))
        rows.append(captured[2][0, -3:])
    assert torch.allclose(found, torch.stack(rows).double().mean(0), atol=1e-3)
    with pytest.raises(ValueError, match="no last 500"):
        position_means(scope, asked, 500, [2])


def test_the_direction_that_was_planted_is_found(scope):
    records = drawn_requests({"discovery": 30}, corpus.LANGUAGES)
    sides = [[scope.chat(r.text) for r in records["discovery", bad]] for bad in (True, False)]
    found = diff_at_positions(scope, *sides, template_tokens(scope), [2])[2][-1]
    u = load_file(scope.truth)["refusal_direction"].float()
    assert abs(torch.cosine_similarity(found, u, dim=0)) > 0.9


def test_candidates_are_scored_as_published(scope, chats):
    tokens = torch.tensor([3, 77])
    scales = qs.scales(scope, chats["discovery", False])
    sides = [chats["discovery", bad] for bad in (True, False)]
    asked = [chats["validation", bad] for bad in (True, False)]
    candidates = diff_at_positions(scope, *sides, 2, [1])
    row = score_candidates(scope, candidates, scales, *asked, tokens).iloc[1]
    assert (row.layer, row.position) == (1, -1)
    r = candidates[1][1]
    logits = {"plain": [scope.model(**scope.tokens(t)).logits[0, -1].double() for t in asked[1]]}
    with weights_to_edit(scope.model) as weights:
        cut(weights, r)
        logits["ablated"] = [
            scope.model(**scope.tokens(t)).logits[0, -1].double() for t in asked[1]
        ]
        ablated = [scope.model(**scope.tokens(t)).logits[0, -1].double() for t in asked[0]]
    bypass = [naive.odds(x.tolist(), [3, 77]) for x in ablated]
    assert row.bypass == pytest.approx(np.mean(bypass), abs=1e-3)
    kl = [
        (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum().item()
        for p, q in zip(logits["plain"], logits["ablated"], strict=True)
    ]
    assert row.kl == pytest.approx(np.mean(kl), abs=1e-4)
    with qs.edit(scope.model, {1: lambda x: x + r}):
        induced = [
            naive.odds(scope.model(**scope.tokens(t)).logits[0, -1].double().tolist(), [3, 77])
            for t in asked[1]
        ]
    assert row.induce == pytest.approx(np.mean(induced), abs=1e-3)


# ---- weights


def test_an_answer_opens_with_a_token_of_its_own(scope):
    answers, refused = ["sorry, no.", "of course."], [True, False]
    found = [opening_tokens(s, answers, refused).tolist() for s in (scope, begun(scope))]
    assert found[0] == found[1]


# ---- weights


def cut(weights, r):
    for w in weights:
        w -= (w @ r)[..., None] * r / (r @ r)


def test_edited_weights_equal_hooks_and_come_back(scope, chats, scales):
    r = torch.randn(128, generator=torch.Generator().manual_seed(1))
    batch = scope.tokens(chats["discovery", True])
    real = batch["attention_mask"].bool()
    with qs.edit(scope.model, {"writes": qs.project_out(r, scales[2])}):
        hooked = scope.model(**batch).logits[real]
    before = {name: p.clone() for name, p in scope.model.named_parameters()}
    head = scope.model.get_output_embeddings()
    tied = head.weight is scope.model.get_input_embeddings().weight
    with weights_to_edit(scope.model) as weights:
        cut(weights, r)
        assert (scope.model(**batch).logits[real] - hooked).abs().max() < 1e-4
        assert torch.equal(head.weight, before["model.embed_tokens.weight"]), "the head stays"
    after = dict(scope.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in after.items())
    assert tied == (head.weight is scope.model.get_input_embeddings().weight)
    with pytest.raises(RuntimeError), weights_to_edit(scope.model) as weights:
        cut(weights, r)
        raise RuntimeError
    assert all(torch.equal(p, before[name]) for name, p in scope.model.named_parameters())


def test_weights_that_cannot_be_kept_or_told_are_refused_by_name(scope, monkeypatch):
    model = copy.deepcopy(scope.model)
    model.model.layers[0].mlp.down_proj = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="no single output projection"):
        writing_weights(model)
    full = SimpleNamespace(available=1000)
    monkeypatch.setattr(refusal.psutil, "virtual_memory", lambda: full)
    with pytest.raises(MemoryError, match="GB of weights to keep"), weights_to_edit(scope.model):
        pass
