"""One reader for every source: counts, languages, what is printed, and what is refused."""

import pytest

from qs_helpers.texts import load_pairs, load_texts
from qs_helpers.texts.record import own_group


def spoken(n=10, languages=("en", "fr")):
    return [
        {"text": f"{lang} {i} {bad}", "toxic": bad, "language": lang}
        for i in range(n)
        for bad in (0, 1)
        for lang in languages
    ]


def test_a_file_is_split_and_capped(write):
    path = write(spoken(50, ["en"]))
    found = load_texts(path, "remarks", n={"discovery": 20, "validation": 5, "test": 10})
    counts = {
        (split, label): sum((t.split, t.label) == (split, label) for t in found)
        for split in ("discovery", "validation", "test")
        for label in ("toxic", "clean")
    }
    assert list(counts.values()) == [20, 20, 5, 5, 10, 10]
    assert len({t.text for t in found}) == len(found)
    whole = {t.text: t.split for t in load_texts(path, "remarks")}
    assert all(whole[t.text] == t.split for t in found)
    assert {t.split for t in load_texts(path, "remarks", n={"test": 3})} == {"test"}
    assert len(load_texts(path, "remarks", n=3)) == 3 * 2 * 3


def test_the_order_of_a_file_does_not_matter_and_the_seed_does(write):
    made = spoken(40)
    one, two = write(made, "a.csv"), write(made[::-1], "a.jsonl")
    found = [
        [t._replace(source="") for t in load_texts(path, "remarks", n=5, seed=seed, most=30)]
        for path, seed in ((one, 0), (two, 0), (one, 1))
    ]
    assert found[0] == found[1] and found[0] != found[2]
    assert len(found[0]) == 2 * 2 * 3 * 5


def test_kinds_without_labels_need_no_balance(write):
    rows = [{"text": f"t{i}", "label": "toxic"} for i in range(30)]
    found = load_texts(write(rows), "items", ["en"])
    assert len(found) == 30 and {(t.label, t.language) for t in found} == {("toxic", "en")}
    assert len(load_texts(write(rows), "passages", n=4)) == 12


def test_two_sources_of_labelled_texts(tmp_path, write, make):
    bad, good = tmp_path / "bad.txt", write(make(20, toxic="?"), "good.csv")
    bad.write_text("\n".join(f"bad {i}" for i in range(30)))
    found = load_texts([bad, good], "requests", ["en"])
    assert {t.source for t in found if t.label == "harmful"} == {"bad.txt"}
    assert {t.source for t in found if t.label == "harmless"} == {"good.csv"}
    assert len(found) == 40
    both = load_texts([bad, good, "natural:recipe"], "passages", ["en"])  # read as one
    assert {t.source for t in both} == {"bad.txt", "good.csv", "natural:recipe"}
    with pytest.raises(ValueError, match="3 sources of remarks; give one, or two, the toxic first"):
        load_texts([bad, good, bad], "remarks")
    with pytest.raises(ValueError, match="source 'tiny': .* give tiny .alone., natural"):
        load_texts(["tiny", good], "remarks")


def test_other_languages_are_left_out_and_none_is_the_first(write, capsys):
    path = write(spoken(10, ["", "de"]), "mine.jsonl")
    found = load_texts(path, "remarks", ["fr", "en"])
    assert {t.language for t in found} == {"fr"} and len(found) == 20
    said = capsys.readouterr().out
    assert "20 in other languages" in said and "no text in en" in said
    assert "20 texts whose language nobody said count as fr" in said
    assert {t.language for t in load_texts(path, "remarks")} == {"", "de"}
    with pytest.raises(ValueError, match="de.csv holds no texts in fr, en"):
        load_texts(write(spoken(10, ["de"]), "de.csv"), "remarks", ["fr", "en"])


def test_the_summary_is_short_and_says_what_was_left_out(write, capsys):
    made = spoken(20)
    made += [made[0], made[1] | {"text": "EN  0 1", "toxic": 0, "language": "en"}]
    made += [{"text": f"more {i}", "toxic": 1, "language": "en"} for i in range(9)]
    found = load_texts(write(made), "remarks")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert (
        lines[0].startswith(f"mine.csv: {len(found)} remarks; toxic ")
        and "; en 40, fr 40" in lines[0]
    )
    assert "; discovery " in lines[0] and f"; {len(found)} groups" in lines[0]
    assert lines[1].startswith("left out: ") and "1 repeated texts" in lines[1]
    assert "2 texts with both labels" in lines[1] and "to balance the labels" in lines[1]
    assert lines[2] == "no group column: each text is its own group"
    grouped = [row | {"group": f"g{i // 8}"} for i, row in enumerate(spoken(20))]
    load_texts(write(grouped), "remarks")
    assert len(capsys.readouterr().out.splitlines()) == 1
    found = load_texts(write([row | {"group": ""} for row in grouped[:8]] + grouped[8:]), "remarks")
    assert capsys.readouterr().out.splitlines()[-1] == "8 texts without a group: each is its own"
    assert sum(t.group == own_group(t.text) for t in found) == 8


def test_groups_of_two_parts_are_kept_together(write):
    rows = [
        {"text": f"{label} {i}", "label": label, "group": f"{label}{i % 20}|{label} word {i % 10}"}
        for i in range(60)
        for label in ("toxic", "clean")
    ]
    found = load_texts(write(rows), "remarks", ["en"])
    for part in (0, 1):
        splits = {}
        for text in found:
            splits.setdefault(text.group.split("|")[part], set()).add(text.split)
        assert all(len(x) == 1 for x in splits.values())


@pytest.mark.parametrize(("toxic", "label"), [(1, "toxic"), (0, "clean")])
def test_one_label_is_not_enough(write, make, toxic, label):
    with pytest.raises(ValueError, match=f"csv holds only {label} texts; both labels are needed"):
        load_texts(write(make(toxic=toxic)), "remarks")


def test_a_stratum_that_is_empty_is_named(write, make):
    rows = [row | {"split": "discovery"} for row in make()]
    rows += [{"text": f"x{i}", "toxic": 1, "language": "en", "split": "test"} for i in range(5)]
    with pytest.raises(ValueError, match="language 'en' has no clean text for test"):
        load_texts(write(rows), "remarks")
    with pytest.raises(ValueError, match="language 'en' has no toxic text for validation"):
        load_texts(write(rows[:20]), "remarks", n={"discovery": 5, "validation": 5})
    with pytest.raises(ValueError, match="language 'en' has no text for validation; give more"):
        load_texts(write(rows), "passages", n={"validation": 5})
    assert len(load_texts(write(rows), "passages")) == 25


@pytest.mark.parametrize(
    ("source", "kind", "more", "words"),
    [
        ("tiny", "remark", {}, r"no kind 'remark'; did you mean remarks\? \(passages, openings, r"),
        ("nature", "remarks", {}, "source 'nature': there is no such file; give tiny"),
        ("", "remarks", {}, "source '': there is no such file"),
        ([], "remarks", {}, "0 sources of remarks; give one, or two"),
        ([], "passages", {}, "0 sources of passages; give one or more"),
        ("pydoc", "remarks", {}, "pydoc has passages only, no remarks; say natural"),
        ("pydoc:scippy", "passages", {}, "source 'pydoc:scippy': did you mean scipy"),
        ("tiny", "remarks", {"n": {"train": 3}}, "there is no split 'train'; known: discovery"),
        ("tiny", "remarks", {"columns": {"txt": "a"}}, "columns: 'txt'; did you mean text"),
    ],
)
def test_what_there_is_not(source, kind, more, words):
    with pytest.raises(ValueError, match=words):
        load_texts(source, kind, **more)


def test_one_group_is_refused(write, make):
    with pytest.raises(ValueError, match="there is one group only, 'article 1'"):
        load_texts(write(make(group="article 1")), "remarks")


def test_one_text_is_refused_with_what_ends_a_text(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("a line\n" * 5)
    says = "one.txt holds one text only, of 34 characters: nothing is left to test on; give more; "
    with pytest.raises(ValueError, match=f"{says}in a .txt file of passages a blank line ends"):
        load_texts(path, "passages")
    path = tmp_path / "one.csv"
    path.write_text("text\na line")
    with pytest.raises(ValueError, match="one.csv holds one text only, .*; give more$"):
        load_texts(path, "passages")
    path.write_text("text,split\na line,test")
    assert len(load_texts(path, "passages")) == 1


# ---- pairs


@pytest.mark.parametrize("source", ["tiny", "mine.csv"])
def test_pairs_of_an_unknown_split(source):
    with pytest.raises(ValueError, match="there is no split 'tset'; did you mean test"):
        load_pairs(source, "tset", ["en"], 3)


def test_pairs_of_a_file_share_a_frame_or_are_alike_in_length(write):
    rows = [
        {
            "text": f"{split} {label} {'x' * i}",
            "label": label,
            "group": f"{split} {i}|{split} {label} {i}" if i < 4 else "",
            "split": split,
        }
        for split in ("discovery", "test")
        for i in range(20)
        for label in ("harmful", "harmless")
    ]
    path = write(rows)
    found = load_pairs(path, "discovery", ["en"], 100)
    assert len(found) == 20 == len({a for a, _ in found}) == len({b for _, b in found})
    assert all(t.split == "discovery" and t.language == "en" for pair in found for t in pair)
    assert all((a.label, b.label) == ("harmful", "harmless") for a, b in found)
    frames = [[t.group.split("|")[0] for t in pair] for pair in found]
    assert sum(a == b for a, b in frames) == 4
    assert all(a.text.count("x") == b.text.count("x") for a, b in found)
    assert load_pairs(path, "discovery", ["en"], 3) == found[:3]


def test_items_are_all_kept_in_one_split(write, capsys):
    rows = [{"question": f"what is {i}?", "subject": "sums", "split": "train"} for i in range(9)]
    found = load_texts(write(rows, "b.jsonl"), "items")
    assert {t.split for t in found} == {"test"} and len(found) == 9
    assert found[0].label == "sums" and len({t.group for t in found}) == 9
    assert len(load_texts(write(rows, "b.jsonl"), "items", n=4)) == 4
    one = load_texts(write(rows[:1], "one.jsonl"), "items")
    assert [t.text for t in one] == ["what is 0?"], "a benchmark of one item is no mistake here"
    other = [{"problem": "2 + 2", "text": "the text itself"}]
    assert load_texts(write(other, "o.jsonl"), "items")[0].text == "the text itself"
    named = load_texts(write(other, "o.jsonl"), "items", columns={"text": "problem"})
    assert named[0].text == "2 + 2"
