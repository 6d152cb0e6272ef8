"""Cases: models that refuse with suites that read them, what they refuse and what edits do."""

import numpy as np
import pytest
from drawn import drawn_requests
from suites import begun

import qs_helpers as qs
from qs_helpers.loading import cases
from qs_helpers.loading.cases import check_suite, open_cases, opening_tokens
from qs_helpers.loading.scope import load_model_and_suite
from qs_helpers.steering import diff_at_positions, direction_arm

SPLITS = {"discovery": 6, "validation": 4, "test": 4}


@pytest.fixture(scope="module")
def texts():
    return drawn_requests(SPLITS, ["en", "zh"])


@pytest.fixture(scope="module")
def opened(texts):
    found, left_out = open_cases(["tiny-instruct"], ["own", "tiny"], texts, 5, 8)
    assert not left_out
    return found


def test_suites_of_one_model_share_it(opened):
    own, other = opened
    assert own.scope.model is other.scope.model and own.scope.sae(2) is not other.scope.sae(2)
    assert own.said is other.said and own.own is other.own


def test_what_does_not_fit_is_named_and_the_rest_goes_on(texts, monkeypatch):
    real = cases.scopes.load_model_and_suite

    def small(model, suite, like):
        if model == "tiny-sft":
            raise MemoryError("it needs 54 GB")
        return real(model, suite, like)

    monkeypatch.setattr(cases.scopes, "load_model_and_suite", small)
    found, left_out = open_cases(["tiny-sft", "tiny-instruct"], ["own"], texts, 5, 8)
    assert [case.model for case in found] == ["tiny-instruct"]
    assert left_out == ["tiny-sft with the own suite: it needs 54 GB"]


def test_a_model_that_does_not_refuse_says_so(texts):
    (base,), _ = open_cases(["tiny"], ["own"], texts, 5, 8)
    assert base.learn() == "tiny refuses 0 of 8 harmful requests"


def test_a_model_that_refuses_everything_says_so(texts, monkeypatch):
    (base,), _ = open_cases(["tiny"], ["own"], texts, 5, 8)
    monkeypatch.setattr(base, "refused", lambda answers: np.ones(len(answers), bool))
    assert base.learn() == "tiny refuses every harmless request"


def test_strengths_in_one_call_are_those_one_by_one(opened):
    case, _ = opened
    assert case.learn() == ""
    bad, good = case.treated_right("discovery")
    assert bad and good and not set(bad) & set(good)
    r = diff_at_positions(case.scope, bad, good, case.template, [2])[2][-1]
    arm, key = direction_arm(case.scales, r, 2, True), ("validation", True)
    together = case.answers(key, arm, [0.0, 0.4, 1.0])
    alone = [case.answers(key, arm, [s])[0] for s in (0.0, 0.4, 1.0)]
    assert together == alone
    plain = qs.generate(case.scope, case.prompts[key], max_new_tokens=5)
    assert together[0] == plain and case.refused(plain).tolist() == case.refuses(key).tolist()
    assert case.refused(together[2]).mean() < case.refuses(key).mean()
    kl = case.kl("validation", case.prompts["validation", False], arm, [0.0, 1.0])
    assert kl.shape == (2, 8) and np.all(kl[0] == 0) and kl[1].mean() > 0


@pytest.fixture(scope="module")
def scope(opened):
    return opened[0].scope


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


def test_the_base_suite_fails_on_instruct_where_it_decides(scope):
    found = drawn_requests({"discovery": 12}, ["en", "zh"])
    asked = [scope.chat(r.text) for bad in (True, False) for r in found["discovery", bad]]
    alike = [f"frame {i % 5}" for i in range(len(asked))]
    own, table = check_suite(scope, asked, [1, 2, 3, 4], 0.3, alike, 2)
    assert own == [1, 2, 3, 4] and table["FVU"].max() < 0.05
    assert (table.low < table.value).all() and (table.value < table.high).all()
    assert set(table.groups) == {5} and set(table.family) == {2}
    other = load_model_and_suite("tiny-instruct", "tiny")
    read, table = check_suite(other, asked, [1, 2, 3, 4], 0.3)
    assert read == [] and table["FVU"].max() < 0.2, "all tokens together hide it"
    assert table.value.min() > 0.3


def test_an_answer_opens_with_a_token_of_its_own(scope):
    answers, refused = ["sorry, no.", "of course."], [True, False]
    found = [opening_tokens(s, answers, refused).tolist() for s in (scope, begun(scope))]
    assert found[0] == found[1]
