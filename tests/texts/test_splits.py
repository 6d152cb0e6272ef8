"""Splits by group: against a naive reference, and what is refused."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qs_helpers.texts import Text, split_texts
from qs_helpers.texts.record import own_group
from qs_helpers.texts.splits import SPLITS, two_sides


def records(n=100, language="en", split="", groups=None):
    label = ("toxic", "clean")
    return [
        Text(
            f"{language} {i}",
            language,
            label[i % 2],
            f"g{i // 2 % groups}" if groups else "",
            split,
        )
        for i in range(n)
    ]


def alike(a: str, b: str) -> bool:
    """Do two groups share a part? Spelt out."""
    (frame, _, word), (other, _, others) = a.partition("|"), b.partition("|")
    return (frame != "" and frame == other) or (word != "" and word == others)


def together(groups: list[str]) -> list[set[str]]:
    """The groups that hang together: sets are merged until nothing changes."""
    sets = [{group} for group in groups]
    while True:
        for i, one in enumerate(sets):
            for other in sets[i + 1 :]:
                if any(alike(a, b) for a in one for b in other):
                    one |= other
                    sets.remove(other)
                    break
            else:
                continue
            break
        else:
            return sets


GROUPS = st.sampled_from("abcdefghij") | st.builds(
    "{}|{}".format, st.sampled_from("abcdefghij"), st.sampled_from("vwxyz0123")
)


@given(st.lists(st.tuples(st.sampled_from(["en", "fr"]), GROUPS), min_size=1, max_size=40))
def test_no_group_and_nothing_connected_is_in_two_splits(made):
    texts = [Text(f"t{i}", language, "", group) for i, (language, group) in enumerate(made)]
    sets = together(sorted({text.group for text in texts}))
    largest = max(sum(text.group in one for text in texts) for one in sets)
    mixed = texts[:]
    random.Random(0).shuffle(mixed)
    if largest > 0.6 * len(texts):
        for order in (texts, mixed):
            with pytest.raises(ValueError, match="more than 60 %|one group only"):
                split_texts(order, labels=())
        return
    found, left = split_texts(texts, labels=())
    assert sorted(t._replace(split="") for t in found) == sorted(texts) and not left
    for one in sets:
        assert len({t.split for t in found if t.group in one}) == 1
    assert split_texts(mixed, labels=()) == (found, left)
    if len(sets) >= 3 and len({t.language for t in texts}) == 1:
        assert {t.split for t in found} == set(SPLITS)


@given(st.dictionaries(st.sampled_from(["en", "fr", "zh"]), st.integers(1, 60), min_size=1))
def test_texts_that_are_their_own_groups_are_split_by_count(sizes):
    if sum(sizes.values()) == 1:
        return
    made = [Text(f"{lang} {i}", lang) for lang, n in sizes.items() for i in range(n)]
    found, _ = split_texts(made)
    counts = Counter((t.language, t.split) for t in found)
    for language, n in sizes.items():
        for split, share in SPLITS.items():
            assert abs(counts[language, split] - share * n) <= 1
    both = [t._replace(text=f"{label} {t.text}", label=label) for t in made for label in PAIR]
    if min(sizes.values()) >= 3:
        found, left = split_texts(both)
        counts = Counter((t.language, t.split, t.label) for t in found)
        assert not left and len(counts) == 6 * len(sizes)
        for (language, split, _), n in counts.items():
            assert abs(n - SPLITS[split] * sizes[language]) <= 1


PAIR = ("toxic", "clean")


def test_splits_are_disjoint_balanced_and_do_not_depend_on_the_order():
    made = records() + records(50, "fr")
    found, left = split_texts(made)
    assert not left and len(found) == 150
    for language, n in (("en", 100), ("fr", 50)):
        for split, share in SPLITS.items():
            part = [t for t in found if (t.language, t.split) == (language, split)]
            assert len(part) == round(n * share)
            assert sum(t.label == "toxic" for t in part) * 2 == len(part)
    assert split_texts(made[::-1]) == (found, left)
    other, _ = split_texts(made, seed=1)
    assert {t.text: t.split for t in other} != {t.text: t.split for t in found}
    assert all(t.group == own_group(t.text) for t in found)


@pytest.mark.parametrize("groups", [3, 4, 10, 25])
def test_groups_are_spread_as_evenly_as_they_allow(groups):
    found, left = split_texts(records(100, groups=groups) + records(100, "fr", groups=groups))
    counts = Counter(t.split for t in found)
    assert not left and set(counts) == set(SPLITS)
    for split, share in SPLITS.items():  # parallel groups: off by one group at most, if many
        assert abs(counts[split] / 200 - share) <= (1 / groups if groups > 4 else 0.3)


def test_parallel_texts_are_in_one_split():
    found, _ = split_texts(records(60, groups=12) + records(60, "fr", groups=12))
    by_group = {t.group: set() for t in found}
    for text in found:
        by_group[text.group].add(text.split)
    assert len(by_group) == 12 and all(len(splits) == 1 for splits in by_group.values())


def test_what_is_left_out_is_said():
    made = records(40)
    made += [made[0], made[1]._replace(text="EN  1")]  # repeated, but for case and spaces
    made += [made[2]._replace(label="clean")]  # labelled both ways
    made += [Text(f"more {i}", "en", "toxic") for i in range(20)]
    found, left = split_texts(made)
    assert left["repeated texts"] == 2 and left["texts with both labels"] == 2
    assert left["to balance the labels"] > 0 and len(found) + left.total() == len(made)
    assert not any(t.text == made[2].text for t in found)


def test_given_splits_are_kept_and_the_others_join_their_group():
    made = given_splits()
    found, _ = split_texts(made)
    assert sorted(t._replace(group="") for t in found) == sorted(made)
    grouped = [t._replace(group=f"{t.split[0]}|{i}") for i, t in enumerate(made)]
    free = [Text(f"free {i}", "en", PAIR[i % 2], "d|new") for i in range(10)]
    free += [Text(f"more {i}", "en", PAIR[i % 2], "other|new") for i in range(10)]
    found, _ = split_texts([*grouped, *free])
    assert Counter(t.split for t in found) == {"discovery": 30, "validation": 10, "test": 10}
    repeated = [*made, made[0]._replace(split="")]
    assert Counter(t.split for t in split_texts(repeated)[0]) == dict.fromkeys(SPLITS, 10)


def test_leaks_are_refused_by_name():
    made = given_splits()
    again = made[0]._replace(split="test", text=made[0].text.upper())
    with pytest.raises(ValueError, match=r"in splits \['discovery', 'test'\]: '[dD]•••"):
        split_texts([*made, again])
    two = [made[0]._replace(group="A"), made[-1]._replace(group="A|x")]
    with pytest.raises(ValueError, match=r"group 'A' is in splits \['discovery', 'test'\]; what"):
        split_texts([*made[1:-1], *two])
    two = [made[0]._replace(group="A|x"), made[-1]._replace(group="B|x")]
    with pytest.raises(ValueError, match=r"group 'x' is in splits \['discovery', 'test'\]"):
        split_texts([*made[1:-1], *two])
    two = [made[0]._replace(group="A|x"), made[-1]._replace(group="B|y"), Text("t", group="A|y")]
    with pytest.raises(
        ValueError, match=r"'A\|y' has no split and hangs together .*'test'\]; give"
    ):
        split_texts([*made[1:-1], *two], labels=())


def test_a_language_without_a_label_is_refused():
    only = [t._replace(label="toxic") for t in records(20, "fr")]
    with pytest.raises(ValueError, match="language 'fr' has no clean text for discovery"):
        split_texts(records() + only)
    with pytest.raises(ValueError, match="language 'en' has no toxic text for discovery"):
        split_texts(records(60, "de") + records(30, split="test"))
    part = [t._replace(label="clean") if t.split == "test" else t for t in given_splits()]
    with pytest.raises(ValueError, match="language 'en' has no toxic text for test"):
        split_texts(part)
    found, left = split_texts(part, wanted=["discovery"])  # only what is wanted must be whole
    assert {t.split for t in found} == {"discovery", "validation"}
    assert left == {"to balance the labels": 10}


def given_splits():
    made = [t for split in SPLITS for t in records(10, "en", split)]
    return [t._replace(text=f"{t.split} {t.text}") for t in made]


def test_too_large_groups_are_refused_with_what_would_fit():
    one = [Text(f"t{i}", group="A") for i in range(10)]
    with pytest.raises(ValueError, match="there is one group only, 'A': nothing is left to test"):
        split_texts(one)
    more = [Text(f"more {i}", group=f"g{i}") for i in range(5)]
    with pytest.raises(ValueError, match="'A' holds 10 of 15 texts, more than 60 %; give a column"):
        split_texts([*one, *more])
    chain = [Text(f"t{i}", group=f"{'AB'[i % 2]}|{i // 3}") for i in range(12)]
    with pytest.raises(ValueError, match=r"groups hang together, such as 'A\|0', .* hold 12 of 17"):
        split_texts([*chain, *more])
    found, _ = split_texts([*one, *more, *(Text(f"t {i}", group=f"h{i}") for i in range(5))])
    assert {t.split for t in found if t.group == "A"} == {"discovery"}


def test_the_same_text_ties_its_groups_together():
    fillers = [Text(f"filler {i}", group=f"F{i}") for i in range(20)]
    twins = [Text("Same", group="A"), Text("same", group="B")]
    siblings = [*(Text(f"a {i}", group="A") for i in range(2)), Text("b", group="B")]
    for seed in range(20):
        texts, left = split_texts([*twins, *siblings, *fillers], seed)
        split = {text.split for text in texts if text.group in ("A", "B")}
        assert len(split) == 1 and left["repeated texts"] == 1
    given = [twins[0], twins[1]._replace(split="test"), siblings[0]._replace(split="discovery")]
    with pytest.raises(ValueError, match="in more than one group ties texts of the splits"):
        split_texts([*given, *fillers])


def test_two_sides_are_as_many_and_alike():
    texts = [
        Text(f"{i}", language="enfrru"[2 * (i % 3) :][:2], label=str(i % 2)) for i in range(60)
    ]
    pos, neg = two_sides(texts, lambda t: t.label == "1", 12, lambda t: t.language)
    assert len(pos) == len(neg) == 12 and not set(pos) & set(neg)
    assert {t.label for t in pos} == {"1"} and {t.label for t in neg} == {"0"}
    assert sorted(t.language for t in pos) == sorted(t.language for t in neg)
    assert two_sides(texts, lambda t: t.label == "1", 12, lambda t: t.language) == (pos, neg)


def test_two_sides_leave_out_what_has_no_partner():
    texts = [Text("a", "en"), Text("b", "en"), Text("c", "fr"), Text("d", "ru")]
    assert two_sides(texts, lambda t: t.text in "ac", 9, lambda t: t.language) == (
        [texts[0]],
        [texts[1]],
    )
    assert two_sides(texts, lambda t: False, 9) == ([], [])
