"""Scripts, languages and loops of texts, on texts where they are known."""

import json
from pathlib import Path

import numpy as np
import pytest

import qs_helpers as qs
from qs_helpers.presets import project_root
from qs_helpers.tiny import corpus, judge
from qs_helpers.writing import Fluency, dictionary, repeats, script_shares, words


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


def test_words_are_words_or_pairs_of_characters():
    assert words("L’ami d'Anna, 42 !") == ["l", "ami", "d", "anna"]
    assert words("你好吗 ok") == ["ok", "你好", "好吗"]
    assert words("") == []


def test_repeats():
    assert repeats("") == 0 and repeats("the cook buys the bread and the baker sells it") == 0
    assert repeats("a b c a b c d e f g h i") == 0  # twice is no loop
    assert repeats("of the best of the best of the best of the best") > 1
    assert repeats("w w w w w w w w w w") > 1
    assert repeats("the the cook buys bread") > 1  # doubled on the spot


STEERED = json.loads((Path(__file__).parent / "steered_texts.json").read_text("utf-8"))["texts"]
KINDS = ("passages", "remarks", "requests", "openings")


def real_texts(source: str) -> tuple[dict, dict]:
    """{language: texts} to learn from, and others to say what is usual."""
    known, held = {}, {}
    for kind in KINDS:
        n = {"discovery": 600 if kind == "passages" else 200}
        n |= {"validation": 100} if kind == "passages" else {}
        for text in qs.load_texts(
            source, kind, ["en", "fr", "ru"], n if source == "tiny" else None
        ):
            usual = kind == "passages" and text.split == "validation"
            (held if usual else known).setdefault(text.language, []).append(text.text)
    return known, held


def judged(scope, source: str, max_tokens: int, model: str) -> dict:
    """{language: excess, labels and part of the labelled texts that a model wrote}."""
    known, held = real_texts(source)
    out = {}
    for lang in ("en", "fr"):
        others = {other: texts for other, texts in known.items() if other != lang}
        fluency = Fluency(scope, lang, known[lang], others, held[lang], max_tokens)
        rows = [row for row in STEERED if (row["model"], row["language"]) == (model, lang)]
        found = fluency.excess([row["text"] for row in rows]).excess.to_numpy()
        labels, part = (np.array([row[key] for row in rows]) for key in ("fluent", "part"))
        out[lang] = found, labels, part, found <= fluency.limit
    return out


def test_steered_texts_of_the_tiny_model_as_a_reader_labelled_them():
    for found, labels, part, called in judged(qs.load_scope("tiny"), "tiny", 16, "tiny").values():
        assert qs.auroc(-found[part == 1], labels[part == 1]).value > 0.95
        assert (called == labels).mean() > 0.9


@pytest.mark.long
def test_steered_texts_of_a_real_model_as_a_reader_labelled_them():
    """The form of the measure was chosen on parts 1 and 2, and what notebook 03 says of it was
    measured on part 3, which was labelled after that. We wished for .9."""
    if not (project_root() / "runs" / "models" / "smollm2").is_dir():
        pytest.skip("the model is not here: qs-report --preset smollm2 makes it")
    found = judged(qs.load_scope("smollm2"), "natural", 24, "smollm2")
    late = {}
    for lang, (excess, labels, part, called) in found.items():
        area = qs.auroc(-excess[part == 3], labels[part == 3]).value
        late[lang] = area, called[(part == 3) & ~labels].mean()
    areas, passed = zip(*late.values(), strict=True)
    assert areas == pytest.approx([0.77, 0.84], abs=0.01)
    assert passed == pytest.approx([0.28, 0.60], abs=0.03)


def test_a_dictionary_knows_words_and_how_common_they_are():
    french, english = dictionary("fr"), dictionary("en")
    assert "délicieuse" in french and "cérécili" not in french and "touchement" not in french
    assert english["the"] > 20 * english["soup"] and "the" not in french
    assert sum(english.values()) == pytest.approx(1) and dictionary("ja") == {}


def test_fluency_needs_enough_real_text_and_refuses_nothing_as_fluent():
    scope = qs.load_scope("tiny")
    texts = [t.text for t in corpus.documents(30, "validation", 0, ["story"], ("en",))]
    with pytest.raises(ValueError, match="pieces of 16 tokens .* eight are needed"):
        Fluency(scope, "en", texts, {}, texts[:1], 16)
    fluency = Fluency(scope, "en", texts, {"fr": ["le chat voit la soupe"]}, texts, 12)
    assert fluency.fluent([]).tolist() == []
    found = fluency.excess(["", "the", texts[0], "le chat voit la soupe"])
    assert found.excess[0] == np.inf and not fluency.fluent(["", " "]).any()
    assert found.foreign[2] == 0 and found.foreign[3] > 1 and found.unknown[3] > 1
    assert 0.4 < fluency.fluent(fluency.pieces).mean() < 0.7  # half of real text, by its own rule
    cut = fluency.excess([texts[0] + "\ufffd"])  # a character that the limit of tokens cut in two
    assert cut.equals(fluency.excess([texts[0]]))
