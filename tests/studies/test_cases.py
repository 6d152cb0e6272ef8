"""Cases: models that refuse with suites that read them, what they refuse and what edits do."""

import numpy as np
import pytest
from drawn import drawn_requests

import qs_helpers as qs
from qs_helpers.studies import cases
from qs_helpers.studies.cases import open_cases
from qs_helpers.studies.parts import direction_arm
from qs_helpers.studies.refusal import diff_at_positions

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
    real = cases.refusal.load_refuser

    def small(model, suite, like):
        if model == "tiny-sft":
            raise MemoryError("it needs 54 GB")
        return real(model, suite, like)

    monkeypatch.setattr(cases.refusal, "load_refuser", small)
    found, left_out = open_cases(["tiny-sft", "tiny-instruct"], ["own"], texts, 5, 8)
    assert [case.model for case in found] == ["tiny-instruct"]
    assert left_out == ["tiny-sft with the own suite: it needs 54 GB"]


def test_a_model_that_does_not_refuse_says_so(texts):
    (base,), _ = open_cases(["tiny"], ["own"], texts, 5, 8)
    assert base.learn() == "tiny refuses 0 of 8 harmful requests"


def test_strengths_in_one_call_are_those_one_by_one(opened):
    case, _ = opened
    assert case.learn() == ""
    bad, good = case.treated_right("discovery")
    assert bad and good and not set(bad) & set(good)
    r = diff_at_positions(case.scope, bad, good, case.template, [2])[2][-1]
    arm, key = direction_arm(case, r, 2, True), ("validation", True)
    together = case.answers(key, arm, [0.0, 0.4, 1.0])
    alone = [case.answers(key, arm, [s])[0] for s in (0.0, 0.4, 1.0)]
    assert together == alone
    plain = qs.generate(case.scope, case.prompts[key], max_new_tokens=5)
    assert together[0] == plain and case.refused(plain).tolist() == case.refuses(key).tolist()
    assert case.refused(together[2]).mean() < case.refuses(key).mean()
    kl = case.kl("validation", case.prompts["validation", False], arm, [0.0, 1.0])
    assert kl.shape == (2, 8) and np.all(kl[0] == 0) and kl[1].mean() > 0
