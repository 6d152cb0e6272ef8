"""Notebook 04: its own functions against naive and independent ones, and what may not leak."""

from types import SimpleNamespace

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesson import defined
from sklearn import metrics

import qs_helpers as qs


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.fixture(scope="module")
def lesson(scope):
    return SimpleNamespace(**defined("04_toxicity", scope=scope, qs=qs, main="en"))


@pytest.fixture(scope="module")
def data(scope):
    """Texts, labels and peaks of each split."""
    n = {"discovery": 100, "validation": 40, "test": 60}
    records = qs.load_texts("tiny", "remarks", ["en"], n)
    readings = qs.read_texts(scope, [r.text for r in records], [2, 3], ["peak", "residual"])
    out = {}
    for name in n:
        index = [i for i, r in enumerate(records) if r.split == name]
        texts = np.array([records[i].text for i in index], object)
        toxic = np.array([records[i].label == "toxic" for i in index])
        out[name] = texts, toxic, {n: r.rows(index) for n, r in readings.items()}
    return out


@pytest.mark.parametrize("k", [1, 2, 5, 32])
def test_the_rule_is_the_published_one(lesson, data, k):
    (_, y, found), (_, _, test) = data["discovery"], data["test"]
    for layer in (2, 3):
        contrast = lesson.firing_contrast(found[layer].peak > 0, y)
        best = lesson.first(contrast, k)
        features, _ = naive.or_rule(found[layer].peak, y, test[layer].peak, k)
        assert contrast[best] == pytest.approx(contrast[features], abs=1e-9)  # but for ties
        flagged = [any(row[f] > 0 for f in best) for row in test[layer].peak]
        assert lesson.or_rule(test[layer].peak[:, best]).tolist() == flagged


def test_a_larger_or_finds_more_and_flags_more(lesson, data):
    (_, y, found), (_, _, test) = data["discovery"], data["test"]
    best = lesson.first(lesson.firing_contrast(found[2].peak > 0, y), 8)
    flagged = [lesson.or_rule(test[2].peak[:, best[:k]]) for k in (1, 2, 4, 8)]
    for fewer, more in zip(flagged, flagged[1:], strict=False):
        assert (more | ~fewer).all()


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 60), seed=st.integers(0, 10**6))
def test_scores_are_those_of_scikit_learn(lesson, n, seed):
    rng = np.random.default_rng(seed)
    toxic = rng.random(n) < 0.5
    toxic[:2] = True, False
    scores = rng.integers(0, 5, n).astype(float)  # with ties
    assert lesson.wins(scores, toxic).mean() == pytest.approx(
        metrics.roc_auc_score(toxic, scores), abs=1e-9
    )
    cut = lesson.best_threshold(scores, toxic)
    tried = [metrics.f1_score(toxic, scores > t, zero_division=0) for t in range(-1, 6)]
    assert metrics.f1_score(toxic, scores > cut) == pytest.approx(max(tried), abs=1e-9)
    assert lesson.f1_of(scores > cut, toxic) == pytest.approx(max(tried), abs=1e-9)
    small = scores.astype(np.float32)  # as peaks are: a cut below all of them flags all
    assert lesson.f1_of(small > lesson.best_threshold(small, toxic), toxic) >= max(tried) - 1e-9
    stratum = rng.integers(0, 3, n)
    pairs = [
        ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
        for i in range(n)
        for j in range(n)
        if toxic[i] and not toxic[j] and stratum[i] == stratum[j]
    ]
    if pairs:
        area = lesson.stratified_auroc(scores, toxic, stratum)
        assert area == pytest.approx(np.mean(pairs), abs=1e-9)


def choices(lesson, data, labels):
    """All that is chosen, of labels {split: toxic}."""
    (texts, _, found), (checks, _, checked) = data["discovery"], data["validation"]
    y, y_checked, best = labels["discovery"], labels["validation"], {}
    for n in found:
        feature = int(lesson.first(lesson.firing_contrast(found[n].peak > 0, y), 1)[0])
        best[n] = lesson.f1_of(checked[n].peak[:, feature] > 0, y_checked), -n, feature
    out = [max(best.values())]
    for fit in (lesson.length, lesson.logistic):
        more = {} if fit is lesson.length else {"prepare": lesson.words}
        bound = lambda *a, fit=fit, more=more: fit(*a, **more)  # noqa: E731
        out.append(lesson.fitted(bound, texts, y, checks, y_checked).threshold)
    for fit in (lesson.diff_of_means, lesson.logistic):
        made = lesson.fitted(fit, found[2].residual, y, checked[2].residual, y_checked)
        out.append(made.threshold)
    return out


def test_test_labels_change_nothing_that_is_chosen(lesson, data):
    labels = {split: y for split, (_, y, _) in data.items()}
    before = choices(lesson, data, labels)
    mixed = labels | {"test": np.random.default_rng(0).permutation(labels["test"])}
    assert choices(lesson, data, mixed) == before
    other = labels | {"discovery": np.random.default_rng(0).permutation(labels["discovery"])}
    assert choices(lesson, data, other) != before  # the check itself can fail


def either_way(lesson, found, labels):
    """The feature with the largest contrast, turned round if it marks the texts called clean: as
    labels are shuffled, either sign is as likely, whatever the features of a suite lean to."""
    contrast = lesson.firing_contrast(found.peak > 0, labels)
    feature = lesson.first(np.abs(contrast), 1)[0]
    return lambda test: np.sign(contrast[feature]) * test.peak[:, feature]


def by_means(lesson, found, labels):
    score = lesson.diff_of_means(found.residual, labels)
    return lambda test: score(test.residual)


def by_regression(lesson, found, labels):
    score = lesson.logistic(found.residual[::2], labels[::2], found.residual[1::2], labels[1::2])
    return lambda test: score(test.residual)


@pytest.mark.parametrize(("search", "n"), [(either_way, 60), (by_means, 60), (by_regression, 12)])
def test_shuffled_discovery_labels_find_nothing(lesson, data, search, n):
    (_, y, found), (_, y_test, test) = data["discovery"], data["test"]
    areas = []
    for draw in range(n):
        layer, labels = 2 + draw % 2, np.random.default_rng(draw).permutation(y)
        score = search(lesson, found[layer], labels)
        areas.append(metrics.roc_auc_score(y_test, score(test[layer])))
    by_chance = qs.mean(areas)
    assert by_chance.low <= 0.5 <= by_chance.high
    assert metrics.roc_auc_score(y_test, search(lesson, found[2], y)(test[2])) > by_chance.high


def test_diff_of_means_is_a_dot_product_and_logistic_finds_what_is_linear(lesson):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    y = x @ [1.0, -2.0, 0, 0, 0.5] > 0
    score = lesson.diff_of_means(x, y)
    assert score(x) == pytest.approx(x @ (x[y].mean(0) - x[~y].mean(0)), abs=1e-9)
    made = lesson.fitted(lesson.logistic, x[:200], y[:200], x[200:250], y[200:250])
    assert lesson.f1_of(made.score(x[250:]) > made.threshold, y[250:]) > 0.9


def test_detectors_of_text_learn_what_they_can_see(lesson):
    bad = ["you are a fool", "what a fool", "fool again"]
    texts = np.array([*bad, "a kind soul", "a good day", "well done"] * 5, object)
    toxic = np.array([text in bad for text in texts])
    for prepare in (lesson.words, lesson.ngrams):
        score = lesson.logistic(texts, toxic, texts, toxic, prepare=prepare)
        one, other = score(["another fool here", "a kind day"])
        assert one > other
    long = np.array([t + "!" * 30 * (t in bad) for t in texts], object)
    one, other = lesson.length(long, toxic)(["x" * 60, "x"])
    assert one > other
    assert lesson.units("You FOOL, 你是傻瓜") == ["you", "fool", "你是", "是傻", "傻瓜"]
    assert lesson.units("…") == ["-"]


def test_cover_takes_what_adds_most_and_begins_again(lesson):
    fires = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    assert lesson.greedy_cover(fires, 2) == [1, 2]
    assert lesson.greedy_cover(fires, 9) == [1, 2, 0, 3]
    fires = np.random.default_rng(0).random((30, 20)) < 0.15
    order = lesson.greedy_cover(fires, 30)
    assert sorted(order) == list(range(30))
    curve = np.logical_or.accumulate(fires[order]).mean(1)
    assert curve[0] == fires.mean(1).max()
    first = int((curve < curve[-1]).sum()) + 1
    assert (np.diff(curve[:first]) > 0).all()


def test_mean_residuals_are_those_of_the_helper_when_a_text_is_all_sinks(lesson, scope, data):
    texts = list(data["test"][0][:5])
    ours = lesson.mean_residuals(texts, [1, 4])
    theirs = qs.read_texts(scope, texts, [1, 4], ["residual"])
    for n in (1, 4):
        assert np.allclose(ours[n], theirs[n].residual, rtol=1e-4, atol=1e-5)
