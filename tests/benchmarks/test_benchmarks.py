"""The page of speeds is that of its results, the README quotes them, and the benchmark runs."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from qs_helpers.loading.catalog import get_group
from qs_helpers.loading.memory import memory_plan

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
README = (ROOT / "qs_helpers" / "README.md").read_text(encoding="utf-8")


def results() -> dict:
    return json.loads((BENCHMARKS / "results.json").read_text(encoding="utf-8"))


def all_rows() -> list[dict]:
    return [row for part in results()["parts"].values() for row in part["rows"]]


def test_the_page_is_that_of_its_results():
    from page import page

    gpu = json.loads((BENCHMARKS / "gpu.json").read_text(encoding="utf-8"))
    assert (BENCHMARKS / "README.md").read_text(encoding="utf-8") == page(results(), gpu)


def test_every_target_is_written_down_and_misses_are_said():
    gpu = json.loads((BENCHMARKS / "gpu.json").read_text(encoding="utf-8"))["rows"]
    rows = [row for row in all_rows() + gpu if row["target"] is not None]
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert {row["section"] for row in rows} == {"arithmetic", "loading", "scan", "training", "use"}
    assert text.count(": missed") == sum(not row["met"] for row in rows)
    assert text.count(": met") == sum(row["met"] for row in rows)
    for row in rows:
        enough, less = row["ratio"] >= row["target"], row["ratio"] <= row["target"]
        reached = enough if row["kind"] == "faster" else less
        assert row["met"] is reached


def test_the_readme_quotes_what_was_measured():
    part = README.split("## Speed and memory", 1)[1].split("\n## ", 1)[0]
    found = results()
    assert found["machine"] in " ".join(part.split())
    table = [line.split("|")[1:-1] for line in part.splitlines() if line.startswith("| ")]
    header, *lines = [[cell.strip() for cell in cells] for cells in table]
    shapes = header[1:]
    quoted = {
        task: [float(re.match(r"[\d.]+", cell)[0]) for cell in cells] for task, *cells in lines
    }
    assert len(quoted) == 8
    for task, values in quoted.items():
        for shape, value in zip(shapes, values, strict=True):
            lens = [r for r in all_rows() if (r["shape"], r["peer"]) == (shape, "sae-lens")]
            measured = [row["ratio"] for row in lens if _name(row) == task]
            assert len(measured) == 1, (task, shape)
            assert value == pytest.approx(measured[0], rel=0.05)


def _name(row: dict) -> str:
    what = {"ms": "time", "MB": "memory"}[row["unit"]]
    return row["task"] if row["section"] == "arithmetic" else f"{row['task']}: {what}"


def test_the_arithmetic_benchmark_runs_and_its_peers_agree(monkeypatch):
    pytest.importorskip("sae_lens", reason="sae-lens is not installed: make test installs it")
    import bench_arithmetic
    import timing

    monkeypatch.setattr(timing, "RUNS", 1)
    monkeypatch.setattr(bench_arithmetic, "TOKENS", 8)
    rows, exact = bench_arithmetic.one_shape((32, 256, 4), torch.device("cpu"))
    tasks = {"encode": 3, "encode what is made of features": 2, "decode": 3, "splice": 1}
    tasks |= {"one feature": 1, "int8 product alone": 1}
    assert [row.task for row in rows] == [task for task, n in tasks.items() for _ in range(n)]
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)
    assert exact["same features"] == exact["made of features"] == 1
    assert exact["largest difference"] < 1e-5
    assert all(low <= high and low > 0 for low, high in (row.quartiles for row in rows))
    case = bench_arithmetic.one_case((32, 256, 4, 8), torch.device("cpu"))
    assert [row["task"] for row in case] == ["encode", "decode"]


def test_the_training_benchmark_runs():
    pytest.importorskip("sae_lens", reason="sae-lens is not installed: make test installs it")
    import bench_training

    rows = bench_training.training([(16, 64, 4)], [32, 48])
    assert [row.peer for row in rows] == ["sae-lens", "sae-lens, sparse"] * 2
    assert all(row.ours > 0 and row.theirs > 0 and row.target == 1.3 for row in rows)
    assert [row.task for row in rows[::2]] == ["one step of 32 tokens", "one step of 48 tokens"]


def test_only_a_whole_run_is_published(tmp_path):
    from bench import PUBLISHED, publish

    measured, published = tmp_path / "runs", tmp_path / "benchmarks"
    measured.mkdir(), published.mkdir()
    for name in PUBLISHED[:-1]:
        (measured / name).write_text(name)
    with pytest.raises(SystemExit, match="lacks growth.png: run make bench first"):
        publish(measured, published)
    assert list(published.iterdir()) == []
    (measured / "growth.png").write_bytes(b"png")
    publish(measured, published)
    assert {path.name for path in published.iterdir()} == set(PUBLISHED)
    assert all((BENCHMARKS / name).is_file() for name in PUBLISHED)


def test_a_profile_says_where_the_time_goes():
    import profile_scan

    table = profile_scan.profile("tiny", n_texts=20).splitlines()
    assert table[0].startswith("tiny: ") and "tokens of a layer a second" in table[0]
    assert len(table) == 2 + profile_scan.SHOWN
    shares = [float(re.search(r"([\d.]+)%", line)[1]) for line in table[2:]]
    assert shares == sorted(shares, reverse=True) and 50 < sum(shares) < 100
    assert str(ROOT) not in "\n".join(table) and sys.prefix not in "\n".join(table)


def test_the_page_on_scale_is_what_is_planned():
    from plan_scale import CARDS, scale_plan, table

    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert table() in page
    plan = scale_plan(get_group("qwen3.5-27b-l50"), 1e9, CARDS["80 GB"])
    kept = re.search(r"n = (\d+) .*cache_bytes=([\d_]+)", page, re.S)
    assert int(kept[1]) == plan.at_once
    sae = memory_plan("qwen3.5-27b-l50", device="cuda").sae_layer
    assert plan.at_once * sae <= int(kept[2]) < (plan.at_once + 1) * sae
    # By hand: layers 0 to 4 end a pass after 5 of 64, the last list after all.
    assert plan.reading == 2 * 27e9 * 1e9 * (sum(range(5, 64, 5)) + 64) / 64
    assert plan.encoding == 2 * 5120 * 81920 * 64 * 1e9
    assert plan.shard_layer == 81920 * (8 * 62 + 120 * 24)
    with pytest.raises(ValueError, match="qwen3.5-27b-l50 needs more than 50.0 GB for one layer"):
        scale_plan(get_group("qwen3.5-27b-l50"), 1e9, 50e9)


def test_readings_of_labelled_texts_take_what_is_planned_and_the_pass():
    from memory_readings import measure

    from qs_helpers import forward

    was = forward.residuals
    try:
        found = measure("qwen3-1.7b-l50", 96)
    finally:
        forward.residuals = was
    group = get_group("qwen3-1.7b-l50")
    one_pass = (
        2 * 2 * 96 * 16 * group.d_model * group.n_layers
    )  # bfloat16, and the copies of a layer
    assert found["layers"] == 28 and found["passes"] == 1
    assert found["peak"] < found["planned"] + one_pass + 400e6
