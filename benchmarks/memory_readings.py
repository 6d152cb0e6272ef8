"""Peak memory of what notebook 04 keeps of labelled texts, at the shapes of official suites.

    python benchmarks/memory_readings.py qwen3-8b-l50 [texts]

There is neither a model nor an SAE: residuals and active features are random, made for one layer at
a time, so that what is measured is what comes on top of both. The steps are those of the notebook:
counts of all layers, group by group; peaks of the chosen features; mean residuals of all texts and
a probe on them, group by group. One line of JSON: the peak above what Python takes.
Measured for 8,000 texts: 2.6 GB at the shape of Qwen3-8B (36 layers, 65,536 features) and 2.8 GB at
that of Qwen3-30B-A3B (48 layers, 131,072 features), residuals of the pass included.
"""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from lesson import defined

from qs_helpers import forward
from qs_helpers.loading.catalog import GROUPS
from qs_helpers.loading.memory import plan_readings
from qs_helpers.sae import SparseActs

TOKENS, LANGUAGES, REDRAWS, BEST = 16, 5, 20, 32  # of a text; of the notebook


class RandomScope:
    """What the readings ask of a scope, for a group of the catalog."""

    def __init__(self, group):
        self.group, self.prefix = group, ()
        self.d_model, self.d_sae, self.layers = group.d_model, group.d_sae, group.layers
        self.made = torch.Generator().manual_seed(0)

    def read_ahead(self, layer):
        pass

    def sae(self, layer):
        return self

    def encode(self, x):
        shape = len(x), self.group.k
        values = torch.rand(shape, generator=self.made)
        return SparseActs(values, torch.randint(self.d_sae, shape, generator=self.made))


def random_residuals(scope, texts, layers):
    """Parts as `forward.residuals` yields them; those of all layers of a part are held at once."""
    at_once = forward.chunk_tokens(scope.group) // TOKENS
    for start in range(0, len(texts), at_once):
        n = min(at_once, len(texts) - start)
        text = torch.arange(start, start + n).repeat_interleave(TOKENS)
        position = torch.arange(TOKENS).repeat(n)
        x = torch.randn(n * TOKENS, scope.d_model, generator=scope.made, dtype=torch.bfloat16)
        held = {layer: x.clone() for layer in layers}
        keep = torch.ones(n * TOKENS, dtype=torch.bool)
        for layer in layers:
            yield forward.Residuals(layer, held.pop(layer), keep, text, position, position)


class Peak:
    """The most memory that this process holds while a block runs, above what it held before."""

    def __enter__(self):
        self.process, self.on = psutil.Process(), True
        self.before = self.most = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while self.on:
            self.most = max(self.most, self.process.memory_info().rss)
            time.sleep(0.01)

    def __exit__(self, *_):
        self.on = False
        self.thread.join()


def measure(name: str, n_texts: int = 8000) -> dict:
    """Half of the texts are counted, all are read."""
    scope, texts = RandomScope(GROUPS[name]), ["text"] * n_texts
    forward.residuals = random_residuals
    qs = type("qs", (), {"residuals": staticmethod(random_residuals)})
    lesson = defined("04_toxicity", scope=scope, main="")
    lesson["qs"] = qs
    first, layers = lesson["first"], list(scope.layers)
    plan = plan_readings(scope, layers, n_texts, 64, LANGUAGES + REDRAWS + 3)
    y = np.arange(n_texts) % 2 == 0
    learn, rng = n_texts // 2, np.random.default_rng(0)
    weights = rng.normal(size=(LANGUAGES + REDRAWS + 3, learn))
    begun = time.perf_counter()
    with Peak() as peak:
        wanted = {}
        for part in plan.groups:
            for n, sums in forward.count_firing(scope, texts[:learn], weights, part).items():
                wanted[n] = list(dict.fromkeys(map(int, [*first(sums[0], BEST), *sums.argmax(1)])))
        kept = forward.read_peaks(scope, texts, wanted)
        for part in plan.groups:
            x = lesson["mean_residuals"](texts, part)
            made = lesson["diff_of_means"](x[part[0]], y)
            scaled = lesson["StandardScaler"]().fit_transform(x[part[0]])
            assert len(made(x[part[0]])) == len(scaled) == len(kept[part[0]]) == n_texts
            del x, scaled
    return {
        "suite": name,
        "texts": n_texts,
        "layers": len(layers),
        "passes": len(plan.groups),
        "planned": plan.host,
        "peak": peak.most - peak.before,
        "dense": 4 * n_texts * scope.d_sae * len(layers),
        "seconds": round(time.perf_counter() - begun),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:]))))
