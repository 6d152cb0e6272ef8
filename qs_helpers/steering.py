"""Changes of the residual stream, as functions for `edit`; and the units of their strengths.

Each function maps residuals x [batch, seq, d_model] of a forward pass to new ones of x's dtype.
Attention sinks are never changed. Directions, strengths and values are the same for all rows of the
batch, or have a first dimension with one entry for each row.

What `add` and `change_features` return says what it is, for `export_steering`: `does`, a word;
`scale`, in whose units; `adds`, float32 [d_model] on the CPU, where one vector is added to every
token that is no sink, whatever x is, else None.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .forward import SINK_FACTOR, activations, listed, position_means, residuals
from .hooks import edit as edit_model

MODES = ("add", "floor", "ceil", "clamp", "scale", "zero")
Edit = Callable[[Tensor], Tensor]


class Scale(NamedTuple):
    """The size of residuals after a layer."""

    layer: int
    median: float
    """median norm of tokens that are no sinks: a strength of 1"""
    sink: float
    """tokens with a larger norm are sinks"""
    d_model: int
    dtype: torch.dtype


def scales(scope, texts: Iterable[str], layers=None) -> dict[int, Scale]:
    """{layer: Scale} from all tokens of `texts` themselves; sinks by the rule of `sink_mask`."""
    norms: dict[int, list[Tensor]] = {}
    for part in residuals(scope, texts, layers):
        norm = torch.linalg.vector_norm(part.x.float(), dim=-1).cpu()
        norms.setdefault(part.layer, []).append(norm[part.position >= len(scope.prefix)])
    found = {}
    for layer, parts in norms.items():
        norm = torch.cat(parts)
        sink = SINK_FACTOR * norm.median().item()
        median = norm[norm <= sink].median().item()
        found[layer] = Scale(layer, median, sink, scope.d_model, scope.dtype)
    return found


def add(direction: Tensor, strength, scale: Scale) -> Edit:
    """x + strength * scale.median * direction / |direction|.

    direction: [d_model] or [rows, d_model]; strength: a number or [rows]; 0 gives x bit for bit.
    ValueError for a direction of another width, of zero norm or with NaN, and for a strength whose
    squared residual leaves the range of floats.
    """
    unit = _unit(direction, scale)
    strength = torch.as_tensor(strength, dtype=torch.float32).to(unit.device)
    size = (strength.abs().max() * scale.median).item()
    most = min(
        torch.finfo(scale.dtype).max, (torch.finfo(torch.float32).max / scale.d_model) ** 0.5
    )
    if not size < most:
        raise ValueError(
            f"strength {strength.abs().max().item():g} makes an edit of norm {size:g} at layer "
            f"{scale.layer}, beyond what {scale.dtype} holds; stay below {most / scale.median:g}"
        )
    step = (strength * scale.median)[..., None] * unit
    step = step.reshape(-1, 1, scale.d_model)

    def edit(x: Tensor) -> Tensor:
        delta = _rows(step, x)
        # An edit of nothing gives x itself, not x + 0, which would turn -0.0 into 0.0.
        spared = _sinks(x, scale) | (delta == 0).all(-1)
        return torch.where(spared[..., None], x, (x.float() + delta).to(x.dtype))

    return _described(edit, "add", scale, step[0, 0] if len(step) == 1 else None)


def project_out(direction: Tensor, scale: Scale, strength=1.0, along: Tensor | None = None) -> Edit:
    """x - strength * (x . unit) unit: directional ablation (Arditi et al. 2024).

    direction: [d_model] or [rows, d_model]. strength, a number or [rows]: 1 removes the component,
    2 mirrors it. With `edit(model, {"writes": ...})` it is taken out of everything that is
    written to the stream; a write is then spared where its own norm is that of a sink. `along`
    (as direction) makes a control: as much is taken away, token by token, along another
    direction. Errors as in `add`, but a strength is refused only if it is not finite.
    """
    unit = _unit(direction, scale).reshape(-1, 1, scale.d_model)
    other = unit if along is None else _unit(along, scale).reshape(-1, 1, scale.d_model)
    strength = torch.as_tensor(strength, dtype=torch.float32).reshape(-1, 1, 1)
    if not strength.isfinite().all():
        raise ValueError(f"strength {strength.flatten().tolist()} is not finite")

    def edit(x: Tensor) -> Tensor:
        size = _rows(strength, x) * (x.float() * _rows(unit, x)).sum(-1, keepdim=True)
        new = (x.float() - size * _rows(other, x)).to(x.dtype)
        return torch.where(_sinks(x, scale)[..., None] | (size == 0), x, new)

    return edit


def change_features(sae, ids, mode: str, scale: Scale, value=None) -> Edit:
    """x + W_dec[:, ids] (z' - z), where z are the activations of the features `ids`.

    mode    z' at every token that is no sink; z is 0 where a feature is not in the TopK
    "add"   z + value        "floor"  max(z, value)     "ceil"   min(z, value)
    "clamp" value            "scale"  z * value         "zero"   0 (no value)
    ids: one feature or several; value: a number, [features] or [rows, features], in units of
    activation. "scale" and "zero" touch only tokens where a feature is active. The TopK is not
    taken again: a feature that goes leaves its place empty. ValueError for a feature, mode or
    value that does not exist or is not finite.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")
    if (value is None) != (mode == "zero"):
        raise ValueError(f"mode {mode!r} takes {'no value' if mode == 'zero' else 'a value'}")
    ids = torch.as_tensor(ids, device=sae.device).reshape(-1)
    columns = sae.direction(ids)  # checks ids; [features, d_model]
    goal = torch.zeros(len(ids)) if value is None else torch.as_tensor(value).float()
    if not goal.isfinite().all():
        raise ValueError(f"value {value!r} of features {ids.tolist()} is not finite")
    goal = goal.expand(*goal.shape[:-1], len(ids)).reshape(-1, 1, len(ids))

    def edit(x: Tensor) -> Tensor:
        z = sae.some(x, ids)
        to = _rows(goal.to(z.device), z)
        new = {
            "add": z + to,
            "floor": z.maximum(to),
            "ceil": z.minimum(to),
            "clamp": to.expand_as(z),
            "scale": z * to,
            "zero": torch.zeros_like(z),
        }[mode]
        change = (new - z).to(columns.device)
        delta = (change @ columns).to(x.device)
        spared = _sinks(x, scale) | (change == 0).all(-1).to(x.device)
        return torch.where(spared[..., None], x, (x.float() + delta).to(x.dtype))

    fixed = mode == "add" and len(goal) == 1
    return _described(edit, mode, scale, goal[0, 0].to(columns.device) @ columns if fixed else None)


def only_where(condition: Callable[[Tensor], Tensor], edit: Edit) -> Edit:
    """A gate: an edit that is used only at tokens where `condition` of the residuals x, a bool
    [batch, seq], is true. The edit sees these tokens alone, as one row: it must be the same for
    all rows of the batch."""

    def gated(x: Tensor) -> Tensor:
        hit = condition(x)
        if not hit.any():
            return x
        new = x.clone()
        new[hit] = edit(x[hit][None])[0]
        return new

    return gated


def diff_of_means(
    scope, positive: Sequence[str], negative: Sequence[str], layers=None
) -> dict[int, Tensor]:
    """{layer: float32 [d_model]}: mean residual of `positive` minus mean residual of `negative`.

    The means are over all tokens that are no sinks (Marks and Tegmark 2023). Not normalised.
    ValueError if a list is empty or the two means are equal.
    """
    sides = [_means(scope, texts, layers) for texts in (positive, negative)]
    return difference_of(*sides)


def difference_of(positive: dict, negative: dict) -> dict[int, Tensor]:
    """{layer: float32} of two {layer: mean}. ValueError where they are equal."""
    found = {layer: (positive[layer] - negative[layer]).float() for layer in positive}
    for layer, direction in found.items():
        if not direction.any():
            raise ValueError(f"both lists of texts have the same mean at layer {layer}")
    return found


def strong_activation(scope, texts: Sequence[str], layer: int, features, q: float = 0.99) -> Tensor:
    """The q-quantile of each feature's activations over tokens where it is active: float32
    [features]. ValueError names a feature that is active on no token that is no sink."""
    texts, features = listed(texts), torch.as_tensor(features).reshape(-1)
    found: list[list[Tensor]] = [[] for _ in features]
    for part in activations(scope, texts, [layer]):
        active = (part.acts.values > 0) & part.keep[:, None]
        for place, feature in enumerate(features):
            found[place].append(part.acts.values[active & (part.acts.indices == feature)])
    values = [torch.cat(parts) for parts in found]
    silent = [int(f) for f, v in zip(features, values, strict=True) if not len(v)]
    if silent:
        raise ValueError(
            f"features {silent} of layer {layer} are active on none of these {len(texts)} texts, "
            "so there is no strength to take from them; choose live features or other texts"
        )
    return torch.stack([v.quantile(q) for v in values])


def _means(scope, texts: Sequence[str], layers) -> dict[int, Tensor]:
    sums, counts = {}, {}
    for part in residuals(scope, texts, layers):
        total = part.x[part.keep.to(part.x.device)].double().sum(0).cpu()
        sums[part.layer] = sums.get(part.layer, 0) + total
        counts[part.layer] = counts.get(part.layer, 0) + int(part.keep.sum())
    return {layer: total / max(1, counts[layer]) for layer, total in sums.items()}


def _unit(direction: Tensor, scale: Scale) -> Tensor:
    direction = torch.as_tensor(direction).float()
    if direction.shape[-1:] != (scale.d_model,) or direction.ndim > 2:
        raise ValueError(
            f"the direction is {tuple(direction.shape)}; make it [{scale.d_model}] or "
            f"[rows, {scale.d_model}], the width of layer {scale.layer}"
        )
    norm = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    if not norm.isfinite().all() or not (norm > 0).all():
        raise ValueError("the direction has zero norm or holds NaN or inf; there is none to go in")
    return direction / norm


def _described(edit: Edit, does: str, scale: Scale, adds: Tensor | None) -> Edit:
    """The edit, which says what it is: see the top of this module."""
    edit.does, edit.scale = does, scale
    edit.adds = None if adds is None else adds.detach().float().cpu()
    return edit


def _sinks(x: Tensor, scale: Scale) -> Tensor:
    return torch.linalg.vector_norm(x.float(), dim=-1) > scale.sink


def _rows(values: Tensor, x: Tensor) -> Tensor:
    """One entry for all rows of x or one for each, on x's device."""
    if len(values) not in (1, len(x)):
        raise ValueError(f"{len(values)} rows of strengths or directions for a batch of {len(x)}")
    return values.to(x.device)


def diff_at_positions(scope, positive, negative, n: int, layers=None) -> dict[int, Tensor]:
    """{layer: float32 [n, d_model]}: the diff of means at each of the last n tokens of two
    lists of prompts.

    With n of `template_tokens` these are the candidates of Arditi et al. 2024, read after a layer
    and not before it. Not normalised. Errors as in `diff_of_means` and `position_means`.
    """
    sides = [position_means(scope, prompts, n, layers) for prompts in (positive, negative)]
    return difference_of(*sides)


@dataclass
class Arm:
    """What an edit takes away, and where: x' = x - s g p(x), with a part p, a strength s, and a
    gate g that is 1 or 0. Attention sinks are never changed."""

    parts: Mapping[int | str, Callable[[Tensor], Tensor]]
    """{layer or "writes": p(x), float32}"""
    scales: Mapping[int | str, Scale]
    reading: Callable[[Tensor], Tensor]
    """how much a part points towards what is to go: [..., d_model] to [...]"""
    level: float | None = None
    """of the gate, in median norms; None: there is none"""


def direction_arm(scales: Mapping, r: Tensor, layer: int, everywhere: bool) -> Arm:
    """The component along a direction, of the residual after a layer or of every write."""
    unit, place = normalize(r.float(), dim=0), "writes" if everywhere else layer

    def part(x: Tensor) -> Tensor:
        u = unit.to(x.device)
        return (x.float() @ u)[..., None] * u

    return Arm({place: part}, {place: scales[layer]}, lambda p: p @ unit.to(p.device))


def feature_arm(scope, scales: Mapping, chosen: Sequence[tuple[int, int]]) -> Arm:
    """What a set of features (layer, feature) contributes. ValueError for an empty set."""
    if not chosen:
        raise ValueError("the set of features is empty")

    def part_of(layer: int):
        sae, ids = scope.sae(layer), torch.tensor([f for n, f in chosen if n == layer])
        columns = sae.direction(ids).float()
        return lambda x: (sae.some(x, ids).to(columns) @ columns).to(x.device)

    layers = sorted({n for n, _ in chosen})
    sizes = {n: scales[n] for n in layers}
    return Arm({n: part_of(n) for n in layers}, sizes, lambda p: p.norm(dim=-1))


def take(arm: Arm, strength, instead: Tensor | None = None) -> dict:
    """{place: edit}, as `edit` takes it.

    strength: a number, or one for each prompt of a batch; instead: unit vectors [prompts, d_model],
    or [1, d_model], along which as much is taken away, of a direction with its sign, so that writes
    may cancel as they do in the edit itself: a control of the same size.
    """
    s = torch.as_tensor(strength, dtype=torch.float32).reshape(-1, 1, 1)

    def at(place):
        part, scale = arm.parts[place], arm.scales[place]

        def edit(x: Tensor) -> Tensor:
            p, factor = part(x), s.to(x.device)
            here = (p != 0).any(-1, keepdim=True) & (factor != 0)
            if arm.level is not None:
                here &= arm.reading(p)[..., None] > arm.level * scale.median
            here &= x.float().norm(dim=-1, keepdim=True) <= scale.sink
            if instead is not None:
                p = arm.reading(p)[..., None] * instead.to(x.device)[:, None]
            return torch.where(here, (x.float() - factor * p).to(x.dtype), x)

        return edit

    return {place: at(place) for place in arm.parts}


@torch.no_grad()
def gate_level(scope, arm: Arm, prompts: Sequence[str], q: float = 0.95) -> float:
    """The reading, in median norms, that a share q of prompts stay below at all tokens and places
    of the edit."""
    peaks: list[float] = []
    seen: list[Tensor] = []

    def watch(place):
        def look(x: Tensor) -> Tensor:
            inside = x.float().norm(dim=-1) <= arm.scales[place].sink
            reading = arm.reading(arm.parts[place](x)) / arm.scales[place].median
            seen.append(reading.where(inside, -torch.inf))
            return x

        return look

    for start in range(0, len(prompts), 64):
        seen.clear()
        batch = scope.tokens(prompts[start : start + 64])
        with edit_model(scope.model, {place: watch(place) for place in arm.parts}):
            scope.model(**batch, use_cache=False, logits_to_keep=1)
        real = batch["attention_mask"].bool()
        peaks += torch.stack(seen).amax(0).where(real, -torch.inf).amax(1).tolist()
    return float(np.quantile(peaks, q))
