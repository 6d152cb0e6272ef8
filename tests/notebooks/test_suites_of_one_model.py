"""Notebook 02 follows features to another suite of the same model: it finds those that are known
to be the same, and says which there are none of."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from suites import random_sae, write_model, write_suite

import qs_helpers as qs

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_visualize.ipynb"
WORDS = "the cat sat by a lamp and read about rain while nobody looked at 12 old ships".split()


def own(*names: str) -> dict:
    """Functions of the notebook, with what they use of its imports."""
    from types import SimpleNamespace

    from scipy.sparse import csr_array, vstack
    from torch.nn.functional import normalize

    space = {"np": np, "qs": qs, "csr_array": csr_array, "vstack": vstack, "normalize": normalize}
    space |= {"pd": pytest.importorskip("pandas"), "cfg": SimpleNamespace(SEED=0)}
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for part in (part for source in code for part in ast.parse(source).body):
        if isinstance(part, ast.FunctionDef) and part.name in names:
            exec(compile(ast.Module([part], []), str(NOTEBOOK), "exec"), space)
    return space


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A scope, its sibling, and where each feature of the first is planted in the second.

    The second suite has twice the k, the features of the first in another order and with noise,
    and as many others that are random.
    """
    folder = tmp_path_factory.mktemp("suites")
    model = write_model(folder / "model")
    write_suite(folder / "one", layers=[1])
    write_suite(folder / "one-wide", layers=[1], d_sae=128, k=8)
    known, noise = random_sae(seed=1), torch.Generator().manual_seed(7)
    order = torch.randperm(128, generator=noise)  # feature order[i] of the second is i of both
    both = {}
    for name, other in random_sae(d_sae=64, seed=99).items():
        mine = known[name]
        if name != "b_dec":
            dim = mine.dim() - 1 if name == "W_dec" else 0
            mine = mine + 0.02 * torch.randn(mine.shape, generator=noise)
            mine = torch.cat([mine, other], dim).index_select(dim, order.argsort())
        both[name] = mine.contiguous()
    torch.save(both, folder / "one-wide" / "layer1.sae.pt")
    scope = qs.load_scope(model=model, sae=folder / "one", device="cpu", check=False)
    return scope, scope.sibling(), order[:64].numpy()


@pytest.fixture(scope="module")
def acts(two):
    rng = np.random.default_rng(0)
    texts = {s: [" ".join(rng.choice(WORDS, 9)) for _ in range(60)] for s in ("discovery", "test")}
    read = own("sparse_activations")["sparse_activations"]
    return [{split: read(one, texts[split], [1])[1] for split in texts} for one in two[:2]]


def test_the_planted_copy_is_the_partner(two, acts):
    scope, other, planted = two
    assert (other.name, other.k, other.d_sae) == ("one-wide", 8, 128)
    space = own("correlation", "partners")
    often = np.flatnonzero(np.asarray((acts[0]["discovery"] > 0).sum(0)) >= 20)
    partner, r = space["partners"](often.tolist(), *acts)
    assert len(often) >= 5 and (partner == planted[often]).mean() > 0.9
    assert np.nanmedian(r) > 0.6


def test_follow_beats_features_that_fire_as_often(two, acts):
    scope, other, planted = two
    space = own("correlation", "follow")
    pairs, others = space["follow"](*acts, scope.sae(1).W_dec, other.sae(1).W_dec)
    assert (pairs.partner == planted[pairs.feature]).mean() > 0.8
    assert (pairs.nearest == planted[pairs.feature]).mean() > 0.9
    assert pairs.r.mean() > others.mean() + 0.3


def test_a_feature_that_never_fires_has_no_partner(two, acts):
    silent = np.flatnonzero(np.asarray((acts[0]["discovery"] > 0).sum(0)) == 0)
    if not len(silent):
        acts = [{split: some.copy() for split, some in acts[0].items()}, acts[1]]
        for some in acts[0].values():
            some.data[some.indices == 5] = 0
        silent = [5]
    _, r = own("correlation", "partners")["partners"]([int(silent[0])], *acts)
    assert np.isnan(r).all()
