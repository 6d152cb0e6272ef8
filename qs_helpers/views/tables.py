"""What is kept of every feature of a layer: counts, a histogram, and contexts.

Attention sinks are counted and enter no statistic.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..forward import Part

ROW = np.dtype("i4, f8, f4, i4, i4")
ROW.names = "feature", "key", "value", "text", "position"
TOP, SAMPLE = 20, 100  # contexts kept per feature: the strongest, and a random sample
EDGES = 2.0 ** (np.arange(-20, 41) / 2)  # of the histogram: half octaves from 2^-10 to 2^20


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


def token_keys(text: np.ndarray, position: np.ndarray, seed: int) -> np.ndarray:
    """A key in [0, 1) for each token: the splitmix64 mix of its text and position numbers and of
    `seed`, 64 bits that are those of a shard.

    Source of the constants: Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014.
    """
    with np.errstate(over="ignore"):
        x = text.astype(np.uint64) << np.uint64(32) | position.astype(np.uint64)
        x = (x ^ np.uint64(seed)) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2**53


class Table:
    """Arrays [d_sae]: `fired`, `total`; `histogram` [d_sae, bins]; contexts `top` and `sample`.

    `add` counts tokens, of which `seed` decides the sample; `take` adds what another table found.
    """

    def __init__(self, d_sae: int, seed: int = 0):
        self.fired, self.total = np.zeros(d_sae, np.int64), np.zeros(d_sae)
        self.histogram = np.zeros((d_sae, len(EDGES) - 1), np.int64)
        self.top, self.sample = Kept(d_sae, TOP), Kept(d_sae, SAMPLE)
        self.sinks, self._seed = 0, seed

    def add(self, part: Part) -> None:
        active = (part.acts.values > 0) & part.keep[:, None]
        self.sinks += int((~part.keep).sum())
        token = active.nonzero()[:, 0].numpy()
        values, features = part.acts.values[active].numpy(), part.acts.indices[active].numpy()
        bins = (np.searchsorted(EDGES, values, side="right") - 1).clip(0, len(EDGES) - 2)
        self.fired += np.bincount(features, minlength=len(self.fired))
        self.total += np.bincount(features, values, minlength=len(self.fired))
        # Few of all cells change: going through a histogram of 80k features would take 20 ms.
        np.add.at(self.histogram.reshape(-1), features * (len(EDGES) - 1) + bins, 1)
        text, position = part.text.numpy()[token], part.position.numpy()[token]
        self.top.add(features, values.astype(np.float64), values, text, position)
        keys = token_keys(text, position, self._seed)
        self.sample.add(features, keys, values, text, position)

    def take(self, path: Path, first: int) -> None:
        """Add a saved table, whose text 0 is number `first` here. A few rows are read at a time."""
        with np.load(path) as file:
            self.fired += file["fired"]
            self.total += file["total"]
            self.histogram += file["histogram"]
        for name, kept in (("top", self.top), ("sample", self.sample)):
            for rows in saved_rows(path, name):
                feature, key, value, text, position = (rows[column] for column in ROW.names)
                kept.add(feature, key, value, text + first, position)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is kept of a layer; how much that is at most, loading/memory.py says."""
        found = {"fired": self.fired, "total": self.total, "histogram": self.histogram}
        return found | {"top": self.top.rows(), "sample": self.sample.rows()}


def saved_rows(path: Path, name: str, most: int = 200_000) -> Iterator[np.ndarray]:
    """Contexts in an .npz file, `most` at a time: np.load would hold all of them."""
    with zipfile.ZipFile(path) as file, file.open(f"{name}.npy") as rows:
        np.lib.format.read_magic(rows)
        np.lib.format.read_array_header_1_0(rows)
        while content := rows.read(most * ROW.itemsize):
            yield np.frombuffer(content, ROW)
