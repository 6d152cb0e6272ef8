"""What is kept of one layer while a corpus goes by.

Table        counts, histogram and contexts of every feature
table_bytes  the memory that tables take
"""

import numpy as np

from .forward import Part
from .kept import ROW, Kept, token_keys

__all__ = ["EDGES", "Table", "table_bytes"]

TOP, SAMPLE = 20, 100  # contexts kept per feature: the strongest, and a random sample
EDGES = 2.0 ** (np.arange(-20, 41) / 2)  # of the histogram: half octaves from 2^-10 to 2^20


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
        bins = np.searchsorted(EDGES, values, side="right") - 1
        bins = bins.clip(0, len(EDGES) - 2)
        self.fired += np.bincount(features, minlength=len(self.fired))
        self.total += np.bincount(features, values, minlength=len(self.fired))
        flat = np.bincount(features * (len(EDGES) - 1) + bins, minlength=self.histogram.size)
        self.histogram += flat.reshape(self.histogram.shape)
        text, position = part.text.numpy()[token], part.position.numpy()[token]
        self.top.add(features, values.astype(np.float64), values, text, position)
        self.sample.add(features, token_keys(text, position), values, text, position)

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "fired": self.fired, "total": self.total, "histogram": self.histogram,
            "top": self.top.rows(), "sample": self.sample.rows(),
        }  # fmt: skip


def table_bytes(d_sae: int, n_layers: int) -> int:
    """The most that the tables of `n_layers` layers take, however long the corpus is.

    As many contexts wait as are kept (see `Kept`). While they are merged, those of one kind in one
    layer exist thrice more: together, sorted, and the numbers of the order.
    """
    counts = 8 * (2 + len(EDGES) - 1 + 2)  # fired, total, histogram, and the limits of both kinds
    kept = 2 * (TOP + SAMPLE) * ROW.itemsize
    return d_sae * (n_layers * (counts + kept) + 3 * 2 * SAMPLE * ROW.itemsize)
