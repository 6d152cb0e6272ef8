"""hooks.py on small random-weight models of every family in the catalog."""

import copy
import itertools
import random
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from drawn import drawn_requests
from torch import nn

import qs_helpers as qs
from qs_helpers import hooks
from qs_helpers.hooks import (
    POSITIONS,
    capture,
    decoder_layers,
    edit,
    hooks_left,
    text_config,
    weights_to_edit,
    writers,
    writing_weights,
)

TEXT = dict(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
)
MOE = dict(moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
LINEAR = dict(
    linear_num_key_heads=2,
    linear_num_value_heads=2,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
)
VISION = dict(
    depth=1,
    hidden_size=16,
    intermediate_size=16,
    num_heads=2,
    out_hidden_size=16,
    patch_size=4,
    num_position_embeddings=16,
)
FAMILIES = ("qwen3", "qwen3-moe", "qwen3.5", "qwen3.5-moe", "qwen3.5-multimodal")


def build(family):
    import transformers as hf

    torch.manual_seed(0)
    if family == "qwen3":
        model = hf.Qwen3ForCausalLM(hf.Qwen3Config(**TEXT))
    elif family == "qwen3-moe":
        model = hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**TEXT, **MOE, decoder_sparse_step=1))
    elif family == "qwen3.5":
        model = hf.Qwen3_5ForCausalLM(hf.Qwen3_5TextConfig(**TEXT, **LINEAR))
    elif family == "qwen3.5-moe":
        moe = MOE | {"shared_expert_intermediate_size": 16}
        model = hf.Qwen3_5MoeForCausalLM(hf.Qwen3_5MoeTextConfig(**TEXT, **LINEAR, **moe))
    else:
        model = hf.Qwen3_5ForConditionalGeneration(
            hf.Qwen3_5Config(text_config=TEXT | LINEAR, vision_config=VISION)
        )
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    model = build(request.param)
    yield model
    assert hooks_left(model) == 0


@pytest.fixture(scope="module")
def qwen3():
    model = build("qwen3")
    yield model
    assert hooks_left(model) == 0


IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
V = 3 * torch.randn(16, generator=torch.Generator().manual_seed(1))


def add(x):
    return x + V


def logits(model, ids=IDS, mask=None):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


def padded(rows, side):
    """Rows of unequal length as one batch with its attention mask."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    return ids, mask.long()


# ---- finding layers


def test_layers_are_found(model):
    layers = decoder_layers(model)
    assert len(layers) == text_config(model).num_hidden_layers == 4
    assert text_config(model).hidden_size == 16
    assert decoder_layers(model.model) is layers


def test_hybrids_have_both_kinds_of_layer():
    kinds = {type(child).__name__ for child in decoder_layers(build("qwen3.5"))[0].children()}
    assert any("GatedDeltaNet" in kind for kind in kinds)
    assert hasattr(decoder_layers(build("qwen3.5"))[3], "self_attn")


def test_a_model_without_decoder_layers_is_refused(qwen3):
    odd = nn.Module()
    odd.config = qwen3.config
    with pytest.raises(ValueError, match="no 4 decoder layers in Module at .*load a Qwen3"):
        decoder_layers(odd)


# ---- capture


def test_capture_equals_hidden_states(model):
    with torch.no_grad():
        hidden = model(input_ids=IDS, output_hidden_states=True).hidden_states
    with capture(model, [0, 1, 2]) as residuals:
        model(input_ids=IDS)
    assert sorted(residuals) == [0, 1, 2]
    for layer, x in residuals.items():
        assert x.shape == (2, 6, 16) and not x.requires_grad
        assert torch.equal(x, hidden[layer + 1])


def test_the_last_layer_is_captured_before_the_final_norm(qwen3):
    with torch.no_grad():
        normed = qwen3(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
    with capture(qwen3, [3]) as residuals:
        qwen3(input_ids=IDS)
    assert not torch.allclose(residuals[3], normed)
    assert torch.allclose(qwen3.model.norm(residuals[3]), normed)


def test_capture_runs_no_later_layer(model):
    ran = []
    counters = [
        layer.register_forward_pre_hook(lambda *_, n=n: ran.append(n))
        for n, layer in enumerate(decoder_layers(model))
    ]
    head = model.lm_head.register_forward_pre_hook(lambda *_: ran.append("head"))
    with capture(model, [1]):
        out = model(input_ids=IDS)
        assert ran == [0, 1]
    with pytest.raises(AttributeError, match="stopped after layer 1.*'logits'.*stop=False"):
        _ = out.logits
    ran.clear()
    with capture(model, [1], stop=False) as residuals:
        assert torch.equal(model(input_ids=IDS).logits, logits(model))
    assert ran == [0, 1, 2, 3, "head"] * 2 and list(residuals) == [1]
    for counter in [*counters, head]:
        counter.remove()


def test_capture_goes_on_after_a_stop(model):
    """Several calls in one block, of the model or its decoder; code after a call is run."""
    before = logits(model)
    with capture(model, [2, 0]) as residuals:
        model(input_ids=IDS)
        first = residuals[2]
        model.model(input_ids=IDS[:1, :3])
        assert residuals[2].shape == (1, 3, 16)
        assert torch.allclose(first[:1, :3], residuals[2], atol=1e-4)
    assert hooks_left(model) == 0
    assert torch.equal(logits(model), before)


def test_captured_tensors_are_copies(qwen3):
    outputs = []
    with capture(qwen3, [0], stop=False) as residuals:
        probe = qwen3.model.layers[0].register_forward_hook(lambda *a: outputs.append(a[2]))
        qwen3(input_ids=IDS)
        probe.remove()
    assert torch.equal(residuals[0], outputs[0])
    assert residuals[0].data_ptr() != outputs[0].data_ptr()


def test_capture_inside_edit_sees_the_edit(qwen3):
    with capture(qwen3, [1]) as plain:
        qwen3(input_ids=IDS)
    with edit(qwen3, {1: add}), capture(qwen3, [1]) as edited:
        qwen3(input_ids=IDS)
    assert torch.equal(edited[1], plain[1] + V)


@pytest.mark.parametrize("layer", [4, -1, "1", True, 1.0])
def test_a_layer_out_of_range_is_named(qwen3, layer):
    message = rf"layer {layer!r} is out of range; choose from 0 to 3"
    with pytest.raises(ValueError, match=message), capture(qwen3, [0, layer]):
        pass
    with pytest.raises(ValueError, match=message), edit(qwen3, {layer: add}):
        pass
    assert hooks_left(qwen3) == 0


# ---- edit


@pytest.mark.parametrize("layer", range(4))
def test_edit_adds_exactly_to_every_row(model, layer):
    with capture(model, [layer], stop=False) as plain:
        model(input_ids=IDS)
    with edit(model, {layer: add}):
        assert hooks_left(model) > 0
        with capture(model, [layer]) as edited:
            model(input_ids=IDS)
        changed = logits(model)
    assert torch.equal(edited[layer], plain[layer] + V)
    assert ((changed - logits(model)).abs().amax((1, 2)) > 1e-4).all(), "each row of the batch"
    assert hooks_left(model) == 0


def test_edits_of_several_layers_add_up(qwen3):
    with edit(qwen3, {0: add}), capture(qwen3, [2]) as one:
        qwen3(input_ids=IDS)
    with edit(qwen3, {0: add, 2: add}), capture(qwen3, [2]) as both:
        qwen3(input_ids=IDS)
    assert torch.equal(both[2], one[2] + V)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_strength_zero_is_bit_identical(model, positions):
    before = logits(model)
    with edit(model, {n: lambda x: x + 0 * V for n in range(4)}, positions=positions):
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("positions", ["all", "prompt"])
def test_padding_is_left_alone(model, side, given, positions):
    """Each padded row is edited as it is alone; its padding keeps its residuals."""
    rows = [[5, 6, 7, 8, 9], [11, 12, 13]]
    ids, mask = padded(rows, side)
    with capture(model, [1], stop=False) as plain:
        model(input_ids=ids, attention_mask=mask)
    with edit(model, {1: add}, positions, mask if given else None):
        with capture(model, [1]) as edited:
            model(input_ids=ids, attention_mask=mask)
        batch = logits(model, ids, mask)
    real = mask.bool()
    assert torch.equal(edited[1][~real], plain[1][~real])
    assert torch.equal(edited[1][real], (plain[1] + V)[real])
    with edit(model, {1: add}):
        for i, row in enumerate(rows):
            alone = logits(model, torch.tensor([row]))[0]
            assert torch.allclose(batch[i][real[i]], alone, atol=2e-4)


def generate(model, ids, mask, cache, new=6):
    return model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, use_cache=cache
    )


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
@pytest.mark.parametrize("given", [False, True])
def test_generation_is_equal_with_and_without_cache(model, positions, given):
    ids, mask = padded([[5, 6, 7, 8, 9], [11, 12, 13]], "left")
    plain = generate(model, ids, mask, True)
    with edit(model, {1: add, 2: add}, positions, mask if given else None):
        with_cache = generate(model, ids, mask, True)
        without = generate(model, ids, mask, False)
    assert torch.equal(with_cache, without)
    assert torch.equal(generate(model, ids, mask, True), plain)
    if positions == "generated":
        assert torch.equal(with_cache[:, 5], plain[:, 5]), "predicted at the prompt's last column"


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_positions_are_exact(model, positions, cache):
    """The residual at each column of a generation, with the edit against a hook-free reading."""
    seen = []
    with edit(model, {1: lambda x: torch.full_like(x, 7.0)}, positions):
        probe = decoder_layers(model)[1].register_forward_hook(
            lambda _, __, out: seen.append((out == 7).all(-1))
        )
        generate(model, IDS, torch.ones_like(IDS), cache, new=4)
        probe.remove()
    edited = torch.cat(seen, 1) if cache else seen[-1]
    assert edited.shape == (2, 9)  # six of the prompt, three fed back
    prompt = torch.arange(9) < 6
    wanted = {"all": torch.ones(9, dtype=torch.bool), "prompt": prompt, "generated": ~prompt}
    assert torch.equal(edited, wanted[positions].expand(2, 9))


def test_a_new_prompt_in_the_same_block_is_a_prompt(qwen3):
    with edit(qwen3, {1: lambda x: torch.full_like(x, 7.0)}, "prompt"):
        seen = []
        probe = decoder_layers(qwen3)[1].register_forward_hook(
            lambda _, __, out: seen.append((out == 7).all(-1))
        )
        for ids in (IDS[:1, :3], IDS[1:, :4], IDS):  # the second is one column wider
            logits(qwen3, ids)
        generate(qwen3, IDS[:, :3], None, True, new=2)
        generate(qwen3, IDS[:, :4], None, True, new=2)
        probe.remove()
    assert [bool(columns.all()) for columns in seen] == [True] * 4 + [False, True, False]


class TupleLayer(nn.Module):
    """A decoder layer as older transformers had it: a tuple that begins with the residual."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs), "attention weights"


class Unwrap(nn.Module):
    """Stands after a TupleLayer, checks that it is still a tuple and passes the tensor on."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, *args, **kwargs):
        assert isinstance(x, tuple) and x[1] == "attention weights"
        return self.layer(x[0], *args, **kwargs)


def test_tuple_outputs(model):
    layers = decoder_layers(model)
    with edit(model, {1: add}), capture(model, [1], stop=False) as plain:
        expected = logits(model)
    tensors = layers[1], layers[2]
    layers[1], layers[2] = TupleLayer(layers[1]), Unwrap(layers[2])
    try:
        with edit(model, {1: add}), capture(model, [1], stop=False) as residuals:
            assert torch.equal(logits(model), expected)
        assert torch.equal(residuals[1], plain[1])
    finally:
        layers[1], layers[2] = tensors


def test_hooks_are_gone_after_an_exception(model):
    before = logits(model)

    def broken(x):
        raise RuntimeError("broken edit")

    with pytest.raises(RuntimeError, match="broken edit"):
        with edit(model, {0: add, 1: broken}):
            logits(model)
    assert hooks_left(model) == 0
    with pytest.raises(KeyError, match="user"):
        with edit(model, {0: add}), capture(model, [1]):
            raise KeyError("user")
    assert hooks_left(model) == 0
    assert torch.equal(logits(model), before)


def test_wrong_results_of_an_edit_are_named(qwen3):
    wrong = {
        r"edit of layer 1 made \(6, 16\) of residuals \(2, 6, 16\)": lambda x: x[0],
        r"edit of layer 1 made NoneType of residuals \(2, 6, 16\)": lambda x: None,
        r"edit of layer 1 changed x in place; return a new tensor": lambda x: x.mul_(2),
    }
    for message, function in wrong.items():
        with torch.no_grad(), pytest.raises(ValueError, match=message):
            with edit(qwen3, {1: function}):
                qwen3(input_ids=IDS)
    assert hooks_left(qwen3) == 0


def test_wrong_arguments_of_edit_are_named(qwen3):
    with pytest.raises(ValueError, match="positions is 'some'; choose one of all, prompt"):
        with edit(qwen3, {1: add}, positions="some"):
            pass
    with pytest.raises(ValueError, match=r"attention_mask is \(3,\); make it \[batch, seq\]"):
        with edit(qwen3, {1: add}, attention_mask=torch.ones(3)):
            pass
    with pytest.raises(ValueError, match="attention_mask has 3 rows but the pass has 2"):
        with edit(qwen3, {1: add}, attention_mask=torch.ones(3, 6)):
            qwen3(input_ids=IDS)
    with pytest.raises(ValueError, match=r"not \[batch, seq\]; give edit\(..., attention_mask=\)"):
        with edit(qwen3, {1: add}):
            qwen3(input_ids=IDS, attention_mask=torch.zeros(2, 1, 6, 6))
    assert hooks_left(qwen3) == 0


def test_an_edit_keeps_the_dtype_of_the_residual(qwen3):
    half = build("qwen3").to(torch.bfloat16)
    with edit(half, {1: lambda x: x.float() + V}), capture(half, [1]) as residuals:
        half(input_ids=IDS)
    assert residuals[1].dtype == torch.bfloat16


def test_edits_work_in_inference_mode(qwen3):
    with torch.inference_mode(), edit(qwen3, {1: add}), capture(qwen3, [1]) as residuals:
        qwen3(input_ids=IDS)
    assert residuals[1].shape == (2, 6, 16)


# ---- everything that is written to the stream


def test_the_writes_add_up_to_the_stream(model):
    """What the hook is given: the embedding, then each attention's and each MLP's output."""
    seen = []

    def note(y):
        seen.append(y)
        return y

    before = logits(model)
    with edit(model, {"writes": note}), capture(model, range(4), stop=False) as residuals:
        assert torch.equal(logits(model), before)
    assert len(seen) == 9
    total = torch.stack(seen).cumsum(0)
    for layer in range(4):
        assert torch.allclose(total[2 * layer + 2], residuals[layer], atol=1e-5)


def test_a_direction_projected_out_of_every_write_is_nowhere(model):
    unit = V / V.norm()
    with edit(model, {"writes": lambda y: y - (y @ unit)[..., None] * unit}):
        with capture(model, range(4)) as residuals:
            model(input_ids=IDS)
    for x in residuals.values():
        assert (x @ unit).abs().max() < 1e-5
    assert hooks_left(model) == 0


@pytest.mark.parametrize("family", ["Gemma2", "Gemma3", "Olmo2", "Olmo3", "Glm4", "Llama"])
def test_writes_are_hooked_after_the_norm_that_follows_them(family):
    import transformers as hf

    torch.manual_seed(0)
    config = getattr(hf, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")
    model = getattr(hf, f"{family}ForCausalLM")(config(**TEXT)).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:  # else the norms of random models are all alike
            weight.data += 0.3 * torch.randn_like(weight)
    seen, unit = [], V / V.norm()
    note = {"writes": lambda y: seen.append(y) or y}
    with edit(model, note), capture(model, range(4), stop=False) as residuals:
        model(input_ids=IDS)
    total = torch.stack(seen).cumsum(0)
    for layer in range(4):
        assert torch.allclose(total[2 * layer + 2], residuals[layer], atol=1e-4)
    with edit(model, {"writes": lambda y: y - (y @ unit)[..., None] * unit}):
        with capture(model, range(4)) as residuals:
            model(input_ids=IDS)
    assert max((x @ unit).abs().max() for x in residuals.values()) < 1e-4


@pytest.mark.parametrize("unknown", ["post_mlp_norm", "cross_attn", "layer_scalar", "adapter"])
def test_a_layer_that_adds_something_else_is_refused_where_every_write_is_edited(unknown):
    model = build("qwen3")
    layer = model.model.layers[2]
    if unknown == "layer_scalar":
        layer.register_buffer(unknown, torch.ones(1))
    else:
        layer.add_module(unknown, nn.Identity())
    with pytest.raises(ValueError, match=f"DecoderLayer has {unknown}: what it adds"):
        with edit(model, {"writes": lambda y: y}):
            pass
    assert hooks_left(model) == 0
    with edit(model, {2: lambda x: x}):  # after a layer nothing of this matters
        model(input_ids=IDS)


def test_writes_that_are_scaled_are_refused():
    layer = build("qwen3").model.layers[0]
    layer.residual_multiplier = 0.22
    with pytest.raises(ValueError, match="residual_multiplier: what it adds to the stream"):
        writers(layer)


def test_writes_respect_positions_and_padding(qwen3):
    ids, mask = padded([[5, 6, 7], [8, 9]], "left")
    touched = []

    def note(y):
        touched.append(y.shape)
        return y + 1

    with edit(qwen3, {"writes": note}), capture(qwen3, [3]) as residuals:
        qwen3(input_ids=ids, attention_mask=mask)
    with capture(qwen3, [3]) as plain:
        qwen3(input_ids=ids, attention_mask=mask)
    assert torch.equal(residuals[3][1, 0], plain[3][1, 0])  # padding
    assert not torch.allclose(residuals[3][1, 1], plain[3][1, 1])
    with edit(qwen3, {"writes": note, 2: add}, "generated"):
        assert torch.equal(logits(qwen3, ids, mask), logits(qwen3, ids, mask))


def test_layers_may_be_numpy_integers(qwen3):
    import numpy as np

    with edit(qwen3, {np.int64(1): add}):
        steered = logits(qwen3)
    with edit(qwen3, {1: add}):
        assert torch.equal(steered, logits(qwen3))


# ---- exceptions


def fail_somewhere(model, seed):
    """An exception of a random kind at a random place of up to three blocks in one another."""
    rng, calls = random.Random(seed), itertools.count()
    kinds = RuntimeError, ValueError, KeyboardInterrupt, MemoryError, StopIteration, GeneratorExit
    kind, after = rng.choice(kinds), rng.randrange(12)

    def fail(x=None):
        if next(calls) >= after:
            raise kind("injected")
        return x

    with ExitStack() as blocks, torch.no_grad():
        if rng.random() < 0.3:  # a hook of somebody else
            layer = decoder_layers(model)[rng.randrange(4)]
            blocks.callback(layer.register_forward_hook(lambda *_: fail()).remove)
        for _ in range(rng.randrange(1, 4)):
            layers = rng.sample(range(4), rng.randrange(1, 4))
            what = rng.choice(["capture", "edit", "writes"])
            if what == "capture":
                blocks.enter_context(capture(model, layers, stop=rng.random() < 0.5))
            else:
                functions = {"writes": fail} if what == "writes" else dict.fromkeys(layers, fail)
                blocks.enter_context(edit(model, functions, rng.choice(POSITIONS)))
        while True:
            model(input_ids=IDS)
            fail()


def left(model):
    """All hooks on a model; those of transformers stay after a first output_hidden_states."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return hooks + sum("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_exceptions_leave_no_hook(qwen3, first):
    before, theirs = logits(qwen3), left(qwen3)
    for seed in range(first, first + 10):
        with pytest.raises(BaseException, match="injected"):
            fail_somewhere(qwen3, seed)
        assert (left(qwen3), hooks_left(qwen3)) == (theirs, 0), f"seed {seed}"
    assert torch.equal(logits(qwen3), before)


@pytest.mark.long
def test_a_thousand_exceptions_leave_no_hook(model):
    before, theirs = logits(model), left(model)
    for seed in range(200):  # in each of five families
        with pytest.raises(BaseException, match="injected"):
            fail_somewhere(model, 1000 + seed)
        assert (left(model), hooks_left(model)) == (theirs, 0), f"seed {seed}"
    assert torch.equal(logits(model), before)


# ---- edited weights


@pytest.fixture(scope="module")
def refuser():
    return qs.load_scope("tiny-instruct")


def cut(weights, r):
    for w in weights:
        w -= (w @ r)[..., None] * r / (r @ r)


def test_edited_weights_equal_hooks_and_come_back(refuser):
    scope, r = refuser, torch.randn(128, generator=torch.Generator().manual_seed(1))
    rows = drawn_requests({"discovery": 12}, ["en", "zh"])["discovery", True]
    prompts = [scope.chat(r.text) for r in rows]
    batch = scope.tokens(prompts)
    real = batch["attention_mask"].bool()
    with qs.edit(scope.model, {"writes": qs.steering.project_out(r, qs.scales(scope, prompts)[2])}):
        hooked = scope.model(**batch).logits[real]
    before = {name: p.clone() for name, p in scope.model.named_parameters()}
    head = scope.model.get_output_embeddings()
    tied = head.weight is scope.model.get_input_embeddings().weight
    with weights_to_edit(scope.model) as weights:
        cut(weights, r)
        assert (scope.model(**batch).logits[real] - hooked).abs().max() < 1e-4
        assert torch.equal(head.weight, before["model.embed_tokens.weight"]), "the head stays"
    after = dict(scope.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in after.items())
    assert tied == (head.weight is scope.model.get_input_embeddings().weight)
    with pytest.raises(RuntimeError), weights_to_edit(scope.model) as weights:
        cut(weights, r)
        raise RuntimeError
    assert all(torch.equal(p, before[name]) for name, p in scope.model.named_parameters())


def test_weights_that_cannot_be_kept_or_told_are_refused_by_name(refuser, monkeypatch):
    model = copy.deepcopy(refuser.model)
    model.model.layers[0].mlp.down_proj = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="no single output projection"):
        writing_weights(model)
    full = SimpleNamespace(available=1000)
    monkeypatch.setattr(hooks.psutil, "virtual_memory", lambda: full)
    with pytest.raises(MemoryError, match="GB of weights to keep"), weights_to_edit(refuser.model):
        pass
