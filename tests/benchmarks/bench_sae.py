"""Our SAE arithmetic against its peers, on the official shapes with random weights.

    make bench

Prints, for each task, the median time of ours and of each peer and their ratio: above 1, ours is
faster. Runs are interleaved (ours, peer, ours, peer, …), on the same tensors, after one that is not
counted. Everything is also written to runs/bench.json. A number is worth what its machine is worth:
quote ratios, and say on what.

Peers: SAELens's TopKSAE; the five lines of the model cards; the bare float32 matmul of an encoder,
which is the floor of everything that computes all pre-activations in float32.
"""

import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from peers import random_pair
from sae_lens.saes import topk_sae

from qs_helpers.files import write_json
from qs_helpers.presets import project_root

SHAPES = [(2048, 32768, 50), (4096, 65536, 100)]
TOKENS, RUNS = 512, 5


def interleaved(tasks, device) -> dict[str, float]:
    """Median seconds of each task, run in turn."""

    def seconds(task) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        task()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    taken = {name: [] for name in tasks}
    for run in range(RUNS + 1):
        for name, task in tasks.items():
            spent = seconds(task)
            if run:
                taken[name].append(spent)
    return {name: median(values) for name, values in taken.items()}


def five_lines(x, sae):
    """As the model cards show it: dense pre-activations, TopK, and a dense vector of features."""
    pre = x @ sae.W_enc.T + sae.b_enc
    values, indices = pre.topk(sae.k, dim=-1)
    acts = torch.zeros_like(pre).scatter_(-1, indices, values)
    return acts


@torch.no_grad()
def arithmetic(shape, device) -> dict[str, dict[str, float]]:
    """{task: {name: seconds}} for encode, decode, and reading one feature, for which SAELens has to
    encode all of them."""
    ours, theirs = random_pair(topk_sae, *shape)
    ours, theirs = ours.to(device), theirs.to(device)
    x = torch.randn(TOKENS, shape[0], generator=torch.Generator().manual_seed(1)).to(device)
    acts, dense = ours.encode(x), five_lines(x, ours)
    lens_acts = theirs.encode(x)
    feature = torch.tensor([7], device=device)
    return {
        "encode": interleaved({
            "ours": lambda: ours.encode(x),
            "sae-lens": lambda: theirs.encode(x),
            "five lines": lambda: five_lines(x, ours),
            "fp32 matmul": lambda: torch.addmm(ours.b_enc, x, ours.W_enc.T),
        }, device),
        "decode": interleaved({
            "ours": lambda: ours.decode(acts),
            "sae-lens": lambda: theirs.decode(lens_acts),
            "five lines": lambda: dense @ ours.W_dec.T + ours.b_dec,
        }, device),
        "one feature": interleaved({
            "ours": lambda: ours.some(x, feature),
            "sae-lens": lambda: theirs.encode(x),
        }, device),
    }  # fmt: skip


MEASURE = """
import re, sys, time, torch
from pathlib import Path
path, what = sys.argv[1:]

def peak():  # of this process in kB; getrusage would tell of the one that began it, too
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

if what.startswith("sae-lens"):
    from sae_lens.saes import topk_sae
import qs_helpers as qs
qs.load_sae, qs.TopKSAE
x = torch.randn(8, {d_model})
before, start = peak(), time.perf_counter()
if what == "ours, encode":
    qs.load_sae(path, k={k}).encode(x)
elif what == "ours, one direction":
    qs.load_sae(path, k={k}).direction(7)
else:
    config = topk_sae.TopKSAEConfig(d_in={d_model}, d_sae={d_sae}, k={k})
    sae = topk_sae.TopKSAE(config)
    state = torch.load(path, map_location="cpu", weights_only=True)
    sae.load_state_dict({{"W_enc": state["W_enc"].T.contiguous(), "b_enc": state["b_enc"],
                         "W_dec": state["W_dec"].T.contiguous(), "b_dec": state["b_dec"]}})
    with torch.no_grad():
        sae.encode(x)
after = peak()
print(time.perf_counter() - start, (after - before) / 1024)
"""


def loading(shape) -> dict[str, dict[str, float]]:
    """{name: {seconds, MB}} of processes that load a file of the official format and use it once.

    The page cache is warm for all: what is compared is work and memory, not the disk. Memory is the
    growth of the process's peak, pages of a mapped file that were read included. Linux only.
    """
    d_model, d_sae, k = shape
    code = MEASURE.format(d_model=d_model, d_sae=d_sae, k=k)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer7.sae.pt"
        ours, _ = random_pair(topk_sae, *shape)
        tensors = {name: getattr(ours, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
        torch.save(tensors, path)
        del ours, tensors
        for what in ("ours, encode", "ours, one direction", "sae-lens, encode"):
            rows = []
            for _ in range(3):
                ran = subprocess.run(
                    [sys.executable, "-c", code, str(path), what],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                rows.append([float(value) for value in ran.stdout.split()])
            found[what] = {"seconds": median(r[0] for r in rows), "MB": median(r[1] for r in rows)}
    return found


def machine(device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = {"machine": machine(device), "tokens": TOKENS, "runs": RUNS, "shapes": {}}
    print(f"{about['machine']}; {TOKENS} tokens, medians of {RUNS} interleaved runs")
    for shape in SHAPES:
        name = f"{shape[0]} x {shape[1]}, k {shape[2]}"
        found = arithmetic(shape, device)
        about["shapes"][name] = found
        for task, times in found.items():
            for peer in [peer for peer in times if peer != "ours"]:
                ratio = times[peer] / times["ours"]
                ms = f"{times['ours'] * 1e3:8.1f} ms {times[peer] * 1e3:8.1f} ms"
                print(f"{name:24} {task:12} {ms}  {ratio:6.2f} x {peer}")
        loads = about["shapes"][name]["loading"] = loading(shape)
        peer = loads["sae-lens, encode"]
        for what in ("ours, encode", "ours, one direction"):
            time_share, memory = (loads[what][key] / peer[key] for key in ("seconds", "MB"))
            print(f"{name:24} {what:20} {time_share:6.3f} of the time, {memory:6.3f} of the memory "
                  f"({loads[what]['MB']:.0f} MB) of sae-lens")  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    about["peak GB of the benchmark"] = round(peak, 2)
    out = project_root() / "runs" / "bench.json"
    write_json(out, about)


if __name__ == "__main__":
    main()
