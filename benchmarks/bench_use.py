"""What reading and steering cost a model that runs: prefill, decoding, and capture by depth."""

import copy
import functools

import torch
from peers import random_pair
from sae_lens.saes import topk_sae
from shapes import SIZES, SUITE, random_model
from suites import byte_tokenizer
from timing import Row, compared, interleaved

import qs_helpers as qs

PROMPT, NEW = 128, 8
RUNS = {"cpu": 15, "cuda": 9}  # of the arms of decoding, where a few percent are to be told


@torch.no_grad()
def use(size: str, device) -> list[Row]:
    """One text of PROMPT tokens and NEW more, the same ones whatever an arm does to the model, so
    that all arms do the same work; one layer is edited or read."""
    model = random_model(size, device)
    sae, _ = random_pair(topk_sae, *SUITE[size])
    sae = sae.to(device)
    n_layers, vocabulary = SIZES[size][2], model.config.vocab_size
    layer = n_layers // 2
    ids, new = torch.randint(vocabulary, (1, PROMPT + NEW), device=device).split([PROMPT, NEW], 1)
    with qs.capture(model, [layer]) as found:
        model(input_ids=ids)
    median = found[layer].float().norm(dim=-1).median().item()
    scale = qs.steering.Scale(layer, median, 10 * median, sae.d_model, torch.bfloat16)
    some, columns = torch.arange(64, device=device), sae.by_columns()
    one = sae.direction(7)[0]
    edits = {
        "steering, 1 direction": qs.add(one, 0.5, scale),
        "steering, 64 directions": qs.add(sae.direction(some).sum(0), 0.5, scale),
        "clamping 1 feature": qs.change_features(sae, [7], "clamp", scale, 1.0),
        "clamping 64 features": qs.change_features(sae, some, "clamp", scale, 1.0),
        "reconstruction in its place": lambda x: columns.reconstruct(x).to(x.dtype),
    }
    cache = model(input_ids=ids, use_cache=True).past_key_values

    def prefill(run=model):
        run(input_ids=ids, use_cache=True)

    def decode(run=model):
        for token in new.split(1, 1):
            run(input_ids=token, past_key_values=cache, use_cache=True)
        cache.crop(-NEW)

    def hooked(task):
        block = model.model.layers[layer]
        handle = block.register_forward_hook(lambda module, args, output: None)
        task()
        handle.remove()

    def edited(task, edit):
        with qs.edit(model, {layer: edit}):
            task()

    def captured(task):
        with qs.capture(model, [layer], stop=False):
            task()

    rows, vector = [], (0.5 * median * one / one.norm()).to(model.dtype)
    peers = {"nnsight": nnsight_adds, "TransformerLens": transformer_lens_adds}
    peers = {
        f"steering, 1 direction, by {name}": f(model, layer, vector) for name, f in peers.items()
    }
    turns = RUNS[torch.device(device).type]
    for name, task, n, runs in (("prefill", prefill, PROMPT, 5), ("decoding", decode, NEW, turns)):
        arms = {"plain": task, "an empty hook": functools.partial(hooked, task)}
        arms["capture of 1 layer"] = functools.partial(captured, task)
        arms |= {arm: functools.partial(edited, task, edit) for arm, edit in edits.items()}
        arms |= {arm: functools.partial(task, run) for arm, run in peers.items() if run}
        times = interleaved(arms, device, runs)
        for arm in list(times)[1:]:
            target = 1.02 if (name, arm) == ("decoding", "steering, 1 direction") else None
            what = "use", f"{name}, {arm}", f"{size} shape"
            rows.append(compared(*what, times, arm, "plain", "time", target, n=n))

    def stopped(at):
        with qs.capture(model, [at]):
            model(input_ids=ids, use_cache=False)

    depths = [n_layers // 4 - 1, n_layers // 2 - 1, 3 * n_layers // 4 - 1, n_layers - 1]
    passes = {"full forward": lambda: model(input_ids=ids, use_cache=False)}
    passes |= {at: functools.partial(stopped, at) for at in depths}
    times = interleaved(passes, device)
    for at in depths:
        what = "use", f"capture at layer {at} of {n_layers}", f"{size} shape"
        target = round((at + 1) / n_layers + 0.05, 3)
        rows.append(compared(*what, times, at, "full forward", "share", target))
    return rows


def nnsight_adds(model, layer: int, vector):
    """A call of the model in which nnsight adds a vector after a layer; None if it is not there."""
    try:
        import nnsight
    except ImportError:
        print("nnsight is not installed: pip install nnsight, to compare with it")
        return None
    wrapped = nnsight.NNsight(model)

    def run(**inputs):
        with wrapped.trace(**inputs):
            wrapped.model.layers[layer].output = wrapped.model.layers[layer].output + vector
            logits = wrapped.lm_head.output[:, -1].save()
        return logits

    return run


def transformer_lens_adds(model, layer: int, vector):
    """The same through TransformerLens's bridge, as it comes, on a copy that shares the weights:
    the bridge puts its own modules into the model that it wraps."""
    from transformer_lens.model_bridge import TransformerBridge

    other = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    own = {"tokenizer": byte_tokenizer(None), "dtype": model.dtype}
    bridge = TransformerBridge.boot_transformers("random", hf_model=other, **own)
    hooks = [(f"blocks.{layer}.hook_out", lambda x, hook: x + vector)]

    def run(input_ids, **inputs):
        with bridge.hooks(fwd_hooks=hooks):
            return bridge(input_ids, **inputs)[:, -1]

    return run
