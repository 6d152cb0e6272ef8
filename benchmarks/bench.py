"""Our speed and memory against named peers, as ratios of medians in one run.

    make bench                   everything, about 25 minutes and 12 GB
    make bench ARGS=arithmetic   one part: arithmetic, loading, scan, use, training
    make bench ARGS=--publish    measures nothing: copies what is in runs/benchmarks to benchmarks/

Prints the table and writes runs/benchmarks/: results.json, and once all parts were measured on this
machine README.md and growth.png. Each part is one run. A number is worth what its machine is worth:
quote ratios, and say on what.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import torch
from bench_arithmetic import TOKENS, arithmetic, growth
from bench_loading import loading
from bench_scan import scans
from bench_training import training
from bench_use import NEW, PROMPT, RUNS, use
from page import figures, page
from shapes import SIZES
from timing import machine

from qs_helpers.evidence.files import write_json
from qs_helpers.presets import project_root

PARTS = ("arithmetic", "loading", "scan", "use", "training")
PUBLISHED = ("results.json", "README.md", "growth.png")


def publish(measured: Path, published: Path) -> None:
    """Copy a whole run to where the repository shows it. SystemExit if parts are missing."""
    missing = [name for name in PUBLISHED if not (measured / name).is_file()]
    if missing:
        sys.exit(f"{measured} lacks {', '.join(missing)}: run make bench first, all parts of it")
    for name in PUBLISHED:
        shutil.copyfile(measured / name, published / name)


def main(parts, folder: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = {"prompt": PROMPT, "new": NEW, "runs": RUNS[device.type]}
    found = {"machine": machine(device), "tokens": TOKENS, "about": about, "exact": {}, "parts": {}}
    if (folder / "results.json").is_file():  # parts that are not measured anew stay
        before = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if before["machine"] == found["machine"]:
            found = before
            found["about"] |= about if "use" in parts else {}
    print(found["machine"])
    start = time.perf_counter()
    for part in parts:
        found["parts"][part] = {"rows": [], "growth": []}
        if part == "arithmetic":
            rows, found["exact"] = arithmetic(device)
            if device.type == "cpu":  # the figure is that of a CPU
                found["parts"][part]["growth"] = growth(device)
        elif part == "loading":
            rows = loading()
        elif part == "scan":
            rows, about, found["parts"][part]["growth"] = scans(device)
            found["about"] |= {name.replace(" ", "_"): value for name, value in about.items()}
        elif part == "training":
            rows = training()
        else:
            sizes = SIZES if device.type == "cuda" else ["1.7B"]
            rows = [row for size in sizes for row in use(size, device)]
        for row in rows:
            found["parts"][part]["rows"].append(
                row._asdict() | {"ratio": row.ratio, "met": row.met}
            )
            met = {None: "", True: "met", False: "MISSED"}[row.met]
            target = "" if row.target is None else f"target {row.target:.3g} {met}"
            print(
                f"{row.task:38} {row.shape:22} {row.ours:10.1f} {row.theirs:10.1f} {row.unit:9}"
                f"{row.ratio:8.3f} {row.kind:7} {row.peer:16} {target}",
                flush=True,
            )
        print(f"{part}: {time.perf_counter() - start:.0f} s")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "results.json", found)
    if set(found["parts"]) == set(PARTS):
        figures(found, folder)
        gpu = Path(__file__).with_name("gpu.json")
        gpu = json.loads(gpu.read_text(encoding="utf-8")) if gpu.is_file() else None
        (folder / "README.md").write_text(page(found, gpu), encoding="utf-8")


if __name__ == "__main__":
    runs = project_root() / "runs" / "benchmarks"
    if sys.argv[1:] == ["--publish"]:
        publish(runs, Path(__file__).parent)
        sys.exit()
    unknown = set(sys.argv[1:]) - set(PARTS)
    if unknown:
        sys.exit(f"no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    main(sys.argv[1:] or PARTS, runs)
