"""A corpus to feature statistics, in one forward pass for all layers, shard by shard."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np

from ..forward import each
from ..loading.memory import MemoryPlan, free_bytes, gb, memory_plan
from ..loading.scope import Scope
from ..presets import runs_folder
from . import shards
from .tables import EDGES

BANDS, PER_BAND = 10, 5


def plan_scan(suite, layers=None) -> MemoryPlan:
    """The plan of `scan_corpus` for a scope, or for a group of the catalog that nobody loaded.

    layers: None for all. A group is planned in bfloat16 on a GPU. A text longer than `tokens` of
    the plan is held whole.
    """
    return suite.plan(layers) if isinstance(suite, Scope) else memory_plan(suite, layers)


def refuse_scan(scope, layers) -> None:
    """MemoryError, with the plan and the way out, if a scan does not fit in what is free now.

    Of the plan it is what comes to the model for a scan; SAEs that are kept already are not
    counted again.
    """
    plan = plan_scan(scope, layers)
    needed = {scope.device.type: plan.scan + plan.saes - min(scope.kept_bytes, plan.saes)}
    for name, n_bytes in ({"cpu": plan.tables} | needed).items():
        free = free_bytes(name)
        if free is not None and n_bytes > free:
            raise MemoryError(f"{plan}; {gb(free)} are free on {name}: scan fewer layers")


class Scan:
    """What a scan found, read from its folder as it is needed.

    folder, layers, n_texts, n_tokens; n_sinks {layer: tokens left out}; `stats(layer)` has
    arrays [d_sae]: `fired` (tokens), `total` (sum of activations), `histogram` [d_sae, bins].
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        about = json.loads((self.folder / "scan.json").read_text("utf-8"))
        self.layers, self.n_texts = tuple(about["layers"]), about["n_texts"]
        self.n_tokens, self.d_sae = about["n_tokens"], about["d_sae"]
        self.n_sinks = {int(layer): n for layer, n in about["n_sinks"].items()}
        self._read: dict[int, dict[str, np.ndarray]] = {}
        self._ids = np.memmap(self.folder / "ids.bin", np.int32, "r")
        self._ends = np.fromfile(self.folder / "ends.bin", np.int64)

    def __repr__(self):
        return f"Scan({self.n_texts} texts, {self.n_tokens} tokens, layers {list(self.layers)})"

    def stats(self, layer: int) -> dict[str, np.ndarray]:
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r} was not scanned; choose from {list(self.layers)}")
        if layer not in self._read:
            with np.load(self.folder / f"layer{layer}.npz") as file:
                self._read[layer] = dict(file)
        return self._read[layer]

    def density(self, layer: int) -> np.ndarray:
        """Share of tokens (sinks left out) on which each feature is active, [d_sae]."""
        return self.stats(layer)["fired"] / max(1, self.n_tokens - self.n_sinks[layer])

    def histogram(self, layer: int, feature: int) -> list[tuple[float, float, int]]:
        """(from, to, tokens) of a feature's activations, empty ends left out."""
        counts = self.stats(layer)["histogram"][self._checked(feature)]
        used = counts.nonzero()[0]
        span = range(used[0], used[-1] + 1) if len(used) else ()
        return [(EDGES[i], EDGES[i + 1], int(counts[i])) for i in span]

    def top(self, layer: int, feature: int) -> np.ndarray:
        """The strongest contexts: records of value, text, position; strongest first."""
        return self._contexts(layer, "top", feature)

    def bands(self, layer: int, feature: int) -> list[np.ndarray]:
        """Up to 10 lists of up to 5 contexts, from the strongest tenth to the weakest.

        The tenths are those of a random sample of up to 100 tokens on which the feature is
        active: of all of them where there are no more.
        """
        sample = self._contexts(layer, "sample", feature)
        return [band[:PER_BAND] for band in np.array_split(sample, BANDS) if len(band)]

    def ids(self, text: int) -> np.ndarray:
        """Token ids of a text, int32 [tokens]."""
        return self._ids[self._ends[text - 1] if text else 0 : self._ends[text]]

    def _contexts(self, layer: int, kind: str, feature: int) -> np.ndarray:
        rows = self.stats(layer)[kind]
        low, high = np.searchsorted(rows["feature"], [self._checked(feature), feature + 1])
        return np.sort(rows[low:high], order=["value"], kind="stable")[::-1]

    def _checked(self, feature: int) -> int:
        if not 0 <= feature < self.d_sae:
            raise ValueError(f"feature {feature!r} is out of range; choose 0 to {self.d_sae - 1}")
        return feature


def scan_corpus(scope, texts: Iterable[str], layers=None, folder: Path | None = None) -> Scan:
    """Statistics of every feature over `texts`, in one pass; a second call does no work.

    `texts` is gone through twice: once for its name, once for the model. ValueError if there are
    none, or if the second time they are others, as of an iterator that is used up.

    `folder` (default: runs/cache of the project, or $QS_RUNS/cache) holds one folder a scan, named
    by what went in: texts, weights, layers. It appears when it is complete; the shards of one that
    was interrupted are kept until then, so that the next call does the others only. Where shards
    fail, the others are written, and one RuntimeError names them; a corpus that is one shard
    (`SHARD_CHARS`) fails as it does. Memory does not grow with the corpus; `plan_scan` says how
    much it is. MemoryError if that is not free. Many processes do the same by `write_tasks`.
    """
    layers = shards.scan_layers(scope, layers)
    home, texts = Path(folder or runs_folder() / "cache"), each(texts)
    if isinstance(texts, Iterator):
        raise ValueError("texts can be gone through once only, and a scan does it twice; list them")
    cut = [shard for shard, _ in shards.cut(texts)]
    work = shards.plan_work(home, scope.fingerprint(layers), layers, cut)
    if not work.place.exists():
        refuse_scan(scope, layers)
        parts = work.places[0].parent
        parts.mkdir(parents=True, exist_ok=True)
        try:
            for shard, place, own in zip(cut, work.places, _again(texts, cut), strict=True):
                write = partial(shards.write_shard, scope, own, layers, shard, place)
                if len(cut) == 1:
                    write()
                elif not work.place.exists():
                    with suppress(Exception), shards.failure_noted(shard, place):
                        write()
            shards.merge(work)
        except Exception:
            if not work.place.exists():  # else another process was quicker, and removed the shards
                raise
        finally:
            if work.place.exists():
                shutil.rmtree(parts, ignore_errors=True)
            with suppress(OSError):  # shards are kept
                parts.rmdir()
    shards.require_whole(work.place, layers)
    return Scan(work.place)


def _again(texts, cut: list[shards.Shard]) -> Iterator[list[str]]:
    """The texts of each shard, when they are gone through once more."""
    for shard, (again, own) in zip_longest(cut, shards.cut(texts), fillvalue=(None, None)):
        if again != shard:
            raise ValueError("texts were others when they were gone through again; list them first")
        yield own
