"""What the README says in numbers is what was measured or planned."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from qs_helpers.loading import catalog
from qs_helpers.loading.memory import memory_plan, training_plan
from qs_helpers.presets import preset_values

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PRESETS = (ROOT / "notebooks" / "params" / "README.md").read_text(encoding="utf-8")
ROW = r"\| \[[^]]+\]\(notebooks/(\w+)\.ipynb\) \| (.+?) \| (\d+) (s|min) \| \[.+?\]\((\S+)\) \|"


def test_every_notebook_has_its_question_time_and_figure():
    rows = {found[0]: found[1:] for found in re.findall(ROW, README)}
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert list(rows) == [path.stem for path in notebooks]
    for path in notebooks:
        asked, time, unit, figure = rows[path.stem]
        question, _, answer = asked.partition(" **")
        first = "".join(json.loads(path.read_text())["cells"][0]["source"])
        assert f"**Question.** {question}" in " ".join(first.split())
        assert (ROOT / figure).is_file() and f"figures/{path.stem}/" in figure
        results = json.loads((ROOT / "figures" / path.stem / "results.json").read_text())
        said = re.sub("[*`]", "", results.get("answer", {}).get("text", ""))  # 00 has none
        assert said.startswith(answer.removesuffix("**")) and bool(said) == bool(answer)
        measured = results["seconds"] / (60 if unit == "min" else 1)
        assert float(time) == pytest.approx(measured, abs=0.51), path.stem


def test_every_group_has_the_memory_that_is_planned():
    lines = [line for line in PRESETS.splitlines() if line.startswith("| `")]
    named = [name for line in lines for name in re.findall(r"`([\w.-]+)`", line.split("|")[1])]
    assert named == ["smollm2", *catalog.GROUPS, *catalog.COMMUNITY, "qwen3.6-27b"]
    for line in lines:
        _, names, model, memory, _, download, card, _ = (part.strip() for part in line.split("|"))
        for name in re.findall(r"`([\w.-]+)`", names):
            if name in ("smollm2", "qwen3.6-27b"):
                continue
            group = catalog.get_group(name)
            plan = memory_plan(group, group.layers[:3])
            needed = plan.device
            assert model == group.model_repo.split("/")[1]
            assert memory == f"{needed / 1e9:.1f} GB"
            assert download == f"{plan.disk / 1e9:.0f} GB"
            assert float(card.split()[0]) * 1e9 > 1.1 * needed


def test_the_preset_that_trains_has_what_its_training_is_planned_to_take():
    (line,) = (line for line in PRESETS.splitlines() if line.startswith("| `qwen3.6-27b`"))
    _, _, model, memory, _, download, card, _ = (part.strip() for part in line.split("|"))
    values = preset_values("10_train_suite", "qwen3.6-27b", ROOT / "notebooks" / "params")
    numbers = [values[name] for name in ("LAYERS", "D_SAE", "K", "TOKENS")]
    group = catalog.get_group("openinterp-qwen3.6-27b")  # of the same model
    plan = training_plan(group, *numbers)
    own = replace(group, d_sae=values["D_SAE"], k=values["K"], some_layers=tuple(numbers[0]))
    assert group.model_repo == values["MODEL"] == f"Qwen/{model}"
    assert memory == f"{plan.device / 1e9:.1f} GB" and plan.device > memory_plan(own).device
    assert download == f"{plan.model / 1e9:.0f} GB"  # no SAEs
    assert float(card.split()[0]) * 1e9 > 1.1 * plan.device
    words = " ".join(PRESETS.split())
    said = f"{numbers[3] // 10**6} million tokens, {plan.disk / 1e9:.0f} GB of disk at most and "
    assert f"{said}about {plan.hours():.0f} hours on an H100" in words


REAL = {
    p.parent.name: json.loads(p.read_text("utf-8")) for p in ROOT.glob("figures/smollm2/*/*.json")
}


def test_the_real_model_has_the_memory_and_times_that_were_measured():
    assert sorted(REAL) == sorted(path.stem for path in ROOT.glob("notebooks/0[1-7]_*.ipynb"))
    (line,) = (line for line in PRESETS.splitlines() if line.startswith("| `smollm2`"))
    most = max(r["peak_rss_mb"] for r in REAL.values())
    assert line.split("|")[4].strip() == f"{most / 1000:.1f} GB"
    seconds = sorted(r["seconds"] for r in REAL.values())
    words = " ".join(PRESETS.split())
    assert f"in {seconds[0]:.0f} s to {seconds[-1] / 60:.0f} minutes each" in words


def test_what_a_gpu_measured_stands_beside_the_plan():
    (line,) = (line for line in PRESETS.splitlines() if line.startswith("| `qwen3-1.7b-l50`"))
    rows = json.loads((ROOT / "benchmarks" / "gpu.json").read_text("utf-8"))["notebooks"]
    full = [r for r in rows if "preset's sizes" in r["about"]]
    taken = {row["notebook"][:2]: row["device_gb"] for row in full}  # the last of each
    most = max(size for nn, size in taken.items() if nn != "03")  # mended since, and not run again
    assert line.split("|")[4].strip() == f"{most:.1f} GB"
    words = " ".join(PRESETS.split())
    assert f"01 took {taken['01']:.1f} GB (as torch reserved it), 02 {taken['02']:.1f}" in words
    assert f"05 {taken['05']:.1f} and 07 {taken['07']:.1f}; 03 took {taken['03']:.1f} GB" in words


def test_what_the_real_model_said_is_in_its_results():
    """Each number in a row of that table is in a sentence of that notebook's results, or among the
    values of its figures."""
    card = (ROOT / "figures" / "smollm2" / "README.md").read_text("utf-8")
    part = card.split("## What held up")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d\d) \w+ \| (.+) \|$", part, re.M)
    assert [number for number, _ in rows] == [name[:2] for name in sorted(REAL)]
    for number, text in rows:
        (found,) = (r for name, r in REAL.items() if name[:2] == number)
        said = [found["answer"]["text"], *(c["sentence"] for c in found["claims"])]
        said = " ".join(said + [figure["alt"] for figure in found["figures"]])
        numbers = re.findall(r"(?<![\d.])\d+(?:\.\d+)?%?", text.replace("F1", ""))
        known = re.findall(r"(?<![\d.])\d+(?:\.\d+)?%?", said)
        assert numbers and {*numbers} <= {*known}, (number, {*numbers} - {*known})


def test_results_of_the_real_model_are_labelled_and_name_no_machine():
    card = (ROOT / "figures" / "smollm2" / "README.md").read_text("utf-8")
    assert "135M" in card and "4-bit" in card and "no findings about Qwen" in card
    for name, found in REAL.items():
        assert found["preset"] == "smollm2" and f"{name}/{found['answer']['hero']}.png" in card
        assert (ROOT / "figures" / "smollm2" / name / f"{found['answer']['hero']}.png").is_file()
        assert found["answer"]["text"] in card
        source = found["provenance"]  # 06 had no case to tell of
        assert name[:2] == "06" or source["model"]["source"] == "runs/models/smollm2"


PAGES = ["README.md", "GLOSSARY.md", "CONTRIBUTING.md", "CHANGELOG.md", "qs_helpers/README.md"]
PAGES += ["notebooks/params/README.md", "figures/smollm2/README.md"]
PAGES += ["docs/runtimes.md", "docs/scale.md"]
CARDS = ["qs_helpers/tiny/README.md", "qs_helpers/natural/README.md", "benchmarks/README.md"]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("name", PAGES + CARDS)
def test_a_row_of_a_table_has_as_many_cells_as_its_heading(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", re.sub(r"```.*?```", "", text, flags=re.S), re.M):
        sizes = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert len(set(sizes)) == 1, table.splitlines()[sizes.index(max(sizes))]


def test_the_readme_is_short_and_quotes_an_answer():
    assert len(README.splitlines()) <= 150
    (quoted,) = re.findall(r"^> (.+)$", README, re.M)
    results = json.loads((ROOT / "figures" / "03_steer" / "results.json").read_text())
    assert results["answer"]["text"].startswith(quoted)
    missed = sum(claim["badge"] == "NOT SHOWN" for claim in results["claims"])
    assert f"*not* show: {missed} of the claims" in " ".join(README.split())


def test_the_glossary_explains_what_a_first_reader_meets():
    terms = re.findall(r"^\*\*(.+?)\*\*", (ROOT / "GLOSSARY.md").read_text(encoding="utf-8"), re.M)
    assert len(terms) >= 20 and len({term.lower() for term in terms}) == len(terms)
    assert "(GLOSSARY.md)" in README and "`make workshop`" in README
