"""Features as a training signal: the excess and its file."""

import json

import numpy as np
import pytest
import torch
from suites import begun

import qs_helpers as qs
from qs_helpers.training.excess import (
    excess,
    export_excess,
    open_share,
    read_excess,
    single_feature,
    usual_levels,
)

TEXTS = ["老师在学校读书。", "医生买面包，但是老师买鱼。"]


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.fixture(scope="module")
def signal(scope):
    return usual_levels(scope, TEXTS, 3, [5, 9, 11])


def test_excess_is_the_rise_above_the_usual_level(scope, signal):
    sae, rows = scope.sae(3), []
    for text in TEXTS:
        with qs.capture(scope.model, [3]) as captured:
            scope.model(**scope.tokens(text))
        rows.append(captured[3][0] @ sae.W_enc[[5, 9, 11]].T + sae.b_enc[[5, 9, 11]])
    usual = torch.cat([row[1:] for row in rows]).mean(0)
    assert signal.usual == pytest.approx(usual.tolist(), rel=1e-3)
    for row, found in zip(rows, excess(scope, TEXTS, signal), strict=True):
        assert found == pytest.approx((row - usual).relu().mean(1).numpy(), abs=1e-2)


def test_the_exported_jsonl_has_its_schema_and_loads_with_datasets(scope, signal, tmp_path):
    path = export_excess(tmp_path / "excess.jsonl", scope, TEXTS, ["zh", "zh"], signal)
    rows = read_excess(path)
    for text, row in zip(TEXTS, rows, strict=True):
        assert row["text"] == text and row["scope"] == "tiny" and row["features"] == [5, 9, 11]
        assert len(row["tokens"]) == len(row["excess"]) == len(scope.ids([text])[0])
        assert row["reward"] == pytest.approx(-np.mean(row["excess"]), abs=1e-5)
    broken = rows[0] | {"excess": rows[0]["excess"][:-1]}
    path.write_text(json.dumps(broken) + "\n")
    with pytest.raises(ValueError, match="line 1: not one excess for each token"):
        read_excess(path)
    path.write_text(json.dumps({k: v for k, v in rows[0].items() if k != "reward"}) + "\n")
    with pytest.raises(ValueError, match="line 1: reward is no float"):
        read_excess(path)


def test_datasets_reads_the_jsonl(scope, signal, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
    path = export_excess(tmp_path / "excess.jsonl", scope, TEXTS, ["zh", "zh"], signal)
    rows = datasets.load_dataset("json", data_files=str(path), cache_dir=str(tmp_path))["train"]
    assert rows["text"] == TEXTS and len(rows[0]["excess"]) == len(rows[0]["tokens"])


@pytest.mark.parametrize(
    "texts",
    [
        ["the dog\u2028sees", "a\x85b", "x\u2029y"],
        ["one\ntwo", "one\r\ntwo", "\x0b a \x1c b"],
        ['"quoted"', "back\\slash", "\ufeffmark"],
        ["名前 🙂", "\u200fمرحبا", "e\u0301"],
    ],
)
def test_whatever_is_in_the_texts_is_read_back(scope, signal, tmp_path, texts):
    path = export_excess(tmp_path / "x.jsonl", scope, iter(texts), ["en"] * 3, signal)
    assert [row["text"] for row in read_excess(path)] == texts
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert [row["text"] for row in read_excess(path)] == texts


def test_one_text_is_one_row(scope, signal, tmp_path):
    path = export_excess(tmp_path / "x.jsonl", scope, TEXTS[0], "zh", signal)
    assert [row["text"] for row in read_excess(path)] == TEXTS[:1]
    assert excess(scope, [], signal) == [] and len(excess(scope, TEXTS[0], signal)) == 1
    for texts, says in (([], "no text has two tokens"), (["a"], "no text has two tokens")):
        with pytest.raises(ValueError, match=says):
            usual_levels(scope, texts, 3, [5])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 3: no JSON"),
        ("[1]", "line 3: not an object"),
        ("\u2028", "line 3: no JSON"),
        ('"text"', "line 3: not an object"),
        (json.dumps({"text": "a"}), "line 3: language is no str"),
        ({"reward": float("nan")}, "line 3: reward or excess is no finite number"),
        ({"excess": ["a"], "tokens": ["a"]}, "line 3: reward or excess is no finite number"),
    ],
)
def test_a_bad_line_has_its_right_number(scope, signal, tmp_path, line, says):
    path = export_excess(tmp_path / "x.jsonl", scope, ["a\u2028\x85b"], ["en"], signal)
    if isinstance(line, dict):
        line = json.dumps(read_excess(path)[0] | line)
    path.write_text(path.read_text("utf-8") + f"\n{line}\n", "utf-8")
    with pytest.raises(ValueError, match=says):
        read_excess(path)


def test_an_excess_belongs_to_a_token_of_the_text(scope, signal, tmp_path):
    with_bos = begun(scope)
    path = export_excess(tmp_path / "excess.jsonl", with_bos, TEXTS, ["zh", "zh"], signal)
    plain = export_excess(tmp_path / "plain.jsonl", scope, TEXTS, ["zh", "zh"], signal)
    for row, other in zip(read_excess(path), read_excess(plain), strict=True):
        assert row["tokens"] == other["tokens"] and row["excess"] != other["excess"]


def test_a_single_feature_is_judged_on_other_pairs_than_chose_it():
    rng = np.random.default_rng(0)
    values = list(rng.normal(size=(80, 6, 30)))  # 40 slips, then 40 matched places
    places, groups = [4] * 80, [str(i % 10) for i in range(80)]
    for i in range(40):
        values[i][4, 7] += 5  # at the place itself, feature 7 tells
    found = single_feature(values, places, 0, groups)
    assert found.value > 0.95 and found.n == 40
    assert 0.2 < single_feature(values, places, 1, groups).value < 0.8  # 30 were tried: no luck
    for i in range(0, 40, 2):
        values[i][3, 3] += 9  # only where it is chosen
    assert single_feature(values, places, 1, groups).value < 0.8


def test_a_gate_is_open_where_any_feature_is_above_its_usual_level(scope):
    texts = ["老师读书。医生买鱼。", "the cook buys bread."]
    signal = usual_levels(scope, texts, 3, [5, 9, 11])
    low = signal._replace(usual=(-1e9, *signal.usual[1:]))
    high = signal._replace(usual=(1e9,) * 3)
    assert open_share(scope, texts, low) == 1 and open_share(scope, texts, high) == 0
    assert 0 < open_share(scope, texts, signal) < 1
