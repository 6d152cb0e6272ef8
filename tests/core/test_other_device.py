"""What works on the CPU works on a GPU: nothing mixes tensors of two devices."""

import numpy as np
import pytest
import torch
from other_device import NAME, device

import qs_helpers as qs

TEXTS = ["The cook saw a house.", "Rain.", "She read a book in the garden and went home."]
LAYER, FEATURE = 3, 7


@pytest.fixture(scope="module")
def near():
    return qs.load_scope("tiny")


@pytest.fixture(scope="module")
def both(near):
    """The tiny scope on the CPU, and on the other device, where it stays for the whole module."""
    qs.text_nats(near, TEXTS)
    with device():
        yield near, qs.load_scope("tiny", device=NAME, dtype="float32")


def edits(scope):
    """Every kind of edit, of one layer."""
    sae, scale = scope.sae(LAYER), qs.scales(scope, TEXTS, [LAYER])[LAYER]
    own, free = sae.direction(FEATURE)[0], qs.random_directions(2, scope.d_model)
    acts = sae.encode(next(iter(qs.residuals(scope, TEXTS, [LAYER]))).x)
    active = int(acts.indices[0, 0])
    return {
        "add": qs.add(own, 0.5, scale),
        "add, one for each text": qs.add(free[:1].repeat(3, 1), [0.1, 0.5, 1.0], scale),
        "project_out": qs.steering.project_out(own, scale),
        "project_out along": qs.steering.project_out(free[0], scale, 0.5, along=free[1]),
        **{
            mode: qs.change_features(sae, [active, FEATURE], mode, scale, value)
            for mode, value in (("zero", None), ("clamp", 3.0), ("scale", 2.0), ("add", [1.0, 2.0]))
        },
        "reconstruct": lambda x: sae.reconstruct(x).to(x.dtype),
        "splice": lambda x: sae.splice(x, lambda z: qs.SparseActs(z.values * 2, z.indices)),
    }


def test_it_refuses_what_a_gpu_refuses(both):
    x = torch.zeros(3, device=NAME)
    assert (x + 1).device.type == NAME and (x + torch.tensor(2.0)).sum().item() == 6
    with pytest.raises(RuntimeError, match="at least two devices"):
        x + torch.zeros(3)
    with pytest.raises(RuntimeError, match="at least two devices"):
        torch.zeros(3)[x.long()]
    assert x[torch.tensor([0, 1])].device.type == NAME, "places may be on the CPU"
    x[0] = 5
    assert x.tolist() == [5, 0, 0] and x.cpu().device.type == "cpu"


def test_a_model_reads_as_on_the_cpu(both):
    near, away = both
    assert away.model.device.type == away.sae(LAYER).device.type == NAME
    assert np.allclose(qs.text_nats(away, TEXTS), qs.text_nats(near, TEXTS), atol=1e-4)
    here, there = (qs.scales(scope, TEXTS, [LAYER])[LAYER] for scope in both)
    assert there.median == pytest.approx(here.median, rel=1e-5)
    made = [qs.generate(scope, ["The cook"], max_new_tokens=6, temperature=0) for scope in both]
    assert made[0] == made[1]


@pytest.mark.parametrize("name", [*edits(qs.load_scope("tiny"))])
def test_every_edit_does_the_same(both, name):
    found = []
    for scope in both:
        edit = {LAYER: edits(scope)[name]}
        found.append(qs.text_nats(scope, TEXTS, edit))
    assert np.allclose(*found, atol=1e-3) and not np.allclose(
        found[0], qs.text_nats(both[0], TEXTS)
    )
