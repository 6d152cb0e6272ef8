"""Active features of a corpus at three layers of a model with the layers of Qwen3-1.7B.

Peer: the same model and SAELens's SAEs in a plain loop: texts in their order, padded to the longest
of each batch, all hidden states of a full forward pass, each layer encoded. Our scan goes through
the same texts in batches of like length and stops after the last layer.

`PYTHONPATH=tests python benchmarks/bench_scan.py [RUNS]` measures the scan in shards alone: two
processes, each with one thread and half of the shards, beside one process that writes all. What is
timed is the work, from the moment at which every process has loaded and hashed its weights.
"""

import functools
import gc
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from sae_lens.saes import topk_sae
from shapes import SUITE, write_random_model
from suites import write_suite
from timing import RUNS, Row, compared, interleaved

import qs_helpers as qs
from qs_helpers.forward import batches

SIZE, N_LAYERS, LAYERS = "1.7B", 6, [0, 2, 4]
BATCH = 16  # texts at a time, in the plain loop
CORPORA = 260, 520  # texts
SHARDS, SHARD_TEXTS = 6, 8


def corpus(n: int, seed: int = 0) -> list[str]:
    """Texts of 8 to 256 tokens, short ones more often, one byte a token."""
    chance = random.Random(seed)
    lengths = [round(8 * 32 ** chance.random()) for _ in range(n)]
    return ["".join(chance.choice("abcdefgh ") for _ in range(length)) for length in lengths]


def scan_all(scope, texts, layers=LAYERS):
    return [part.acts for part in qs.activations(scope, texts, layers)]


def read_nothing_ahead(scope, texts):
    ahead, type(scope).read_ahead = type(scope).read_ahead, lambda self, layer: None
    try:
        return scan_all(scope, texts)
    finally:
        type(scope).read_ahead = ahead


@torch.no_grad()
def plain_loop(scope, texts, saes):
    found = []
    for start in range(0, len(texts), BATCH):
        batch = scope.tokens(texts[start : start + BATCH])
        states = scope.model(**batch, output_hidden_states=True, use_cache=False).hidden_states
        real = batch["attention_mask"].bool()
        for layer, sae in saes.items():
            found.append(sae.encode(states[layer + 1][real].float()).topk(scope.k, dim=-1))
    return found


def lens_saes(scope, layers):
    """The same weights as SAELens's TopKSAE, turned as its loader turns them."""
    saes = {}
    for layer in layers:
        ours = scope.sae(layer)
        config = topk_sae.TopKSAEConfig(
            d_in=scope.d_model, d_sae=scope.d_sae, k=scope.k, apply_b_dec_to_input=False
        )
        with torch.device("meta"):
            saes[layer] = topk_sae.TopKSAE(config)
        state = {"W_enc": ours.W_enc.T.contiguous(), "W_dec": ours.W_dec.T.contiguous()}
        state |= {"b_enc": ours.b_enc, "b_dec": ours.b_dec}
        saes[layer].load_state_dict(state, assign=True)
    return saes


def cold(folder) -> None:
    for path in Path(folder).iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


PEAK = """
import re, sys
from pathlib import Path
sys.path[:0] = {path!r}
import bench_scan, qs_helpers as qs
scope = qs.load_scope(model={model!r}, sae={sae!r}, device="cpu", dtype="bfloat16")
qs.views.scan_corpus(scope, bench_scan.corpus({n}), [0], folder={out!r})
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


# torch keeps a compiled product for every shape of batch, up to 1024, and the C library keeps what
# was freed: neither is the scan's.
LOOP, ALONE = "sae-lens in a plain loop", "without reading ahead"
NOTHING_KEPT = {"LRU_CACHE_CAPACITY": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}


def peak_mb(model, sae, n: int, settings: dict[str, str]) -> float:
    """Peak memory of a process that scans n texts."""
    with tempfile.TemporaryDirectory() as out:
        code = PEAK.format(path=sys.path, model=str(model), sae=str(sae), n=n, out=out)
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | settings
        )
    if ran.returncode:
        raise RuntimeError(ran.stderr)
    return int(re.findall(r"\d+", ran.stdout)[-1]) / 1024


WORKER = """
import json, sys, time
from pathlib import Path
import qs_helpers as qs
from qs_helpers.views import tasks
folder, numbers, own, all_names = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
about, work = tasks.read_tasks(folder)
scope = tasks._loaded(json.dumps(about["scope"]))
for _ in qs.activations(scope, ["to warm up"], work.layers):
    pass
scope.fingerprint(work.layers)  # reads all files once
(folder / own).touch()
while not all((folder / name).exists() for name in all_names):
    time.sleep(0.005)
start = time.time()
for number in numbers:
    qs.views.run_task(folder, number)
print(start, time.time())
"""


def seconds_of_work(folder, lists: list[list[int]]) -> float:
    """From the first start to the last end, of processes that write these shards each."""
    names = [f"ready{i}" for i in range(len(lists))]
    for path in (*folder.glob("shards-*"), *(folder / name for name in names)):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    env, running = os.environ | {"OMP_NUM_THREADS": "1"}, []
    for name, numbers in zip(names, lists, strict=True):
        command = [sys.executable, "-c", WORKER, folder, *map(json.dumps, (numbers, name, names))]
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    told = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a worker of the benchmark failed")
    times = [tuple(map(float, text.split()[-2:])) for text in told]
    return max(end for _, end in times) - min(start for start, _ in times)


def in_shards(scope, folder: Path, runs: int = 3) -> Row:
    """Two processes with half of the shards each beside one with all, a thread each, in turn."""
    chance = random.Random(0)
    texts = ["".join(chance.choices("abcdefgh ", k=64)) for _ in range(SHARDS * SHARD_TEXTS)]
    n = qs.views.write_tasks(scope, texts, LAYERS, folder, chars=64 * SHARD_TEXTS)
    numbers = list(range(n))
    times = {"one process": [], "ours": []}
    for _ in range(runs):
        times["one process"].append(seconds_of_work(folder, [numbers]))
        times["ours"].append(seconds_of_work(folder, [numbers[::2], numbers[1::2]]))
    shape = (
        f"{len(LAYERS)} layers, {scope.d_model} × {scope.d_sae}, {n} shards of {64 * SHARD_TEXTS}"
    )
    what = "scan", "scan in shards, 2 workers", f"{shape} tokens"
    return compared(*what, times, "ours", "one process", target=1.7)


def padding(lengths, groups) -> float:
    """Share of padding among what is computed."""
    cells = sum(max(lengths[i] for i in group) * len(group) for group in groups)
    return 1 - sum(lengths) / cells


def by_layers(scope, texts, device) -> dict[int, dict[str, list[float]]]:
    """{number of layers: {"ours", "sae-lens in a plain loop": seconds of each run}} of a scan."""
    saes, found = lens_saes(scope, range(N_LAYERS - 1)), {}
    for layers in ([0], LAYERS, list(range(N_LAYERS - 1))):
        chosen = {layer: saes[layer] for layer in layers}
        tasks = {
            "ours": functools.partial(scan_all, scope, texts, layers),
            LOOP: functools.partial(plain_loop, scope, texts, chosen),
        }
        found[len(layers)] = interleaved(tasks, device, runs=2)
    return found


def scans(device) -> tuple[list[Row], dict, list[dict]]:
    """Rows, what else there is to say, and the growth of time with the layers."""
    with tempfile.TemporaryDirectory() as folder:
        model, sae = Path(folder) / "model", Path(folder) / "sae"
        d_model, d_sae, k = SUITE[SIZE]
        write_random_model(model, SIZE, N_LAYERS)
        write_suite(sae, range(N_LAYERS - 1), d_model, d_sae, k, n_layers=N_LAYERS)
        load = {"model": model, "sae": sae, "device": str(device), "dtype": "bfloat16"}
        scope, texts = qs.load_scope(**load), corpus(24)
        lengths = [len(text) for text in texts]
        times = by_layers(scope, texts, device)
        grown = []
        for n, row in times.items():
            ours, theirs = (median(seconds) * 1e3 for seconds in row.values())
            grown.append(
                {"along": "layers", "at": n, "task": "scan", "ours": ours, "sae-lens": theirs}
            )
        most, plan = scope.batch_tokens, str(qs.views.plan_scan(scope, LAYERS))
        apart = in_shards(scope, Path(folder) / "tasks")
        del scope  # what it has mapped cannot leave the page cache
        gc.collect()

        def from_disk(scan) -> float:
            cold(sae)
            scope = qs.load_scope(**load)
            start = time.perf_counter()
            scan(scope, texts[:8])
            return time.perf_counter() - start

        ahead, alone = {"ours": [], ALONE: []}, {"ours": scan_all, ALONE: read_nothing_ahead}
        for _ in range(RUNS):
            for who, seconds in ahead.items():
                seconds.append(from_disk(alone[who]))
        shape = f"{len(LAYERS)} layers, {d_model} × {d_sae}, {sum(lengths)} tokens"
        few = f"{len(LAYERS)} layers, {sum(lengths[:8])} tokens"
        files = "scan, files not in the page cache"
        rows = [
            compared("scan", "scan", shape, times[len(LAYERS)], "ours", LOOP),
            compared("scan", files, few, ahead, "ours", ALONE),
            apart,
        ]
        # Both are longer than what is held at a time, and fill the contexts of most features.
        narrow = write_suite(Path(folder) / "narrow", [0], d_model, 4096, k, n_layers=N_LAYERS)
        about_memory = f"1 layer, {d_model} × 4096, {sum(map(len, corpus(CORPORA[1])))} tokens"
        for settings, how in (({}, "as it is"), (NOTHING_KEPT, "nothing kept by libraries")):
            one, two = (peak_mb(model, narrow, n, settings) for n in CORPORA)
            what = "scan", f"peak memory, twice the corpus, {how}", about_memory
            rows.append(Row(*what, two, "the corpus once", one, "MB", "share", 1.05))
        ours = padding(lengths, batches(dict(enumerate(lengths)), most))
        in_order = [range(i, min(i + BATCH, len(texts))) for i in range(0, len(texts), BATCH)]
        about = {
            "padding": ours,
            "padding in order": padding(lengths, in_order),
            "plan": plan,
        }
        return rows, about, grown


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        model, sae = Path(folder) / "model", Path(folder) / "sae"
        write_random_model(model, SIZE, N_LAYERS)
        write_suite(sae, LAYERS, *SUITE[SIZE], n_layers=N_LAYERS)
        scope = qs.load_scope(model=model, sae=sae, device="cpu", dtype="bfloat16")
        row = in_shards(scope, Path(folder) / "tasks", int(*sys.argv[1:] or [3]))
    print(f"{row.task}, {row.shape}: {row.ours:,.0f} ms; {row.peer} {row.theirs:,.0f} ms", end=": ")
    print(f"{row.ratio:.2f} × faster, {'met' if row.met else 'missed'} (≥ {row.target} ×)")
