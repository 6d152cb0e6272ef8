"""Text from a model, plain or steered, the same whatever the batch.

How a text is written is decided here. Of what a model's generation_config.json says, only its end
tokens count: a penalty or a time limit there would be an edit that nobody asked for.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from .fast.reuse import edited
from .forward import checked, listed
from .steering import Scale, add, project_out

Functions = Mapping[int | str, Callable[[Tensor], Tensor]]
HOW = ("add", "ablate")
TEMPERATURES = (0.001, 1000.0)  # beyond, float32 has no probabilities to draw from


@torch.no_grad()
def generate(
    scope,
    prompts: Sequence[str],
    steer: Functions | Callable[[Tensor], Functions] | None = None,
    positions: str = "all",
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int | None = None,
    forbid: Tensor | None = None,
) -> list[str]:
    """What the model writes after each prompt, without the prompt and without special tokens.

    steer       {layer: function of x}, as `edit` takes it; or a function that is given the row
                numbers of a batch (int64 [batch]) and returns such a dict, so that each prompt can
                have a strength or a direction of its own
    positions   "prompt", "generated" or "all", as in `edit`
    temperature 0 is greedy; else each token is drawn with a number that depends on seed, prompt
                and step only. The same prompt gets the same numbers under every intervention (so
                that arms can be compared in pairs) and in every batch
    batch_size  prompts at a time; None chooses by the vocabulary, so that the logits of a step, in
                float64, stay below 320 MB
    forbid      ids of tokens that are never written: a mask on the logits
    A text ends before its first end token: the model's, or the tokenizer's where it names none.
    ValueError for an empty list, for a prompt that `Scope.tokens` refuses, for a temperature that
    is neither 0 nor from 0.001 to 1000, for less than one token or one prompt at a time, and for
    `forbid` with an id that there is not, or with all of them. No hook is left behind, whatever
    happens.
    """
    if temperature and not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
        raise ValueError(f"temperature is {temperature}; give 0 (greedy), or from 0.001 to 1000")
    _at_least_one("max_new_tokens", max_new_tokens)
    prompts = checked(prompts)
    ids = scope.ids(prompts)
    vocabulary = scope.model.get_output_embeddings().weight.shape[0]
    if batch_size is None:
        batch_size = min(1024, max(16, 40_000_000 // vocabulary))
    _at_least_one("batch_size", batch_size)
    forbid = _forbidden(forbid, vocabulary, len(scope.tokenizer))
    settings = _settings(scope, max_new_tokens)
    stops = set(settings.eos_token_id or ())
    out = [""] * len(ids)
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # little padding
    for start in range(0, len(ids), batch_size):
        rows = by_length[start : start + batch_size]
        batch = scope.tokens([ids[i] for i in rows])
        given = steer(torch.tensor(rows)) if callable(steer) else steer
        hooks = edited(scope.model, batch, given, positions, cached=True)
        steps = [] if forbid is None else [functools.partial(_mask, forbid.to(scope.device))]
        if temperature:
            steps.append(_Draw([prompts[i] for i in rows], temperature, seed))
        with hooks, _only(scope.model, settings):
            made = scope.model.generate(**batch, generation_config=settings, logits_processor=steps)
        new = made[:, batch["input_ids"].shape[1] :].tolist()
        new = [row[: _first(row, stops)] for row in new]  # behind its end a row is padded
        texts = scope.tokenizer.batch_decode(new, skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            out[row] = text
    return out


def _settings(scope, max_new_tokens: int):
    """Greedy decoding and nothing else, with the model's end tokens."""
    from transformers import GenerationConfig

    ends = scope.model.generation_config.eos_token_id
    ends = scope.tokenizer.eos_token_id if ends is None else ends
    ends = [ends] if isinstance(ends, int) else ends
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,  # _Draw leaves one token to choose from
        eos_token_id=ends,
        pad_token_id=scope.tokenizer.pad_token_id,
    )


@contextmanager
def _only(model, settings) -> Iterator[None]:
    """In the block, `settings` are all that the model has: what one call leaves open, transformers
    takes from the model's own."""
    own, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = own


def _first(row: list[int], stops: set[int]) -> int:
    return next((i for i, token in enumerate(row) if token in stops), len(row))


def _at_least_one(name: str, value) -> None:
    whole = hasattr(value, "__index__") and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(f"{name} is {value!r}; give a whole number from 1")


def _forbidden(ids, vocabulary: int, written: int) -> Tensor | None:
    """Ids that are never written, int64, or None. `written`: how many ids the tokenizer has."""
    if ids is None:
        return None
    ids = torch.as_tensor(ids).flatten()
    if not len(ids):
        return None
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"forbid is of {ids.dtype}; give ids of tokens, whole numbers")
    if ids.min() < 0 or ids.max() >= vocabulary:
        bad = int(ids.min() if ids.min() < 0 else ids.max())
        raise ValueError(f"forbid holds {bad}; tokens have ids from 0 to {vocabulary - 1}")
    if len(ids[ids < written].unique()) >= min(written, vocabulary):
        raise ValueError("forbid holds every token, so nothing could be written; leave some out")
    return ids.long()


def _mask(ids: Tensor, input_ids: Tensor, scores: Tensor) -> Tensor:
    return scores.index_fill(-1, ids, float("-inf"))


class _Draw:
    """A logits processor that leaves one token: the one on which a number from [0, 1) falls when
    the probabilities are laid end to end."""

    def __init__(self, prompts: list[str], temperature: float, seed: int):
        self.temperature, self.step = temperature, 0
        self.names = [f"{seed}/{prompt}".encode("utf-8", "surrogatepass") for prompt in prompts]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        digests = [hashlib.sha256(name + b"/%d" % self.step).digest() for name in self.names]
        numbers = [int.from_bytes(digest[:6]) / 2**48 for digest in digests]
        self.step += 1
        shares = (scores.float() / self.temperature).softmax(-1)
        mass = shares.cumsum(-1, dtype=torch.float64)
        point = torch.tensor(numbers, dtype=torch.float64, device=scores.device)[:, None]
        chosen = torch.searchsorted(mass, point * mass[:, -1:], right=True)
        left = torch.full_like(scores, float("-inf"))
        return left.scatter_(-1, chosen.clamp(max=scores.shape[-1] - 1), 0.0)


class Arm(NamedTuple):
    """One intervention. Adding: `strength` median norms of `direction` after `layer`. Ablating: the
    share `strength` of `direction` is taken out of everything that is written to the stream."""

    layer: int
    strength: float
    direction: Tensor
    """[d_model]"""
    along: Tensor | None = None
    """ablating, for a control: take away as much, token by token, along this direction"""


def sweep(
    scope,
    prompts: Sequence[str],
    scales: Mapping[int, Scale],
    arms: Sequence[Arm],
    how: str = "add",
    **options,
) -> list[list[str]]:
    """One list of texts for each arm, in the order of the prompts.

    Prompts of all arms at a layer share batches, which saves most of the time. `how` is "add" or
    "ablate"; `options` go to `generate`. ValueError without arms.
    """
    prompts = listed(prompts)
    if how not in HOW:
        raise ValueError(f"how is {how!r}; choose one of {', '.join(HOW)}")
    if not arms:
        raise ValueError("sweep got no arms")
    texts: list[list[str]] = [[] for _ in arms]
    for layer in sorted({arm.layer for arm in arms}):
        here = [i for i, arm in enumerate(arms) if arm.layer == layer]
        steer = _steering([arms[i] for i in here], scales[layer], how, len(prompts))
        made = generate(scope, prompts * len(here), steer, **options)
        for place, i in enumerate(here):
            texts[i] = made[place * len(prompts) : (place + 1) * len(prompts)]
    return texts


def _steering(arms: list[Arm], scale: Scale, how: str, n: int):
    """What `generate` needs for n prompts under each of some arms at one layer."""

    def stack(vectors) -> Tensor:
        return torch.stack([torch.as_tensor(v).float().cpu() for v in vectors])

    strengths = torch.tensor([float(arm.strength) for arm in arms])
    own = stack(arm.direction for arm in arms)
    along = stack(arm.direction if arm.along is None else arm.along for arm in arms)

    def steer(rows: Tensor) -> dict:
        arm = rows // n
        if how == "add":
            return {scale.layer: add(own[arm], strengths[arm], scale)}
        return {"writes": project_out(own[arm], scale, strengths[arm], along[arm])}

    return steer


@contextmanager
def logit_mask(scope, ids: Tensor | None) -> Iterator[None]:
    """In the block the model gives tokens `ids` no probability, when it reads too; None: no mask.

    Text that holds one of them then has an infinite cross-entropy.
    """

    def mask(module, args, logits: Tensor) -> Tensor:
        return logits if ids is None else logits.index_fill(-1, ids.to(logits.device), -torch.inf)

    handle = scope.model.get_output_embeddings().register_forward_hook(mask)
    try:
        yield
    finally:
        handle.remove()
