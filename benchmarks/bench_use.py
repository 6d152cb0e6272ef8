"""What reading and steering cost a model that runs: prefill, generation, and capture by depth."""

import functools

import torch
from peers import random_pair
from sae_lens.saes import topk_sae
from shapes import SIZES, SUITE, random_model
from timing import Row, interleaved

import qs_helpers as qs

PROMPT, NEW = 128, 16
PAIRS = 9  # of steered and plain generation, where a few percent are to be told


@torch.no_grad()
def use(size: str, device) -> list[Row]:
    """One text of PROMPT tokens, one layer edited or read, and passes that stop after a layer."""
    model = random_model(size, device)
    sae, _ = random_pair(topk_sae, *SUITE[size])
    sae = sae.to(device)
    n_layers, vocabulary = SIZES[size][2], model.config.vocab_size
    layer = n_layers // 2
    ids = torch.randint(vocabulary, (1, PROMPT), device=device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with qs.capture(model, [layer]) as found:
        model(**batch)
    median = found[layer].float().norm(dim=-1).median().item()
    scale = qs.steering.Scale(layer, median, 10 * median, sae.d_model, torch.bfloat16)
    some, columns = torch.arange(64, device=device), sae.by_columns()
    edits = {
        "steering, 1 direction": qs.add(sae.direction(7)[0], 0.5, scale),
        "steering, 64 directions": qs.add(sae.direction(some).sum(0), 0.5, scale),
        "clamping 1 feature": qs.change_features(sae, [7], "clamp", scale, 1.0),
        "clamping 64 features": qs.change_features(sae, some, "clamp", scale, 1.0),
        "reconstruction in its place": lambda x: columns.reconstruct(x).to(x.dtype),
    }

    def prefill():
        model(**batch, use_cache=True)

    def generate():
        model.generate(
            **batch, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0
        )

    def edited(task, edit):
        with qs.edit(model, {layer: edit}):
            task()

    def captured(task):
        with qs.capture(model, [layer], stop=False):
            task()

    rows = []
    for name, task, n in (("prefill", prefill, PROMPT), ("generation", generate, NEW)):
        arms = {"plain": task, "capture of 1 layer": lambda task=task: captured(task)}
        arms |= {arm: functools.partial(edited, task, edit) for arm, edit in edits.items()}
        times = interleaved(arms, device, runs=3)
        measured = {arm: (times[arm], times["plain"]) for arm in list(times)[1:]}
        if name == "generation":  # more pairs, to tell a few percent
            arm = "steering, 1 direction"
            pair = interleaved({"plain": task, arm: arms[arm]}, device, runs=PAIRS)
            measured[arm] = pair[arm], pair["plain"]
        for arm, (seconds, plain) in measured.items():
            target = 1.03 if (name, arm) == ("generation", "steering, 1 direction") else None
            what, rate = ("use", f"{name}, {arm}", f"{size} shape"), n / seconds
            rows.append(Row(*what, rate, "plain", n / plain, "tokens/s", "time", target))

    def stopped(at):
        with qs.capture(model, [at]):
            model(**batch, use_cache=False)

    depths = [n_layers // 4 - 1, n_layers // 2 - 1, 3 * n_layers // 4 - 1, n_layers - 1]
    passes = {"full": lambda: model(**batch, use_cache=False)}
    passes |= {at: functools.partial(stopped, at) for at in depths}
    times = interleaved(passes, device)
    for at in depths:
        what = "use", f"capture at layer {at} of {n_layers}", f"{size} shape"
        ms = times[at] * 1e3, "full forward", times["full"] * 1e3
        rows.append(Row(*what, *ms, "ms", "share", round((at + 1) / n_layers + 0.05, 3)))
    return rows
