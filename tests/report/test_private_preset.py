"""A model and a suite of somebody's own, in local folders, need a YAML and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import qs_helpers as qs
from qs_helpers.loading.catalog import TINY
from qs_helpers.loading.origin import find_origin
from qs_helpers.report import check as planning
from qs_helpers.report import run as reporting
from qs_helpers.studies.refusal import load_refuser
from qs_helpers.tiny import corpus

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with 01 and a preset "mine": copies of a model and a suite, under other names."""
    params = tmp_path / "notebooks" / "params"
    params.mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "01_load.ipynb", params.parent)
    shutil.copytree(TINY["tiny"] / "model", tmp_path / "weights" / "my-model")
    shutil.copytree(TINY["tiny"] / "sae", tmp_path / "weights" / "my-saes")
    sections = yaml.safe_load((ROOT / "notebooks" / "params" / "tiny.yaml").read_text())
    sections = {name: sections[name] for name in ("common", "01_load")}
    sections["01_load"] |= {"LAYERS": [2, 3], "N_TEXTS": 8}
    weights = "../../weights"
    sections["scope"] = {"model": f"{weights}/my-model", "sae": f"{weights}/my-saes"}
    write(params, sections)
    monkeypatch.setenv("QS_ROOT", str(tmp_path))
    return tmp_path


def write(params, sections):
    (params / "mine.yaml").write_text(yaml.safe_dump(sections))


@pytest.mark.slow
def test_a_report_on_a_private_preset(project):
    index, outcomes = reporting.report(planning.plan_report("mine"), quiet=True)
    assert [o.error for o in outcomes] == [None]
    results = json.loads((index.parent / "01_load" / "results.json").read_text())
    assert results["provenance"]["name"] == "mine"
    assert results["provenance"]["model"]["source"].endswith("my-model")
    assert results["params"]["LAYERS"] == [2, 3]
    page = (index.parent / "01_load.html").read_text()
    assert "tiny scope: a test bed" not in page and "[tiny scope]" not in page


@pytest.mark.slow
def test_04_on_a_relative_file_and_06_on_a_model_of_ones_own(project):
    """Copies of a model that refuses; a file beside the preset; small sizes."""
    weights, params = project / "weights", project / "notebooks" / "params"
    for part, name in (("model", "my-model"), ("sae", "my-saes")):
        shutil.rmtree(weights / name)
        shutil.copytree(TINY["tiny-instruct"] / part, weights / name)
    for name in ("04_toxicity", "06_abliteration_comparison"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", params.parent)
    rows = [{"text": t.text, "toxic": int(t.label == "toxic"), "language": "en"}
            for t in corpus.remarks("en", "discovery", 60)]  # fmt: skip
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (params / "mine.jsonl").write_text(lines)
    tiny = yaml.safe_load((ROOT / "notebooks" / "params" / "tiny-instruct.yaml").read_text())
    sections = yaml.safe_load((params / "mine.yaml").read_text())
    sections["04_toxicity"] = tiny["04_toxicity"] | {"DATA": "mine.jsonl", "LAYERS": [2]}
    sections["06_abliteration_comparison"] = tiny["06_abliteration_comparison"] | {
        **{"MODELS": ["mine"], "SUITES": ["own"], "LANGUAGES": ["en"], "N_TEST": 24},
        **{"N_TRAIN": 24, "LAYERS": [1, 2], "REDRAWS": 3},
    }
    write(params, sections)
    plan = planning.plan_report("mine", ["04", "06"])
    index, outcomes = reporting.report(plan, quiet=True)
    assert [o.error for o in outcomes] == [None, None]
    for name in ("04_toxicity", "06_abliteration_comparison"):
        results = json.loads((index.parent / name / "results.json").read_text())
        assert "my-model" in json.dumps(results["provenance"]) and results["claims"]
    assert planning.plan_report("mine", ["04", "06"]).stale == dict.fromkeys(
        ["04_toxicity", "06_abliteration_comparison"], ""
    )
    (params / "mine.jsonl").write_text(lines.replace("the", "a"))
    (weights / "my-saes" / "note.txt").write_text("other weights")
    assert planning.plan_report("mine", ["04", "06"]).stale == dict.fromkeys(
        ["04_toxicity", "06_abliteration_comparison"], "changed: the data"
    )


def test_a_private_preset_is_loaded_by_its_name(project):
    scope = qs.load_scope("mine")
    assert (scope.name, scope.is_tiny, scope.batch_tokens) == ("mine", False, 4096)
    small = qs.load_scope("mine", batch_tokens=40)
    texts = ["The cook saw a house.", "Rain.", "She read a book in the garden and went home."]
    assert small.batch_tokens == 40
    assert qs.text_nats(small, texts) == pytest.approx(qs.text_nats(scope, texts), rel=1e-5)
    own = load_refuser("mine", "own")
    assert own.name == "mine"
    read_by = load_refuser("mine", "tiny")
    assert not read_by.is_tiny and "my-model" in read_by.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scope": {"modle": "x"}}, "mine.yaml, scope: 'modle'; did you mean model"),
        ({"scope": {"k": 0}}, "mine.yaml, scope: k = 0: at least 1"),
        ({"scope": {"device": "gpu"}}, "scope: device 'gpu'; known: cpu"),
        ({"scope": {"dtype": "bf16"}}, "scope: dtype 'bf16'; did you mean bfloat16"),
        ({"common": {"SEDE": 1}}, "mine.yaml, common: SEDE; did you mean SEED?"),
        ({"01_laod": {}}, "mine.yaml: section '01_laod'; did you mean 01_load?"),
        ({"scope": {"model": 3}}, "mine.yaml, scope: model = 3 is int, but str is expected"),
        ({"01_load": {"LAYERS": [2]}}, "mine.yaml lacks N_TEXTS of 01_load"),
        ({"01_load": {"LAYERS": [2], "N_TEXTS": "8"}}, "01_load: N_TEXTS = '8' is str, but int"),
        ({"01_load": {"LAYERS": [9], "N_TEXTS": 8}}, r"01_load: LAYERS has \[9\], but the SAEs"),
        ({"01_load": {"LAYERS": [2], "N_TEXTS": 8, "N_TXTS": 8}}, "N_TXTS; did you mean N_TEXTS?"),
    ],
)
def test_mistakes_in_a_private_preset_are_named_before_anything_runs(project, change, message):
    params = project / "notebooks" / "params"
    sections = yaml.safe_load((params / "mine.yaml").read_text())
    change = {name: sections["scope"] | values if name == "scope" else values
              for name, values in change.items()}  # fmt: skip
    write(params, sections | change)
    with pytest.raises((ValueError, TypeError), match=message):
        planning.plan_report("mine")


def test_what_is_given_comes_before_the_file_and_the_file_before_the_catalog(tmp_path):
    (tmp_path / "qwen3-8b-l50.yaml").write_text("scope:\n  dtype: bfloat16\n  sae: /elsewhere\n")
    origin = find_origin("qwen3-8b-l50", tmp_path)
    assert (origin.name, origin.dtype, origin.sae) == ("qwen3-8b-l50", "bfloat16", "/elsewhere")
    assert origin.model == "Qwen/Qwen3-8B-Base" and origin.group is None
    assert origin.model_revision and origin.sae_revision is None
    origin = find_origin("qwen3-8b-l50", tmp_path, dtype="float32", model="a/b")
    assert (origin.name, origin.dtype, origin.model) == (None, "float32", "a/b")
    assert origin.model_revision is None
    assert find_origin("qwen3-8b-l100", tmp_path).group.name == "qwen3-8b-l100"
