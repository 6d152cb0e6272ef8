"""Texts to tokens, residuals and active features: one forward pass for all layers.

Attention sinks (see `sink_mask`) are marked and never counted, and neither are tokens that the
tokenizer puts before a text, such as a BOS, whatever their norm: they are not the text's own. The
median norm that says what a sink is is taken over a part: texts of `chunk_tokens` tokens at most.
Parts depend neither on the machine nor on the dtype and the layers that are asked for, so what is
counted does not either.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .hooks import capture
from .sae import SparseActs

NO_TEXTS = "texts is empty; give at least one text"
CHUNK_TOKENS = 8192  # whose residuals are held at a time, or as many as
RESIDUAL_BYTES = 2**31  # hold those of all layers of a model in float32
TOKENIZED = 64  # texts at a time
SINK_FACTOR = 10  # a token whose norm exceeds this many medians is a sink


class Part(NamedTuple):
    """Tokens of some texts at one layer; all tensors on the CPU."""

    layer: int
    acts: SparseActs  # values and indices [tokens, k]
    keep: Tensor  # bool [tokens], False at attention sinks and at the scope's prefix
    text: Tensor  # int64 [tokens], number of the text
    position: Tensor  # int64 [tokens], place in the ids of the text, its prefix included
    ids: Tensor  # int64 [tokens]


class Residuals(NamedTuple):
    """Residuals of tokens of some texts after one layer, x [tokens, d_model] on the model's device;
    the rest as in `Part`."""

    layer: int
    x: Tensor
    keep: Tensor
    text: Tensor
    position: Tensor
    ids: Tensor


@torch.no_grad()
def residuals(scope, texts: Iterable[str], layers=None) -> Iterator[Residuals]:
    """Residuals of every token of `texts`, layer by layer for a chunk of texts at a time.

    The forward pass runs once for all `layers` (None: all with an SAE) and stops after the last.
    Memory does not grow with the corpus. Texts are refused as `Scope.tokens` refuses them: empty,
    too long, half a character.
    """
    layers = list(scope.layers) if layers is None else sorted(set(layers))
    for first, chunk in _chunks(scope, texts, chunk_tokens(scope)):
        found, text, position, ids = id_residuals(scope, chunk, layers)
        for layer in layers:
            x = found.pop(layer)
            yield Residuals(layer, x, kept(scope, x, position), text + first, position, ids)


@torch.no_grad()
def activations(scope, texts: Iterable[str], layers=None) -> Iterator[Part]:
    """Active features of every token of `texts`, as `residuals` yields them.

    One SAE is in use at a time; the file of the next one is read while it is.
    """
    layers = list(scope.layers) if layers is None else sorted(set(layers))
    following = dict(zip(layers, layers[1:], strict=False))
    for part in residuals(scope, texts, layers):
        if part.layer in following:
            scope.read_ahead(following[part.layer])
        acts = scope.sae(part.layer).encode(part.x)
        acts = SparseActs(acts.values.cpu(), acts.indices.cpu())
        yield Part(part.layer, acts, *part[2:])


class Readings(NamedTuple):
    """Some texts at one layer, pooled over their tokens, sinks left out: float32 arrays, or None
    where `read_texts` was not asked for them."""

    peak: np.ndarray | None = None
    """[texts, d_sae] the strongest activation; > 0 where a feature fires"""
    mean: np.ndarray | None = None
    """[texts, d_sae] mean activation"""
    last: np.ndarray | None = None
    """[texts, d_sae] activation at the last token"""
    rate: np.ndarray | None = None
    """[texts, d_sae] share of tokens on which a feature fires"""
    residual: np.ndarray | None = None
    """[texts, d_model] mean residual"""

    def rows(self, index) -> "Readings":
        return Readings(*(None if part is None else part[index] for part in self))


@torch.no_grad()
def read_texts(
    scope,
    texts: Sequence[str],
    layers=None,
    pools: Sequence[str] = ("peak", "mean", "last", "residual"),
) -> dict[int, Readings]:
    """{layer: Readings} of texts, in one pass for all layers (None: all with an SAE).

    Arrays are dense: 4 bytes for each text, feature and pool, so ask for no pool that you do not
    need. All are 0 where a feature is in the TopK of no token that is not a sink.
    """
    texts = listed(texts)
    layers = list(scope.layers) if layers is None else sorted(set(layers))
    found = {
        layer: {
            pool: torch.zeros(len(texts), scope.d_model if pool == "residual" else scope.d_sae)
            for pool in pools
        }
        for layer in layers
    }
    for part in residuals(scope, texts, layers) if texts else ():
        acts = scope.sae(part.layer).encode(part.x)
        values, indices = acts.values.cpu() * part.keep[:, None], acts.indices.cpu()
        # Where a token's features are in a flat [texts * d_sae].
        place = part.text[:, None] * scope.d_sae + indices
        count = torch.bincount(part.text[part.keep], minlength=len(texts)).clamp(min=1)
        here = part.text.unique()
        for pool, total in found[part.layer].items():
            if pool == "peak":
                total.view(-1).scatter_reduce_(0, place.view(-1), values.view(-1), "amax")
            elif pool == "last":
                end = torch.cat([part.text[1:] != part.text[:-1], torch.tensor([True])])
                total.view(-1)[place[end].view(-1)] = values[end].view(-1)
            elif pool == "residual":
                total.index_add_(0, part.text, part.x.float().cpu() * part.keep[:, None])
            else:
                each = values if pool == "mean" else (values > 0).float()
                total.view(-1).index_add_(0, place.view(-1), each.view(-1))
            if pool in ("mean", "rate", "residual"):
                total[here] /= count[here][:, None]
    return {
        layer: Readings(**{pool: total.numpy() for pool, total in pooled.items()})
        for layer, pooled in found.items()
    }


@torch.no_grad()
def count_firing(scope, texts: Sequence[str], weights, layers=None) -> dict[int, np.ndarray]:
    """{layer: sums [rows, d_sae]}: of each row of weights [rows, texts], those of the texts in
    which a feature fires, summed. A text counts once, on however many tokens a feature fires.

    With a row of yes and no these are counts of texts. Nothing is kept of a single text: 8 bytes a
    row, feature and layer, for any number of texts. Layers as in `read_texts`, sinks left out.
    """
    texts, weights = listed(texts), np.atleast_2d(np.asarray(weights, np.float64))
    if weights.ndim != 2 or weights.shape[1] != len(texts):
        raise ValueError(f"weights {weights.shape} for {len(texts)} texts; give [rows, texts]")
    layers = list(scope.layers) if layers is None else sorted(set(layers))
    found = {layer: np.zeros((len(weights), scope.d_sae)) for layer in layers}
    for part in activations(scope, texts, layers) if texts else ():
        active = (part.acts.values > 0) & part.keep[:, None]
        place = (part.text[:, None] * scope.d_sae + part.acts.indices)[active].unique().numpy()
        text, feature = np.divmod(place, scope.d_sae)
        for sums, row in zip(found[part.layer], weights, strict=True):
            sums += np.bincount(feature, row[text], scope.d_sae)
    return found


@torch.no_grad()
def read_peaks(
    scope, texts: Sequence[str], features: Mapping[int, Sequence[int]]
) -> dict[int, np.ndarray]:
    """{layer: float32 [texts, features]}: the strongest activation of some features in each text.

    The columns of `read_texts(...).peak` that `features`, {layer: numbers}, names, in that order,
    without the others ever being held: 4 bytes a text and feature.
    """
    texts, column, found = listed(texts), {}, {}
    for layer, numbers in features.items():
        numbers = torch.as_tensor(np.asarray(numbers, np.int64))
        if len(numbers.unique()) < len(numbers):
            raise ValueError(f"layer {layer}: a feature is asked for twice")
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < scope.d_sae:
            raise ValueError(f"layer {layer}: features are counted from 0 to {scope.d_sae - 1}")
        column[layer] = torch.full([scope.d_sae], len(numbers))  # the last one: of all others
        column[layer][numbers] = torch.arange(len(numbers))
        found[layer] = torch.zeros(len(texts), len(numbers) + 1)
    for part in activations(scope, texts, list(found)) if texts and found else ():
        peaks = found[part.layer]
        values = part.acts.values * part.keep[:, None]
        place = part.text[:, None] * peaks.shape[1] + column[part.layer][part.acts.indices]
        peaks.view(-1).scatter_reduce_(0, place.view(-1), values.view(-1), "amax")
    return {layer: peaks[:, :-1].numpy() for layer, peaks in found.items()}


def ends(
    scope, texts: Sequence[str], n: int = 1, layers=None
) -> Iterator[tuple[int, Tensor, list[int]]]:
    """Layer, residuals [some texts, n, d_model] of the last n tokens of each text, and the numbers
    of these texts, as `residuals` yields them. ValueError for a text of fewer than n tokens, those
    of `scope.prefix` not counted."""
    texts = listed(texts)
    lengths = torch.tensor([len(ids) for ids in scope.ids(texts)])
    fewest = int(lengths.min()) - len(scope.prefix)
    if fewest < n:
        raise ValueError(f"a text has {fewest} tokens, so it has no last {n}")
    for part in residuals(scope, texts, layers):
        tail = (lengths[part.text] - part.position) <= n
        x = part.x[tail.to(part.x.device)]
        yield part.layer, x.view(-1, n, x.shape[-1]), part.text[tail][::n].tolist()


def kept(scope, x: Tensor, position: Tensor) -> Tensor:
    """Which tokens of a part count: bool [tokens] on the CPU, False at sinks and at the prefix,
    which does not enter the median either. x is [tokens, d_model], position as in `Part`."""
    own = position >= len(scope.prefix)
    return own & ~sink_mask(x, mask=own).cpu()


@torch.no_grad()
def sink_mask(x: Tensor, factor: float = SINK_FACTOR, mask: Tensor | None = None) -> Tensor:
    """Tokens whose residual norm exceeds `factor` times the median norm.

    x is [..., d_model]; the result is bool [...], True at sinks. `mask` (bool or 0/1, [...]) says
    which tokens are real: padding does not enter the median and is never a sink. The median is
    the lower one when the count is even. ValueError if no token is real or a real one has NaN.
    """
    norms = torch.linalg.vector_norm(x.float(), dim=-1)
    real = torch.ones_like(norms, dtype=torch.bool) if mask is None else _token_mask(mask, norms)
    if not real.any():
        raise ValueError("sink_mask got no real token; pass at least one")
    if not norms[real].isfinite().all():
        raise ValueError("sink_mask got NaN or inf residuals; look for the layer that makes them")
    return (norms > factor * norms[real].median()) & real


def _token_mask(mask: Tensor, like: Tensor) -> Tensor:
    if mask.shape != like.shape:
        raise ValueError(f"mask is {tuple(mask.shape)} but the tokens are {tuple(like.shape)}")
    return mask.to(like.device).bool()


def each(texts) -> Iterable[str]:
    """Texts to go through: a str is one text, whatever else it might be a list of.

    ValueError for what would give something else than its texts: a table, whose items are names of
    columns, a dict, one record, or a set, which has no order.
    """
    if isinstance(texts, str):
        return [texts]
    odd = bytes | Mapping | set | frozenset
    if isinstance(texts, odd) or hasattr(texts, "_fields") or hasattr(texts, "columns"):
        raise ValueError(f"texts is of type {type(texts).__name__}; give a list of strings")
    return texts


def listed(texts) -> list[str]:
    """`each` as a list, by position and read once; texts may be empty. ValueError names the first
    that is no string."""
    texts = list(each(texts))
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {number} is {text!r}; each text must be a string")
    return texts


def checked(texts, first: int = 0) -> list[str]:
    """Texts as a list. ValueError names the first that is empty, no string or half a character.

    Numbers in the message count from `first`.
    """
    texts = list(each(texts))
    if not texts:
        raise ValueError(NO_TEXTS)
    for number, text in enumerate(texts, first):
        if not isinstance(text, str) or not text:
            raise ValueError(f"text {number} is {text!r}; each text must be a non-empty string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text {number} holds half a character at position {error.start}; "
                "decode whole characters, or with errors='replace'"
            ) from None
    return texts


def batches(lengths: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """Numbers of texts, given their lengths: texts of like length together, each batch of at most
    `most` tokens with its padding (or of one text). At most a tenth is padding, but in batches of
    less than an eighth of `most`, which are not worth a call of their own."""
    batch: list[int] = []
    real = 0
    for i in sorted(lengths, key=lengths.get):
        padded = (len(batch) + 1) * lengths[i]
        wasteful = real >= most / 8 and real + lengths[i] < 0.9 * padded
        if batch and (padded > most or wasteful):
            yield batch
            batch, real = [], 0
        batch.append(i)
        real += lengths[i]
    if batch:
        yield batch


def chunk_tokens(suite) -> int:
    """The most tokens of a part, for a scope or a group of the catalog."""
    return min(CHUNK_TOKENS, RESIDUAL_BYTES // (4 * suite.n_layers * suite.d_model))


def _chunks(scope, texts: Iterable[str], most: int) -> Iterator[tuple[int, list[list[int]]]]:
    """Token ids of neighbouring texts, at most `most` tokens (or one text), each list with the
    number of its first text."""
    chunk, first, size = [], 0, 0
    for start, group in _groups(texts):
        for number, ids in enumerate(scope.ids(group, start), start):
            if chunk and size + len(ids) > most:
                yield first, chunk
                chunk, first, size = [], number, 0
            chunk.append(ids)
            size += len(ids)
    if not chunk:
        raise ValueError(NO_TEXTS)
    yield first, chunk


def _groups(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    texts = enumerate(each(texts))
    while group := list(itertools.islice(texts, TOKENIZED)):
        yield group[0][0], [text for _, text in group]


def id_residuals(scope, texts: list[list[int]], layers: list[int]):
    """Residuals {layer: [tokens, d_model]} of texts given as ids, with text, position and id of
    each token. Tokens are in the order of the texts, whatever order they were run in."""
    parts, places = {layer: [] for layer in layers}, []
    # Padded residuals of a batch are held beside those of the part.
    most = min(scope.batch_tokens, chunk_tokens(scope) // 2)
    for batch in batches({i: len(ids) for i, ids in enumerate(texts)}, most):
        padded = scope.tokens([texts[i] for i in batch])
        real = padded["attention_mask"].bool()
        with capture(scope.model, layers) as captured:
            scope.model(**padded, use_cache=False)
        for layer in layers:
            parts[layer].append(captured.pop(layer)[real])
        text = torch.tensor(batch)[real.nonzero()[:, 0].cpu()]
        position, ids = (real.cumsum(1) - 1)[real].cpu(), padded["input_ids"][real].cpu()
        places.append((text, position, ids))
    text, position, ids = (torch.cat(column) for column in zip(*places, strict=True))
    order = (text * (int(position.max()) + 1) + position).argsort()
    found = {}
    for layer in layers:  # each layer's parts are given up before the next is put together
        x = torch.cat(parts.pop(layer))
        found[layer] = x[order.to(x.device)]
    return found, text[order], position[order], ids[order]


def reads_once(scope, layers: Sequence[int]) -> Callable[..., dict[int, Readings]]:
    """`read_texts` of these layers, as a function of texts and pools, that reads a text only once:
    several concepts share texts, and on a large model reading is what takes the time.

    Rows are kept sparse. Pools are peak, mean, last and rate.
    """
    from scipy.sparse import csr_array, vstack

    kept: dict[tuple, csr_array] = {}

    def read(texts: Sequence[str], pools: Sequence[str] = ("peak",)) -> dict[int, Readings]:
        wanted = [(n, pool) for n in layers for pool in pools]
        fresh = [t for t in dict.fromkeys(texts) if any((t, *key) not in kept for key in wanted)]
        for n, part in (read_texts(scope, fresh, layers, pools) if fresh else {}).items():
            for pool in pools:
                rows = csr_array(getattr(part, pool))
                kept.update({(text, n, pool): rows[[i]] for i, text in enumerate(fresh)})
        nothing = np.zeros((0, scope.d_sae), np.float32)
        return {
            n: Readings(
                **{
                    pool: vstack([kept[text, n, pool] for text in texts]).toarray()
                    if len(texts)
                    else nothing
                    for pool in pools
                }
            )
            for n in layers
        }

    return read


def activity(scope, texts: Sequence[str], layers) -> tuple[dict, dict]:
    """Share of tokens on which each feature fires, and its mean activation over all tokens: two
    {layer: float64 [d_sae]}. Sinks do not count."""
    rates = {n: np.zeros(scope.d_sae) for n in layers}
    means = {n: np.zeros(scope.d_sae) for n in layers}
    tokens = dict.fromkeys(layers, 0)
    for part in activations(scope, texts, layers):
        index, values = part.acts.indices[part.keep], part.acts.values[part.keep].double()
        index, values = index.flatten().numpy(), values.flatten().numpy()
        rates[part.layer] += np.bincount(index, values > 0, scope.d_sae)
        means[part.layer] += np.bincount(index, values, scope.d_sae)
        tokens[part.layer] += int(part.keep.sum())
    return tuple({n: x[n] / max(1, tokens[n]) for n in layers} for x in (rates, means))


def template_tokens(scope) -> int:
    """How many tokens the chat template puts after the user's text, the generation prompt
    included: the positions at which Arditi et al. look for directions."""
    first, second = scope.ids([scope.chat("0"), scope.chat("a")])
    same = 0
    while first[-1 - same] == second[-1 - same]:
        same += 1
    return same


def position_means(scope, prompts: Sequence[str], n: int, layers=None) -> dict[int, Tensor]:
    """{layer: float64 [n, d_model]}: mean residual at each of the last n tokens, in their order.

    ValueError for no prompts, or one of fewer than n tokens.
    """
    sums: dict[int, Tensor] = {}
    prompts = listed(prompts)
    for layer, x, _ in ends(scope, prompts, n, layers):
        sums[layer] = sums.get(layer, 0) + x.double().sum(0).cpu()
    return {layer: total / len(prompts) for layer, total in sums.items()}
