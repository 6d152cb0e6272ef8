"""Numbers about models, texts and features: FVU, nats, KL, token odds, the logit lens.

Texts are given to the model (teacher forcing), plain or steered.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import cosine_similarity, pad

from .fast.reuse import edited, reuse_below, run_above
from .forward import _token_mask, batches, listed, sink_mask
from .hooks import capture, edit
from .sae import CONVENTIONS
from .steering import Scale, add

BUCKETS = {"first": (1, 1), "2-8": (2, 8), "9-64": (9, 64), "later": (65, 10**9)}


@torch.no_grad()
def fvu(x: Tensor, x_hat: Tensor, mask: Tensor | None = None) -> float:
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean|^2, in float64.

    x and x_hat are [..., d_model]; `mask` (bool or 0/1, [...]) says which tokens count, and the
    mean is over those same tokens. 0 is perfect; 1 is as good as the mean. ValueError on unequal
    shapes, on NaN or inf, and if fewer than two different tokens are kept.
    """
    if x.shape != x_hat.shape:
        raise ValueError(
            f"fvu got x {tuple(x.shape)} and x_hat {tuple(x_hat.shape)}; make them equal"
        )
    keep = torch.ones_like(x[..., 0], dtype=torch.bool)
    keep = keep if mask is None else _token_mask(mask, keep)
    x, x_hat = x[keep].double(), x_hat.to(x.device)[keep].double()
    total = (x - x.mean(0)).square().sum().item() if len(x) else 0.0
    error = (x - x_hat).square().sum().item()
    if not (torch.isfinite(torch.tensor([total, error])).all()):
        name = "x" if not x.isfinite().all() else "x_hat"
        raise ValueError(f"fvu got NaN or inf in {name}; look for the layer that makes them")
    if total == 0:
        raise ValueError(
            f"fvu needs two different tokens, {len(x)} kept do not vary; pass more text"
        )
    return error / total


@torch.no_grad()
def cross_entropy(model, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """`token_cross_entropy` of a causal LM on a batch; one forward pass, no cache.

    Returns float32 [batch, seq-1] nats, NaN at padding; average it with `.nanmean()`.
    """
    output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    return token_cross_entropy(output.logits, input_ids, attention_mask)


@torch.no_grad()
def token_cross_entropy(
    logits: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """-log p(token j+1 | tokens up to j) in nats: float32 [batch, seq-1].

    logits [batch, seq, vocab], input_ids [batch, seq] int64. NaN where token j or token j+1 is
    padding, so that nothing predicted from or at padding is averaged in by mistake.
    """
    targets = input_ids[:, 1:].to(logits.device)
    # Row by row: the float32 copy of the logits is then one sequence, not the batch.
    rows = [
        functional.cross_entropy(row[:-1].float(), target, reduction="none")
        for row, target in zip(logits, targets, strict=True)
    ]
    nats = torch.stack(rows)
    if attention_mask is None:
        return nats
    real = attention_mask.to(logits.device).bool()
    return nats.masked_fill(~(real[:, 1:] & real[:, :-1]), float("nan"))


class Reading(NamedTuple):
    """FVU when the residuals after `layer` are read with `convention`."""

    convention: str
    layer: int | None
    fvu: float


UNSCALED = " without its input scale"
MANY_TOKENS = 2048  # to decode: then another layout of W_dec is worth its memory


def compare_readings(sae, residuals) -> list[Reading]:
    """FVU with b_dec subtracted or not, for residuals of one or more layers; best first.

    A suite with an input scale is read with it and without instead. `residuals` is a tensor
    [..., d_model] of the SAE's own layer, or a dict {layer: tensor} as `capture` fills it (say
    layers n-1, n, n+1). Pass real tokens only; sinks are left out here.
    """
    if isinstance(residuals, Tensor):
        residuals = {sae.layer: residuals}
    own = CONVENTIONS[sae.convention]
    # The same layout: another one cannot be read from these shapes.
    names = [
        row.name
        for row in CONVENTIONS.values()
        if (row.transposed, row.scaled) == (own.transposed, own.scaled)
    ]
    if sum(x[..., 0].numel() for x in residuals.values()) >= MANY_TOKENS:
        sae = sae.by_columns()  # every token is decoded, once for each reading
    saes = {name: sae.read_as(name) for name in names}
    if sae.input_scale != 1:
        plain = saes[sae.convention + UNSCALED] = sae.read_as(sae.convention)
        plain.input_scale = 1.0
    found = []
    for layer, x in residuals.items():
        keep = ~sink_mask(x)
        for name, reader in saes.items():
            found.append(Reading(name, layer, fvu(x, reader.reconstruct(x), keep)))
    return sorted(found, key=lambda reading: reading.fvu)


def check_reading(sae, residuals) -> list[Reading]:
    """`compare_readings`, and a ValueError that names a reading that explains much more.

    `residuals` must hold the SAE's own layer. Neighbouring layers resemble each other, and an SAE
    on weights that it was not trained on explains little however it is read: another reading
    counts if it leaves less than 0.6 of the variance and less than 0.8 of what the declared one
    leaves.
    """
    if not isinstance(residuals, Tensor) and sae.layer not in residuals:
        raise ValueError(f"residuals of layers {sorted(residuals)} miss layer {sae.layer} of {sae}")
    readings = compare_readings(sae, residuals)
    own = next(r for r in readings if r[:2] == (sae.convention, sae.layer))
    best = readings[0]
    if best.fvu < 0.6 and best.fvu < 0.8 * own.fvu:
        if best.layer != own.layer:
            way = "number the layers of its files anew"
        elif best.convention not in CONVENTIONS:  # a scale that its file has, and should not
            way = "set scale to 1 in its file"
        else:
            way = f"load it with convention={best.convention!r}"
        raise ValueError(
            f"{sae} read as {own.convention!r} at layer {own.layer} has FVU {own.fvu:.3g}, but as "
            f"{best.convention!r} at layer {best.layer} only {best.fvu:.3g}; {way}, or check=False"
        )
    return readings


@torch.no_grad()
def text_nats(scope, texts: Sequence[str], steer: Mapping | None = None) -> np.ndarray:
    """Mean cross-entropy of each text in nats per token, float64 [texts].

    The first token is given, unless the tokenizer puts a BOS before the text: it is then scored
    too, and the BOS is not. NaN where no token is scored, as in an empty text: some models write
    nothing. `steer` as in `edit`.
    """
    texts = listed(texts)
    out = np.full(len(texts), np.nan)
    long = [i for i, text in enumerate(texts) if text.strip()]
    ids = dict(zip(long, scope.ids([texts[i] for i in long]), strict=True)) if long else {}
    ids = {i: tokens for i, tokens in ids.items() if len(tokens) > 1}
    for rows in batches({i: len(tokens) for i, tokens in ids.items()}, scope.batch_tokens):
        batch = scope.tokens([ids[i] for i in rows])
        with edited(scope.model, batch, steer):
            nats = cross_entropy(scope.model, batch["input_ids"], batch["attention_mask"])
        nats[batch["attention_mask"].cumsum(1)[:, 1:] <= len(scope.prefix)] = float("nan")
        out[rows] = nats.double().nanmean(1).cpu().numpy()
    return out


@torch.no_grad()
def continuation_nats(
    scope,
    prompts: Sequence[str],
    continuations: Sequence[str],
    steer: Mapping | None = None,
    positions: str = "all",
) -> list[np.ndarray]:
    """-log p of each token of each continuation, given its prompt: a list of float64 [tokens].

    `steer` and `positions` as in `edit`: the continuation's tokens count as generated ones.
    """
    prompts, continuations = listed(prompts), listed(continuations)
    out = [np.empty(0)] * len(prompts)
    for rows, targets, passes in _passes(scope, prompts, continuations, [(steer, positions)]):
        for row, target, logits in zip(rows, targets, next(passes), strict=True):
            values = logits.double().log_softmax(-1)
            out[row] = -values.gather(-1, target[:, None])[:, 0].cpu().numpy()
    return out


def kl_by_position(
    scope,
    prompts: Sequence[str],
    continuations: Sequence[str],
    steer: Mapping,
    positions: str = "all",
) -> pd.DataFrame:
    """KL(plain || steered) of the next-token distributions along given continuations, in nats.

    Continuations should be the plain model's own (on-policy). One row a token: text, place (1 is
    the first token of the continuation), bucket of BUCKETS, kl, nats (cross-entropy of the token
    under the steered model). The first place alone can be 0 where a model opens every answer in
    the same way, so read all buckets.
    """
    return kl_tables(scope, prompts, continuations, {"": steer}, positions)[""]


@torch.no_grad()
def kl_tables(
    scope,
    prompts: Sequence[str],
    continuations: Sequence[str],
    steers: Mapping[str, Mapping],
    positions: str = "all",
) -> dict[str, pd.DataFrame]:
    """The table of `kl_by_position` for each of some interventions; the plain model runs once."""
    parts = {name: [] for name in steers}
    arms = [(None, "all"), *((steer, positions) for steer in steers.values())]
    for rows, targets, passes in _passes(scope, prompts, continuations, arms):
        plain = next(passes)
        for name in steers:
            steered = next(passes)
            for row, target, *both in zip(rows, targets, plain, steered, strict=True):
                before, after = (logits.double().log_softmax(-1) for logits in both)
                # 0 * log 0 is 0, also where the other model says 0.
                kl = (before.exp() * (before - after)).nan_to_num(0.0, posinf=float("inf"))
                nats = -after.gather(-1, target[:, None])[:, 0]
                columns = np.full(len(nats), row), np.arange(1, len(nats) + 1)
                columns += kl.sum(-1).clamp(min=0).cpu().numpy(), nats.cpu().numpy()
                parts[name].append(np.stack(columns, 1))
            del steered, both  # before the next arm makes its own
    return {name: _by_place(np.concatenate(rows)) for name, rows in parts.items()}


@torch.no_grad()
def token_odds(
    scope, prompts: Sequence[str], tokens: Tensor, steer=None, in_order: bool = False
) -> np.ndarray:
    """Log-odds (nats) of the token after each prompt being one of `tokens`: float64 [prompts].

    `steer` as in `edit`; `in_order` keeps prompts in their order, for edits that have an entry
    for each row of a batch (256 prompts at most), at the price of more padding.
    """
    ids = scope.ids(prompts)
    order = sorted(range(len(ids)), key=lambda i: 0 if in_order else len(ids[i]))
    out = np.empty(len(ids))
    for start in range(0, len(ids), 256):
        rows = order[start : start + 256]
        batch = scope.tokens([ids[i] for i in rows])
        with edited(scope.model, batch, steer):
            logits = scope.model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1]
        out[rows] = log_odds(logits, tokens).cpu()
    return out


def log_odds(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-odds (nats) of the next token being one of `tokens`: logits [..., vocab] to float64
    [...], at most 27.6, a chance of all others of 1e-12. Differentiable below that."""
    if not len(tokens) or tokens.min() < 0:
        raise ValueError("tokens is empty or holds an id below 0; give the ids of some tokens")
    inside = logits.double().log_softmax(-1)[..., tokens.to(logits.device)].logsumexp(-1)
    inside = inside.clamp(max=-1e-12)
    return inside - torch.log(-torch.expm1(inside))


@torch.no_grad()
def output_effects(
    scope, directions: Tensor, scale: Scale, strength: float, prompts: Sequence[str], tokens: Tensor
) -> np.ndarray:
    """Change of the log-odds of the next token being one of `tokens`: float64 [directions].

    Each direction [n, d_model] is added with the same strength at every token of each prompt; the
    log-odds (nats) are those after the last token, and the mean is over prompts. It is the
    "output score" of Arad et al. 2025 for a set of tokens that is given and not taken from the
    feature's own logit lens: it says what a feature does, not what it responds to.
    """
    ids = scope.ids(prompts)
    odds = torch.zeros(len(ids), len(directions) + 1, dtype=torch.float64)
    still = torch.zeros(1, scope.d_model)
    still[0, 0] = 1.0  # any direction: its strength is 0
    every = torch.cat([directions.cpu().float(), still])
    strengths = torch.full((len(every),), strength)
    strengths[-1] = 0.0
    for row, tokens_of in enumerate(ids):
        batch, step = scope.tokens([tokens_of]), max(1, scope.batch_tokens // len(tokens_of))
        with capture(scope.model, [scale.layer]) as found:
            scope.model(**batch, use_cache=False)
        for start in range(0, len(every), step):
            part = slice(start, start + step)
            # Layers up to the edited one do the same for every direction: they ran once.
            below = found[scale.layer].expand(len(every[part]), -1, -1)
            many = {name: value.expand(len(below), -1) for name, value in batch.items()}
            with (
                edit(scope.model, {scale.layer: add(every[part], strengths[part], scale)}),
                run_above(scope.model, scale.layer, below),
            ):
                logits = scope.model(**many, use_cache=False, logits_to_keep=1).logits[:, -1]
            few = [log_odds(some, tokens) for some in logits.split(128)]  # float64 copies of few
            odds[row, part] = torch.cat(few).cpu()
    return (odds[:, :-1] - odds[:, -1:]).mean(0).numpy()


def firing_gap(fires: np.ndarray, label: np.ndarray) -> np.ndarray:
    """How much more often each feature fires in some texts than in the others: float64 [d_sae].

    fires: bool [texts, d_sae]; label: bool [texts]. P(fires | label) - P(fires | not label), the
    score by which the Qwen-Scope report (2026, section 5.1) ranks features. ValueError for labels
    that are no bool, which would be taken for numbers of texts, or all of one kind.
    """
    label = np.asarray(label)
    if label.dtype != bool or label.all() or not label.any():
        raise ValueError("firing_gap needs labels True and False, one a text, and both of them")
    return fires[label].mean(0) - fires[~label].mean(0)


def more_common(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Ids whose share among `positive` ids is at least ten times that among `negative` ones."""
    size = 1 + max(int(ids.max(initial=0)) for ids in (positive, negative))
    shares = [np.bincount(ids, minlength=size) / max(1, len(ids)) for ids in (positive, negative)]
    return np.flatnonzero((shares[0] > 0) & (shares[0] >= 10 * shares[1]))


@torch.no_grad()
def nearest(scope, layer: int, feature: int, n: int = 10, other: int | None = None) -> pd.DataFrame:
    """The n features of layer `other` (None: the same layer) with the largest cosine of decoder
    columns to a feature. Data: feature, cosine; the feature itself is left out."""
    direction = scope.sae(layer).direction(feature)[0]
    cosines = decoder_cosines(scope.sae(layer if other is None else other), direction)
    if other in (None, layer):
        cosines[feature] = -2
    top = cosines.topk(min(n, len(cosines) - 1))
    return pd.DataFrame({"feature": top.indices.tolist(), "cosine": top.values.tolist()})


@torch.no_grad()
def decoder_cosines(sae, direction: Tensor) -> Tensor:
    """Cosine of each feature's column of W_dec with a direction [d_model]: float32 [d_sae]."""
    direction = direction.to(sae.device).float()
    return cosine_similarity(sae.W_dec.float(), direction[:, None], dim=0).cpu()


def _by_place(rows: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["text", "place", "kl", "nats"])
    table = table.astype({"text": int, "place": int})
    table = table.sort_values(["text", "place"], ignore_index=True)
    edges = [0, *(last for _, last in BUCKETS.values())]
    table.insert(2, "bucket", pd.cut(table.place, edges, labels=list(BUCKETS)).astype(str))
    return table


def _passes(scope, prompts, continuations, arms) -> Iterator[tuple]:
    """Batches: row numbers, target ids of each row, and an iterator that gives, for each arm of
    (functions, positions), the logits of each row [tokens, vocab] in the model's dtype: of a large
    vocabulary, float64 log-probabilities of one row at a time are all that there is room for."""
    prompts, continuations = listed(prompts), listed(continuations)
    if len(prompts) != len(continuations):
        raise ValueError(f"{len(prompts)} prompts but {len(continuations)} continuations")
    before, after = scope.ids(prompts), scope.own_ids(continuations)
    lengths = {i: len(a) + len(b) for i, (a, b) in enumerate(zip(before, after, strict=True))}
    for rows in batches(lengths, scope.batch_tokens):
        # Prompts are padded on the left and continuations on the right, so that all of these
        # begin in one column and the edit knows which tokens count as generated.
        prompt = scope.tokens([before[i] for i in rows])
        longest = max(len(after[i]) for i in rows)
        ids = [pad(torch.tensor(after[i]), (0, longest - len(after[i]))) for i in rows]
        mask = [pad(torch.ones(len(after[i])), (0, longest - len(after[i]))) for i in rows]
        ids = torch.cat([prompt["input_ids"], torch.stack(ids).to(scope.device)], 1)
        mask = torch.stack(mask).to(scope.device, prompt["attention_mask"].dtype)
        mask = torch.cat([prompt["attention_mask"], mask], 1)
        targets = [torch.tensor(after[i], device=scope.device) for i in rows]
        yield rows, targets, _logits(scope, ids, mask, prompt["attention_mask"], targets, arms)


def _logits(scope, ids, mask, prompt_mask, targets, arms) -> Iterator[list]:
    longest = ids.shape[1] - prompt_mask.shape[1]
    # What is below the first edits is the same in every arm, and is computed once.
    batch = {"input_ids": ids, "attention_mask": mask}
    with reuse_below(scope.model):
        for functions, positions in arms:
            with edited(scope.model, batch, functions, positions, prompt_mask):
                logits = scope.model(
                    ids, attention_mask=mask, use_cache=False, logits_to_keep=longest + 1
                ).logits
            rows = [row[: len(target)] for row, target in zip(logits, targets, strict=True)]
            del logits
            yield rows
            del rows


class Gradients(NamedTuple):
    """Of one batch after one layer; padding on the left."""

    layer: int
    rows: list[int]
    """numbers of the prompts"""
    x: Tensor
    """residuals, float32 [rows, seq, d_model]"""
    gradient: Tensor
    """d log-odds / d x, the effect through all later layers; 0 at padding"""
    real: Tensor
    """bool [rows, seq]"""


def gradients(scope, prompts, tokens: Tensor, layers) -> Iterator[Gradients]:
    """Gradients of the log-odds (nats) of the next token being one of `tokens` (int64 [tokens]),
    batch by batch.

    One forward and one backward pass a batch serve all `layers`.
    """

    def probe(layer: int, seen: dict, residual: Tensor) -> Tensor:
        # The gradient of a sum at a zero that is added to the residuals is theirs.
        zero = torch.zeros_like(residual, requires_grad=True)
        seen[layer] = residual.detach().float(), zero
        return residual + zero

    ids = scope.ids(prompts)
    for rows in batches({i: len(tokens) for i, tokens in enumerate(ids)}, scope.batch_tokens):
        batch, seen = scope.tokens([ids[i] for i in rows]), {}
        edits = {layer: partial(probe, layer, seen) for layer in layers}
        with torch.enable_grad(), edit(scope.model, edits):
            logits = scope.model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1]
            odds = log_odds(logits, tokens).sum()
            found = torch.autograd.grad(odds, [seen[n][1] for n in layers])
        real = batch["attention_mask"].bool()
        for layer, gradient in zip(layers, found, strict=True):
            yield Gradients(layer, rows, seen[layer][0], gradient.float(), real)


def feature_attribution(scope, prompts, tokens: Tensor, layers) -> dict[int, Tensor]:
    """{layer: float64 [d_sae]}: mean over prompts of the sum over tokens of z_j (gradient . d_j).

    The first-order estimate of what the log-odds would lose if the feature were zeroed ("AtP",
    Nanda 2023; linear attribution in Marks et al. 2024). Tokens where a feature is not in the
    TopK count nothing. The first token of each prompt is left out (often an attention sink), or the
    tokenizer's prefix where it has one.
    """
    prompts = listed(prompts)
    totals = {n: torch.zeros(scope.d_sae, dtype=torch.float64) for n in layers}
    for part in gradients(scope, prompts, tokens, layers):
        sae = scope.sae(part.layer)
        inner = part.real & (part.real.cumsum(1) > max(1, len(scope.prefix)))
        x, gradient = part.x[inner], part.gradient[inner]
        acts = sae.encode(x)
        # z_j (g . d_j) for the k active features of each token only.
        for start in range(0, len(x), 256):
            here = slice(start, start + 256)
            index = acts.indices[here]
            columns = sae.direction(index.flatten()).view(*index.shape, -1).to(gradient)
            shares = (columns @ gradient[here, :, None])[..., 0] * acts.values[here].to(gradient)
            totals[part.layer].index_add_(0, index.flatten().cpu(), shares.flatten().double().cpu())
    return {n: total / len(prompts) for n, total in totals.items()}
