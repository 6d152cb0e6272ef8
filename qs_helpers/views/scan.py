"""A corpus to feature statistics, in one forward pass for all layers.

Attention sinks are counted and enter no statistic.
"""

import hashlib
import json
import operator
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..evidence.files import write_json
from ..forward import NO_TEXTS, Part, activations, each
from ..loading.memory import MemoryPlan, free_bytes, gb, memory_plan
from ..loading.scope import Scope
from ..presets import runs_folder

ROW = np.dtype("i4, f8, f4, i4, i4")
ROW.names = "feature", "key", "value", "text", "position"
TOP, SAMPLE = 20, 100  # contexts kept per feature: the strongest, and a random sample
EDGES = 2.0 ** (np.arange(-20, 41) / 2)  # of the histogram: half octaves from 2^-10 to 2^20
BANDS, PER_BAND = 10, 5
VERSION = 2  # of the files; a change makes old scans unread


class Kept:
    """The `size` contexts with the largest keys of each of `d_sae` features.

    Equal keys: the earlier text, then the earlier position. What is kept does not depend on how
    the corpus was cut into parts. Memory is bounded by the features, not by the corpus.
    """

    def __init__(self, d_sae: int, size: int):
        self.size = size
        self._limit = np.full(d_sae, -np.inf)  # keys below cannot be among the largest
        self._kept, self._waiting = np.empty(0, ROW), []

    def add(self, feature, key, value, text, position) -> None:
        """Offer contexts: arrays [n], feature number, key, activation, text and position."""
        worth = key >= self._limit[feature]
        rows = np.empty(int(worth.sum()), ROW)
        columns = feature, key, value, text, position
        for name, column in zip(ROW.names, columns, strict=True):
            rows[name] = column[worth]
        self._waiting.append(rows)
        # Sorting often is what costs.
        if sum(map(len, self._waiting)) > max(200_000, len(self._kept)):
            self._merge()

    def rows(self) -> np.ndarray:
        """What is kept, by feature, then by falling key."""
        self._merge()
        return self._kept

    def _merge(self) -> None:
        rows = np.concatenate([self._kept, *self._waiting])
        rows = rows[np.lexsort((rows["position"], rows["text"], -rows["key"], rows["feature"]))]
        feature, first = np.unique(rows["feature"], return_index=True)
        counts = np.diff(np.append(first, len(rows)))
        rank = np.arange(len(rows)) - np.repeat(first, counts)
        self._kept, self._waiting = rows[rank < self.size], []
        full = counts >= self.size
        self._limit[feature[full]] = rows["key"][first[full] + self.size - 1]


def token_keys(text: np.ndarray, position: np.ndarray) -> np.ndarray:
    """A key in [0, 1) for each token: the splitmix64 mix of its text and position numbers.

    Source of the constants: Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014.
    """
    with np.errstate(over="ignore"):
        x = text.astype(np.uint64) << np.uint64(32) | position.astype(np.uint64)
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2**53


class Table:
    """Arrays [d_sae]: `fired`, `total`; `histogram` [d_sae, bins]; contexts `top` and `sample`."""

    def __init__(self, d_sae: int):
        self.fired, self.total = np.zeros(d_sae, np.int64), np.zeros(d_sae)
        self.histogram = np.zeros((d_sae, len(EDGES) - 1), np.int64)
        self.top, self.sample = Kept(d_sae, TOP), Kept(d_sae, SAMPLE)
        self.sinks = 0

    def add(self, part: Part) -> None:
        active = (part.acts.values > 0) & part.keep[:, None]
        self.sinks += int((~part.keep).sum())
        token = active.nonzero()[:, 0].numpy()
        values, features = part.acts.values[active].numpy(), part.acts.indices[active].numpy()
        bins = (np.searchsorted(EDGES, values, side="right") - 1).clip(0, len(EDGES) - 2)
        self.fired += np.bincount(features, minlength=len(self.fired))
        self.total += np.bincount(features, values, minlength=len(self.fired))
        flat = np.bincount(features * (len(EDGES) - 1) + bins, minlength=self.histogram.size)
        self.histogram += flat.reshape(self.histogram.shape)
        text, position = part.text.numpy()[token], part.position.numpy()[token]
        self.top.add(features, values.astype(np.float64), values, text, position)
        self.sample.add(features, token_keys(text, position), values, text, position)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is kept of a layer; how much that is at most, loading/memory.py says."""
        found = {"fired": self.fired, "total": self.total, "histogram": self.histogram}
        return found | {"top": self.top.rows(), "sample": self.sample.rows()}


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
    by what went in: texts, weights, layers. It appears when it is complete. Memory does not grow
    with the corpus; `plan_scan` says how much it is. MemoryError if that is not free.
    """
    layers = sorted({operator.index(n) for n in (scope.layers if layers is None else layers)})
    if not layers:
        raise ValueError("layers is empty; give at least one, or None for all")
    home, texts = Path(folder or runs_folder() / "cache"), each(texts)
    if isinstance(texts, Iterator):
        raise ValueError("texts can be gone through once only, and a scan does it twice; list them")
    name = _name(scope, texts, layers)
    place = home / f"scan-{name}"
    if (place / "scan.json").is_file():
        return Scan(place)
    refuse_scan(scope, layers)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".scan-") as half:
        made = Path(half) / "scan"
        made.mkdir()  # with the permissions of any other folder: the one around it is private
        digest = _digest(scope, layers)
        _write(scope, _noted(texts, digest), layers, made)
        if digest.hexdigest()[:16] != name:
            raise ValueError("texts were others when they were gone through again; list them first")
        if (place / "scan.json").is_file():  # made by another process meanwhile
            return Scan(place)
        if place.exists():  # left by something that is no scan
            shutil.rmtree(place)
        made.rename(place)
    return Scan(place)


def _name(scope, texts: Iterable[str], layers: list[int]) -> str:
    digest = _digest(scope, layers)
    if not sum(1 for _ in _noted(texts, digest)):
        raise ValueError(NO_TEXTS)
    return digest.hexdigest()[:16]


def _digest(scope, layers: list[int]):
    return hashlib.sha256(json.dumps([VERSION, layers, scope.fingerprint(layers)]).encode())


def _noted(texts: Iterable[str], digest) -> Iterator[str]:
    """The texts, each added to a digest as it goes by."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {number} is {text!r}; each text must be a non-empty string")
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        yield text


def _write(scope, texts, layers: list[int], folder: Path) -> None:
    """Run over the corpus once and write the files of a scan."""
    tables = {layer: Table(scope.d_sae) for layer in layers}
    n_tokens, n_texts = 0, 0
    with open(folder / "ids.bin", "wb") as ids, open(folder / "ends.bin", "wb") as ends:
        for part in activations(scope, texts, layers):
            tables[part.layer].add(part)
            if part.layer == layers[0]:
                ids.write(part.ids.numpy().astype(np.int32).tobytes())
                counts = np.bincount(part.text.numpy() - n_texts)
                ends.write((n_tokens + counts.cumsum()).astype(np.int64).tobytes())
                n_tokens, n_texts = n_tokens + len(part.ids), n_texts + len(counts)
    for layer, table in tables.items():
        np.savez(folder / f"layer{layer}.npz", **table.arrays())
    n_sinks = {layer: table.sinks for layer, table in tables.items()}
    about = {"layers": layers, "n_texts": n_texts, "n_tokens": n_tokens, "d_sae": scope.d_sae}
    write_json(folder / "scan.json", about | {"n_sinks": n_sinks})
