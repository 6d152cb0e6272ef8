"""The best contexts of every feature, while a corpus goes by.

Kept        for each feature, the contexts with the largest keys
token_keys  a pseudo-random key for each token: the largest ones are a uniform sample
"""

import numpy as np

__all__ = ["Kept", "token_keys"]

ROW = np.dtype(
    [
        ("feature", np.int32),
        ("key", np.float64),
        ("value", np.float32),
        ("text", np.int32),
        ("position", np.int32),
    ]
)


class Kept:
    """The `size` contexts with the largest keys of each of `d_sae` features.

    Equal keys: the earlier text, then the earlier position. What is kept does not depend on how
    the corpus was cut into parts. Memory is bounded by the features, not by the corpus.
    """

    def __init__(self, d_sae: int, size: int):
        self.size = size
        self._limit = np.full(d_sae, -np.inf)  # keys below cannot be among the largest
        self._kept, self._waiting, self._n_waiting = np.empty(0, ROW), [], 0

    def add(self, feature, key, value, text, position) -> None:
        """Offer contexts: arrays [n], feature number, key, activation, text and position."""
        worth = key >= self._limit[feature]
        rows = np.empty(int(worth.sum()), ROW)
        columns = feature, key, value, text, position
        for name, column in zip(ROW.names, columns, strict=True):
            rows[name] = column[worth]
        self._waiting.append(rows)
        self._n_waiting += len(rows)
        if self._n_waiting > max(200_000, len(self._kept)):  # sorting often is what costs
            self._merge()

    def rows(self) -> np.ndarray:
        """What is kept, by feature, then by falling key."""
        self._merge()
        return self._kept

    def _merge(self) -> None:
        rows = np.concatenate([self._kept, *self._waiting])
        order = np.lexsort((rows["position"], rows["text"], -rows["key"], rows["feature"]))
        rows = rows[order]
        feature, first = np.unique(rows["feature"], return_index=True)
        counts = np.diff(np.append(first, len(rows)))
        rank = np.arange(len(rows)) - np.repeat(first, counts)
        self._kept, self._waiting, self._n_waiting = rows[rank < self.size], [], 0
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
