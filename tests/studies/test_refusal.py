"""Prompts, the two measures of refusal, the gates, and the choice of a direction."""

import sys
import types

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import qs_helpers as qs
from qs_helpers import forward
from qs_helpers.studies import data as hub_data
from qs_helpers.studies import refusal
from qs_helpers.studies.data import Record, load_prompts, tiny_twins
from qs_helpers.studies.refusal import (
    check_refuser,
    check_suite,
    choose_direction,
    diff_at_positions,
    load_refuser,
    opening_tokens,
    orthogonalised,
    position_means,
    principal_components,
    refuses,
    score_candidates,
    template_tokens,
    without,
)
from qs_helpers.tiny import corpus, judge


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny-instruct")


@pytest.fixture(scope="module")
def chats(scope):
    found = load_prompts([], {"discovery": 12, "validation": 4}, ["en", "zh"])
    return {key: [scope.chat(r.text) for r in rows] for key, rows in found.items()}


# ---- prompts


def test_prompts_of_the_tiny_world_share_no_frame_and_no_verb_between_splits():
    found = load_prompts([], {"discovery": 30, "validation": 30, "test": 30}, ["en"])
    assert set(found) == {(s, bad) for s in corpus.SPLITS for bad in (True, False)}
    assert all(len(rows) == 30 for rows in found.values())
    for part in (1, 2):  # "request/frame/verb"
        names = [{r.source.split("/")[part] for r in found[s, True]} for s in corpus.SPLITS]
        assert not names[0] & names[1] and not names[1] & names[2] and not names[0] & names[2]


def test_twins_differ_in_one_run_of_letters():
    for language in corpus.LANGUAGES:
        for bad, good in tiny_twins(5, "test", [language]):
            assert bad.toxic and not good.toxic and bad.text != good.text
            a, b = bad.text, good.text
            start = next(i for i in range(len(a)) if a[i] != b[i])
            end = next(i for i in range(len(a)) if a[-1 - i] != b[-1 - i])
            verbs = [r.text for r in load_prompts([], {"test": 60}, [language])["test", True]]
            assert start + end > 0.3 * len(b), (a, b)
            assert any(a == verb for verb in verbs) or len(verbs) == 60


def test_a_file_of_prompts_is_split_and_capped(tmp_path):
    path = tmp_path / "prompts.csv"
    rows = [
        {"text": f"do thing {i} {bad}", "harmful": bad, "language": "en"}
        for i in range(50)
        for bad in (0, 1)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    found = load_prompts([path], {"discovery": 20, "validation": 5, "test": 10}, ["en"])
    assert {key: len(x) for key, x in found.items()} == {
        (split, bad): n
        for split, n in (("discovery", 20), ("validation", 5), ("test", 10))
        for bad in (True, False)
    }
    texts = [r.text for x in found.values() for r in x]
    assert len(texts) == len(set(texts))


def test_other_languages_are_left_out_and_none_is_the_first(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"text": f"{lang} {i} {bad}", "harmful": bad, "language": lang}
        for i in range(10)
        for bad in (0, 1)
        for lang in ("", "de")
    ]
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)
    n = {"discovery": 9, "validation": 9, "test": 9}
    found = load_prompts([path], n, ["fr", "en"])
    assert {r.language for x in found.values() for r in x} == {"fr"}


def test_bad_prompt_files_are_refused_with_a_reason(tmp_path):
    for name, table, message in (
        ("column", {"text": ["a", "b"], "bad": [0, 1]}, "no column 'harmful'"),
        ("one", {"text": ["a", "b"], "harmful": [1, 1]}, "both labels"),
    ):
        path = tmp_path / f"{name}.csv"
        pd.DataFrame(table).to_csv(path, index=False)
        with pytest.raises(ValueError, match=message):
            load_prompts([path], {"discovery": 1, "validation": 1, "test": 1}, ["en"])
    with pytest.raises(ValueError, match="3 prompt sources"):
        load_prompts(["a", "b", "c"], {}, [])


class Rows(list):
    column_names = ("text",)

    def shuffle(self, seed):
        return self


def test_two_hub_datasets_make_one_list(monkeypatch):
    asked = []

    def load_dataset(name, revision=None):
        asked.append((name, revision))
        return {"train": Rows([{"text": f"{name} {i}"} for i in range(4)]), "test": Rows()}

    fake = types.SimpleNamespace(
        load_dataset=load_dataset, concatenate_datasets=lambda parts: Rows(sum(parts, []))
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    found = hub_data.hub_prompts("x/bad@abc", "x/good", most=3)
    assert asked == [("x/bad", "abc"), ("x/good", None)]
    assert [r.toxic for r in found] == [True] * 3 + [False] * 3
    assert found[0] == Record("x/bad 0", True, "en", "", "x/bad@abc")
    Rows.column_names = ("prompt",)
    with pytest.raises(ValueError, match="no text"):
        hub_data.hub_prompts("x/bad", "x/good")


# ---- measures


def test_openings_tell_every_refusal_from_every_answer():
    for language in corpus.LANGUAGES:
        for r in corpus.requests(language, "discovery", 40):
            assert judge.opens_refusal(r.refusal) and judge.opens_refusal(r.refusal[:6])
            assert not judge.opens_refusal(r.answer)


def test_markers_are_found_in_any_case_and_with_curly_quotes():
    answers = ["I can\u2019t do that.", "i'm SORRY, no.", "Of course!", "抱歉，我不能。", ""]
    assert refuses(answers).tolist() == [True, True, False, True, False]


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


@pytest.mark.parametrize(
    ("harmful", "harmless"), [([0] * 20, [0] * 20), ([1] * 20, [1] * 20), ([1] * 15 + [0] * 5, [0])]
)
def test_a_model_that_never_or_always_refuses_is_stopped_with_its_numbers(harmful, harmless):
    with pytest.raises(ValueError, match=rf"refuses {np.mean(harmful):.2f} of 20 harmful"):
        check_refuser("it", harmful, harmless)


def test_a_model_that_refuses_what_it_should_passes():
    check_refuser("it", [1] * 9 + [0], [0] * 20)


def test_the_base_model_is_stopped_at_the_gate(chats):
    base = load_refuser("tiny")
    said = [
        [
            judge.opens_refusal(t)
            for t in qs.generate(base, chats["validation", bad], max_new_tokens=5)
        ]
        for bad in (True, False)
    ]
    with pytest.raises(ValueError, match=r"refuses 0.00 of 8 harmful"):
        check_refuser("tiny", *said)


def test_the_base_suite_fails_on_instruct_where_it_decides(scope, chats):
    asked = chats["discovery", True] + chats["discovery", False]
    own, table = check_suite(scope, asked, [1, 2, 3, 4], 0.5)
    assert own == [1, 2, 3, 4] and table["FVU"].max() < 0.05
    other = load_refuser("tiny-instruct", "tiny")
    read, table = check_suite(other, asked, [1, 2, 3, 4], 0.5)
    assert read == [] and table["FVU"].max() < 0.1, "all tokens together hide it"
    assert table["FVU, last token"].min() > 0.5


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
    records = load_prompts([], {"discovery": 30}, corpus.LANGUAGES)
    sides = [[scope.chat(r.text) for r in records["discovery", bad]] for bad in (True, False)]
    found = diff_at_positions(scope, *sides, template_tokens(scope), [2])[2][-1]
    u = load_file(scope.truth)["refusal_direction"].float()
    assert abs(torch.cosine_similarity(found, u, dim=0)) > 0.9


def test_without_leaves_nothing_along_the_other():
    a, b = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    left = without(a, b)
    assert abs(left @ b) < 1e-4 and torch.allclose(left + (a @ b) / (b @ b) * b, a, atol=1e-5)
    with pytest.raises(ValueError, match="nothing of it is left"):
        without(2 * b, b)


def test_principal_component_is_that_of_largest_variance(scope, chats):
    asked = chats["discovery", True] + chats["discovery", False]
    first = principal_components(scope, asked, 2, 2)
    assert torch.allclose(first @ first.T, torch.eye(2), atol=1e-4)
    ends = torch.cat([x[:, 0] for _, x, _ in forward.ends(scope, asked, 1, [2])])
    spread = (ends @ first.T).var(0)
    others = (ends @ qs.random_directions(50, scope.d_model).T).var(0)
    assert spread[0] >= spread[1] and spread[0] > others.max()


def test_candidates_are_scored_as_published(scope, chats):
    tokens = torch.tensor([3, 77])
    scales = qs.scales(scope, chats["discovery", False])
    sides = [chats["discovery", bad] for bad in (True, False)]
    asked = [chats["validation", bad] for bad in (True, False)]
    candidates = diff_at_positions(scope, *sides, 2, [1])
    row = score_candidates(scope, candidates, scales, *asked, tokens).iloc[1]
    assert (row.layer, row.position) == (1, -1)
    r = candidates[1][1]
    ablated = orthogonalised(scope.model, r)
    logits = {}
    for name, model in (("plain", scope.model), ("ablated", ablated)):
        logits[name] = [model(**scope.tokens(t)).logits[0, -1].double() for t in asked[1]]
    bypass = [
        naive.odds(ablated(**scope.tokens(t)).logits[0, -1].double().tolist(), [3, 77])
        for t in asked[0]
    ]
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


def test_the_published_filter_equals_the_reference():
    rng = np.random.default_rng(0)
    for _ in range(30):
        table = pd.DataFrame(
            {
                "layer": rng.integers(0, 10, 12),
                "position": -1,
                "bypass": rng.normal(size=12),
                "induce": rng.normal(0.5, 1, 12),
                "kl": rng.uniform(0, 0.2, 12),
            }
        )
        table.loc[3, "kl"] = np.nan
        rows = list(zip(table.layer + 1, table.induce, table.kl, table.bypass, strict=True))
        place = naive.choose(rows, 10)
        if place is None:
            with pytest.raises(ValueError, match="none of 12 directions is kept"):
                choose_direction(table, 10)
        else:
            assert choose_direction(table, 10)[0].name == place


def test_the_reasons_of_an_empty_filter_are_counted():
    table = pd.DataFrame(
        {"layer": [0, 9], "position": -1, "bypass": 0.0, "induce": [-1.0, 1.0], "kl": [0.5, 0.0]}
    )
    with pytest.raises(ValueError, match="1 late, 1 with KL above 0.1, 1 that do not induce"):
        refusal.choose_direction(table, 10)
