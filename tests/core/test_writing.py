"""Scripts, languages and loops of texts, on texts where they are known."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import qs_helpers as qs
from qs_helpers.presets import project_root
from qs_helpers.tiny import corpus, judge
from qs_helpers.writing import (
    Fluency,
    dictionary,
    foreign_ids,
    refuses,
    repeats,
    script_shares,
    sentences_with,
    switching,
    token_at,
    tongues,
    words,
)

STRINGS = Path(__file__).with_name("slips.jsonl")


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
    assert qs.writing.loops(text) is looping


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


def test_sentences_with():
    words = ["soup", "汤"]
    assert sentences_with("Soup is good. the soupy cook. 谁买汤？", words) == pytest.approx(2 / 3)
    assert sentences_with("Soup is good. a cook.", "soup") == 1 / 2  # a str is one word
    assert sentences_with("Soup is good. a cook.", []) == 0
    assert sentences_with("Soup is good. a cook.", {"soup", ""}) == 1 / 2
    assert sentences_with("", words) == 0 and sentences_with("...", words) == 0


def test_markers_are_found_in_any_case_and_with_curly_quotes():
    answers = ["I can\u2019t do that.", "i'm SORRY, no.", "Of course!", "抱歉，我不能。", ""]
    assert refuses(answers).tolist() == [True, True, False, True, False]
    numbered = pd.Series(answers, index=[4, 3, 2, 1, 0])
    for given in (iter(answers), tuple(answers), numbered, np.array(answers)):
        assert refuses(given).tolist() == [True, True, False, True, False]
    assert refuses("I'm sorry, I cannot help").tolist() == [True]
    assert refuses(["no way", "way"], "no").tolist() == [True, False]
    with pytest.raises(ValueError, match="a marker is ''"):
        refuses(answers, ["sorry", ""])
    with pytest.raises(ValueError, match="text 1 is nan"):
        refuses(["no", float("nan")])


# ---- switching


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.mark.parametrize(
    ("text", "language", "runs"),
    [
        ("他买soup。", "zh", ["soup"]),
        ("他买A。", "zh", []),  # one letter is a name or a grade
        ("日本語のテスト", "ja", []),
        ("日本語のテスト", "zh", ["のテスト"]),
        ("漢字", "ja", []),
        ("汉字", "zh", []),  # Han is shared
        ("他买 soup 和 bread。", "zh", ["soup", "bread"]),
        ("看 `code` 吧", "zh", []),
        ("看```\nfor x in y\n```吧", "zh", []),
        ("公式 $x+yz$ 和 \\(abc\\) 和 \\begin{align}ab\\end{align}", "zh", []),
        ("见 https://example.com/page?a=b 和 name.x@mail.org", "zh", []),
        ("It costs $5 and 而且 it ships for $3 today.", "en", ["而且"]),
        ("价格$5 however 便宜 $3 元", "zh", ["however"]),
        ("从$5涨到but$6元", "zh", ["but"]),
        ("($5) 而且 ($6)", "en", ["而且"]),
        ("5$ 而且 3$", "en", ["而且"]),
        ("US$5 而且 US$6", "en", ["而且"]),
        ("$.50 而且 $.75", "en", ["而且"]),
        ("\\$a 而且 \\$b", "en", ["而且"]),
        ("当 $x = yz$ 时", "zh", []),
        ("当 $ \\alpha $ 时", "zh", []),
        ("$2xy$和$3yz$", "zh", []),
        ("See https://example.com/page而且 it works", "en", ["而且"]),
        ("See https://example.com而且 it works", "en", ["而且"]),
        ("See https://example.com/然后 it works", "en", ["然后"]),
        ("See https://zh.wikipedia.org/wiki/中文 for it", "en", []),
        ("See https://ru.wikipedia.org/wiki/Москва for it", "en", []),
        ("Write to me@example.com而且 wait", "en", ["而且"]),
        ("Write 请到me@example.com now", "en", ["请到"]),
        ("１２３，！？ａｂ", "zh", ["ａｂ"]),  # full-width letters are letters
        ("１２３，！？ＡＢ", "zh", []),  # a capital: a name
        ("我用Python写 main.py，长5km", "zh", []),
        ("单词“apple”和（pear）", "zh", []),  # mentioned, not used
        ("他说“我买bread”", "zh", ["bread"]),
        ("Il pleut. It was raining all day today.", "fr", [" It was raining all day today"]),
        ("，。！？（）「」", "ru", []),
        ("1234 5678", "ja", []),
        ("привет 你", "ru", ["你"]),
        ("the cook 买 bread", "en", ["买"]),
        ("l'été déjà", "fr", []),
        ("don't well-known", "zh", ["don't", "well-known"]),
        ("한국어", "zh", ["한국어"]),
        ("", "zh", []),
        ("...", "zh", []),
    ],
)
def test_switching_on_labelled_strings(text, language, runs):
    found = switching(text, language)
    assert [text[a:b] for a, b in found.runs] == runs
    assert found.any == bool(runs)
    assert found.onset == (text.index(runs[0]) if runs else None)


def test_shares_and_copies():
    assert switching("他买soup", "zh").share == pytest.approx(4 / 6)
    assert switching("...", "zh").share == 0
    both = switching("je mange le pain avec mon ami 汉字", "en")  # no letter counts twice
    assert both.any and both.share <= 1
    assert not switching("他买iPhone。", "zh", prompt="我要iPhone").any
    with pytest.raises(ValueError, match="no scripts for 'xx'; choose one of en, fr"):
        switching("a", "xx")


def test_it_agrees_with_the_world_that_plants_the_slips():
    for lang in ("zh", "ja"):
        drawn = corpus.documents(80, "discovery", 0, ["story"], (lang,))
        for sentence in [s for d in drawn for s in judge.sentences(d.text)]:
            if judge.is_slip(sentence):
                assert switching(sentence, lang).any
            elif judge.produces(lang, sentence):
                assert not switching(sentence, lang).any


def test_slips_are_found_in_labelled_strings():
    """Labelled by hand before the detector was measured on them."""
    rows = [json.loads(line) for line in STRINGS.read_text("utf-8").splitlines()]
    right = [switching(row["text"], row["language"]).any == row["slip"] for row in rows]
    assert len(rows) >= 200 and np.mean(right) >= 0.97


def test_slips_into_one_script():
    text = "она читает book и 汉字"
    assert [text[a:b] for a, b in switching(text, "ru").runs] == ["book", "汉字"]
    assert [text[a:b] for a, b in switching(text, "ru", scripts=["Latin"]).runs] == ["book"]


def test_the_token_of_a_character(scope):
    text = "老师在学校读book。"
    at = token_at(scope, text, text.index("b"))
    ids = scope.ids([text])[0]
    before = scope.tokenizer.decode(ids[:at])
    assert "b" not in before and scope.tokenizer.decode(ids[: at + 1]).endswith(("b", "bo", "book"))


def test_foreign_ids(scope):
    latin = set(foreign_ids(scope, ("Latin",)).tolist())
    assert not latin & set(scope.tokenizer.all_special_ids)
    assert set(scope.ids(["book the cook"])[0]) <= latin
    assert not set(scope.ids(["老师读书。123"])[0]) & latin


def test_slips_are_counted_by_the_language_of_their_words():
    asked = [SimpleNamespace(language="zh", text="他")] * 4
    texts = ["他 the dog eats bread with us", "他 le chien mange du pain avec nous", "他买鱼。", ""]
    assert tongues(texts, asked) == "1 in English, 1 in French"
    assert tongues([], []) == "0 in English, 0 in French"
