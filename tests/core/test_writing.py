"""Numbers about texts, on texts whose numbers are known."""

import pytest

import qs_helpers as qs
from qs_helpers.studies.steering import distinct_n, harmonic_mean, sentences_with
from qs_helpers.tiny import corpus, judge
from qs_helpers.writing import script_shares


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("", {}),
        ("1234 ... ！？（）、。", {}),
        ("hello", {"Latin": 1.0}),
        ("привет", {"Cyrillic": 1.0}),
        ("你好", {"Han": 1.0}),
        ("カタカナー", {"Kana": 1.0}),
        ("日本のab", {"Latin": 0.4, "Han": 0.4, "Kana": 0.2}),
        ("한국어 عربى", {"other": 1.0}),
    ],
)
def test_script_shares(text, shares):
    assert script_shares(text) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("the teacher reads the book in the park.", "en"),
        ("le professeur lit le livre dans le parc.", "fr"),
        ("учитель читает книгу в парке.", "ru"),
        ("先生は公園で本を読む。", "ja"),
        ("老师在公园读书。", "zh"),
        ("", ""),
        ("12 34 !", ""),
        ("\ufffd\ufffd\ufffd", ""),
        ("한국어로", ""),
        ("the cook и учитель читают книгу", "ru"),
    ],
)
def test_language(text, lang):
    assert qs.language(text) == lang


def test_language_of_the_tiny_world():
    """Every language of the world is recognised in at least 98 % of its sentences."""
    for lang in corpus.LANGUAGES:
        stories = corpus.documents(60, "discovery", 0, ["story"], (lang,))
        found = [s for d in stories for s in judge.sentences(d.text)]
        # After a slip, Chinese and Japanese stories go on with an English sentence.
        found = [s for s in found if judge.produces(lang, s) and not judge.is_slip(s)]
        assert sum(qs.language(s) == lang for s in found) / len(found) >= 0.98


def test_distinct_ngrams():
    assert distinct_n("a b a b a b", 2) == 2 / 5
    assert distinct_n("a", 3) == 1 and distinct_n("", 4) == 1
    assert distinct_n("你好你好你好", 2) == 2 / 5  # characters where there are no spaces


@pytest.mark.parametrize(
    ("text", "looping"),
    [
        ("le le le le le le le le", True),
        ("well then the cook eats. the cook eats. the cook eats.", True),
        ("谁买汤。谁买汤。谁买汤。", True),
        ("the cook eats. the king eats. the cook eats.", False),
        ("he waits ...", False),
        ("", False),
        ("a b c d e f g h i j k l m n o p q r", False),
    ],
)
def test_loops(text, looping):
    assert qs.loops(text) is looping


def test_sentences_with():
    words = ["soup", "汤"]
    assert sentences_with("Soup is good. the soupy cook. 谁买汤？", words) == pytest.approx(2 / 3)
    assert sentences_with("", words) == 0 and sentences_with("...", words) == 0


def test_harmonic_mean():
    assert harmonic_mean(1, 1) == 1 and harmonic_mean(1, 0) == 0
    assert harmonic_mean(0.5, 1) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="from 0 to 1"):
        harmonic_mean(1.2, 1)
