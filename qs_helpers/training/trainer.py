"""Training a TopK SAE, step by step.

    x      residuals of a batch over `scale`, their root mean square    [batch, d_model]
    pre    x @ W_enc.T + b_enc, of which the k largest are chosen        [batch, k]
    x̂      relu(pre) @ W_dec.T + b_dec                                   [batch, d_model]
    loss   mean |x - x̂|²  +  aux · mean |e - ê|²  +  HINGE · mean Σ relu(MARGIN - pre)

e = x - x̂ is the error, and ê what features make of it that have been silent for a while: AuxK,
which keeps features alive (Gao et al. 2024, section A.2). The hinge keeps the k-th score positive,
so that L0 is k on the easiest token too. W_dec has columns of length one. b_dec starts at the
geometric median of the residuals (Bricken et al. 2023). At the end the scale goes into the biases,
so that the file reads residuals as they are, like official files.
"""

import hashlib
import io
import os
import pickle
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evidence.files import plain, read_json, write_json, write_whole
from ..forward import batches, checked, sink_mask
from ..hooks import edit
from ..loading.saefile import load_sae
from ..sae import TopKSAE
from ..scoring import cross_entropy
from .shards import CONTEXT, Shards, digest, harvest, pieces, require_same

HINGE, MARGIN = 10.0, 0.25  # at unit scale
SILENT_AFTER = 60_000  # tokens without firing make a feature silent
AUX_FEATURES = 64  # silent features that explain a token's error
SAMPLE = 32_768  # tokens of which scale and median are taken
SAVED_EVERY, SAVED_AFTER = 32_768, 120  # tokens and seconds between checkpoints, at least
MEASURED, LOSS_TOKENS = (
    200_000,
    20_000,
)  # held-out tokens at most: for FVU and L0; for the loss added
FIRED_IN = 1_000_000  # tokens of training at most, in which a feature may fire
TOLD_EVERY = 60  # seconds between lines about a long stage
VERSION = 1  # raised by a change of this module, or of shards.py, that changes numbers


class Recipe(NamedTuple):
    """How an SAE is trained.

    tokens   that training sees; shards that hold fewer are read again
    lr       of Adam at its highest, for d_model 128; it falls with the root of d_model
    """

    d_sae: int
    k: int
    tokens: int
    batch: int = 512
    lr: float = 5e-3
    aux: float = 1 / 32
    seed: int = 0

    @property
    def steps(self) -> int:
        return max(1, self.tokens // self.batch)

    def peak(self, d_model: int) -> float:
        """The highest learning rate for this width."""
        return self.lr * (128 / d_model) ** 0.5

    def check(self) -> None:
        if not 1 <= self.k <= self.d_sae:
            raise ValueError(f"k is {self.k}; choose from 1 to d_sae, which is {self.d_sae}")


class Tensors(NamedTuple):
    """The parameters while they are trained. W_dec is kept transposed, a feature a row."""

    W_enc: Tensor  # [d_sae, d_model]
    W_dec: Tensor  # [d_sae, d_model]
    b_enc: Tensor  # [d_sae]
    b_dec: Tensor  # [d_model]


def geometric_median(x: Tensor, rounds: int = 30) -> Tensor:
    """The point with the least sum of distances to the rows of x [n, d]: Weiszfeld's iteration."""
    centre = x.mean(0)
    for _ in range(rounds):
        weight = 1 / (x - centre).norm(dim=1).clamp(min=1e-6)
        centre = (weight @ x) / weight.sum()
    return centre


def new_tensors(x: Tensor, recipe: Recipe) -> Tensors:
    """Random directions, encoder and decoder equal, around the geometric median of x."""
    draw = torch.Generator().manual_seed(recipe.seed)
    W = F.normalize(torch.randn(recipe.d_sae, x.shape[1], generator=draw), dim=1).to(x.device)
    centre = geometric_median(x)
    tensors = Tensors(W.clone(), W.clone(), -(W @ centre), centre)
    return Tensors(*(t.requires_grad_() for t in tensors))


def reconstruct(x: Tensor, tensors: Tensors, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and numbers of the k chosen features [batch, k], and x̂."""
    W_enc, W_dec, b_enc, b_dec = tensors
    pre, chosen = torch.addmm(b_enc, x, W_enc.T).topk(k, dim=-1, sorted=False)
    # Columns of k features a token, in the place of a product with all of them.
    x_hat = F.embedding_bag(chosen, W_dec, per_sample_weights=pre.relu(), mode="sum") + b_dec
    return pre, chosen, x_hat


def aux_loss(x: Tensor, error: Tensor, silent: Tensor, tensors: Tensors) -> Tensor:
    """What silent features (bool [d_sae]) leave of the error, squared, mean over tokens."""
    W_enc, W_dec, b_enc, _ = tensors
    which = silent.nonzero()[:, 0]
    scores = torch.addmm(b_enc[which], x, W_enc[which].T)
    values, places = scores.topk(min(AUX_FEATURES, len(which)), dim=-1, sorted=False)
    said = F.embedding_bag(which[places], W_dec, per_sample_weights=values.relu(), mode="sum")
    return (error.detach() - said).square().sum(-1).mean()


def loss_of(x: Tensor, tensors: Tensors, silent: Tensor, recipe: Recipe):
    """The loss; the squared error alone, mean over tokens; which features fired, bool [d_sae]."""
    pre, chosen, x_hat = reconstruct(x, tensors, recipe.k)
    error = x - x_hat
    main = error.square().sum(-1).mean()
    loss = main + HINGE * (MARGIN - pre).relu().sum(-1).mean()
    if recipe.aux and silent.any():
        loss = loss + recipe.aux * aux_loss(x, error, silent, tensors)
    fired = torch.zeros_like(silent)
    fired[chosen[pre > 0]] = True
    return loss, main.detach(), fired


def rate(step: int, steps: int) -> float:
    """The learning rate's share of its highest: up over 50 steps, down over the second half."""
    return min(1, (step + 1) / 50, 2 * (steps - step) / steps)


def folded(tensors: Tensors, scale: float) -> dict[str, Tensor]:
    """The tensors of an official file: W_dec (d_model, d_sae), biases at the residuals' scale."""
    W_enc, W_dec, b_enc, b_dec = (t.detach().cpu() for t in tensors)
    return {"W_enc": W_enc, "W_dec": W_dec.T, "b_enc": b_enc * scale, "b_dec": b_dec * scale}


class State(NamedTuple):
    """A training between two steps."""

    step: int
    tensors: Tensors
    optimizer: torch.optim.Optimizer
    since: Tensor  # [d_sae] tokens since each feature fired
    scale: float
    variance: float  # of the sample at unit scale, summed over d_model
    log: list  # of (step, FVU of the batch, share of silent features), every ten steps


def begin(sample: Tensor, recipe: Recipe) -> State:
    """The state before the first step; `sample` [n, d_model] are residuals without sinks."""
    recipe.check()
    if not sample.isfinite().all():
        raise ValueError("the residuals hold NaN or inf; look for the layer that makes them")
    scale = sample.square().mean().sqrt().item()
    x = sample / scale
    tensors = new_tensors(x, recipe)
    optimizer = torch.optim.Adam(tensors, recipe.peak(x.shape[1]), (0.9, 0.99), fused=True)
    variance = x.var(0, correction=0).sum().item()
    since = torch.zeros(recipe.d_sae, device=x.device)
    return State(0, tensors, optimizer, since, scale, variance, [])


def advance(state: State, residuals: Tensor, recipe: Recipe) -> State:
    """One step on a batch of residuals, without sinks, at their own scale."""
    step, tensors, optimizer, since, scale, variance, log = state
    peak = recipe.peak(residuals.shape[1])
    optimizer.param_groups[0]["lr"] = peak * rate(step, recipe.steps)
    loss, error, fired = loss_of(residuals / scale, tensors, since > SILENT_AFTER, recipe)
    if not loss.isfinite():
        raise ValueError(f"the loss is {loss.item()} at step {step}; lower lr")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    tensors.W_dec.data = F.normalize(tensors.W_dec.data, dim=1)
    since = torch.where(fired, 0, since + len(residuals))
    if step % 10 == 0 or step == recipe.steps - 1:
        silent = (since > SILENT_AFTER).float().mean().item()
        log.append((step, error.item() / variance, silent))
    return State(step + 1, tensors, optimizer, since, scale, variance, log)


def train_sae(
    shards: Shards,
    layer: int,
    recipe: Recipe,
    checkpoint: Path | None = None,
    told: Callable[[int], None] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[dict[str, Tensor], list]:
    """Train the SAE of one layer: the four tensors of an official file, float32, and the log.

    checkpoint   a file that is written after `SAVED_EVERY` tokens, but not before `SAVED_AFTER`
                 seconds: of a wide SAE it has gigabytes. Where it is there already, and
                 of this recipe on these shards, the training goes on behind it, with the batches
                 that it would have had
    told         called with the number of steps so far, every `SAVED_EVERY` tokens
    device       to train on; the tensors come back on the CPU

    ValueError for residuals or a loss that are not finite, and as `Shards.batches`.
    """
    made_from = [shards.digest, layer, *recipe]
    state = _read_state(checkpoint, made_from, device) if checkpoint else None
    state = state or begin(shards.first(layer, SAMPLE).to(device), recipe)
    every, saved = max(1, SAVED_EVERY // recipe.batch), time.monotonic()
    for x in shards.batches(layer, recipe.batch, recipe.seed + layer, state.step):
        if state.step >= recipe.steps:
            break
        state = advance(state, x.to(device), recipe)
        if state.step % every == 0:
            if checkpoint and time.monotonic() - saved >= SAVED_AFTER:
                _write_state(checkpoint, state, made_from)
                saved = time.monotonic()
            if told:
                told(state.step)
    return folded(state.tensors, state.scale), state.log


def _write_state(path: Path, state: State, made_from: list) -> None:
    kept = state._asdict() | {
        "tensors": [t.detach() for t in state.tensors],
        "optimizer": state.optimizer.state_dict(),
        "made_from": made_from,
    }
    half = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(kept, half)
    half.replace(path)


def _read_state(path: Path, made_from: list, device) -> State | None:
    """The state in a checkpoint; None if there is none, or it is of another training."""
    if not path.is_file():
        return None
    try:
        kept = torch.load(path, weights_only=True, map_location=device)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path.name} in {path.parent} is damaged; remove it") from error
    if kept.pop("made_from") != made_from:
        return None
    tensors = Tensors(*(t.requires_grad_() for t in kept["tensors"]))
    optimizer = torch.optim.Adam(tensors, fused=True)
    optimizer.load_state_dict(kept["optimizer"])
    return State(**kept | {"tensors": tensors, "optimizer": optimizer})


def train_suite(
    model,
    texts: Sequence[str],
    held_out: Sequence[str],
    layers: Sequence[int],
    out: str | Path,
    recipe: Recipe,
    *,
    context: int = CONTEXT,
    replace: bool = False,
    told: Callable[[str], None] = print,
) -> dict[int, dict]:
    """Train an SAE for each layer and write them in the official format; {layer: its quality}.

    model      a LanguageModel: see `qs_helpers.loading.scope.load_language_model`
    texts      to train on; `held_out` are other ones, to measure on
    layers     counted from 0: the SAE of layer n reads the output of decoder layer n
    out        gets layer<n>.sae.pt, config.json, README.md and suite.json; and, until all is done,
               work/ with the shards and checkpoints
    replace    remove what is in `out` if it was made from something else
    told       gets a line at each stage

    It goes on where it was cut off, and what is done is kept. Texts are read in the random order of
    the recipe's seed. ValueError for layers that the model does not have, for texts that are empty,
    for files in `out` that are no suite of ours or one that was made from another model, recipe or
    texts (nothing is changed, unless `replace`), for a folder that another process trains into, and
    as `harvest` and `train_sae`.
    """
    from filelock import FileLock, Timeout

    out, layers = Path(out), sorted(set(layers))
    outside = [layer for layer in layers if not 0 <= layer < model.n_layers]
    if outside or not layers:
        raise ValueError(f"layers are {layers}; choose some of 0 to {model.n_layers - 1}")
    recipe.check()
    texts, held_out = checked(texts), checked(held_out)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out.parent / f".{out.name}.lock", timeout=0):
            return _train_suite(model, texts, held_out, layers, out, recipe, context, replace, told)
    except Timeout:
        raise ValueError(f"another process trains into {out.name}; wait for it") from None


def _train_suite(model, texts, held_out, layers, out, recipe, context, replace, told):
    source = plain({"model": model.fingerprint([]), "recipe": recipe, "context": context})
    source |= {"texts": digest(texts), "held-out texts": digest(held_out), "trainer": VERSION}
    # Texts come sorted by language, and the first tokens decide on scale and centre.
    order = random.Random(recipe.seed)
    texts, held_out = (order.sample(part, len(part)) for part in (texts, held_out))
    if not any(len(next(iter(pieces(model, text, context)), [])) > 1 for text in held_out):
        raise ValueError("no held-out text has two tokens: no loss to measure; give longer ones")
    work, name = out / "work", "-".join(map(str, layers))
    _prepare(out, work, source, replace)
    done = {int(n): row for n, row in read_json(out / "suite.json").items()}
    done = {n: row for n, row in done.items() if _sha256(_file(out, n)) == row["sha256"]}
    missing = [layer for layer in layers if layer not in done]
    if not missing and not work.exists():
        return done
    if missing:
        told(f"reading {recipe.tokens:,} tokens at layers {layers}")
        seldom = _seldom(lambda tokens: told(f"{tokens:,} tokens are read"))
        how = {"context": context, "told": seldom}
        if not (work / "made_from.json").is_file():
            write_json(work / "made_from.json", source)
        shards = harvest(model, texts, layers, work / f"train-{name}", recipe.tokens, **how)
        held = harvest(model, held_out, layers, work / f"held-{name}", context=context)
    for layer in missing:
        began = time.monotonic()
        told(f"layer {layer}: {recipe.steps:,} steps on {shards.tokens:,} tokens")
        seldom = _seldom(lambda step: told(f"step {step:,}"))
        state = work / f"layer{layer}.state"
        tensors, log = train_sae(shards, layer, recipe, state, seldom, model.device)
        # Not before: a recipe that fails may be mended and go on with these shards.
        write_json(out / "made_from.json", source)
        sae = save_sae(out, layer, tensors, recipe.k, model)
        mean = shards.first(layer, SAMPLE).mean(0)
        found = quality(sae, shards, held) | loss_added(model, sae, mean, held_out, context)
        about = {"tokens": shards.tokens, "minutes": (time.monotonic() - began) / 60}
        done[layer] = found | about | {"sha256": _sha256(_file(out, layer)), "log": log}
        write_json(out / "suite.json", done)
        told(", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    write_whole(out / "README.md", card(model, recipe, done).encode())
    shutil.rmtree(work)
    return done


def _prepare(out: Path, work: Path, source: dict, replace: bool) -> None:
    """Refuse what is in a folder and is not of this source; or remove it."""
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    ours = (folder / "made_from.json" for folder in (out, work))
    if there and not any(path.is_file() for path in ours):
        raise ValueError(f"{out.name} holds {min(there)} and no suite of ours; name a new folder")
    notes = [read_json(folder / "made_from.json") or source for folder in (out, work)]
    if replace and notes != [source, source]:
        shutil.rmtree(out)
    else:
        require_same(out, notes[0], source)


def _seldom(told: Callable[[int], None]) -> Callable[[int], None]:
    """`told`, called once in TOLD_EVERY seconds."""
    last = time.monotonic()

    def maybe(number: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TOLD_EVERY:
            last = time.monotonic()
            told(number)

    return maybe


def _file(out: Path, layer: int) -> Path:
    return out / f"layer{layer}.sae.pt"


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_sae(out: Path, layer: int, tensors: dict[str, Tensor], k: int, model) -> TopKSAE:
    """Write layer<n>.sae.pt and config.json as official repos have them; load it again."""
    d_sae, d_model = tensors["W_enc"].shape
    config = {
        "model_type": "topk_sae",
        "base_model": model.name,
        "d_model": d_model,
        "d_sae": d_sae,
        "k": k,
        "hook_point": "resid_post",
        "num_layers": model.n_layers,
    }
    write_json(out / "config.json", config)
    path = _file(out, layer)
    buffer = io.BytesIO()
    torch.save({name: t.contiguous().clone() for name, t in tensors.items()}, buffer)
    write_whole(path, buffer.getvalue())
    return load_sae(path)


def quality(sae: TopKSAE, trained: Shards, held: Shards) -> dict[str, float]:
    """FVU and L0 on held-out residuals, of MEASURED tokens at most; and the share of features that
    are silent at the first FIRED_IN tokens of training. Sinks are in neither."""
    n, error, active, around = 0, 0.0, 0, torch.zeros(2, sae.d_model, dtype=torch.float64)
    for x in held.parts(sae.layer, MEASURED):
        acts, away = sae.encode(x), (x - sae.b_dec).double()
        n, active = n + len(x), active + int((acts.values > 0).sum())
        error += (x - sae.decode(acts)).double().square().sum().item()
        around += torch.stack([away.sum(0), away.square().sum(0)])
    variance = (around[1] - around[0].square() / n).sum().item()
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    for x in trained.parts(sae.layer, FIRED_IN):
        acts = sae.encode(x)
        fired[acts.indices[acts.values > 0]] = True
    return {"fvu": error / variance, "l0": active / n, "silent": 1 - fired.float().mean().item()}


@torch.no_grad()
def loss_added(
    model, sae: TopKSAE, mean: Tensor, texts: Iterable[str], context: int = CONTEXT
) -> dict[str, float]:
    """What the SAE costs the model, beside what putting `mean` [d_model] in its place costs.

    In nats per token, over the first LOSS_TOKENS tokens of the texts: "nats" of the model as it is,
    "spliced" with reconstructions in the place of the layer's residuals, "ablated" with their mean.
    "loss_added" is (spliced - nats) / (ablated - nats): 0 is perfect, 1 as bad as the mean. Sinks
    keep their residuals: the SAE was not trained on them, and models break without them.
    """
    sae, mean = sae.to(model.device), mean.to(model.device)
    arms = {"nats": None, "spliced": sae.reconstruct, "ablated": mean.expand_as}
    total, count = dict.fromkeys(arms, 0.0), 0

    def instead(new, own):
        def change(x):
            keep = own & ~sink_mask(x, mask=own)
            return torch.where(keep[..., None], new(x).to(x.dtype), x)

        return change

    for rows in _rows(model, texts, context):
        batch = model.tokens(rows)
        mask = batch["attention_mask"]
        # Not what the tokenizer puts before a text, and no padding.
        own = (mask.cumsum(1) > len(model.prefix)) & mask.bool()
        for name, new in arms.items():
            with edit(model.model, {sae.layer: instead(new, own)} if new else {}):
                nats = cross_entropy(model.model, batch["input_ids"], mask)
            total[name] += nats.double().nan_to_num()[own[:, 1:]].sum().item()
        count += int((own[:, 1:] & mask[:, :-1].bool()).sum())  # predicted, and of the text itself
    found = {name: value / count for name, value in total.items()}
    added = (found["spliced"] - found["nats"]) / (found["ablated"] - found["nats"])
    return found | {"loss_added": added}


def _rows(model, texts: Iterable[str], context: int) -> Iterator[list[list[int]]]:
    """Token ids of batches of texts, the first `context` of each, LOSS_TOKENS in all."""
    ids, total = {}, 0
    for number, text in enumerate(texts):
        ids[number] = next(iter(pieces(model, text, context)), [])
        total += len(ids[number])
        if total >= LOSS_TOKENS:
            break
    for rows in batches({n: len(x) for n, x in ids.items() if len(x) > 1}, model.batch_tokens):
        yield [ids[n] for n in rows]


def card(model, recipe: Recipe, done: dict[int, dict]) -> str:
    """The README.md of a suite."""
    lines = [
        f"# SAEs of {model.name}",
        "",
        f"TopK sparse autoencoders on the residual stream, d_sae {recipe.d_sae:,}, k {recipe.k}: "
        "`layer<n>.sae.pt` reads the output of decoder layer n, counted from 0. Files and "
        "arithmetic are those of the official Qwen-Scope suites, so the same code loads both.",
        "",
        f"Trained for {recipe.steps:,} steps of {recipe.batch} tokens, attention sinks left out. "
        "*FVU* and *loss added* were measured on texts that training did not see; *loss added* is "
        "what splicing reconstructions in costs, as a share of what splicing the mean residual in "
        f"costs. *Silent* features fire at none of the tokens of training, {FIRED_IN:,} at most.",
        "",
        "| layer | tokens | FVU | L0 | silent | loss added | nats a token: model, spliced, mean |",
        "|---|---|---|---|---|---|---|",
    ]
    for layer, row in sorted(done.items()):
        nats = ", ".join(f"{row[name]:.3f}" for name in ("nats", "spliced", "ablated"))
        lines.append(
            f"| {layer} | {row['tokens']:,} | {row['fvu']:.3f} | {row['l0']:.1f} "
            f"| {row['silent']:.1%} "
            f"| {row['loss_added']:.3f} | {nats} |"
        )
    return "\n".join(lines) + "\n"
