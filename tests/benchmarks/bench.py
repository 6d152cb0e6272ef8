"""Our speed and memory against named peers, as ratios of medians in one run.

    make bench                   everything, about a quarter of an hour and 12 GB
    make bench ARGS=arithmetic   one part: arithmetic, loading, scan, use

Prints the table and writes runs/speed/: README.md, results.json, growth.png. A number is worth what
its machine is worth: quote ratios, and say on what.
"""

import sys
import time

import torch
from bench_arithmetic import TOKENS, arithmetic, growth
from bench_loading import loading
from bench_scan import scans
from bench_use import NEW, PROMPT, use
from page import figures, page
from shapes import SIZES
from timing import machine

from qs_helpers.files import write_json
from qs_helpers.presets import project_root

PARTS = ("arithmetic", "loading", "scan", "use")


def main(parts) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {"machine": machine(device), "tokens": TOKENS, "rows": [], "exact": {}, "growth": []}
    found["about"] = {"prompt": PROMPT, "new": NEW}
    print(found["machine"])

    def add(rows):
        for row in rows:
            found["rows"].append(row._asdict() | {"ratio": row.ratio, "met": row.met})
            met = {None: "", True: f"target {row.target:.3g} met" if row.target else "",
                   False: f"target {row.target or 0:.3g} MISSED"}[row.met]  # fmt: skip
            print(f"{row.task:38} {row.shape:22} {row.ours:10.1f} {row.theirs:10.1f} {row.unit:9}"
                  f"{row.ratio:8.3f} {row.kind:7} {row.peer:16} {met}", flush=True)  # fmt: skip

    start = time.perf_counter()
    if "arithmetic" in parts:
        rows, found["exact"] = arithmetic(device)
        add(rows)
        print(found["exact"])
        found["growth"] = growth(device)
    if "loading" in parts:
        add(loading())
    if "scan" in parts:
        rows, about, grown = scans(device)
        found["growth"] += grown
        add(rows)
        about = {name.replace(" ", "_"): value for name, value in about.items()}
        found["about"] |= about
        print(about)
    if "use" in parts:
        for size in SIZES if device.type == "cuda" else ["1.7B"]:
            add(use(size, device))
    print(f"{time.perf_counter() - start:.0f} s")
    folder = project_root() / "runs" / "speed"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", found)
    if set(parts) == set(PARTS):
        figures(found, folder)
        (folder / "README.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(PARTS)
    if unknown:
        sys.exit(f"no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    main(sys.argv[1:] or PARTS)
