"""What the check of a report accepts runs to the last cell: small sets of parameters, at random."""

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml

from qs_helpers.loading.catalog import TINY
from qs_helpers.presets import ITEMS
from qs_helpers.report.check import plan_report
from qs_helpers.report.execute import report
from qs_helpers.report.run import declared

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[01][1-9]_*.ipynb"))
NOTEBOOKS += ["10_train_suite"]
GAPS = (0, 2, 5)  # the layers that have an SAE in the preset "gap"
# As in the preset.
KEPT = {"TEXTS", "DATA", "PROMPTS", "PAIRS", "CANDIDATES", "BENCHMARKS", "SCORES", "TEMPLATES"}
KEPT |= {"MODEL", "MODELS", "SUITES", "SUITE", "OTHER", "OUT"}


def few(rng, items, most=2):
    return rng.sample(items, rng.randint(1, most))


DRAWS = {
    "LAYERS": lambda rng, layers: rng.choice([[], few(rng, layers, 1), few(rng, layers, 3)]),
    "LANGUAGES": lambda rng, _: few(rng, ["en", "fr", "ru", "ja", "zh", "de"]),
    "TOPIC": lambda rng, _: rng.choice([[], ["soup"], ["soup", "суп"]]),
    "STRENGTHS": lambda rng, _: rng.choice([[0.0, 0.5], [-0.5, 0.0, 1.0], [0.5], [1.0, 0.0]]),
    "LAYER": lambda rng, layers: rng.choice([-1, *few(rng, layers, 1)]),
    "FEATURE": lambda rng, _: rng.choice([-1, -1, 7]),
    "POSITIONS": lambda rng, _: rng.choice(["all", "prompt", "generated"]),
    "TEMPERATURE": lambda rng, _: rng.choice([0.0, 0.5, 1.0]),
    "MAX_NEW_TOKENS": lambda rng, _: rng.choice([1, 2, 4, 8]),
    "SHOW_RAW": lambda rng, _: rng.choice([True, False]),
    "MAX_FVU": lambda rng, _: rng.choice([0.5, 1.0]),
    "STEPS": lambda rng, _: rng.choice([0, 0, 1]),
    "TOKENS": lambda rng, _: rng.choice([1, 1000]),
    "D_SAE": lambda rng, _: rng.choice([1, 8, 64]),
    "K": lambda rng, _: rng.choice([1, 4, 8]),
    "REFUSAL_TOKENS": lambda rng, _: rng.choice([1, 5, 8]),
    "ANSWER_TOKENS": lambda rng, _: rng.choice([1, 3]),
    "GRID": lambda rng, _: rng.choice([0, 1]),
    "REDRAWS": lambda rng, _: rng.choice([1, 2, 3]),
    "RANDOM_MODELS": lambda rng, _: rng.choice([0, 1, 2]),
    "SEED": lambda rng, _: rng.randint(0, 9),
}


def drawn(notebook: str, number: int, attempt: int) -> dict:
    """A set of parameters, by their names; those that begin with N_ are small numbers."""
    rng = random.Random(f"{notebook} {number} {attempt}")
    layers = list(GAPS if number % 2 else range(6))
    kinds = declared(ROOT / "notebooks" / f"{notebook}.ipynb")
    found = {name: DRAWS[name](rng, layers) for name in kinds if name in DRAWS}
    count = {name: rng.choice([1, 2, 4, 8, 12]) for name in kinds if name.startswith("N_")}
    return found | {name: [n] if kinds[name] == [] else n for name, n in count.items()}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The notebooks, and a preset "gap": a model that refuses, with a suite that has gaps."""
    params, own = tmp_path / "notebooks" / "params", tmp_path / "own"
    shutil.copytree(ROOT / "notebooks", params.parent)
    for part in ("model", "sae"):
        shutil.copytree(TINY["tiny-instruct"] / part, own / part)
    for layer in {*range(6)} - {*GAPS}:
        (own / "sae" / f"layer{layer}.sae.pt").unlink()
    sections = yaml.safe_load((params / "tiny.yaml").read_text("utf-8"))
    sections["scope"] |= {part: f"../../own/{part}" for part in ("model", "sae")}
    for values in sections.values():
        values |= {"LAYERS": [0, 2]} if "LAYERS" in values else {}
    for name in ("06_abliteration_comparison", "07_patching"):
        sections[name] |= {"MODELS": ["gap"], "SUITES": ["own"]}
    sections["09_moe_routing"]["SUITE"] = "own"  # which is dense
    kept = {name: values for name, values in sections.items() if name[:2] not in ("00", "10")}
    (params / "gap.yaml").write_text(yaml.safe_dump(kept, allow_unicode=True), "utf-8")
    monkeypatch.setenv("QS_ROOT", str(tmp_path))
    return tmp_path


def accepted(project, notebook: str, number: int):
    """The plan of the first drawn set that the check accepts."""
    preset = "gap" if number % 2 and notebook != "10_train_suite" else "tiny"
    for attempt in range(200):
        values = drawn(notebook, number, attempt)
        given = [(name, v if isinstance(v, str) else json.dumps(v)) for name, v in values.items()]
        try:
            plan = plan_report(preset, [notebook], given=given, root=project)
        except ValueError:
            continue
        assert plan.problems == []
        return plan
    raise AssertionError(f"{notebook}: 200 sets were drawn, and none was accepted")


TEN = [
    pytest.param(notebook, number, marks=[pytest.mark.long] if number else [])
    for notebook in NOTEBOOKS
    for number in range(10)
]


@pytest.mark.parametrize(("notebook", "number"), TEN)
def test_an_accepted_set_of_small_parameters_reaches_the_last_cell(project, notebook, number):
    plan = accepted(project, notebook, number)
    _, (outcome,) = report(plan, quiet=True)
    error = outcome.error or ""
    assert not error, f"{notebook} with {plan.runs[0].passed}: {error}"


def test_every_parameter_is_drawn():
    """A new one needs a line in DRAWS, or stays as in the preset; a list, one in ITEMS."""
    for notebook in NOTEBOOKS:
        kinds = declared(ROOT / "notebooks" / f"{notebook}.ipynb")
        assert {name for name, kind in kinds.items() if kind == []} <= set(ITEMS)
        names = set(kinds) - KEPT
        assert {name for name in names if not name.startswith("N_")} <= set(DRAWS)
