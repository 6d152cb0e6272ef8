"""A file of the official format to its first use: time, and memory of the process.

Peer: SAELens with its own loader of Qwen-Scope files, given the local file in the place of a
download.
Linux only: peaks are read from /proc, and the page cache is emptied of the file for "cold".
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from bench_arithmetic import SHAPES, named
from peers import random_pair
from sae_lens.saes import topk_sae
from timing import Row

MEASURE = """
import re, sys, time, torch
from pathlib import Path
path, what = sys.argv[1:]

def peak():  # of this process in kB; getrusage would tell of the one that began it, too
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

if what == "sae-lens":
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.saes import topk_sae
import qs_helpers as qs
qs.load_sae, qs.TopKSAE
x = torch.randn(8, {d_model})
x @ x.T
before, start = peak(), time.perf_counter()
if what == "use":
    qs.load_sae(path, k={k}).encode(x)
elif what == "direction":
    qs.load_sae(path, k={k}).direction(7)
else:
    load = loaders.qwen_scope_sae_huggingface_loader
    loaders.hf_hub_download = lambda **asked: path
    sae = topk_sae.TopKSAE.load_from_disk(
        path, converter=lambda *args, **others: load("{repo}", "layer7.sae.pt")[:2]
    )
    with torch.no_grad():
        sae.encode(x)
print(time.perf_counter() - start, (peak() - before) / 1024)
"""


def loading() -> list[Row]:
    rows = []
    for shape in SHAPES[:2]:
        d_model, d_sae, k = shape
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer7.sae.pt"
            ours, _ = random_pair(topk_sae, *shape)
            torch.save({n: getattr(ours, n) for n in ("W_enc", "W_dec", "b_enc", "b_dec")}, path)
            del ours
            model = {2048: "Qwen3-1.7B-Base", 4096: "Qwen3-8B-Base"}[d_model]
            repo = f"Qwen/SAE-Res-{model}-W{d_sae // 1024}K-L0_{k}"
            code = MEASURE.format(d_model=d_model, k=k, repo=repo)
            for cache in ("warm", "cold"):
                found = {
                    what: _measured(code, path, what, cache)
                    for what in ("use", "direction", "sae-lens")
                }
                (time_lens, mb_lens) = found["sae-lens"]
                for what, task in (("use", "load to use"), ("direction", "one direction")):
                    seconds, mb = found[what]
                    # The targets of one direction are for the file of 2 GB, not in the page cache.
                    cold = (what, cache, shape) == ("direction", "cold", SHAPES[1])
                    most_time = 0.02 if cold else None
                    most_mb = 0.55 if what == "use" else 64 / mb_lens if cold else None
                    about = ("loading", f"{task}, {cache}", named(shape))
                    ms, lens_ms = seconds * 1e3, time_lens * 1e3
                    rows.append(Row(*about, ms, "sae-lens", lens_ms, "ms", "share", most_time))
                    rows.append(Row(*about, mb, "sae-lens", mb_lens, "MB", "share", most_mb))
    return rows


def _measured(code: str, path: Path, what: str, cache: str, runs: int = 3) -> tuple[float, float]:
    """Medians of (seconds, MB by which the peak of the process grew)."""
    found = []
    for _ in range(runs):
        if cache == "cold":
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        command = [sys.executable, "-c", code, str(path), what]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append([float(value) for value in ran.stdout.split()])
    return tuple(median(column) for column in zip(*found, strict=True))
