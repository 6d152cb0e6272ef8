"""The natural sets: their sizes, languages, groups and splits, and how hard they are."""

import json
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
import regex
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline

from qs_helpers.evidence.stats import n_groups
from qs_helpers.presets import project_root
from qs_helpers.texts import load_pairs, load_texts
from qs_helpers.texts.natural import FOLDER
from qs_helpers.texts.record import KINDS, mentions, normal
from qs_helpers.writing import language, script_shares

LANGUAGES = ("en", "fr", "ru", "ja", "zh")
# texts of each language
SIZES = {kind: dict.fromkeys(LANGUAGES, 60) for kind in ("passages", "openings")}
SIZES |= {"remarks": dict.fromkeys(LANGUAGES, 120), "requests": dict.fromkeys(LANGUAGES, 80)}
SIZES["questions"] = {"fr": 30, "ru": 30, "ja": 60, "zh": 60}
BY_KIND = [(kind, lang) for kind, sizes in SIZES.items() for lang in sizes]
LABELLED = [(kind, lang) for kind, lang in BY_KIND if KINDS[kind]]
# words of a passage; characters in Chinese and Japanese
LENGTHS = {"en": (40, 100), "fr": (40, 100), "ru": (40, 100), "ja": (80, 260), "zh": (60, 180)}
OPENING = {"en": (4, 12), "fr": (4, 12), "ru": (4, 12), "ja": (6, 32), "zh": (6, 26)}
REGISTERS = {"news", "recipe", "story", "how-to", "dialogue", "code"}
CATEGORIES = {"deception", "intrusion", "weapons", "drugs", "harassment", "privacy"}


def rows(kind, lang=None):
    lines = (FOLDER / f"{kind}.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [row for row in found if lang in (None, row["language"])]


def length(text, lang):
    """Words; characters where words have no spaces."""
    if lang in ("ja", "zh"):
        return len(regex.findall(r"[\p{Han}\p{Hiragana}\p{Katakana}ー々]|[A-Za-z0-9]+", text))
    return len(regex.findall(r"[\w’'-]+", text))


def grams(text, n=5):
    text = normal(text)
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_and_records(kind):
    found = rows(kind)
    assert Counter(row["language"] for row in found) == SIZES[kind]
    for row in found:
        assert set(row) == {"text", "language", "label", "group", "split"}
        assert row["text"] == row["text"].strip() and row["group"] and row["split"]
    assert len({normal(row["text"]) for row in found}) == len(found)
    if KINDS[kind]:
        assert set(Counter((r["language"], r["label"]) for r in found).values()) == {
            next(iter(SIZES[kind].values())) // 2
        }


@pytest.mark.parametrize(("kind", "lang"), BY_KIND)
def test_languages(kind, lang):
    for row in rows(kind, lang):
        text = row["text"]
        if row["label"] == "code":  # its comments; the rest is English by right
            text = " ".join(regex.findall(r"(?:#|//|--) ?(.*)", text))
        spoken = language(text)
        if kind == "questions":  # without what they quote; some still hold much English
            asked = regex.sub(r"«[^»]*»|“[^”]*”|「[^」]*」", "", text)
            own = sum(n for script, n in script_shares(text).items() if script != "Latin")
            assert language(asked) == lang or own > 0.15, text
        else:
            assert spoken == lang, text


@pytest.mark.parametrize("kind", SIZES)
def test_a_group_is_in_one_split_in_every_language(kind):
    splits, groups = defaultdict(set), defaultdict(set)
    for row in rows(kind):
        for factor, part in enumerate(row["group"].split("|")):
            splits[factor, part].add(row["split"])
            groups[row["language"]].add(part)
    assert set(map(len, splits.values())) == {1}
    wide = [found for lang, found in groups.items() if SIZES[kind][lang] == SIZES[kind]["zh"]]
    assert all(found == wide[0] for found in wide)
    assert all(found <= wide[0] for found in groups.values())


@pytest.mark.parametrize(("kind", "lang"), BY_KIND)
def test_what_is_in_two_splits_is_not_alike(kind, lang):
    """Of the 5-grams of characters that two texts have together, they share at most three in ten;
    pairs of one frame, which are alike on purpose, are in one split."""
    found = [(row["split"], grams(row["text"]), row["text"]) for row in rows(kind, lang)]
    for (split, one, text), (other_split, other, other_text) in combinations(found, 2):
        if split != other_split:
            assert len(one & other) / len(one | other) <= 0.3, (text, other_text)


@pytest.mark.parametrize(("kind", "lang"), BY_KIND)
def test_test_texts_come_in_groups_enough(kind, lang):
    test = [row for row in rows(kind, lang) if row["split"] == "test"]
    for label in KINDS[kind] or {row["label"] for row in test}:
        groups = [row["group"] for row in test if not KINDS[kind] or row["label"] == label]
        assert n_groups(groups, len(groups)) >= 12, label


@pytest.mark.parametrize(("kind", "lang"), LABELLED)
def test_length_does_not_tell_the_labels_apart(kind, lang):
    found = rows(kind, lang)
    labels = [row["label"] == KINDS[kind][0] for row in found]
    assert 0.4 <= roc_auc_score(labels, [len(row["text"]) for row in found]) <= 0.6


def classified(kind, lang, **ngrams) -> float:
    """F1 on test texts of n-grams that were weighed on discovery texts."""
    by_split = {
        split: [row for row in rows(kind, lang) if row["split"] == split]
        for split in ("discovery", "test")
    }
    texts = {split: [row["text"] for row in here] for split, here in by_split.items()}
    labels = {s: [row["label"] == KINDS[kind][0] for row in h] for s, h in by_split.items()}
    model = make_pipeline(TfidfVectorizer(**ngrams), LogisticRegression(C=10, max_iter=2000))
    model.fit(texts["discovery"], labels["discovery"])
    return f1_score(labels["test"], model.predict(texts["test"]))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_list_of_words_finds_the_toxic_remarks(lang):
    words = {"token_pattern": r"(?u)[\u3040-\u30ff\u3400-\u9fff]|\w+", "ngram_range": (1, 2)}
    assert classified("remarks", lang, **words) <= 0.85
    spaced = lang not in ("ja", "zh")
    analyzer, sizes = ("char_wb", (2, 5)) if spaced else ("char", (1, 4))
    assert classified("remarks", lang, analyzer=analyzer, ngram_range=sizes) <= 0.85


@pytest.mark.parametrize("lang", LANGUAGES)
def test_remarks_have_frames_insults_and_hard_negatives(lang):
    frames, words = defaultdict(Counter), defaultdict(set)
    for row in rows("remarks", lang):
        frame, _, word = row["group"].partition("|")
        frames[frame][row["label"]] += 1
        words[row["label"]].add(word)
    assert len(frames) >= 30 and all(n == {"toxic": 1, "clean": 1} for n in frames.values())
    assert len(words["toxic"] - {""}) >= 20 and "" in words["toxic"]  # some name no word at all
    assert words["clean"] == words["toxic"]  # each insult is harmless once; "": clean conflicts


@pytest.mark.parametrize("lang", LANGUAGES)
def test_requests_are_pairs_in_six_categories(lang):
    pairs = defaultdict(set)
    for row in rows("requests", lang):
        pairs[row["group"]].add(row["label"])
    assert all(labels == {"harmful", "harmless"} for labels in pairs.values())
    counts = Counter(group.split("/")[0] for group in pairs)
    assert set(counts) == CATEGORIES and min(counts.values()) >= 6


@pytest.mark.parametrize("lang", LANGUAGES)
def test_passages_have_registers_topics_and_food_where_they_say_so(lang):
    found = rows("passages", lang)
    assert Counter(row["label"] for row in found) == dict.fromkeys(REGISTERS, 10)
    assert len({row["group"].split("/")[0] for row in found}) >= 24
    presets = project_root() / "notebooks" / "params"
    (one,) = {
        tuple(yaml.safe_load(path.read_text("utf-8"))["02_visualize"]["TOPIC"])
        for path in presets.glob("qwen*.yaml")
    }
    on_topic = mentions(one)
    low, high = LENGTHS[lang]
    for row in found:
        assert on_topic(row["text"]) == row["group"].startswith("food/"), row["text"]
        assert low <= length(row["text"], lang) <= high, row["text"]
    food = [row for row in found if row["group"].startswith("food/") and row["split"] == "test"]
    assert len(food) >= 8  # enough groups for a verdict


@pytest.mark.parametrize("lang", LANGUAGES)
def test_openings_can_go_on(lang):
    low, high = OPENING[lang]
    for row in rows("openings", lang):
        assert low <= length(row["text"], lang) <= high, row["text"]
        assert not regex.search(r"[.!?。！？…\n]$", row["text"]), row["text"]


@pytest.mark.parametrize("kind", SIZES)
def test_load_texts_reads_them(kind, capsys):
    found = load_texts("natural", kind)
    assert len(found) == sum(SIZES[kind].values())
    as_written = {row["text"]: tuple(row.values()) for row in rows(kind)}
    assert all(as_written[text.text] == text[:5] for text in found)
    assert {text.source for text in found} == {"natural"}
    printed = capsys.readouterr().out
    assert printed.startswith(f"natural: {len(found)} {kind}") and "own group" not in printed


def test_parts_are_registers_and_prose_is_all_but_code():
    test = {"test": 100}
    recipes = load_texts("natural:recipe", "passages", ["ja"], test)
    assert {(t.label, t.source) for t in recipes} == {("recipe", "natural:recipe")}
    prose = load_texts("natural:prose", "passages", n=test)
    assert {text.label for text in prose} == REGISTERS - {"code"}
    assert len(load_texts("natural", "passages", n=3)) == 3 * 3 * len(LANGUAGES)


def test_pairs_are_of_one_frame():
    pairs = load_pairs("natural", "test", ["en", "zh"], 100)
    assert len(pairs) == 2 * 16
    for harmful, harmless in pairs:
        assert harmful.group == harmless.group and harmful.language == harmless.language
        assert (harmful.label, harmless.label) == ("harmful", "harmless")


@pytest.mark.parametrize(
    ("source", "kind", "languages", "words"),
    [
        ("natural", "items", (), "natural has no items; it has openings, passages, questions"),
        ("natural:recipes", "passages", (), "source 'natural:recipes': did you mean recipe"),
        ("natural:toxic", "remarks", (), "source 'natural:toxic': for remarks say natural"),
        ("natural:zh", "questions", (), "source 'natural:zh': for questions say natural"),
        ("natural", "questions", ["en"], "natural holds no texts in en"),
        (["natural", "mine.csv"], "remarks", (), "give tiny .alone., natural"),
    ],
)
def test_what_there_is_not(source, kind, languages, words):
    with pytest.raises(ValueError, match=words):
        load_texts(source, kind, languages)


def test_the_card_shows_ten_texts_of_each_kind_and_language():
    card = (FOLDER / "README.md").read_text("utf-8")
    for kind, lang in BY_KIND:
        shown = [row for row in rows(kind, lang) if normal(row["text"]) in normal(card)]
        assert len(shown) >= 10, (kind, lang)


def test_they_are_natural_language():
    """Texts begin in many ways: no template with other nouns."""
    for kind, lang in BY_KIND:
        for label in KINDS[kind] or [""]:  # a request and its look-alike may begin alike
            found = [row["text"] for row in rows(kind, lang) if label in ("", row["label"])]
            begins = Counter(normal(text)[:12] for text in found)
            assert np.mean([n > 1 for n in begins.values()]) <= 0.2, (kind, begins.most_common(5))
