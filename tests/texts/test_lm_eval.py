"""The questions in the package lm-eval: from a wheel that is made up, and what there is not."""

import hashlib
import zipfile

import pytest

from qs_helpers.texts import lm_eval, load_texts

FILES = {
    "mmlu/flan_cot_fewshot/mmlu_anatomy.yaml": (
        "dataset_name: anatomy\ntag: mmlu_flan_cot_fewshot_stem\nmetric: !function utils.score\n"
        'fewshot_config:\n  samples:\n  - {question: "where is it?", target: here}\n'
        '  - {question: "and that?", target: there}\n'
    ),
    "mmlu/flan_cot_fewshot/mmlu_law.yaml": (
        "dataset_name: law\ntag: mmlu_flan_cot_fewshot_other\n"
        'fewshot_config:\n  samples:\n  - {question: "may I?", target: no}\n'
    ),
    "mmlu/flan_cot_fewshot/_mmlu.yaml": "group: mmlu\n",
    "bbh/cot_fewshot/logic.yaml": (
        "dataset_name: logic\nfewshot_config: {samples: [{input: not True is, target: False}]}\n"
    ),
    "gsm8k/gsm8k-cot.yaml": 'fewshot_config: {samples: [{question: "how many?", target: 3}]}\n',
    "gsm8k/gsm8k.yaml": "task: gsm8k\n",
}


@pytest.fixture(autouse=True)
def wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("QS_RUNS", str(tmp_path))
    path = tmp_path / "packages" / lm_eval.WHEEL.wheel
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(f"lm_eval/tasks/{name}", text)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(lm_eval, "WHEEL", lm_eval.WHEEL._replace(sha256=sha256))
    return path


def test_items_have_subjects_and_come_from_the_tasks_own_files():
    every = load_texts("lm-eval:mmlu", "items")
    assert {(t.text, t.label) for t in every} == {
        ("where is it?", "anatomy"),
        ("and that?", "anatomy"),
        ("may I?", "law"),
    }
    assert {t.group for t in every} == {"mmlu_anatomy.yaml", "mmlu_law.yaml"}
    assert [t.text for t in load_texts("lm-eval:mmlu/other", "items")] == ["may I?"]
    assert [t.label for t in load_texts("lm-eval:bbh", "items")] == ["logic"]
    assert [t.label for t in load_texts("lm-eval:gsm8k", "items")] == [""]


def test_what_there_is_not(wheel):
    with pytest.raises(ValueError, match="source 'lm-eval:mmul': did you mean mmlu"):
        load_texts("lm-eval:mmul", "items")
    with pytest.raises(ValueError, match="lm-eval has items only, no passages"):
        load_texts("lm-eval:mmlu", "passages")
    wheel.write_bytes(b"cut")
    with pytest.raises(ValueError, match="is damaged or not the one we know"):
        load_texts("lm-eval:mmlu", "items")
