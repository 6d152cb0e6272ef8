"""Datasets of the Hub: from a server on loopback, and what is refused."""

import csv
import os
import subprocess
import sys
import types

import pytest
from hub_server import HubServer

from qs_helpers.presets import dataset_name, dataset_parts
from qs_helpers.texts import Text, load_texts
from qs_helpers.texts.hub import commit
from qs_helpers.texts.hub import rows as hub_rows

SPOKEN = """---
configs:
- config_name: default
  data_files:
  - {split: en, path: en.csv}
  - {split: fr, path: fr.csv}
---
"""
CONFIGURED = """---
configs:
- {config_name: easy, data_files: [{split: test, path: easy.csv}]}
- {config_name: hard, data_files: [{split: test, path: hard.csv}]}
---
"""
CODE = """
import sys
from qs_helpers.texts import load_texts
source, kind = eval(sys.argv[1])
found = load_texts(source, kind, ["fr"], 4)
print(sorted({text.source for text in found}), len(found), sorted(found)[0].text)
"""


def repo(folder, **tables):
    """A dataset: a .csv file a part."""
    folder.mkdir()
    for part, made in tables.items():
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(made[0]))
            writer.writeheader()
            writer.writerows(made)
    return folder


def test_a_hub_on_loopback_and_then_none(tmp_path):
    def made(name):
        return [{"text": f"{name} {i}", "toxic": i % 2} for i in range(30)]

    spoken = repo(tmp_path / "spoken", en=made("en"), fr=made("fr"))
    (spoken / "README.md").write_text(SPOKEN)
    one = [repo(tmp_path / name, train=made(name), test=made(f"more {name}")) for name in "ab"]
    hosts = {"x/spoken": spoken, "x/a": one[0], "x/b": one[1]}

    two = repo(tmp_path / "two", easy=made("easy"), hard=made("hard"))
    (two / "README.md").write_text(CONFIGURED)
    hosts["x/two"] = two

    def run(source, kind="remarks", **more):
        env = os.environ | {"HF_HOME": str(tmp_path / "home")} | more
        command = [sys.executable, "-c", CODE, repr((source, kind))]
        ran = subprocess.run(command, env=env, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return ran.stdout

    with HubServer(hosts) as server:
        online = {"HF_ENDPOINT": server.url}
        first = run("x/spoken", **online)
        assert "['x/spoken'] 20 fr" in first and "remarks; toxic 10, clean 10; fr 20" in first
        pair = run(["x/a", "x/b@main"], **online)
        assert "['x/a', 'x/b@main'] 24 a" in pair and "toxic 12, clean 12" in pair
        assert "['x/two:hard'] 4 hard" in run("x/two:hard", "items", **online)
    assert run("x/spoken", HF_HUB_OFFLINE="1") == first


# ---- with a library that is made up


class Rows(list):
    """Some rows, as a dataset's part."""


@pytest.fixture
def library(monkeypatch):
    """Let `datasets` give these parts; the list of what was asked for."""
    asked = []

    def serve(**parts):
        def load_dataset(name, configuration, revision=None):
            asked.append((name, revision) if configuration is None else (name, configuration))
            return parts

        fake = types.SimpleNamespace(load_dataset=load_dataset)
        monkeypatch.setitem(sys.modules, "datasets", fake)
        return asked

    return serve


def made(n=20, **more):
    return [{"text": f"t{i}", "toxic": i % 2} | more for i in range(n)]


def test_parts_named_by_language_codes_are_languages(library):
    parts = {
        lang: [row | {"text": f"{lang} {row['text']}"} for row in made()] for lang in ("en", "fr")
    }
    asked = library(**parts, xx=[])
    found = load_texts("some/set@v2", "remarks", ["en", "fr"], most=5)
    assert asked == [("some/set", "v2")] and len(found) == 20
    assert {(t.language, t.source) for t in found} == {("en", "some/set@v2"), ("fr", "some/set@v2")}
    assert len(load_texts("some/set@v2", "remarks")) == 40  # all of them
    with pytest.raises(ValueError, match="some/set@v2 has no split ja; it has en, fr, xx"):
        load_texts("some/set@v2", "remarks", ["en", "ja"])


def test_other_parts_are_joined_and_split_anew(library, capsys):
    library(train=made(20), dev=[{"text": "", "toxic": 1}, {"text": f"new {2}", "toxic": 1}])
    found = load_texts("some/set", "remarks", ["fr"])
    assert {t.language for t in found} == {"fr"} and "new 2" in {t.text for t in hub_texts()}
    assert "1 empty texts" in capsys.readouterr().out
    where = [where for where, _ in hub_rows("some/set")]
    assert where[:2] == ["some/set, train, row 0", "some/set, train, row 1"] and len(where) == 22


def hub_texts():
    return load_texts("some/set", "passages", ["fr"])


def test_a_column_split_is_kept(library):
    parts = ("discovery", "validation", "test")
    library(
        train=[row | {"text": f"{s} {row['text']}", "split": s} for s in parts for row in made(4)]
    )
    found = load_texts("some/set", "remarks")
    assert len(found) == 12 and all(t.text.startswith(t.split) for t in found)


def test_two_datasets_make_one_list(library):
    library(train=[{"text": f"t{i}"} for i in range(10)])
    words = "x/bad and x/good: nothing is left; there were 20 texts with both labels"
    with pytest.raises(ValueError, match=words):  # the made-up library gives the same for both
        load_texts(["x/bad", "x/good"], "requests", ["en"])


def test_other_columns_are_named(library):
    library(train=[{"prompt": "a", "n": 1}])
    with pytest.raises(
        ValueError, match="train, row 0: no column 'text' or 'harmful'; it has 'pro"
    ):
        load_texts("some/set", "requests")
    with pytest.raises(ValueError, match="no column 'text'; it has 'prompt', 'n'"):
        load_texts(["some/set", "some/set"], "requests")
    columns = {"text": "prompt"}
    library(train=[{"prompt": f"a {i}"} for i in range(10)])
    found = load_texts("some/set", "openings", columns=columns)
    assert len(found) == 10 and found[0] == Text(found[0].text, *found[0][1:5], "some/set")


def test_items_of_a_configuration(library):
    rows = [{"question": f"q{i}", "category": "sums", "split": "train"} for i in range(6)]
    asked = library(train=Rows(rows[:4]), test=Rows(rows[4:]))
    found = load_texts("openai/gsm8k:main@v2", "items")
    assert asked == [("openai/gsm8k", "main")] and len(found) == 6
    assert {(t.split, t.label, t.source) for t in found} == {
        ("test", "sums", "openai/gsm8k:main@v2")
    }


def test_the_hub_needs_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"qs-helpers\[data\]"):
        load_texts("textdetox/multilingual_toxicity_dataset", "remarks")


def test_a_file_is_no_dataset_of_the_hub(tmp_path, monkeypatch, write):
    assert dataset_name("some/set@v2") == dataset_name("some/set:easy@v2") == "some/set"
    assert dataset_parts("some/set:easy") == ("some/set", "easy", None)
    assert dataset_name("") is None and dataset_name("texts.csv") is None
    assert dataset_name("some/texts.csv") is None and dataset_name("/a/b") is None
    assert dataset_name("some/texts.txt") is None and dataset_name("tiny:story") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "set").mkdir(parents=True)
    assert dataset_name("some/set") is None
    with pytest.raises(ValueError, match="source 'some/set': there is no such file"):
        load_texts("some/set", "remarks")


def test_the_commit_that_was_read_is_asked_for_and_else_known(monkeypatch):
    import huggingface_hub

    pinned = "0123456789abcdef0123456789abcdef01234567"

    class Api:
        def dataset_info(self, repo_id, revision, timeout):
            return types.SimpleNamespace(sha=f"{repo_id} at {revision}")

        def resolve_revision(self, repo_id, revision, repo_type, local_files_only):
            assert repo_type == "dataset" and local_files_only
            return types.SimpleNamespace(resolved=f"{repo_id} kept as {revision}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert commit("x/a") == "x/a at main" and commit("x/a@v2") == "x/a at v2"
    assert commit("natural") is None and commit("mine.csv") is None

    def away(self, **_):
        raise ConnectionError

    monkeypatch.setattr(Api, "dataset_info", away)
    assert commit("x/a") == "x/a kept as main" and commit(f"x/a@{pinned}") == pinned
    monkeypatch.setattr(Api, "resolve_revision", away)
    assert commit("x/a") is None
