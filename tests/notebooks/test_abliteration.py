"""Functions that 06 writes out: scores of candidates against edited weights, costs at equal effect,
and who wins a cell of its sensitivity figure."""

import ast
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from drawn import drawn_requests

import qs_helpers as qs
from qs_helpers.hooks import weights_to_edit
from qs_helpers.loading.cases import Case

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "06_abliteration_comparison.ipynb"
EQUAL = {"EQUAL": 0.001, "MAX_STEP": 0.4}


def own(*names: str) -> dict:
    """Functions of the notebook."""
    space = {"np": np, "qs": qs} | EQUAL
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for part in (part for source in code for part in ast.parse(source).body):
        if isinstance(part, ast.FunctionDef) and part.name in names:
            exec(compile(ast.Module([part], []), str(NOTEBOOK), "exec"), space)
    assert set(names) <= set(space)
    return space


def test_the_constants_are_those_of_the_notebook():
    text = NOTEBOOK.read_text("utf-8")
    assert "EQUAL = 0.001  #" in text and "MAX_STEP = (0.25, 0.5, 1.0, 2.0, 3.0), 0.4" in text


def test_candidates_are_scored_as_published():
    texts = drawn_requests({"discovery": 8, "validation": 4}, ["en", "zh"])
    case = Case("tiny-instruct", "own", texts, 5, 8)
    scope, tokens = case.scope, torch.tensor([3, 77])
    case.tokens, prompts = tokens, case.prompts
    case.scales = qs.scales(scope, prompts["discovery", False])
    sides = [prompts["discovery", bad] for bad in (True, False)]
    asked = [prompts["validation", bad] for bad in (True, False)]
    r = qs.steering.diff_at_positions(scope, *sides, 2, [1])[1][1]
    found = own("scores")["scores"](case, 1, r, *asked)

    def logits(texts):
        with torch.no_grad():
            return [scope.model(**scope.tokens(t)).logits[0, -1].double() for t in texts]

    plain = logits(asked[1])
    with weights_to_edit(scope.model) as weights:
        for w in weights:
            w -= (w @ r)[..., None] * r / (r @ r)
        ablated, without = logits(asked[0]), logits(asked[1])
    with qs.edit(scope.model, {1: lambda x: x + r}):
        induced = logits(asked[1])
    kl = [
        (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum().item()
        for p, q in zip(plain, without, strict=True)
    ]
    bypass, induce = (
        np.mean([naive.odds(x.tolist(), [3, 77]) for x in rows]) for rows in (ablated, induced)
    )
    assert found[:2] == pytest.approx((bypass, induce), abs=1e-3)
    assert found[2] == pytest.approx(np.mean(kl), abs=1e-4)


@pytest.mark.parametrize(
    ("effects", "costs", "wanted"),
    [
        ([0.6, 0.9], [1.0, 4.0], 2.5),  # between the two neighbours
        ([0.9, 0.6], [4.0, 1.0], 2.5),  # in any order
        ([0.4, 0.75], [1.0, 3.0], 3.0),
        ([0.5, 0.95], [1.0, 4.0], np.nan),  # too far apart
        ([0.9], [4.0], np.nan),  # one point is never rescaled
        ([0.5, 0.6], [1.0, 2.0], np.nan),  # not reached
        ([0.7, 0.7, 0.8], [1.0, 9.0, 3.0], 2.0),  # the cheaper of two that remove as much
        ([0.6, 0.9, 0.95], [1.0, 8.0, 2.0], 1.5),  # what removes more for less
    ],
)
def test_a_cost_lies_between_two_measured_points(effects, costs, wanted):
    found = own("at_equal")["at_equal"](effects, costs, 0.75)
    assert found == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize(
    ("value", "low", "high", "wanted"),
    [
        (-0.4, -0.7, -0.1, "features"),
        (0.2, 0.02, 0.6, "direction"),
        (0.2, -0.1, 0.6, "tie"),
        (0.0, 0.0, 0.0, "tie"),
        (0.07, 1e-6, 0.2, "tie"),  # nearer to 0 than a thousandth of a nat
        (-0.2, np.nan, np.nan, "no interval"),
        (np.nan, np.nan, np.nan, "not reached"),  # as the row says
    ],
)
def test_a_cell_without_a_clear_difference_is_a_tie(value, low, high, wanted):
    row = SimpleNamespace(value=value, low=low, high=high, why="not reached")
    assert own("winner")["winner"](row) == wanted


def test_a_direction_may_come_from_any_layer_whatever_features_are_restricted_to():
    space = own("variants", "best")
    r = [torch.eye(8)[i] for i in range(6)]
    table = pd.DataFrame({"layer": [0, 0, 1, 3, 4, 5], "r": r, "bypass": [2, 3, 4, -1, 0, -2]})
    scores = {n: torch.arange(12.0) for n in (4, 5)}
    case = SimpleNamespace(candidates=table, scores=scores, scales={}, scope=None)
    made = {"direction_arm": lambda scales, r, layer, everywhere: (layer, everywhere)}
    space |= {"partial": partial, "feature_arm": lambda *x: x[2]} | made
    found = space["variants"](case, [4, 5])
    assert found["direction", "all writes"] == [(5, True), (3, True), (4, True)]
    assert found["direction", "one layer"] == [(5, False), (3, False), (4, False)]
    assert {n for chosen in found["features", "all layers"] for n, _ in chosen} == {4, 5}
    assert all(len(arms) == 3 for arms in found.values())  # as many choices for both


@pytest.mark.parametrize("notebook", ["06_abliteration_comparison", "07_patching"])
def test_the_tiny_preset_crosses_two_models_and_two_suites(notebook):
    settings = qs.settings(notebook, "tiny")
    assert len(settings.MODELS) == len(settings.SUITES) == 2
