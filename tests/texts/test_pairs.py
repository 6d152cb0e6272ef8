"""Counterfactual pairs: their sources, their splits, and how two prompts are laid side by side."""

import json
from collections import defaultdict

import pytest
import torch

import qs_helpers as qs
from qs_helpers.texts import Text, load_texts
from qs_helpers.texts.natural import FOLDER
from qs_helpers.texts.pairs import Pair, aligned, half_remarks, load_counterfactuals, remark_words
from qs_helpers.tiny.corpus import LANGUAGES, topic_twins
from qs_helpers.tiny.lexicon import words


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.mark.parametrize("source", ["tiny", "natural"])
def test_no_frame_and_no_prompt_is_in_two_splits(source):
    pairs = load_counterfactuals([source], 64)
    places = defaultdict(set)
    for pair in pairs:
        frame = pair.group.split("|")[0]
        for name in (frame, pair.clean, pair.corrupted):
            places[name].add(pair.split)
        assert pair.clean != pair.corrupted and pair.answers and pair.others
        assert not {*pair.answers} & {*pair.others}
    assert all(len(splits) == 1 for splits in places.values())
    assert {pair.split for pair in pairs} == {"discovery", "validation", "test"}
    assert pairs == load_counterfactuals([source], 64)


def test_natural_pairs_differ_in_one_word_and_share_no_words_over_splits():
    lines = (FOLDER / "counterfactuals.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 144
    places = defaultdict(set)
    for row in rows:
        one, other = row["positive"].split(), row["negative"].split()
        assert len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) == 1
        places[row["group"].split("|")[1]].add(row["split"])
    assert all(len(splits) == 1 for splits in places.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_may_follow_an_opening_is_of_its_topic(language):
    for twins in topic_twins(language, "test", 20):
        topics = twins.topics.split("-")
        slot = "V" if {*twins.answers} & {*words("V", language)} else "O"
        known = [{*words(slot, language, topic)} for topic in topics]
        assert {*twins.answers} in known and {*twins.other_answers} in known


def test_files_of_ones_own(tmp_path, capsys):
    rows = [{"positive": f"a {i} is", "negative": f"b {i} is"} for i in range(20)]
    one = tmp_path / "pairs.jsonl"
    one.write_text("\n".join(map(json.dumps, rows)))
    two = [tmp_path / "clean.txt", tmp_path / "corrupted.txt"]
    for path, side in zip(two, ("positive", "negative"), strict=True):
        path.write_text("\n".join(row[side] for row in rows))
    first, second = load_counterfactuals([one], 9), load_counterfactuals(two, 9)
    assert first == second and first[0].answers == ()
    assert "pairs.jsonl: " in capsys.readouterr().out
    table = tmp_path / "pairs.csv"
    table.write_text(
        "positive,negative,answer,other\n"
        + "".join(f"x {i} is,y {i} is, up| high, down\n" for i in range(9))
    )
    (pair, *_) = load_counterfactuals([table], 9)
    assert (pair.answers, pair.others) == ((" up", " high"), (" down",))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"positive": "a", "negative": "a"}, "line 1: both prompts are 'a'"),
        ({"positive": "a", "negative": "b", "answer": "c"}, "line 1: give both answer and other"),
        ({"positive": "a"}, "line 1: no column 'negative'"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, says):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=says):
        load_counterfactuals([path], 9)


def test_files_of_unequal_length_are_refused(tmp_path):
    for name, text in (("a.txt", "one\ntwo"), ("b.txt", "one")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="2 prompts in a.txt, 1 in b.txt"):
        load_counterfactuals([tmp_path / "a.txt", tmp_path / "b.txt"], 9)


def test_columns_are_the_same_place_in_both_prompts(scope):
    pairs = [
        Pair("today the cook eats it. the", "today the cook buys it. the", (" a",), (" king",)),
        Pair("the cook eats the soup and", "the cook buys the soup and", (" the",), (" a",)),
        Pair("the cook eats", "the cook eats the soup"),
        Pair("when the cook", "if the cook"),
        Pair("the cook eats", "the cook buys", (" the",), (" the",)),
    ]
    with torch.no_grad():
        batch, left = aligned(scope, pairs)
    assert left["of unlike length"] == 1 and left["with the same answer"] >= 1
    assert left["that differ in the first token"] == 1
    for row, pair in enumerate(batch.pairs):
        own = [scope.own_ids([side])[0] for side in (pair.clean, pair.corrupted)]
        first = next(i for i, (a, b) in enumerate(zip(*own, strict=True)) if a != b)
        assert int(batch.onward[row].sum()) == len(own[0]) - first
        assert int(batch.differs[row].sum()) == sum(a != b for a, b in zip(*own, strict=True))
        assert not (batch.answers[row] & batch.others[row]).any()
    part = batch.rows([0])
    assert part.pairs == batch.pairs[:1] and torch.equal(part.onward, batch.onward[:1])


def test_no_pair_that_fits_is_refused(scope):
    with pytest.raises(ValueError, match="none of 1 pairs can be patched.*unlike length"):
        aligned(scope, [Pair("the cook eats", "the cook eats the soup")])


# ---- remarks cut before their word


def remark(text, label="toxic", group="", language="en"):
    return Text(text, language, label, group, "test")


REMARKS = [
    remark("you are a fool!", group="you are|a fool"),
    remark("you are a rat!", group="you are|a rat"),
    remark("a rat reads.", group="first|a rat"),  # begins with the word
    remark("he said no such thing", group="said|a worm"),  # the word is not in the text
    remark("nobody asked you", group="text/123"),
    remark("you are a star!", "clean", "you are|a star"),
    remark("he drew a rat.", "clean", "he drew|a rat"),  # harmlessly: not a word of praise
    remark("你是白痴！", group="you are|白痴", language="zh"),
    remark("你是英雄！", "clean", "you are|英雄", "zh"),
    remark("tu es un sot !", group="you are|un sot", language="fr"),  # French has no praise here
]


def test_words_of_remarks_are_those_that_stand_in_their_texts():
    assert remark_words(REMARKS) == {
        "toxic": {"en": ["a fool", "a rat"], "zh": ["白痴"], "fr": ["un sot"]},
        "clean": {"en": ["a star"], "zh": ["英雄"]},
    }


def test_half_remarks_end_before_the_word():
    found = half_remarks(REMARKS, remark_words(REMARKS), 10)
    assert {half.head: half.group for half in found} == {"you are": "you are", "你是": "you are"}
    by_head = {half.head: half for half in found}
    assert by_head["你是"][2:] == ("白痴", "英雄")  # no space where the remark has none
    assert by_head["you are"].toxic in (" a fool", " a rat")
    assert by_head["you are"].clean == " a star"
    assert len(half_remarks(REMARKS, remark_words(REMARKS), 1)) == 1
    assert half_remarks([remark("fool")], {"toxic": {}, "clean": {}}, 5) == []


def test_remarks_of_the_micro_world_have_halves():
    remarks = load_texts("tiny", "remarks", ("en", "zh"), {"test": 40})
    found = half_remarks(remarks, remark_words(remarks), 20)
    assert len(found) == 20 == len({half.head for half in found})
    frames = {remark.group.partition("|")[0] for remark in remarks}
    groups = {half.group for half in found}
    assert groups <= frames and len(groups) >= 8  # enough for a verdict
