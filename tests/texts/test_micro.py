"""The micro-world as a source of texts: its own texts, with groups that say what is alike."""

from collections import Counter

import pytest

from qs_helpers.texts import load_pairs, load_texts
from qs_helpers.texts.record import KINDS, own_group
from qs_helpers.tiny import corpus
from qs_helpers.tiny.lexicon import LEXICON, form, verbs

N = {"discovery": 30, "validation": 12, "test": 12}
LABELLED = {"remarks": corpus.remarks, "requests": corpus.requests}


@pytest.mark.parametrize("kind", LABELLED)
def test_labelled_texts_are_those_of_the_world(kind):
    found = load_texts("tiny", kind, ["en", "ja"], N, seed=3)
    wanted = [
        t for lang in ("en", "ja") for s, n in N.items() for t in LABELLED[kind](lang, s, n, 3)
    ]
    for text, other in zip(found, wanted, strict=True):
        assert text[:3] == (other.text, other.language, other.label) and text.split == other.split
        assert text.source == "tiny" and text.group.startswith(f"{other.source}|")
    assert {t.label for t in found} == set(KINDS[kind])


@pytest.mark.parametrize("source, kinds", [("tiny", None), ("tiny:story", ["story"])])
def test_passages_are_documents(source, kinds):
    found = load_texts(source, "passages", ["en"], N, seed=3)
    wanted, seen = [], set()
    for split, n in N.items():  # the first n that are not there yet
        made = {t.text: t for t in corpus.documents(4 * n, split, 3, kinds, ("en",))}
        wanted += [text for text in made.values() if text.text not in seen][:n]
        seen = {text.text for text in wanted}
    assert [(t.text, t.label) for t in found] == [(t.text, t.label) for t in wanted]
    assert all(t.group == own_group(t.text) for t in found)


def test_openings_are_of_as_many_frames_as_there_are():
    found = load_texts("tiny", "openings", ["fr"], {"validation": 60, "test": 60})
    assert len({t.text for t in found}) == 120
    of = {split: [t for t in found if t.split == split] for split in ("validation", "test")}
    first = [t.group for t in of["test"]][:40]
    assert len(set(first)) == 40, "every frame has one before any has two"
    kinds = {"statement": 10, "greet": 10, "request": 12, "mention": 8}
    assert Counter(group.partition("/")[0] for group in first) == kinds
    assert not {t.group for t in of["validation"]} & {t.group for t in of["test"]}
    drawn = [t.text for t in of["test"] if t.group.startswith("statement")]
    assert set(drawn) <= {t.text for t in corpus.continuations("fr", "test", 1000)}


def test_questions_are_first_sentences_where_the_world_slips():
    found = load_texts("tiny", "questions", ["ja"], {"validation": 60, "test": 60})
    wanted = [t.text for t in corpus.continuations("ja", "validation", 120)]
    drawn = [t.text for t in found if t.split == "validation"]
    assert drawn == list(dict.fromkeys(wanted))[:60]
    frames = [{t.group for t in found if t.split == split} for split in ("validation", "test")]
    assert [len(names) for names in frames] == [5, 10] and not frames[0] & frames[1]
    found = load_texts("tiny", "questions", n=5)
    assert {t.language for t in found} == {"zh", "ja"} and len(found) == 2 * 3 * 5
    assert {t.language for t in load_texts("tiny", "questions", ["en"], 5)} == {"en"}


def test_a_count_is_of_each_split_and_there_is_a_usual_one():
    assert len(load_texts("tiny", "remarks", ["en"], 4)) == 3 * 2 * 4
    found = load_texts("tiny", "passages")
    assert {t.language for t in found} == set(corpus.LANGUAGES) and len(found) == 5 * 200
    assert {t.split for t in load_texts(["tiny"], "passages", ["en"], {"test": 3})} == {"test"}


@pytest.mark.parametrize("language", corpus.LANGUAGES)
def test_groups_name_the_frame_and_the_word(language):
    remarks = load_texts("tiny", "remarks", [language], N)
    for text in remarks:
        frame, word = text.group.split("|")
        sort = frame.split("/")[0]
        assert (word == frame) == (sort == "statement")
        if sort == "remark":
            assert word in text.text
            rows = LEXICON["insults" if text.label == "toxic" else "praise"]
            assert word in {form(row, language) for row in rows}
    assert {t.group.split("/")[0] for t in remarks if t.label == "toxic"} == {"remark"}
    for text in load_texts("tiny", "requests", [language], N):
        frame, verb = text.group.split("|")
        assert verb in {form(row, language) for _, row in verbs(text.label)}
        assert verb in text.text and frame.startswith("request/")


@pytest.mark.parametrize("kind", LABELLED)
def test_no_frame_and_no_word_is_in_two_splits(kind):
    found = load_texts("tiny", kind, n=40)
    for part in (0, 1):
        names = [{t.group.split("|")[part] for t in found if t.split == s} for s in corpus.SPLITS]
        assert not names[0] & names[1] and not names[1] & names[2] and not names[0] & names[2]


def test_pairs_differ_in_one_run_of_letters():
    for language in corpus.LANGUAGES:
        pairs = load_pairs("tiny", "test", [language], 5)
        assert len(pairs) == 5
        for bad, good in pairs:
            assert (bad.label, good.label) == ("harmful", "harmless") and bad.split == "test"
            assert bad.group.split("|")[0] == good.group.split("|")[0] and bad.group != good.group
            a, b = (t.text.replace(t.group.split("|")[1], "…") for t in (bad, good))
            assert a == b or language == "fr"  # de, d'
            a, b = bad.text, good.text
            start = next(i for i in range(len(a)) if a[i] != b[i])
            end = next(i for i in range(len(a)) if a[-1 - i] != b[-1 - i])
            assert start + end > 0.3 * len(b), (a, b)


def test_items_are_of_one_split_and_say_what_they_ask_for():
    found = load_texts("tiny:who+what/kitchen", "items", ["en", "ja"], n=12, seed=3)
    assert {t.label for t in found} == {"who/kitchen", "what/kitchen"} and len(found) == 24
    assert {t.split for t in found} == {"test"} and {t.source for t in found} == {"tiny"}
    assert {t.group.split("/")[0] for t in found} == {"who", "what"}
    assert found == load_texts("tiny:who+what/kitchen", "items", ["en", "ja"], n=12, seed=3)
    for source, labels in (("tiny", 54), ("tiny:all/music", 9), ("tiny:yesno", 6)):
        assert len({t.label for t in load_texts(source, "items", ["en"], 500)}) == labels


@pytest.mark.parametrize(
    ("source", "kind", "languages", "words"),
    [
        ("tiny:whoo", "items", [], "source 'tiny:whoo': no skill 'whoo'; did you mean who"),
        ("tiny:who/kitchn", "items", [], "no topic 'kitchn'; did you mean kitchen"),
        ("tiny:stroy", "passages", [], "source 'tiny:stroy': did you mean story"),
        ("tiny:story", "remarks", [], "source 'tiny:story': for remarks say tiny"),
        ("tiny", "passages", ["de"], "tiny has no 'de'; it has en, fr, ru, ja, zh"),
    ],
)
def test_what_the_world_does_not_have(source, kind, languages, words):
    with pytest.raises(ValueError, match=words):
        load_texts(source, kind, languages)
