"""Concept search: finds what is there, finds nothing in noise, and scores as others do."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import qs_helpers as qs
from qs_helpers.studies.concepts import concept_search
from qs_helpers.tiny import corpus


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


def stories(lang, split, n=30):
    return [d.text for d in corpus.documents(n, split, kinds=["story"], languages=(lang,))]


@pytest.fixture(scope="module")
def search(scope):
    pairs = [(stories("fr", split), stories("ru", split)) for split in ("discovery", "test")]
    return concept_search(scope, *pairs, layers=[2, 3], top=5)


def test_a_language_has_a_feature(search):
    best = search.ranked.iloc[0]
    assert best.value > 0.95 and best.low > search.controls.groupby("control").value.median().max()
    assert search.ranked.difference.is_monotonic_decreasing
    assert len(search.controls) == 40


def peaks(scope, texts, layer):
    return qs.read_texts(scope, texts, [layer], ["peak"])[layer].peak


def test_columns_are_what_they_say(scope, search):
    row = search.ranked.iloc[0]
    layer, feature = int(row.layer), int(row.feature)
    fires = [
        (peaks(scope, stories(lang, "discovery"), layer)[:, feature] > 0).mean()
        for lang in ("fr", "ru")
    ]
    assert (row.positive, row.negative) == pytest.approx([float(f) for f in fires])
    h = 2 * np.arcsin(np.sqrt(row.positive)) - 2 * np.arcsin(np.sqrt(row.negative))
    assert row.effect == pytest.approx(h)
    scores = [peaks(scope, stories(lang, "test"), layer)[:, feature] for lang in ("fr", "ru")]
    labels = [1] * 30 + [0] * 30
    assert row.value == pytest.approx(roc_auc_score(labels, np.concatenate(scores)))


def test_texts_of_one_kind_give_no_feature(scope):
    texts = {split: stories("en", split, 60) for split in ("discovery", "test")}
    pairs = [(t[:30], t[30:]) for t in texts.values()]
    found = concept_search(scope, *pairs, layers=[3], top=1).ranked.iloc[0]
    assert found.low < 0.6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["a"], ["b", "c"]), "found: give two lists"),
        ((["a", "b"],), "found: give two lists"),
    ],
)
def test_too_few_texts_are_refused(scope, given, message):
    with pytest.raises(ValueError, match=message):
        concept_search(scope, given, (["a", "b"], ["c", "d"]))
