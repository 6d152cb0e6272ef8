"""From rows to records: columns, labels, what is refused, and the bounded sample."""

import random
import tracemalloc

import pytest

from qs_helpers.texts import Text, load_texts
from qs_helpers.texts.rows import check_columns, sample, to_text


def read(row, kind="remarks", columns=None, label=""):
    return to_text("mine.csv, line 2", row, kind, columns or {}, label)


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("1", "0"),
        ("true", "False"),
        ("TOXIC", "clean"),
        ("yes", "no"),
        (1, 0),
        (True, False),
        ("toxic", "not toxic"),
    ],
)
@pytest.mark.parametrize("column", ["toxic", "label"])
def test_labels(yes, no, column):
    found = [read({"text": "a", column: word}) for word in (yes, no)]
    assert found == [Text("a", label="toxic"), Text("a", label="clean")]


def test_labels_of_requests_and_of_other_kinds():
    for word, label in (("harmful", "harmful"), ("1", "harmful"), ("harmless", "harmless")):
        assert read({"text": "a", "harmful": word}, "requests").label == label
        assert read({"text": "a", "label": word}, "requests").label == label
    with pytest.raises(ValueError, match="the label 'toxic' is neither"):
        read({"text": "a", "label": "toxic"}, "requests")
    assert read({"text": "a", "label": "B"}, "items").label == "B"
    assert read({"text": "a"}, "items").label == ""
    assert read({"text": "a", "toxic": "?"}, "remarks", label="clean").label == "clean"
    both = {"text": "a", "toxic": 1, "label": "of a topic"}
    assert read(both).label == "toxic"


def test_labels_as_words_need_the_word():
    row = {"text": "a", "toxic": "hateful"}
    with pytest.raises(ValueError, match="line 2: the label 'hateful' .*'positive': ….* toxic"):
        read(row)
    assert read(row, columns={"positive": "Hateful"}).label == "toxic"
    assert read(row, columns={"positive": "LABEL_1"}).label == "clean"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": "  "}, "line 2: the text is '  '"),
        ({"text": None}, "line 2: the text is None; each must be a non-empty string"),
        ({"text": ["a"]}, "line 2: the text is .'a'.; each must"),
        ({"language": "English"}, "line 2: the language is 'English'; give a code"),
        ({"toxic": "maybe"}, "line 2: the label 'maybe'"),
        ({"split": "train"}, "line 2: the split is 'train'; use discovery, validation, test"),
    ],
)
def test_bad_rows_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        read({"text": "a", "toxic": 1} | change)


def test_missing_columns_are_named_with_those_that_are_there():
    row = {"comment": "a", "class": 1}
    with pytest.raises(ValueError, match="no column 'text' or 'toxic'; it has 'comment', 'class'"):
        read(row)
    assert read(row, columns={"text": "comment", "label": "class"}) == Text("a", label="toxic")
    with pytest.raises(ValueError, match="no column 'frame'; it has"):
        read({"text": "a"}, "passages", {"group": "frame"})


def test_columns_of_other_names():
    row = {"comment": "a", "lang": "en", "class": "no", "frame": 0, "part": "test"}
    columns = {"text": "comment", "language": "lang", "label": "class"}
    columns |= {"group": "frame", "split": "part"}
    assert read(row, columns=columns) == Text("a", "en", "clean", "0", "test")
    row = {"text": "a", "split": "train"}
    assert read(row, "passages", {"split": ""}) == Text("a")  # "" ignores a column
    with pytest.raises(ValueError, match="columns: 'txt'; did you mean text?"):
        check_columns({"txt": "comment"})


# ---- the sample


def texts(n=40):
    return [Text(f"t{i}", "en" if i % 4 else "fr", "toxic" if i % 2 else "clean") for i in range(n)]


def test_a_sample_does_not_depend_on_the_order_and_has_most_of_each_sort():
    made, mixed = texts(), texts()
    random.Random(0).shuffle(mixed)
    found, left = sample(made, ("toxic", "clean"), 7, seed=0)
    assert sorted(found) == sorted(sample(mixed, ("toxic", "clean"), 7, seed=0)[0])
    assert sorted(found) != sorted(sample(made, ("toxic", "clean"), 7, seed=1)[0])
    assert len(found) == 3 * 7 and left == {"beyond a random sample": 19}
    assert len(sample(made, (), 7, seed=0)[0]) == 2 * 7  # labels that are free do not count
    assert sample(made, (), 100, seed=0) == (sorted(made, key=lambda t: t.language != "fr"), {})


def test_a_text_that_is_repeated_takes_one_place():
    found, left = sample([*texts(), *[Text("T0 ", "fr", "clean")] * 50], (), 20, seed=0)
    assert len({t.text.casefold().strip() for t in found}) == len(found) == 10 + 20
    assert left["repeated texts"] == 50 and left["beyond a random sample"] == 10


@pytest.mark.parametrize("n", [20_000, pytest.param(250_000, marks=pytest.mark.long)])
def test_a_large_file_is_sampled_in_bounded_memory(tmp_path, capsys, n):
    path = tmp_path / "large.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("text,toxic,language\n")
        for i in range(n):
            file.write(f"{i} {'x' * 390},{i % 2},en\n")
    assert path.stat().st_size > 390 * n
    tracemalloc.start()
    found = load_texts(path, "remarks", most=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1000 and peak < 5e6
    assert f"left out: {n - 1000} beyond a random sample" in capsys.readouterr().out
    numbers = [int(t.text.split()[0]) for t in found]  # a uniform sample, not the first ones
    assert 0.4 * n < sum(numbers) / len(numbers) < 0.6 * n
