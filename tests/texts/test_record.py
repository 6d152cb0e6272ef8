"""When two texts are the same, and how they are shown."""

import pytest

from qs_helpers.texts.record import draw, masked, mentions, normal, own_group


def test_masked():
    assert masked("you fool, café 老师!") == "y•• f•••, c••• 老•!"
    assert masked("you fool", raw=True) == "you fool"


def test_case_width_and_white_space_do_not_count():
    assert normal(" Ａ  fool\n") == normal("a FOOL") != normal("afool")
    assert own_group("A  fool") == own_group("a fool") != own_group("a tool")
    assert len(own_group("x")) == len("text/") + 10


def test_a_draw_is_of_its_seed_purpose_and_name():
    assert draw(0, "a", "b") == draw(0, "a", "b")
    assert len({draw(0, "a", "b"), draw(1, "a", "b"), draw(0, "b", "b"), draw(0, "a", "c")}) == 4


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
