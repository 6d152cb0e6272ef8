"""When two texts are the same, and how they are shown."""

from qs_helpers.texts.record import draw, masked, normal, own_group


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
