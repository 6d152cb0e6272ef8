"""Texts with a concept and without, and words that mark one."""

import numpy as np
import pytest

import qs_helpers as qs
from qs_helpers.studies import concepts
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


def test_a_text_is_read_once_and_gives_what_read_texts_gives(monkeypatch):
    scope, seen = qs.load_scope("tiny"), []

    def noted(scope, texts, layers, pools):
        seen.append(list(texts))
        return qs.read_texts(scope, texts, layers, pools)

    monkeypatch.setattr(concepts, "read_texts", noted)
    read = concepts.reads_once(scope, [1, 3])
    texts = ["you are a fool!", "the cow sleeps.", "you are a fool!"]
    for some, pools in ((texts, ["peak"]), (texts[1:], ["peak"]), (texts, ["peak", "rate"])):
        found, whole = read(some, pools), qs.read_texts(scope, some, [1, 3], pools)
        for layer in (1, 3):
            for pool in pools:
                mine, theirs = getattr(found[layer], pool), getattr(whole[layer], pool)
                assert mine.dtype == theirs.dtype and np.allclose(mine, theirs, atol=1e-3)
    assert seen == [texts[:2], texts[:2]]  # the second time for the rate
    assert read([])[1].peak.shape == (0, scope.d_sae)


WHOLE = "The ship sailed into a cold storm, and nobody saw her captain again."


@pytest.mark.parametrize(
    ("text", "held", "taken"),
    [
        (WHOLE, 1, 1),
        (WHOLE.upper().replace(" ", "  "), 1, 1),
        (WHOLE + " So they say.", 1, 54 / 63),
        ("sailed into a cold storm", 20 / 54, 1),
        (WHOLE.replace("cold", "mild"), 52 / 54, 52 / 54),  # two letters differ
        ("We walked along the river until dark.", 0, 0),
        ("the cold ship", 0, 0),  # shorter than any copy
        ("", 0, 0),
    ],
)
def test_copies_by_hand(text, held, taken):
    near = concepts.copied(text, ["What a day.", WHOLE])
    assert (near.held, near.taken) == pytest.approx((held, taken))
    assert near.source == (WHOLE if held else "What a day.")
    assert near.origin == (WHOLE if taken else "What a day.")


def test_a_copy_in_a_script_without_spaces_is_one_too():
    whole, own = "老船驶进了寒冷的风暴再也没有人见过船长", "昨天晚上我们在家里讲故事"
    assert concepts.copied(whole + "今天", [whole]).held == 1
    assert concepts.copied(whole.replace("寒冷", "可怕"), [whole]).held == 52 / 57  # of bytes
    assert concepts.copied(own, [whole]).held == concepts.copied(own, [whole]).taken == 0
    assert concepts.copied("我们驶进了寒冷的风暴" + own, [whole]).held == pytest.approx(
        8 / 19, abs=0.06
    )
