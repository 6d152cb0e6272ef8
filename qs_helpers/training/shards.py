"""Residuals of a corpus on disk, in shards: written once, read in any order, memory flat.

A shard is a safetensors file with the residuals of some texts, "layer.<n>" [tokens, d_model] in the
model's dtype. Attention sinks are left out, and counted. Its metadata say what was read for it, so
a harvest that was cut off goes on after the last whole shard.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..evidence.files import plain
from ..forward import checked, chunk_tokens, id_residuals, kept

SHARD_TOKENS, SHARD_BYTES = 32_768, 2**29  # of all layers together; whichever is less
MIXED = 131_072  # tokens of neighbouring shards that are shuffled together when they are read
LEAST = 512  # tokens to read at a time: the median of their norms says what a sink is
CONTEXT = 512  # tokens; longer texts are cut into pieces, each read for itself


class Shards:
    """The shards in a folder. ValueError if there are none, or one cannot be read.

    folder, layers, d_model
    tokens, sinks   that were kept, and left out
    digest          of what they were made from
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._files = _files(self.folder)
        if not self._files:
            raise ValueError(f"{self.folder.name} holds no shards; harvest residuals into it first")
        notes = [_note(path) for path in self._files]
        self.layers, self.d_model = tuple(notes[0]["layers"]), notes[0]["d_model"]
        self.digest = digest(json.dumps(note) for note in notes)
        self._sizes = [note["tokens"] for note in notes]
        self.tokens, self.sinks = sum(self._sizes), sum(note["sinks"] for note in notes)

    def __repr__(self):
        return f"Shards({self.folder.name}: {self.tokens:,} tokens, layers {list(self.layers)})"

    def read(self, number: int, layer: int) -> Tensor:
        """Residuals of one shard at one layer [tokens, d_model], in the model's dtype."""
        if layer not in self.layers:
            raise ValueError(f"{self} has no layer {layer}")
        with safe_open(self._files[number], framework="pt") as file:
            return file.get_tensor(f"layer.{layer}")

    def first(self, layer: int, tokens: int) -> Tensor:
        """Residuals of the first `tokens` tokens at a layer, float32 [tokens or fewer, d_model]."""
        return torch.cat(list(self.parts(layer, tokens)))

    def parts(self, layer: int, tokens: int) -> Iterator[Tensor]:
        """What `first` gives, a shard at a time."""
        for number in range(len(self._files)):
            part = self.read(number, layer)[:tokens].float()
            yield part
            tokens -= len(part)
            if tokens <= 0:
                break

    def batches(self, layer: int, size: int, seed: int = 0, start: int = 0) -> Iterator[Tensor]:
        """Batch number `start` and all after it, without end: float32 [size, d_model] each.

        An epoch takes the shards in random order, a few at a time, and shuffles their tokens; what
        is left of a few and makes no whole batch waits for the next epoch. ValueError for a corpus
        that is smaller than one batch.
        """
        if self.tokens < size:
            raise ValueError(
                f"{self} are less than a batch of {size:,}; read more texts, or batch fewer tokens"
            )
        for epoch in itertools.count():
            order = torch.randperm(len(self._files), generator=_draw(seed, epoch)).tolist()
            for group in self._groups(order, size):
                count = sum(self._sizes[number] for number in group) // size
                if start >= count:
                    start -= count
                    continue
                x = torch.cat([self.read(number, layer) for number in group])
                mixed = torch.randperm(len(x), generator=_draw(seed, epoch, *group))
                for i in range(start, count):
                    yield x[mixed[i * size : (i + 1) * size]].float()
                start = 0
                del x  # before the next ones are read

    def _groups(self, order: list[int], size: int) -> list[list[int]]:
        """Shards of MIXED tokens at a time; a last few without a whole batch join those before."""
        groups, most = [[]], max(MIXED, size)
        for number in order:
            if sum(self._sizes[n] for n in groups[-1]) >= most:
                groups.append([])
            groups[-1].append(number)
        if len(groups) > 1 and sum(self._sizes[n] for n in groups[-1]) < size:
            groups[-2:] = [groups[-2] + groups[-1]]
        return groups


@torch.no_grad()
def harvest(
    model,
    texts: Iterable[str],
    layers: Sequence[int],
    folder: str | Path,
    tokens: int | None = None,
    *,
    context: int = CONTEXT,
    told: Callable[[int], None] | None = None,
) -> Shards:
    """Write the residuals of `layers` at about `tokens` tokens of `texts`; None: of all of them.

    model     a LanguageModel, or a Scope
    folder    may hold shards of the same: they are kept, and the harvest goes on behind them
    context   longer texts are cut into pieces of so many tokens, each read for itself; at most
              what the model can read
    told      called with the number of tokens so far, after each shard

    Whole pieces are read, and LEAST tokens at a time, so that a few more may be written than asked.
    Raises ValueError for residuals with NaN or inf (the layer and the texts are named), for layers
    that the model lacks, for a text that is empty or holds half a character, and for a folder with
    shards of another model, other layers or other texts; OSError where the disk has no room for
    `tokens`. Whole shards stay, whatever happens.
    """
    folder, layers = Path(folder), sorted(set(layers))
    outside = [layer for layer in layers if not 0 <= layer < model.n_layers]
    if outside or not layers:
        raise ValueError(f"layers are {layers}; choose some of 0 to {model.n_layers - 1}")
    if context <= len(model.prefix):
        raise ValueError(f"context is {context}; make it at least {len(model.prefix) + 1} tokens")
    folder.mkdir(parents=True, exist_ok=True)
    context = min(context, model.max_tokens)
    source = plain({"model": model.fingerprint([]), "layers": layers, "context": context})
    width = torch.finfo(model.dtype).bits // 8 * model.d_model * len(layers)
    most = max(1, min(SHARD_TOKENS, SHARD_BYTES // width))
    stream, number, done = _numbered(model, texts, context), 0, 0
    for path in _files(folder):
        note = _note(path)
        require_same(folder, note, source)
        if _ids_digest(itertools.islice(stream, note["pieces"])) != note["digest"]:
            raise ValueError(
                f"{folder.name}/{path.name} was made from other texts; name another folder"
            )
        number, done = number + 1, done + note["tokens"]
    if tokens is not None:
        _require_room(folder, (tokens - done) * width)
    while tokens is None or done < tokens:
        parts, read, count, sinks = {layer: [] for layer in layers}, [], 0, 0
        enough = most if tokens is None else min(most, tokens - done)
        while count < enough:
            rest = min(max(LEAST, enough - count), chunk_tokens(model))
            if not (chunk := _chunk(stream, rest)):
                break
            found, keep = _kept(model, chunk, layers)
            for layer in layers:
                parts[layer].append(found[layer][keep].cpu())
            read += chunk
            count, sinks = count + int(keep.sum()), sinks + int((~keep).sum())
        if not count:
            break
        note = {"pieces": len(read), "digest": _ids_digest(read), "tokens": count, "sinks": sinks}
        note |= source | {"d_model": model.d_model}
        tensors = {f"layer.{layer}": torch.cat(parts.pop(layer)) for layer in layers}
        _write(folder / f"{number:05}.safetensors", tensors, note)
        number, done = number + 1, done + count
        if told:
            told(done)
    return Shards(folder)


def _numbered(model, texts: Iterable[str], context: int) -> Iterator[tuple[int, list[int]]]:
    """The pieces of all texts, each with the number of its text."""
    for number, text in enumerate(texts):
        checked([text], number)
        for ids in pieces(model, text, context):
            yield number, ids


def _chunk(stream: Iterator[tuple[int, list[int]]], most: int) -> list[tuple[int, list[int]]]:
    """The next pieces, up to `most` tokens or one piece more; [] at the end."""
    chunk, size = [], 0
    while size < most and (piece := next(stream, None)):
        chunk.append(piece)
        size += len(piece[1])
    return chunk


def pieces(model, text: str, context: int) -> list[list[int]]:
    """Token ids of a text, cut into pieces of at most `context` tokens; each begins with what the
    tokenizer puts before a text, such as a BOS."""
    ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    prefix, own = list(model.prefix), context - len(model.prefix)
    ids = ids[len(prefix) :] if ids[: len(prefix)] == prefix else ids
    return [prefix + ids[i : i + own] for i in range(0, len(ids), own)]


def _kept(model, chunk: list[tuple[int, list[int]]], layers: list[int]):
    """Residuals {layer: [tokens, d_model]}, and which tokens are a sink at no layer."""
    found, _, position, _ = id_residuals(model, [ids for _, ids in chunk], layers)
    keep = None
    for layer, x in found.items():
        if not x.isfinite().all():
            place = f"layer {layer}, texts {chunk[0][0]} to {chunk[-1][0]}"
            raise ValueError(f"{place}: NaN or inf residuals; nothing of them is kept")
        here = kept(model, x, position)
        keep = here if keep is None else keep & here
    return found, keep


def _ids_digest(chunk: Iterable[tuple[int, list[int]]]) -> str:
    return digest(" ".join(map(str, ids)) for _, ids in chunk)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.safetensors"))


def _note(path: Path) -> dict:
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["shard"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} is no shard; remove it") from error


def _write(path: Path, tensors: dict[str, Tensor], note: dict) -> None:
    """Write a shard whole, or not at all."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, half, {"shard": json.dumps(note)})
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def digest(texts: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.encode() + b"\0")
    return whole.hexdigest()


def _draw(*numbers: int) -> torch.Generator:
    """A generator that depends on all of the numbers."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) // 2)


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"the shards need {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; read fewer "
            "tokens or layers at a time, or name a folder on another disk"
        )


def require_same(folder: Path, old: dict, new: dict) -> None:
    """ValueError names what a folder was made from, `old`, where it is not as in `new`."""
    other = [name for name, value in new.items() if old.get(name) != value]
    if other:
        raise ValueError(
            f"{folder.name} was made from something else ({', '.join(other)}); nothing was "
            "changed: name another folder, or remove this one"
        )
