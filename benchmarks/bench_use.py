"""What reading and steering cost a model that runs: prefill, decoding, and capture by depth."""

import functools

import torch
from peers import random_pair
from sae_lens.saes import topk_sae
from shapes import SIZES, SUITE, random_model
from timing import Row, compared, interleaved

import qs_helpers as qs

PROMPT, NEW = 128, 8
RUNS = 9  # of the arms of decoding, where a few percent are to be told


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

    rows, peer = [], nnsight_adds(model, layer, (0.5 * median * one / one.norm()).to(model.dtype))
    for name, task, n, runs in (("prefill", prefill, PROMPT, 5), ("decoding", decode, NEW, RUNS)):
        arms = {"plain": task, "an empty hook": functools.partial(hooked, task)}
        arms["capture of 1 layer"] = functools.partial(captured, task)
        arms |= {arm: functools.partial(edited, task, edit) for arm, edit in edits.items()}
        if peer:
            arms["steering, 1 direction, by nnsight"] = functools.partial(task, peer)
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

    return run
