"""Detection: the rule against a naive one, scores against scikit-learn, and leaks."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

import qs_helpers as qs
from qs_helpers.studies.toxicity import (
    beginning,
    best_threshold,
    choose_rule,
    compared,
    coverage,
    f1_score,
    fit_length,
    fit_logistic,
    fit_means,
    fit_ngrams,
    fit_rule,
    fit_words,
    flags,
    greedy_order,
    in_counts,
    rank,
    shuffled_at_like_length,
    strength,
    word,
)

LANGUAGE = "en"


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.fixture(scope="module")
def data(scope):
    """Texts, labels and readings of each split."""
    n = {"discovery": 100, "validation": 40, "test": 60}
    records = qs.load_texts("tiny", "remarks", [LANGUAGE], n)
    split = np.array([r.split for r in records])
    toxic = np.array([r.label == "toxic" for r in records])
    readings = qs.read_texts(scope, [r.text for r in records], [2, 3])
    out = {}
    for name in ("discovery", "validation", "test"):
        index = np.flatnonzero(split == name)
        texts = [records[i].text for i in index]
        out[name] = texts, toxic[index], {n: r.rows(index) for n, r in readings.items()}
    return out


# ---- the rule


@pytest.mark.parametrize("k", [1, 2, 5, 32])
def test_the_rule_is_the_published_one(data, k):
    (_, y, found), (_, _, test) = data["discovery"], data["test"]
    for layer in (2, 3):
        rule = fit_rule(found, y, layer, k)
        features, flagged = naive.or_rule(found[layer].peak, y, test[layer].peak, k)
        assert [f for _, f in rule.features] == features
        assert flags(rule, test).tolist() == flagged


def test_the_layer_is_that_of_the_best_validation_f1(data):
    (_, y, found), (_, y_checked, checked) = data["discovery"], data["validation"]
    rule = choose_rule(found, y, checked, y_checked, 2)
    scores = {n: f1_score(flags(fit_rule(found, y, n, 2), checked), y_checked) for n in found}
    assert scores[rule.features[0][0]] == max(scores.values())


def test_one_kind_of_label_is_refused():
    with pytest.raises(ValueError, match="one kind is missing"):
        rank(np.ones((3, 4), bool), [True] * 3)
    with pytest.raises(ValueError, match="one kind is missing"):
        best_threshold([1.0, 2.0], [True, True])


def test_a_larger_or_finds_more_and_flags_more(data):
    (_, y, found), (_, _, test) = data["discovery"], data["test"]
    flagged = [flags(fit_rule(found, y, 2, k), test) for k in (1, 2, 4, 8)]
    for fewer, more in zip(flagged, flagged[1:], strict=False):
        assert (more | ~fewer).all()  # what a smaller OR flags, a larger one flags too


# ---- leaks


def everything(data, labels):
    """All that is chosen: rule, threshold, and the parameters of each baseline."""
    texts, _, found = data["discovery"]
    checks, _, checked = data["validation"]
    y, y_checked = labels["discovery"], labels["validation"]
    rule = choose_rule(found, y, checked, y_checked, 1)
    out = [rule, best_threshold(strength(rule, checked), y_checked)]
    for fit in (fit_length, fit_words, fit_ngrams):
        out.append(fit(texts, y, checks, y_checked).threshold)
    for fit in (fit_means, fit_logistic):
        out.append(fit(found[2].residual, y, checked[2].residual, y_checked).threshold)
    return out


def test_test_labels_change_nothing_that_is_chosen(data):
    labels = {split: y for split, (_, y, _) in data.items()}
    before = everything(data, labels)
    mixed = labels | {"test": np.random.default_rng(0).permutation(labels["test"])}
    assert everything(data, mixed) == before
    other = labels | {"discovery": np.random.default_rng(0).permutation(labels["discovery"])}
    assert everything(data, other) != before  # the check itself can fail


def test_shuffled_discovery_labels_find_nothing(data):
    (_, y, found), (_, y_test, test) = data["discovery"], data["test"]
    areas = []
    for draw in range(40):
        rule = fit_rule(found, np.random.default_rng(draw).permutation(y), 2 + draw % 2, 1)
        areas.append(qs.auroc(strength(rule, test), y_test).value)
    found_area = qs.mean(areas)
    assert found_area.low - 0.03 <= 0.5 <= found_area.high + 0.03


# ---- scores


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10**6))
def test_scores_are_those_of_scikit_learn(n, seed):
    rng = np.random.default_rng(seed)
    toxic = rng.random(n) < 0.5
    toxic[:2] = True, False
    scores = rng.integers(0, 5, n).astype(float)  # with ties
    assert qs.auroc(scores, toxic).value == pytest.approx(
        metrics.roc_auc_score(toxic, scores), abs=1e-9
    )
    cut = best_threshold(scores, toxic)
    tried = [metrics.f1_score(toxic, scores > t, zero_division=0) for t in range(-1, 6)]
    assert metrics.f1_score(toxic, scores > cut) == pytest.approx(max(tried), abs=1e-9)


def test_comparisons_are_those_of_the_statistics_and_need_two_groups():
    toxic = np.repeat([True, False], 20)
    flagged, rival = np.arange(40) < 18, np.arange(40) < 25
    groups = [f"text/{i}" for i in range(40)]
    found = compared(flagged, [rival], toxic, groups)
    gap = f1_score(flagged, toxic) - f1_score(rival, toxic)
    assert found.value == pytest.approx(f1_score(flagged, toxic))
    assert found.difference.value == pytest.approx(gap)
    assert found.difference.low < found.difference.value < found.difference.high
    same = compared(flagged, [flagged] * 7, toxic, groups)
    assert same.difference[:3] == (0, 0, 0)
    for by in ("f1", "auroc"):
        several = compared(flagged, [rival, ~rival], toxic, groups, by, family=2)
        alone = compared(flagged, [rival, ~rival], toxic, ["a"] * 40, by, family=2)
        assert alone.value == pytest.approx(several.value)
        assert alone.draws == pytest.approx(several.draws)
        assert alone.difference.value == pytest.approx(several.difference.value)
        assert alone.difference[3:6] == (40, 1, 2) and np.isnan(alone.difference.interval).all()
    assert in_counts(flagged, toxic) == "18 of 20 toxic and 0 of 20 clean texts"


def test_scores_shuffled_at_like_length_keep_what_length_tells_and_no_more():
    rng = np.random.default_rng(0)
    lengths = np.repeat([5, 10, 20, 40], 100)
    toxic = rng.random(400) < np.repeat([0.2, 0.4, 0.6, 0.8], 100)

    def rank_of(scores):
        nulls = shuffled_at_like_length(scores, lengths, 19)
        assert all(sorted(null) == sorted(scores) for null in nulls)
        for length in (5, 40):
            here = lengths == length
            assert all(sorted(null[here]) == sorted(scores[here]) for null in nulls)
        areas = [qs.auroc(null, toxic).value for null in nulls]
        assert np.mean(areas) > 0.6  # length alone
        return 1 + sum(area >= qs.auroc(scores, toxic).value for area in areas)

    assert rank_of(lengths + rng.random(400)) > 1
    assert rank_of(toxic + rng.random(400) + lengths / 40) == 1


def test_words_and_beginnings_of_groups():
    assert [word(group) for group in ("remark/1|a fool", "text/12", "")] == ["a fool", "", ""]
    assert beginning("you are a fool, Anna", "remark/1|a fool") == "you are"
    assert beginning("你是傻瓜") == "你是"
    assert beginning("a fool you are", "remark/1|a fool") == "a fool"  # it begins with the word
    assert beginning("good day", "remark/1|absent") == "good"


def test_baselines_learn_what_they_can_see():
    texts = [
        "you are a fool",
        "what a fool",
        "fool again",
        "a kind soul",
        "a good day",
        "well done",
    ]
    toxic = np.array([True] * 3 + [False] * 3)
    for fit in (fit_words, fit_ngrams):
        made = fit(texts * 5, np.tile(toxic, 5), texts, toxic)
        assert (made.flags(texts) == toxic).all()
        assert made.flags(["another fool here", "a kind day"]).tolist() == [True, False]
    long = [text + "!" * 30 if label else text for text, label in zip(texts, toxic, strict=True)]
    longer = fit_length(long, toxic, long, toxic)
    assert longer.flags(["x" * 60, "x"]).tolist() == [True, False]
    chinese = fit_words(
        ["你是傻瓜", "他是傻瓜", "你是天使", "他是好人"],
        [1, 1, 0, 0],
        ["我是傻瓜", "我是天使"],
        [1, 0],
    )
    assert chinese.flags(["她是傻瓜", "她是天使"]).tolist() == [True, False]


def test_diff_of_means_probe_is_a_dot_product():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 6)), rng.random(100) < 0.5
    made = fit_means(x, y, x, y)
    assert made.score(x) == pytest.approx(x @ (x[y].mean(0) - x[~y].mean(0)))


def test_logistic_finds_what_is_linear():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    y = x @ [1.0, -2.0, 0, 0, 0.5] > 0
    made = fit_logistic(x[:200], y[:200], x[200:250], y[200:250])
    assert f1_score(made.flags(x[250:]), y[250:]) > 0.9


# ---- coverage


def test_greedy_order_beats_no_better_order():
    rng = np.random.default_rng(0)
    fires = rng.random((30, 20)) < 0.15
    order = greedy_order(fires)
    curve = coverage(fires, order)
    assert curve[-1] == fires.any(0).mean() and (np.diff(curve) > 0).all()
    assert curve[0] == fires.mean(1).max()
    assert len(greedy_order(np.zeros((3, 4), bool))) == 0
    with pytest.raises(ValueError, match="give both"):
        coverage(np.zeros((0, 4), bool))


@pytest.mark.parametrize(
    "toxic",
    [
        ["toxic", "clean", "clean"],
        ["toxic", "", ""],
        [1, np.nan, 0],
        [1, 0, 2],
        [0.9, 0.1, 0.2],
        np.array([True, None, False], object),
    ],
)
def test_labels_that_are_not_yes_or_no_are_refused(toxic):
    rows, texts = np.array([[1.0], [0.0], [0.0]]), ["fool", "nice", "good"]
    good = [True, False, False]
    for call in (
        lambda: rank(rows > 0, toxic),
        lambda: best_threshold(rows[:, 0], toxic),
        lambda: fit_means(rows, toxic, rows, good),
        lambda: fit_logistic(rows, toxic, rows, good),
        lambda: fit_words(texts, toxic, texts, good),
        lambda: fit_length(texts, toxic, texts, good),
        lambda: in_counts(good, toxic),
        lambda: compared(good, [good], toxic, ["a"] * 3),
    ):
        with pytest.raises(ValueError, match="yes or no|yes and no|are no numbers"):
            call()


def test_a_threshold_is_of_numbers_and_a_text_one_text():
    with pytest.raises(ValueError, match="scores hold nan"):
        best_threshold([1.0, np.nan], [True, False])
    texts, toxic = ["you fool", "a nice day", "bad fool", "good day"], [1, 0, 1, 0]
    for fit in (fit_length, fit_words, fit_ngrams):
        made = fit(iter(texts), toxic, texts, toxic)
        assert len(made.flags("you fool")) == len(made.flags(iter(["you fool"]))) == 1
        assert made.score("you fool")[0] == made.score(texts)[0]
