"""Concept search: finds what is there, finds nothing in noise, and scores as others do."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import qs_helpers as qs
from qs_helpers.studies.concepts import concept_search, mentions, two_sides
from qs_helpers.texts import Text


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


def stories(lang, split, n=30):
    return qs.load_texts("tiny:story", "passages", [lang], {split: n})


@pytest.fixture(scope="module")
def search(scope):
    pairs = [(stories("fr", split), stories("ru", split)) for split in ("discovery", "test")]
    return concept_search(scope, *pairs, layers=[2, 3], top=5)


def test_a_language_has_a_feature(search):
    best = search.ranked.iloc[0]
    assert best.value > 0.95
    assert search.ranked.difference.is_monotonic_decreasing
    assert search.null.value == best.value and search.null.difference.low > 0.1
    assert best.groups == 30 and search.null.difference.groups == 60


def test_controls_are_of_two_kinds(search):
    counts = search.controls.control.value_counts()
    assert dict(counts) == {"shuffled labels": 20, "random live feature": 20}
    assert search.controls.value.tolist() == pytest.approx(list(search.null.draws))
    shuffled = search.controls[search.controls.control == "shuffled labels"]
    assert shuffled.value.mean() < search.null.value - 0.1


def test_a_family_gets_more_controls_and_wider_intervals(scope, search):
    pairs = [(stories("fr", split), stories("ru", split)) for split in ("discovery", "test")]
    one_of_three = concept_search(scope, *pairs, layers=[2, 3], top=1, family=3)
    assert len(one_of_three.null.draws) == 59
    assert one_of_three.ranked.low[0] < search.ranked.low[0]
    assert one_of_three.null.difference.family == 3


def peaks(scope, texts, layer):
    return qs.read_texts(scope, [t.text for t in texts], [layer], ["peak"])[layer].peak


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
    lengths = [len(ids) for lang in ("fr", "ru") for ids in scope.ids(texts_of(lang))]
    assert search.length.value == pytest.approx(roc_auc_score(labels, lengths))
    gap = search.baselines["length of the text"].value
    assert gap == pytest.approx(search.ranked.value[0] - search.length.value)


def texts_of(lang):
    return [t.text for t in stories(lang, "test")]


def test_texts_of_one_kind_give_no_feature(scope):
    texts = {split: stories("en", split, 60) for split in ("discovery", "test")}
    pairs = [(t[:30], t[30:]) for t in texts.values()]
    found = concept_search(scope, *pairs, layers=[3], top=1)
    assert found.ranked.low[0] < 0.6 and found.null.difference.low < 0


def test_texts_of_one_group_have_no_null(scope):
    pairs = [
        tuple([t._replace(group="one") for t in stories(lang, split, 8)] for lang in ("fr", "ru"))
        for split in ("discovery", "test")
    ]
    found = concept_search(scope, *pairs, layers=[3], top=1)
    assert found.null is None and found.baselines == {}
    assert found.ranked.groups[0] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["a"], ["b", "c"]), "found: give two lists"),
        ((["a", "b"],), "found: give two lists"),
    ],
)
def test_too_few_texts_are_refused(scope, given, message):
    given = tuple([Text(text) for text in side] for side in given)
    other = [Text("a"), Text("b")]
    with pytest.raises(ValueError, match=message):
        concept_search(scope, given, (other, other))


def test_two_sides_are_as_many_and_alike():
    texts = [
        Text(f"{i}", language="enfrru"[2 * (i % 3) :][:2], label=str(i % 2)) for i in range(60)
    ]
    pos, neg = two_sides(texts, lambda t: t.label == "1", 12, lambda t: t.language)
    assert len(pos) == len(neg) == 12 and not set(pos) & set(neg)
    assert {t.label for t in pos} == {"1"} and {t.label for t in neg} == {"0"}
    assert sorted(t.language for t in pos) == sorted(t.language for t in neg)
    assert two_sides(texts, lambda t: t.label == "1", 12, lambda t: t.language) == (pos, neg)


def test_two_sides_leave_out_what_has_no_partner():
    texts = [Text("a", "en"), Text("b", "en"), Text("c", "fr"), Text("d", "ru")]
    assert two_sides(texts, lambda t: t.text in "ac", 9, lambda t: t.language) == (
        [texts[0]],
        [texts[1]],
    )
    assert two_sides(texts, lambda t: False, 9) == ([], [])


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("The Bread is here.", ["bread"], True),
        ("the painter reads", ["pain"], False),
        ("le pain, le riz", ["pain"], True),
        ("j'achète l'œuf", ["œuf"], True),
        ("рисует дом", ["рис"], False),
        ("私はパンを買う", ["パン"], True),
        ("私はbreadを買う", ["bread"], True),
        ("what a fool!", ["a fool", "x"], True),
        ("a.b", ["a+b"], False),
        ("anything", [], False),
        ("the bread", "bread", True),  # a str is one word
        ("b r e a d", "bread", False),
        ("the bread", iter(["bread"]), True),
        ("the bread", {"soup", "bread"}, True),
        ("the bread", "", False),  # an empty word would stand everywhere
        ("the bread", ["", "soup"], False),
    ],
)
def test_words_are_found_whole(text, words, expected):
    assert mentions(words)(text) is expected
