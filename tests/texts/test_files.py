"""Rows of files: read alike whatever the format, and bad files are named."""

import json

import pytest

from qs_helpers.texts import load_texts
from qs_helpers.texts.files import rows as file_rows


def test_csv_and_jsonl_are_read_alike(write, make):
    made = [
        *make(),
        {"text": 'with, a comma and "quotes"\nand a line', "toxic": 1, "language": "zh"},
    ]
    found = [list(file_rows(write(made, name))) for name in ("mine.csv", "mine.jsonl")]
    same = [[{k: str(v) for k, v in row.items()} for _, row in read] for read in found]
    assert same[0] == same[1] and len(same[0]) == 21
    assert [where for where, _ in found[0]][:2] == ["mine.csv, line 2", "mine.csv, line 3"]
    assert [where for where, _ in found[1]][:2] == ["mine.jsonl, line 1", "mine.jsonl, line 2"]


def test_txt_is_a_text_a_line_or_a_paragraph(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("one\ntwo \n\n \nthree\nfour\r\n", "utf-8-sig")
    lines = [("mine.txt, line 1", "one"), ("mine.txt, line 2", "two")]
    lines += [("mine.txt, line 5", "three"), ("mine.txt, line 6", "four")]
    assert [(where, row["text"]) for where, row in file_rows(path)] == lines
    paragraphs = [("mine.txt, line 1", "one\ntwo "), ("mine.txt, line 5", "three\nfour")]
    found = [(where, row["text"]) for where, row in file_rows(path, paragraphs=True)]
    assert found == paragraphs


@pytest.mark.parametrize("kind", ["openings", "questions", "items", "passages"])
def test_kinds_of_a_txt(tmp_path, kind):
    path = tmp_path / "mine.txt"
    path.write_text("\n\n".join(f"the first line of {i}\nthe second of {i}" for i in range(10)))
    found = load_texts(path, kind, ["en"])
    assert len(found) == (10 if kind == "passages" else 20)
    assert {(t.language, t.label, t.source) for t in found} == {("en", "", "mine.txt")}


def test_a_txt_says_no_labels(tmp_path):
    (tmp_path / "mine.txt").write_text("a\n")
    for kind, positive in (("remarks", "toxic"), ("requests", "harmful")):
        with pytest.raises(ValueError, match=f"which texts are {positive}; use .csv or .jsonl, or"):
            load_texts(tmp_path / "mine.txt", kind)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mine.doc", "a", "neither .csv, .jsonl nor .txt; convert it"),
        ("mine.jsonl", '{"text": "a"', "mine.jsonl, line 1: no JSON object: "),
        (
            "mine.jsonl",
            '{"text": "a", "toxic": 1}\n\n{"text": }\n',
            "line 3: no JSON object: .*character 10",
        ),
        ("mine.jsonl", '{"text": "a\u2028b", "toxic": 1}\nnot\n', "line 2: no JSON object"),
        (
            "mine.jsonl",
            '{"text": "a", "toxic": 1, "text": "b"}',
            "line 1: .*'text' stands in it twice",
        ),
        ("mine.jsonl", '{"text": "a", "toxic": NaN}\n', "line 1: the label ''"),
        ("mine.jsonl", '{"text": "a", "toxic": ""}\n', "line 1: the label ''"),
        ("mine.csv", "text,toxic,text\na,1,b\n", "line 1: two columns are called 'text'; rename"),
        ("mine.csv", 'sep=;\ntext;toxic\n"a"b;1\n', "line 3: .*expected after"),
        ("mine.csv", "text;toxic\na;1;2\n", "line 2: another number .* separator ';'"),
        ("mine.jsonl", "[1, 2]\n", "line 1: not an object"),
        ("mine.csv", "text,toxic\na,1,2\n", "line 2: another number of columns"),
        ("mine.csv", "text,toxic\na\n", "line 2: another number of columns"),
        ("mine.csv", "text,toxic\n", "mine.csv holds no texts"),
        ("mine.csv", "", "mine.csv holds no texts"),
        ("mine.jsonl", json.dumps({"text": "\ud83d", "toxic": 1}), "line 1: .* half a character"),
    ],
)
def test_bad_files(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        load_texts(tmp_path / name, "remarks")


@pytest.mark.parametrize(
    "content",
    [
        '"text";"toxic"\n"you, fool";1\n"nice";0\n',
        '"text"\t"toxic"\n"you, fool"\t1\n"nice"\t0\n',
        'sep=,\r\n"text","toxic"\r\n"you, fool",1\r\n"nice",0\r\n',
        '\ufeff"sep=;"\ntext;toxic\n"you, fool";1\nnice;0\n',
        "sep=\t\ntext\ttoxic\nyou, fool\t1\nnice\t0\n",
        'text,toxic\n"you, fool",1\nnice,0\n',
    ],
)
def test_tables_of_spreadsheets_are_read(tmp_path, content):
    (tmp_path / "mine.csv").write_text(content, "utf-8", newline="")
    found = [row for _, row in file_rows(tmp_path / "mine.csv")]
    assert found == [{"text": "you, fool", "toxic": "1"}, {"text": "nice", "toxic": "0"}]


def test_a_text_may_be_longer_than_csv_allows_by_itself(tmp_path):
    (tmp_path / "mine.csv").write_text("text,toxic\n" + "x" * 200_000 + ",1\n")
    assert [len(row["text"]) for _, row in file_rows(tmp_path / "mine.csv")] == [200_000]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_json_lines_end_at_the_line_feed_alone(tmp_path, mark):
    texts = [f"one{mark}two", "three"]
    content = "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    (tmp_path / "mine.jsonl").write_text(content, "utf-8-sig", newline="")
    found = list(file_rows(tmp_path / "mine.jsonl"))
    assert [row["text"] for _, row in found] == texts
    assert found[1][0] == "mine.jsonl, line 2"


def test_a_label_that_is_missing_is_not_the_other_one(tmp_path):
    rows = ['{"text": "a", "label": "bad"}', '{"text": "b", "label": NaN}']
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="line 2: there is no label"):
        load_texts(tmp_path / "mine.jsonl", "remarks", columns={"positive": "bad"})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="mine.csv: there is no such file"):
        load_texts(tmp_path / "mine.csv", "remarks")


def test_other_encodings_are_named(write, make):
    path = write([{"text": "café", "toxic": 1}, {"text": "b", "toxic": 0}], encoding="latin-1")
    with pytest.raises(ValueError, match="mine.csv.*not UTF-8"):
        load_texts(path, "remarks")
    mixed = write(make())
    mixed.write_bytes(mixed.read_bytes() + "é,1,fr\r\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        load_texts(mixed, "remarks")
    assert len(load_texts(write(make(), encoding="utf-8-sig"), "remarks")) == 20
