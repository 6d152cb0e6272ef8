"""Where the time of a scan goes.

    make profile                       on the tiny scope
    make profile PRESET=qwen3-1.7b-l50

Prints the functions of the helper, of torch and of NumPy in which most time was spent. A first scan
that is not counted opens the files.
"""

import cProfile
import io
import pstats
import sys
import tempfile
from pathlib import Path

import qs_helpers as qs
from qs_helpers.tiny import corpus

N_TEXTS, SHOWN = 300, 18


def profile(preset: str, n_texts: int = N_TEXTS) -> str:
    """A table of own time, most first, of a scan of the texts of the tiny world."""
    scope, texts = qs.load_scope(preset), [d.text for d in corpus.documents(n_texts, "discovery")]
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        qs.views.scan_corpus(scope, texts[:8], folder=Path(folder))
        profiler.enable()
        found = qs.views.scan_corpus(scope, texts, folder=Path(folder))
        profiler.disable()
    out = io.StringIO()
    stats = pstats.Stats(profiler, stream=out).strip_dirs().sort_stats("tottime")
    stats.print_stats(SHOWN)
    table = out.getvalue().split("tottime", 1)[1].split("\n", 1)[1].rstrip()
    rate = found.n_tokens * len(found.layers) / stats.total_tt
    lines = [
        f"{scope.name}: {found.n_tokens} tokens, {len(found.layers)} layers, "
        f"{stats.total_tt:.2f} s, {rate:,.0f} tokens of a layer a second",
        f"{'calls':>9} {'own s':>8} {'share':>6}  function",
    ]
    for line in table.splitlines():
        calls, own, _, _, _, name = line.split(None, 5)
        lines.append(f"{calls:>9} {own:>8} {float(own) / stats.total_tt:>6.1%}  {name}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(profile(sys.argv[1] if len(sys.argv) > 1 else "tiny"))
