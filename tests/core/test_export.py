"""Exported vectors do in a runtime what the edit did here; what has none is refused."""

import re
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gguf_model
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from suites import random_sae, write_model, write_suite

import qs_helpers as qs
from qs_helpers import export
from qs_helpers.sae import TopKSAE
from qs_helpers.steering import diff_of_means, only_where, project_out, take

PAGE = Path(__file__).parents[2] / "docs" / "runtimes.md"
TEXTS = ["The ferry leaves at seven.", "Why do metals rust?", "Он читал книгу."]
SAME = 1e-4  # of logits, in float32
NO_LLAMA = "llama.cpp is not there: `make runtimes` builds it"


@pytest.fixture(scope="module")
def tiny():
    return qs.load_scope("tiny")


def random_scope(folder, **form):
    """Layers 0 to 5 with random weights, and their SAEs; form: of `write_model`."""
    model = write_model(folder / "model", n_layers=6, **form)
    suite = write_suite(folder / "suite", layers=range(6), n_layers=6)
    dtype = str(form.get("dtype", torch.float32)).removeprefix("torch.")
    return qs.load_scope(model=model, sae=suite, device="cpu", dtype=dtype, check=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return random_scope(tmp_path_factory.mktemp("plain"), dtype=torch.float32)


def sized(scope, layer, vector):
    """Half a median norm along a vector."""
    return qs.add(vector, 0.5, qs.scales(scope, TEXTS, [layer])[layer])


def feature(scope, layer):
    return sized(scope, layer, scope.sae(layer).direction(7)[0])


def two_features(scope, layer):
    """In units of activation, as far as half a median norm for each."""
    scale, columns = qs.scales(scope, TEXTS, [layer])[layer], scope.sae(layer).direction([7, 9])
    value = 0.5 * scale.median / columns.norm(dim=-1)
    return qs.change_features(scope.sae(layer), [7, 9], "add", scale, value)


def difference(scope, layer):
    return sized(scope, layer, diff_of_means(scope, TEXTS[2:], TEXTS[:2], [layer])[layer])


@torch.no_grad()
def logits(scope, ids, steer=None):
    """Float32 [len(ids), vocabulary], with our own hooks."""
    with qs.edit(scope.model, steer or {}):
        return scope.model(torch.tensor([ids])).logits[0].float()


# ---- llama.cpp


@pytest.fixture(scope="module", params=["plain", "tiny"])
def both(request, tmp_path_factory):
    """A scope, and its model in llama.cpp."""
    pytest.importorskip("llama_cpp", reason=NO_LLAMA)
    scope = request.getfixturevalue(request.param)
    path = gguf_model.write_gguf(scope.model, tmp_path_factory.mktemp("gguf") / "model.gguf")
    with gguf_model.opened(path) as llm:
        yield scope, llm


def gap(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("text", TEXTS)
def test_the_model_itself_is_the_same_in_llama_cpp(both, text):
    scope, llm = both
    (ids,) = scope.ids([text])
    assert gap(gguf_model.logits(llm, ids), logits(scope, ids)) <= SAME


@pytest.mark.parametrize("layers", [[1], [3], [5], [2, 4]], ids=str)
@pytest.mark.parametrize("make", [feature, two_features, difference])
def test_a_control_vector_does_in_llama_cpp_what_the_edit_does_here(both, make, layers, tmp_path):
    scope, llm = both
    (ids,) = scope.ids(TEXTS[:1])
    steer = {n: make(scope, n) for n in layers}
    path = qs.export_steering(tmp_path / "vector.gguf", steer, scope)
    theirs, ours = gguf_model.logits(llm, ids, path), logits(scope, ids, steer)
    assert gap(theirs, ours) <= SAME
    # What must not be the same: no edit at all, and that of the layer beside it.
    assert gap(theirs, logits(scope, ids)) > 100 * SAME
    shift = 1 if max(layers) < 5 else -1
    assert gap(gguf_model.logits(llm, ids, path, shift), ours) > 100 * SAME


def test_a_cache_in_half_precision_is_a_hundred_times_further_off(tiny, tmp_path):
    """The default of llama.cpp: a parity test that forgets it cannot be strict."""
    pytest.importorskip("llama_cpp", reason=NO_LLAMA)
    (ids,) = tiny.ids(TEXTS[:1])
    with gguf_model.opened(gguf_model.write_gguf(tiny.model, tmp_path / "m.gguf"), 1) as llm:
        assert 10 * SAME < gap(gguf_model.logits(llm, ids), logits(tiny, ids)) < 1000 * SAME


def test_the_control_vector_is_as_repeng_writes_it(plain, tmp_path):
    import gguf

    steer = {4: feature(plain, 4), 2: two_features(plain, 2)}
    reader = gguf.GGUFReader(qs.export_steering(tmp_path / "v.gguf", steer, plain))
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.architecture"] == "controlvector"
    assert values["controlvector.model_hint"] == "qwen3"
    assert values["controlvector.layer_count"] == 2
    assert values["general.description"] == export.NOT_CARRIED
    assert [t.name for t in reader.tensors] == ["direction.2", "direction.4"]
    for tensor, layer in zip(reader.tensors, (2, 4), strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert torch.equal(torch.tensor(tensor.data), steer[layer].adds)


# ---- safetensors, and plain hooks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_plain_hook_with_the_file_is_our_edit_bit_for_bit(dtype, tmp_path):
    scope = random_scope(tmp_path, dtype=dtype)
    (ids,) = scope.ids(TEXTS[:1])
    steer = {0: feature(scope, 0), 3: difference(scope, 3)}
    vectors = load_file(qs.export_steering(tmp_path / "v.safetensors", steer, scope))
    with hooked(scope.model, vectors):
        theirs = logits(scope, ids)
    assert torch.equal(theirs, logits(scope, ids, steer))
    assert gap(theirs, logits(scope, ids)) > 0.01


def test_features_are_added_up_to_their_last_digit(plain, tmp_path):
    """`change_features` adds (z + value) - z, which is not quite the value."""
    (ids,) = plain.ids(TEXTS[:1])
    steer = {3: two_features(plain, 3)}
    vectors = load_file(qs.export_steering(tmp_path / "v.safetensors", steer, plain))
    with hooked(plain.model, vectors):
        theirs = logits(plain, ids)
    assert gap(theirs, logits(plain, ids, steer)) < 1e-6 < 0.01 < gap(theirs, logits(plain, ids))


@contextmanager
def hooked(model, vectors):
    """What a tool without qs_helpers does with the file."""
    hooks = []
    for name, vector in vectors.items():
        block = model.model.layers[int(name.split(".")[1])]
        add = partial(lambda vector, module, args, x: (x.float() + vector).to(x.dtype), vector)
        hooks.append(block.register_forward_hook(add))
    yield
    for hook in hooks:
        hook.remove()


def test_the_file_says_what_it_is(plain, tmp_path):
    steer = {0: feature(plain, 0), 3: sized(plain, 3, torch.ones(16))}
    path = qs.export_steering(tmp_path / "v.safetensors", steer, plain)
    with safe_open(path, "pt") as file:
        said, names = file.metadata(), set(file.keys())
    assert names == {"layer.0", "layer.3"}
    assert said["format_version"] == "1" and said["layers"] == export.LAYERS
    assert said["not_carried"] == export.NOT_CARRIED
    assert (said["model"], said["model_type"]) == (plain.name, "qwen3")
    assert said["sha256"].split() == plain.fingerprint()["files"]
    for layer, edit in steer.items():
        assert float(said[f"norm.{layer}"]) == pytest.approx(edit.adds.norm().item(), rel=1e-5)
        assert float(said[f"strength.{layer}"]) == pytest.approx(0.5, rel=1e-5)


def test_a_model_alone_and_one_edit_for_two_layers(plain, tmp_path):
    bare, edit = SimpleNamespace(model=plain.model), feature(plain, 2)
    path = qs.export_steering(str(tmp_path / "v.safetensors"), {1: edit, 2: edit}, bare)
    assert torch.equal(load_file(path)["layer.1"], edit.adds)
    with safe_open(path, "pt") as file:
        assert file.metadata()["model"] == "" and "sha256" not in file.metadata()


def test_a_direction_in_training_is_exported(plain, tmp_path):
    direction = torch.ones(16, requires_grad=True)
    path = qs.export_steering(tmp_path / "v.safetensors", {3: qs.add(direction, 1, SCALE)}, plain)
    assert torch.equal(load_file(path)["layer.3"], ADD.adds)
    qs.export_steering(tmp_path / "v.gguf", {3: qs.add(direction, 1, SCALE)}, plain)


def test_a_sink_is_spared_here_and_not_in_a_runtime(tmp_path):
    """The docstring says so. A token with an embedding of 1000 times the size is a sink."""
    scope = random_scope(tmp_path, dtype=torch.float32)
    (ids,) = scope.ids(TEXTS[:1])
    scale = qs.scales(scope, TEXTS, [1])[1]
    scope.model.get_input_embeddings().weight.data[ids[0]] *= 1000
    steer = {1: qs.add(torch.ones(16), 0.5, scale)}
    vectors = load_file(qs.export_steering(tmp_path / "v.safetensors", steer, scope))
    plain, ours = (residual(scope, ids, given) for given in ({}, steer))
    with hooked(scope.model, vectors):
        theirs = residual(scope, ids, {})
    assert plain[0].norm() > scale.sink > plain[1:].norm(dim=-1).max()
    assert torch.equal(ours[0], plain[0]) and torch.equal(ours[1:], theirs[1:])
    assert torch.allclose(theirs[0] - plain[0], vectors["layer.1"], rtol=0.01)


@torch.no_grad()
def residual(scope, ids, steer):
    with qs.edit(scope.model, steer), qs.capture(scope.model, [1]) as residuals:
        scope.model(torch.tensor([ids]))
    return residuals[1][0]


# ---- what is refused

SCALE = qs.steering.Scale(3, 2.0, 1e9, 16, torch.float32)
SAE = TopKSAE(**random_sae(), k=4, layer=3)
ADD = qs.add(torch.ones(16), 1.0, SCALE)
VALUES = {"floor": 0.7, "ceil": 0.9, "clamp": 2.0, "scale": -1.0, "zero": None}
ARM = qs.steering.Arm({3: lambda x: x}, {3: SCALE}, lambda p: p.norm(dim=-1))
READS = {
    mode: (mode, lambda mode=mode: qs.change_features(SAE, 1, mode, SCALE, VALUES[mode]))
    for mode in VALUES
} | {
    "ablation": ("project_out", lambda: project_out(torch.ones(16), SCALE)),
    "gate": ("only_where", lambda: only_where(lambda x: x[..., 0] > 0, ADD)),
    "arm": ("take", lambda: take(ARM, 1.0)[3]),
    "own": ("test_export", lambda: lambda x: x + 1),
}


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
@pytest.mark.parametrize("name", READS)
def test_an_edit_that_reads_is_refused(name, suffix, plain, tmp_path):
    does, make = READS[name]
    does = re.escape(does) if name != "own" else ".+"
    words = rf"the edit at layer 3 changes by what it reads \({does}\); a runtime can only add one"
    with pytest.raises(ValueError, match=words + r".*: export qs.add\(...\) of the feature's"):
        qs.export_steering(tmp_path / f"v.{suffix}", {2: ADD, 3: make()}, plain)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "edit",
    [
        qs.add(torch.ones(16), torch.tensor([0.5, 1.0]), SCALE),
        qs.add(torch.eye(16)[:3], 1.0, SCALE),
        qs.change_features(SAE, [1, 2], "add", SCALE, torch.ones(3, 2)),
    ],
)
def test_rows_of_their_own_are_refused(edit, plain, tmp_path):
    with pytest.raises(ValueError, match="at layer 3 differs from row to row; a runtime can only"):
        qs.export_steering(tmp_path / "v.gguf", {3: edit}, plain)


def marked(vector):
    """An edit of somebody's own that says what it adds."""

    def edit(x):
        return x + vector

    edit.adds = vector
    return edit


@pytest.mark.parametrize(
    ("name", "steer", "words"),
    [
        ("v.pt", {3: ADD}, r"v.pt ends in '.pt'; choose .gguf or .safetensors"),
        ("v", {3: ADD}, r"v ends in ''; choose"),
        ("v.gguf", {}, r"steer is empty; give \{layer: qs.add\(...\)\}"),
        ("v.gguf", None, r"steer is a NoneType; give"),
        ("v.gguf", lambda rows: {3: ADD}, r"steer is a function; give .*the same for all prompts"),
        ("v.gguf", {"writes": ADD}, r"the edit at 'writes' .* export qs.add\(...\) at layers"),
        ("v.gguf", {6: ADD}, "layer 6 is out of range; choose from 0 to 5"),
        ("v.safetensors", {-1: ADD}, "layer -1 is out of range"),
        ("v.gguf", {0: ADD, 1: ADD}, "layer 0 has no place in v.gguf: .* or write .safetensors"),
        ("v.gguf", {3: marked(torch.ones(8))}, r"layer 3 is \(8,\), but the model has \[16\]"),
        ("v.gguf", {3: marked(torch.full((16,), torch.inf))}, "layer 3 holds NaN or inf; lower"),
    ],
)
def test_what_cannot_be_written_is_refused(name, steer, words, plain, tmp_path):
    (tmp_path / name).write_text("old")
    with pytest.raises(ValueError, match=words):
        qs.export_steering(tmp_path / name, steer, plain)
    assert (tmp_path / name).read_text() == "old"


def test_a_value_beyond_floats_is_refused(plain, tmp_path):
    edit = qs.change_features(SAE, [1, 1, 1, 1], "add", SCALE, 3e38)
    with pytest.raises(ValueError, match="layer 3 holds NaN or inf; lower its strength"):
        qs.export_steering(tmp_path / "v.gguf", {3: edit}, plain)


def test_without_gguf_it_says_what_to_install(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"v.gguf, gguf must be there: pip install gguf; 'qs-h"):
        qs.export_steering(tmp_path / "v.gguf", {3: ADD}, plain)
    qs.export_steering(tmp_path / "v.safetensors", {3: ADD}, plain)


def test_an_export_replaces_the_file_that_is_there(plain, tmp_path):
    (tmp_path / "v.safetensors").write_text("old")
    qs.export_steering(tmp_path / "v.safetensors", {3: ADD}, plain)
    assert set(load_file(tmp_path / "v.safetensors")) == {"layer.3"}
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]


# ---- the page


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_the_examples_of_the_page_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks():
        if "llama_cpp" not in block:
            exec(compile(block, PAGE.name, "exec"), names)
    assert torch.equal(names["theirs"], names["ours"])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gguf", ".safetensors"]


def test_the_example_for_llama_cpp_runs(tiny, tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp", reason=NO_LLAMA)
    monkeypatch.chdir(tmp_path)
    gguf_model.write_gguf(tiny.model, tmp_path / "model.gguf")
    names = {}
    for block in blocks():
        exec(compile(block, PAGE.name, "exec"), names)
    try:
        assert names["gap"] <= SAME
    finally:
        names["llm"].close()
