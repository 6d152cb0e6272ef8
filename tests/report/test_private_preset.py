"""A model and a suite of somebody's own, in local folders, need a YAML and nothing else."""

import pytest

import qs_helpers as qs
from qs_helpers.loading.catalog import find_origin
from qs_helpers.loading.scope import load_model_and_suite


def test_a_private_preset_is_loaded_by_its_name(private):
    scope = qs.load_scope("mine")
    assert (scope.name, scope.is_tiny, scope.batch_tokens) == ("mine", False, 4096)
    small = qs.load_scope("mine", batch_tokens=40)
    texts = ["The cook saw a house.", "Rain.", "She read a book in the garden and went home."]
    assert small.batch_tokens == 40
    assert qs.text_nats(small, texts) == pytest.approx(qs.text_nats(scope, texts), rel=1e-5)
    own = load_model_and_suite("mine", "own")
    assert own.name == "mine"
    read_by = load_model_and_suite("mine", "tiny")
    assert not read_by.is_tiny and "my-model" in read_by.name


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
    (tmp_path / "qwen3-8b-l50.yaml").write_text("scope:\n  thinking: true\n")
    assert find_origin("qwen3-8b-l50", tmp_path).thinking is True
    assert find_origin("qwen3-8b-l50", tmp_path, thinking=False).thinking is False
    assert find_origin("qwen3-8b-l100", tmp_path).thinking is False
