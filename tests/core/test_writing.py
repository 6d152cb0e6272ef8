"""Scripts, languages and loops of texts, on texts where they are known."""

import pytest

import qs_helpers as qs
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
        ("Ich weiß es nicht, was das ist", ""),
        ("Hola, ¿cómo estás? Me llamo Juan", ""),
        ("Tôi không biết", ""),
        ("Não sei o que é isso, mas gosto muito", ""),
        ("Nie wiem, co to jest, ale się boję", ""),
        ("The Zürich café is nice and warm today.", "en"),  # a foreign name makes no other language
        ("ça va très bien, l'œuvre est finie", "fr"),
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
