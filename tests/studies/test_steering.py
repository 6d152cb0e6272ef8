"""Remarks that can end either way, and words in sentences."""

import pytest
from safetensors.torch import load_file

import qs_helpers as qs
from qs_helpers.generation import Arm, sweep
from qs_helpers.studies.steering import half_remarks, remark_words, sentences_with
from qs_helpers.texts import Text, load_texts
from qs_helpers.tiny import corpus, judge


def test_sentences_with():
    words = ["soup", "汤"]
    assert sentences_with("Soup is good. the soupy cook. 谁买汤？", words) == pytest.approx(2 / 3)
    assert sentences_with("Soup is good. a cook.", "soup") == 1 / 2  # a str is one word
    assert sentences_with("Soup is good. a cook.", []) == 0
    assert sentences_with("Soup is good. a cook.", {"soup", ""}) == 1 / 2
    assert sentences_with("", words) == 0 and sentences_with("...", words) == 0


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


def test_taking_out_the_planted_refusal_direction_beats_random_ones():
    scope = qs.load_scope("tiny-instruct")
    u = load_file(scope.truth)["refusal_direction"]
    asked = [r for x in corpus.LANGUAGES for r in corpus.requests(x, "validation", 12)]
    asked = [scope.chat(r.text) for r in asked if r.label == "harmful"]
    scales = qs.scales(scope, asked, [1])
    arms = [Arm(1, 0.0, u), Arm(1, 1.0, u)]
    arms += [
        Arm(1, 1.0, u, v) for v in qs.random_directions(20, scope.d_model)
    ]  # as much, elsewhere
    made = sweep(scope, asked, scales, arms, "ablate", max_new_tokens=20)
    complies = [[not judge.is_refusal(text) for text in texts] for texts in made]
    before, after, *nulls = (sum(hits) / len(hits) for hits in complies)
    null = qs.against(complies[1], complies[2:])
    assert after - before > 0.8 and null.difference.low > 0 and after > max(nulls)
    assert qs.hooks_left(scope.model) == 0
