"""A corpus to feature statistics, in one forward pass for all layers.

scan_corpus  statistics of every feature over a corpus, kept on disk; a second call reads them
Scan         what a scan found: density, histogram, top contexts, quantile bands

Attention sinks are counted and enter no statistic.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .files import write_json
from .forward import activations
from .presets import project_root
from .scan_plan import refuse_scan
from .scan_table import EDGES, Table

__all__ = ["Scan", "scan_corpus"]

BANDS, PER_BAND = 10, 5
VERSION = 2  # of the files; a change makes old scans unread


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

    `texts` is gone through twice: once for its name, once for the model.

    `folder` (default: runs/cache of the project) holds one folder a scan, named by what went in:
    texts, weights, layers. It appears when it is complete. Memory does not grow with the corpus;
    `plan_scan` says how much it is. MemoryError if that is not free.
    """
    layers = sorted({int(n) for n in (scope.layers if layers is None else layers)})
    home = Path(folder or project_root() / "runs" / "cache")
    place = home / f"scan-{_name(scope, texts, layers)}"
    if (place / "scan.json").is_file():
        return Scan(place)
    refuse_scan(scope, layers)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".scan-") as half:
        _write(scope, texts, layers, Path(half))
        if place.exists():  # left by something that is no scan
            shutil.rmtree(place)
        Path(half).rename(place)
        Path(half).mkdir()  # what the context manager removes
    return Scan(place)


def _name(scope, texts: Iterable[str], layers: list[int]) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, layers, scope.fingerprint(layers)]).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()[:16]


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
