"""When two texts are the same, and how they are shown."""

import pytest

from qs_helpers.texts.record import copied, draw, masked, mentions, normal, own_group


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
    near = copied(text, ["What a day.", WHOLE])
    assert (near.held, near.taken) == pytest.approx((held, taken))
    assert near.source == (WHOLE if held else "What a day.")
    assert near.origin == (WHOLE if taken else "What a day.")


def test_a_copy_in_a_script_without_spaces_is_one_too():
    whole, own = "老船驶进了寒冷的风暴再也没有人见过船长", "昨天晚上我们在家里讲故事"
    assert copied(whole + "今天", [whole]).held == 1
    assert copied(whole.replace("寒冷", "可怕"), [whole]).held == 52 / 57  # of bytes
    assert copied(own, [whole]).held == copied(own, [whole]).taken == 0
    assert copied("我们驶进了寒冷的风暴" + own, [whole]).held == pytest.approx(8 / 19, abs=0.06)
