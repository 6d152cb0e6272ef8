"""Labelled texts and prompts: bad files are named, and nothing is dropped in silence."""

import csv
import json
import sys
import tracemalloc
import types

import pandas as pd
import papermill
import pytest
from qs_helpers.studies.data import (
    SPLITS,
    Record,
    hub_prompts,
    hub_texts,
    load_prompts,
    load_texts,
    masked,
    read_labelled,
    split_texts,
    tiny_texts,
    tiny_twins,
)

from qs_helpers.presets import project_root
from qs_helpers.tiny import corpus


def rows(n=20, **more):
    return [{"text": f"text number {i}", "toxic": i % 2, "language": "en"} | more for i in range(n)]


def write(path, rows, encoding="utf-8"):
    path = path / "mine.csv"
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_csv_and_jsonl_are_read_alike(tmp_path):
    made = [
        *rows(),
        {"text": 'with, a comma and "quotes"\nand a line', "toxic": 1, "language": "zh"},
    ]
    lines = tmp_path / "mine.jsonl"
    lines.write_text("\n".join(map(json.dumps, made)) + "\n\n", "utf-8")
    found = read_labelled(write(tmp_path, made)), read_labelled(lines)
    strip = [[record._replace(source="") for record in records] for records in found]
    assert sorted(strip[0]) == sorted(strip[1]) and len(strip[0]) == 21
    assert {r.text: (r.toxic, r.language) for r in strip[0]}[made[-1]["text"]] == (True, "zh")


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("1", "0"),
        ("true", "False"),
        ("TOXIC", "clean"),
        ("yes", "no"),
        (1, 0),
        (True, False),
    ],
)
def test_labels(tmp_path, yes, no):
    found = read_labelled(
        write(tmp_path, [{"text": "a", "toxic": yes}, {"text": "b", "toxic": no}])
    )
    assert {r.text: r.toxic for r in found} == {"a": True, "b": False}
    assert all(r.language == "" and r.split == "" for r in found)


def test_labels_as_words_need_the_word(tmp_path):
    path = write(tmp_path, [{"text": "a", "toxic": "hateful"}, {"text": "b", "toxic": "fine"}])
    with pytest.raises(ValueError, match="line 2: the label 'hateful' .* positive="):
        read_labelled(path)
    found = read_labelled(path, positive="Hateful")
    assert [r.toxic for r in sorted(found)] == [True, False]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": "  "}, "line 2: the text is '  '"),
        ({"language": "English"}, "line 2: the language is 'English'; give a code"),
        ({"toxic": "maybe"}, "line 2: the label 'maybe'"),
        ({"split": "train"}, "line 2: the split is 'train'; use discovery, validation, test"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        read_labelled(write(tmp_path, rows(6, **change)))


def test_missing_columns_are_named_with_those_that_are_there(tmp_path):
    path = write(tmp_path, [{"comment": "a", "label": 1}, {"comment": "b", "label": 0}])
    with pytest.raises(ValueError, match="no column 'text' or 'toxic'; it has 'comment', 'label'"):
        read_labelled(path)
    assert len(read_labelled(path, text="comment", label="label")) == 2


@pytest.mark.parametrize(("toxic", "words"), [(1, "only toxic"), (0, "only clean")])
def test_one_label_is_not_enough(tmp_path, toxic, words):
    with pytest.raises(ValueError, match=f"holds {words} texts; both labels are needed"):
        read_labelled(write(tmp_path, rows(toxic=toxic)))


def test_an_empty_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,toxic\n")
    with pytest.raises(ValueError, match="holds nothing texts|holds nothing"):
        read_labelled(path)


def test_other_encodings_are_named(tmp_path):
    path = write(tmp_path, [{"text": "café", "toxic": 1}, {"text": "b", "toxic": 0}], "latin-1")
    with pytest.raises(ValueError, match="mine.csv.*not UTF-8"):
        read_labelled(path)
    mixed = write(tmp_path, rows())
    mixed.write_bytes(mixed.read_bytes() + "é,1,fr\r\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_labelled(mixed)
    marked = write(tmp_path, rows(), "utf-8-sig")
    assert len(read_labelled(marked)) == 20


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mine.txt", "a", "neither .csv nor .jsonl"),
        ("mine.jsonl", '{"text": "a"', "mine.jsonl: "),
        ("mine.jsonl", "[1, 2]\n", "line 1: not an object"),
        ("mine.csv", "text,toxic\na,1,2\n", "line 2: another number of columns"),
        ("mine.csv", "text,toxic\na\n", "line 2: another number of columns"),
    ],
)
def test_bad_files(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_labelled(tmp_path / name)


@pytest.mark.parametrize("n", [20_000, pytest.param(250_000, marks=pytest.mark.long)])
def test_a_large_file_is_sampled_in_bounded_memory(tmp_path, capsys, n):
    path = tmp_path / "large.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("text,toxic,language\n")
        for i in range(n):
            file.write(f"{i} {'x' * 390},{i % 2},en\n")
    assert path.stat().st_size > 390 * n
    tracemalloc.start()
    found = read_labelled(path, most=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1000 and peak < 5e6
    assert f"kept a random 1,000 of {n:,} texts" in capsys.readouterr().out
    numbers = [int(r.text.split()[0]) for r in found]  # a uniform sample, not the first ones
    assert 0.4 * n < sum(numbers) / len(numbers) < 0.6 * n


# ---- splits


def records(n=100, language="en", split=""):
    return [Record(f"{language} {i}", i % 2 == 0, language, split, "x") for i in range(n)]


def test_splits_are_disjoint_balanced_and_do_not_depend_on_the_order():
    made = records() + records(50, "fr")
    found, notes = split_texts(made)
    assert notes == [] and len(found) == 150
    for language, n in (("en", 100), ("fr", 50)):
        for split, share in SPLITS.items():
            part = [r for r in found if (r.language, r.split) == (language, split)]
            assert len(part) == round(n * share) and sum(r.toxic for r in part) * 2 == len(part)
    again, _ = split_texts(made[::-1])
    assert {r.text: r.split for r in again} == {r.text: r.split for r in found}
    other, _ = split_texts(made, seed=1)
    assert {r.text: r.split for r in other} != {r.text: r.split for r in found}


def test_what_is_left_out_is_said():
    made = records(40)
    made += [made[0], made[1]._replace(text="EN  1")]  # repeated, but for case and spaces
    made += [made[2]._replace(toxic=not made[2].toxic)]  # labelled both ways
    made += [Record(f"more {i}", True, "en", "", "x") for i in range(20)]
    found, notes = split_texts(made)
    said = " ".join(notes)
    assert "2 repeated texts" in notes and "2 texts with both labels" in notes
    assert "to balance the labels" in said
    assert len(found) + sum(int(note.split()[0]) for note in notes) == len(made)
    assert not any(r.text == made[2].text for r in found)


def test_given_splits_are_kept_and_a_leak_is_refused():
    made = [r for split in SPLITS for r in records(10, "en", split)]
    made = [r._replace(text=f"{r.split} {r.text}") for r in made]
    found, _ = split_texts(made)
    assert sorted(found) == sorted(made)
    first = next(r for r in made if r.split == "discovery")
    with pytest.raises(ValueError, match=r"in splits \['discovery', 'test'\]: 'd•••"):
        split_texts([*made, first._replace(split="test", text=first.text.upper())])


def test_a_language_without_a_label_is_refused():
    with pytest.raises(ValueError, match="language 'fr' has no clean text for discovery"):
        split_texts(records() + [r._replace(toxic=True) for r in records(20, "fr")])


def test_the_tiny_world_shares_no_insult_between_splits():
    found = tiny_texts({"discovery": 40, "test": 40}, ["en", "zh"])
    assert len(found) == 320 and {r.split for r in found} == {"discovery", "test"}
    same, notes = split_texts(found)
    assert len(same) == 320 and not notes


def test_masked():
    assert masked("you fool, café 老师!") == "y•• f•••, c••• 老•!"
    assert masked("you fool", raw=True) == "you fool"


def test_the_hub_needs_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match=r"qs-helpers\[data\]"):
        hub_texts("textdetox/multilingual_toxicity_dataset")


def test_hub_rows(monkeypatch):
    class Rows(list):
        column_names = ("text", "toxic")

        def shuffle(self, seed):
            return self

    def load(name, revision=None):
        assert (name, revision) == ("some/set", "v2")
        rows = Rows({"text": f"t{i}", "toxic": i % 2} for i in range(20))
        return {"en": rows, "fr": rows, "xx": Rows()}

    fake = type("datasets", (), {"load_dataset": staticmethod(load)})
    monkeypatch.setitem(__import__("sys").modules, "datasets", fake)
    found = load_texts("some/set@v2", ["en", "fr"], most=5)
    assert len(found) == 20 and {r.language for r in found} == {"en", "fr"}
    assert found[0] == Record("t0", False, "en", "", "some/set@v2")
    with pytest.raises(ValueError, match="some/set@v2 has no split ja; it has en, fr, xx"):
        load_texts("some/set@v2", ["ja"])
    Rows.column_names = ("text",)
    with pytest.raises(ValueError, match="no toxic"):
        hub_texts("some/set@v2")


def test_a_file_is_no_dataset_of_the_hub(tmp_path, monkeypatch):
    from qs_helpers.presets import dataset_name

    assert dataset_name("some/set@v2") == "some/set"
    assert dataset_name("") is None and dataset_name("texts.csv") is None
    assert dataset_name("some/texts.csv") is None and dataset_name("/a/b") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "set").mkdir(parents=True)
    assert dataset_name("some/set") is None
    path = write(tmp_path, [{"text": "a", "toxic": 0}, {"text": "b", "toxic": 1}])
    assert len(load_texts(str(path))) == 2


def test_the_notebook_runs_on_a_users_file_of_200_texts(tmp_path):
    made = [
        {"text": t.text, "toxic": int(t.label == "toxic"), "language": language}
        for language in ("en", "fr")
        for t in corpus.remarks(language, "discovery", 50)
    ]
    assert len(made) == 200
    notebook = project_root() / "notebooks" / "04_toxicity.ipynb"
    papermill.execute_notebook(
        notebook,
        tmp_path / "04.ipynb",
        {"DATA": str(write(tmp_path, made))},
        progress_bar=False,
        kernel_name="python3",
        cwd=str(notebook.parent),
    )
    results = json.loads((tmp_path / "runs" / "04_toxicity" / "results.json").read_text("utf-8"))
    texts = [claim["text"] for claim in results["claims"]]
    assert any(text.startswith("F1 of the OR over 1") for text in texts) and len(texts) > 10


# ---- prompts


def test_prompts_of_the_tiny_world_share_no_frame_and_no_verb_between_splits():
    found = load_prompts([], {"discovery": 30, "validation": 30, "test": 30}, ["en"])
    assert set(found) == {(s, bad) for s in corpus.SPLITS for bad in (True, False)}
    assert all(len(rows) == 30 for rows in found.values())
    for part in (1, 2):  # "request/frame/verb"
        names = [{r.source.split("/")[part] for r in found[s, True]} for s in corpus.SPLITS]
        assert not names[0] & names[1] and not names[1] & names[2] and not names[0] & names[2]


def test_twins_differ_in_one_run_of_letters():
    for language in corpus.LANGUAGES:
        for bad, good in tiny_twins(5, "test", [language]):
            assert bad.toxic and not good.toxic and bad.text != good.text
            a, b = bad.text, good.text
            start = next(i for i in range(len(a)) if a[i] != b[i])
            end = next(i for i in range(len(a)) if a[-1 - i] != b[-1 - i])
            verbs = [r.text for r in load_prompts([], {"test": 60}, [language])["test", True]]
            assert start + end > 0.3 * len(b), (a, b)
            assert any(a == verb for verb in verbs) or len(verbs) == 60


def test_a_file_of_prompts_is_split_and_capped(tmp_path):
    path = tmp_path / "prompts.csv"
    rows = [
        {"text": f"do thing {i} {bad}", "harmful": bad, "language": "en"}
        for i in range(50)
        for bad in (0, 1)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    found = load_prompts([path], {"discovery": 20, "validation": 5, "test": 10}, ["en"])
    assert {key: len(x) for key, x in found.items()} == {
        (split, bad): n
        for split, n in (("discovery", 20), ("validation", 5), ("test", 10))
        for bad in (True, False)
    }
    texts = [r.text for x in found.values() for r in x]
    assert len(texts) == len(set(texts))


def test_other_languages_are_left_out_and_none_is_the_first(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"text": f"{lang} {i} {bad}", "harmful": bad, "language": lang}
        for i in range(10)
        for bad in (0, 1)
        for lang in ("", "de")
    ]
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)
    n = {"discovery": 9, "validation": 9, "test": 9}
    found = load_prompts([path], n, ["fr", "en"])
    assert {r.language for x in found.values() for r in x} == {"fr"}


def test_bad_prompt_files_are_refused_with_a_reason(tmp_path):
    for name, table, message in (
        ("column", {"text": ["a", "b"], "bad": [0, 1]}, "no column 'harmful'"),
        ("one", {"text": ["a", "b"], "harmful": [1, 1]}, "both labels"),
    ):
        path = tmp_path / f"{name}.csv"
        pd.DataFrame(table).to_csv(path, index=False)
        with pytest.raises(ValueError, match=message):
            load_prompts([path], {"discovery": 1, "validation": 1, "test": 1}, ["en"])
    with pytest.raises(ValueError, match="3 prompt sources"):
        load_prompts(["a", "b", "c"], {}, [])


class Rows(list):
    column_names = ("text",)

    def shuffle(self, seed):
        return self


def test_two_hub_datasets_make_one_list(monkeypatch):
    asked = []

    def load_dataset(name, revision=None):
        asked.append((name, revision))
        return {"train": Rows([{"text": f"{name} {i}"} for i in range(4)]), "test": Rows()}

    fake = types.SimpleNamespace(
        load_dataset=load_dataset, concatenate_datasets=lambda parts: Rows(sum(parts, []))
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    found = hub_prompts("x/bad@abc", "x/good", most=3)
    assert asked == [("x/bad", "abc"), ("x/good", None)]
    assert [r.toxic for r in found] == [True] * 3 + [False] * 3
    assert found[0] == Record("x/bad 0", True, "en", "", "x/bad@abc")
    Rows.column_names = ("prompt",)
    with pytest.raises(ValueError, match="no text"):
        hub_prompts("x/bad", "x/good")
