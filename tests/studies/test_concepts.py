"""Texts with a concept and without, and words that mark one."""

import pytest

from qs_helpers.studies.concepts import mentions, two_sides
from qs_helpers.texts import Text


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
