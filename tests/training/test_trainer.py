"""The loss is its formula, the steps are Adam's, toys are learnt, and suites are official ones."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

import qs_helpers as qs
from qs_helpers.hooks import decoder_layers
from qs_helpers.sae import TopKSAE
from qs_helpers.training import Recipe, Shards, shards, train_sae, train_suite, trainer

from .conftest import CONTEXT, some_texts, sparse_data, write_shards

SEEDS = range(5)


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums of many threads are not bit for bit the same in every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The loss


def random_tensors(d_model=6, d_sae=40, seed=0) -> trainer.Tensors:
    noise = torch.Generator().manual_seed(seed)
    shapes = (d_sae, d_model), (d_sae, d_model), (d_sae,), (d_model,)
    drawn = [torch.randn(shape, generator=noise, dtype=torch.float64) for shape in shapes]
    drawn[1] = normalize(drawn[1], dim=1)
    return trainer.Tensors(*(t.requires_grad_() for t in drawn))


def naive_loss(x, tensors, silent, recipe):
    """The docstring's formula: dense activations, token by token."""
    W_enc, W_dec, b_enc, b_dec = tensors
    main = hinge = aux = 0.0
    fired = set()
    for row in x:
        pre = W_enc @ row + b_enc
        chosen = sorted(range(len(pre)), key=lambda f: -pre[f].item())[: recipe.k]
        acts = torch.zeros_like(pre)
        for f in chosen:
            acts[f] = pre[f].clamp(min=0)
            hinge = hinge + (trainer.MARGIN - pre[f]).clamp(min=0)
            if pre[f] > 0:
                fired.add(f)
        error = row - (acts @ W_dec + b_dec)
        main = main + error.square().sum()
        quiet = [f for f in range(len(pre)) if silent[f]]
        quiet = sorted(quiet, key=lambda f: -pre[f].item())[: trainer.AUX_FEATURES]
        said = sum((pre[f].clamp(min=0) * W_dec[f] for f in quiet), torch.zeros_like(row))
        aux = aux + (error.detach() - said).square().sum()
    n = len(x)
    loss = main / n + trainer.HINGE * hinge / n
    if recipe.aux and any(silent):
        loss = loss + recipe.aux * aux / n
    return loss, main / n, fired


@pytest.mark.parametrize("k", [1, 4, 30, 40])
@pytest.mark.parametrize("silent", [0, 3, 15, 40])
@pytest.mark.parametrize("aux", [0.0, 0.5])
def test_the_loss_and_its_gradients_are_those_of_the_formula(monkeypatch, k, silent, aux):
    monkeypatch.setattr(trainer, "AUX_FEATURES", 8)
    recipe = Recipe(40, k, 0, aux=aux)
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    quiet = torch.arange(40) >= 40 - silent
    ours, plain = random_tensors(), random_tensors()
    loss, main, fired = trainer.loss_of(x, ours, quiet, recipe)
    expected, error, active = naive_loss(x, plain, quiet.tolist(), recipe)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert main.item() == pytest.approx(error.item(), rel=1e-12)
    assert set(fired.nonzero()[:, 0].tolist()) == active
    loss.backward(), expected.backward()
    for name, one, other in zip(ours._fields, ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12, msg=name)


def test_steps_are_those_of_adam_on_the_formula_with_columns_of_length_one(monkeypatch):
    x, _ = sparse_data(0, 96, d_model=6, directions=12)
    recipe = Recipe(20, 3, 32 * 6, 32, lr=0.05)
    state = trainer.begin(x, recipe)
    plain = [t.detach().double().requires_grad_() for t in state.tensors]
    first, second = ([torch.zeros_like(t) for t in plain] for _ in range(2))
    for step in range(6):
        batch = x[32 * (step % 3) :][:32]
        state = trainer.advance(state, batch, recipe)
        scaled = batch.double() / state.scale
        loss, *_ = naive_loss(scaled, trainer.Tensors(*plain), [False] * 20, recipe)
        gradients = torch.autograd.grad(loss, plain)
        lr = 0.05 * (128 / 6) ** 0.5 * min(1, (step + 1) / 50, 2 * (6 - step) / 6)
        with torch.no_grad():
            for t, g, m, v in zip(plain, gradients, first, second, strict=True):
                m += 0.1 * (g - m)
                v += 0.01 * (g * g - v)
                m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.99 ** (step + 1))
                t -= lr * m_hat / (v_hat.sqrt() + 1e-8)
            plain[1] /= plain[1].norm(dim=1, keepdim=True)
        for name, ours, theirs in zip(state.tensors._fields, state.tensors, plain, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4, msg=name)
        norms = state.tensors.W_dec.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(20), rtol=1e-6, atol=1e-6)


def test_the_files_tensors_read_residuals_as_they_are():
    x, _ = sparse_data(1, 500)
    recipe = Recipe(96, 5, 256 * 20, 256)
    state = trainer.begin(x, recipe)
    for _ in range(20):
        state = trainer.advance(state, x[:256], recipe)
    sae = TopKSAE(**trainer.folded(state.tensors, state.scale), k=5)
    pre, chosen, x_hat = trainer.reconstruct(x / state.scale, state.tensors, 5)
    torch.testing.assert_close(sae.reconstruct(x), x_hat * state.scale, rtol=1e-4, atol=1e-4)
    acts = sae.encode(x)
    strongest = pre.sort(dim=-1, descending=True).values.relu() * state.scale
    torch.testing.assert_close(acts.values, strongest, rtol=1e-4, atol=1e-4)
    assert state.scale == pytest.approx(x.square().mean().sqrt().item(), rel=1e-5)


def test_the_geometric_median_is_where_the_sum_of_distances_is_least():
    from scipy.optimize import minimize

    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).exp().double()
    x[:5] += 40  # a mean would follow them
    found = minimize(
        lambda c: np.linalg.norm(x.numpy() - c, axis=1).sum(), x.mean(0).numpy(), tol=1e-10
    )
    median = trainer.geometric_median(x)
    np.testing.assert_allclose(median, found.x, atol=2e-3)
    same = torch.ones(10, 3)
    assert torch.equal(trainer.geometric_median(same), same[0]), "at a point, no division by 0"


def test_a_learning_rate_rises_holds_and_falls():
    rates = [trainer.rate(step, 1000) for step in range(1000)]
    assert rates[0] == 0.02 and rates[49:501] == [1] * 452
    assert rates[-1] == 0.002 and rates[750] == 0.5
    assert 0 < trainer.rate(0, 1) <= 1
    assert Recipe(8, 2, 1000, 512).steps == 1 and Recipe(8, 2, 10, 512).steps == 1
    assert Recipe(8, 2, 0).peak(512) == pytest.approx(2.5e-3)


# Toys


def learn(x, recipe, change=None) -> trainer.State:
    state = trainer.begin(x[:8000], recipe)
    if change:
        change(state.tensors)
    order = torch.Generator().manual_seed(recipe.seed)
    while True:
        for batch in x[torch.randperm(len(x), generator=order)].split(recipe.batch)[:-1]:
            if state.step == recipe.steps:
                return state
            state = trainer.advance(state, batch, recipe)


def test_the_error_and_its_gradients_are_those_of_saelens(monkeypatch):
    pytest.importorskip("sae_lens", reason="sae-lens is not installed: make test installs it")
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    monkeypatch.setattr(trainer, "HINGE", 0.0)
    ours, x = [t.detach().float() for t in random_tensors()], torch.randn(50, 6)
    config = TopKTrainingSAEConfig(d_in=6, d_sae=40, k=4, apply_b_dec_to_input=False)
    sae = TopKTrainingSAE(config)
    names = "W_enc", "W_dec", "b_enc", "b_dec"
    weights = dict(zip(names, ours, strict=True)) | {"W_enc": ours[0].T.contiguous()}
    sae.load_state_dict(weights)
    theirs = sae.training_forward_pass(TrainStepInput(x, {}, None, 0, False))
    theirs.loss.backward()
    tensors = trainer.Tensors(*(t.requires_grad_() for t in ours))
    loss, *_ = trainer.loss_of(x, tensors, torch.zeros(40, dtype=torch.bool), Recipe(40, 4, 0))
    loss.backward()
    assert loss.item() == pytest.approx(theirs.loss.item(), rel=1e-5)
    for name in ("W_enc", "b_enc", "b_dec"):  # theirs divides by the norms of W_dec's columns
        gradient = getattr(sae, name).grad
        gradient = gradient.T if name == "W_enc" else gradient
        torch.testing.assert_close(getattr(tensors, name).grad, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_known_directions_are_found_and_every_token_has_k_features(seed):
    x, directions = sparse_data(seed, 22_000)
    held, x = x[:2000], x[2000:]
    recipe = Recipe(96, 3, 256 * 300, 256, seed=seed)
    state = learn(x, recipe)
    sae = TopKSAE(**trainer.folded(state.tensors, state.scale), k=3)
    cosines = (directions @ sae.W_dec).max(1).values
    assert cosines.mean() > 0.97
    acts = sae.encode(held)
    assert ((acts.values > 0).sum(-1) == 3).all()
    assert qs.fvu(held, sae.decode(acts)) < 0.08
    assert state.log[0][0] == 0 and state.log[-1][0] == recipe.steps - 1
    assert state.log[-1][1] == pytest.approx(qs.fvu(held, sae.decode(acts)), abs=0.03)


@pytest.mark.parametrize("seed", SEEDS)
def test_aux_revives_features_that_stay_silent_without_it(monkeypatch, seed):
    monkeypatch.setattr(trainer, "SILENT_AFTER", 5000)
    x, directions = sparse_data(seed, 20_000)

    @torch.no_grad()
    def weaken(tensors):  # half of the features lose every race for the first places
        tensors.W_enc[:32] *= 0.1
        tensors.b_enc[:32] *= 0.1

    silent, error = {}, {}
    for aux in (0.0, 1 / 32):
        state = learn(x, Recipe(64, 3, 256 * 400, 256, aux=aux, seed=seed), weaken)
        silent[aux] = int((state.since > 5000).sum())
        error[aux] = state.log[-1][1]
    assert silent[0.0] >= 15 and silent[1 / 32] <= 3
    assert error[1 / 32] < error[0.0] / 3


# A training


def trained(folder, recipe, checkpoint=None, told=None, sizes=(800,) * 5, layer=3):
    x, _ = sparse_data(0, 4000)
    found = write_shards(folder, x, sizes, layer)
    return train_sae(found, layer, recipe, checkpoint, told)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_training_that_was_cut_off_ends_bit_for_bit_the_same(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(trainer, "SAVED_EVERY", 1000)
    monkeypatch.setattr(trainer, "SAVED_AFTER", 0)
    monkeypatch.setattr(trainer, "SILENT_AFTER", 2000)
    recipe, file = Recipe(200, 3, 9000, 100), tmp_path / "layer3.state"
    whole, log = trained(tmp_path / "a", recipe)
    assert max(silent for *_, silent in log) > 0, "AuxK was at work"
    steps = []

    def interrupt(step):
        steps.append(step)
        if len(steps) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", recipe, file, interrupt)
    assert file.is_file() and steps == [10 * (i + 1) for i in range(stop)]
    rest = []
    again, its_log = trained(tmp_path / "b", recipe, file, rest.append)
    assert rest[0] == 10 * stop + 10, "the steps before are not done again"
    assert its_log == log
    for name in whole:
        assert torch.equal(whole[name], again[name]), name
    finished, _ = trained(tmp_path / "b", recipe, file)
    assert torch.equal(finished["W_enc"], whole["W_enc"])
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["layer3.state"]


def test_a_checkpoint_of_another_training_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "SAVED_EVERY", 1000)
    monkeypatch.setattr(trainer, "SAVED_AFTER", 0)
    recipe, file = Recipe(40, 3, 3000, 100), tmp_path / "state"
    trained(tmp_path / "x", recipe, file)
    for number, other in enumerate(
        (
            {"recipe": recipe._replace(seed=1)},
            {"recipe": recipe._replace(lr=1e-3)},
            {"recipe": recipe._replace(tokens=4000)},
            {"sizes": [2000, 2000]},
            {"layer": 2},
        )
    ):
        folder, steps = tmp_path / str(number), []
        fresh, _ = trained(folder, **{"recipe": recipe} | other)
        asked = {"checkpoint": file, "told": steps.append, "recipe": recipe} | other
        again, _ = trained(folder, **asked)
        assert steps[0] == 10 and torch.equal(fresh["W_enc"], again["W_enc"])
        trained(tmp_path / "x", recipe, file)
    steps = []
    trained(tmp_path / "x", recipe, file, steps.append)
    assert steps == [], "this one is at its end"


def test_what_cannot_be_trained_is_said(tmp_path):
    x, _ = sparse_data(0, 300)
    with pytest.raises(ValueError, match="k is 9; choose from 1 to d_sae, which is 8"):
        trainer.begin(x, Recipe(8, 9, 100))
    with pytest.raises(ValueError, match="k is 0"):
        trainer.begin(x, Recipe(8, 0, 100))
    recipe = Recipe(8, 2, 1000, 100, lr=1e30)
    with pytest.raises(ValueError, match=r"the loss is (inf|nan) at step \d+; lower lr"):
        train_sae(write_shards(tmp_path / "wild", x), 0, recipe)
    with pytest.raises(ValueError, match="less than a batch of 512"):
        train_sae(write_shards(tmp_path / "few", x), 0, Recipe(8, 2, 1000))
    x[17, 3] = float("inf")
    with pytest.raises(ValueError, match="the residuals hold NaN or inf; look for the layer"):
        train_sae(write_shards(tmp_path / "inf", x), 0, Recipe(8, 2, 1000, 100))


# A suite

RECIPE = Recipe(48, 4, 2000, 100)
TEXTS, HELD_OUT = some_texts(100), some_texts(30, seed=5)


def suite(lm, out, layers=(0, 2), recipe=RECIPE, texts=TEXTS, **how):
    how = {"context": CONTEXT, "told": lambda line: None} | how
    return train_suite(lm, texts, HELD_OUT, layers, out, recipe, **how)


def stamps(folder) -> dict:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_suite_is_official_files_with_the_quality_that_it_states(lm, tmp_path):
    out, lines = tmp_path / "suite", []
    found = suite(lm, out, told=lines.append)
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("layer0.sae.pt", "layer2.sae.pt", "config.json"),
        *("README.md", "suite.json", "made_from.json"),
    }
    config = json.loads((out / "config.json").read_text())
    assert config == {
        "model_type": "topk_sae",
        "base_model": lm.name,
        "d_model": lm.d_model,
        "d_sae": 48,
        "k": 4,
        "hook_point": "resid_post",
        "num_layers": 3,
    }
    order = random.Random(RECIPE.seed)
    texts, new = (order.sample(part, len(part)) for part in (TEXTS, HELD_OUT))
    held = shards.harvest(lm, new, [0, 2], tmp_path / "held", context=CONTEXT)
    seen = shards.harvest(lm, texts, [0, 2], tmp_path / "seen", 2000, context=CONTEXT)
    card = (out / "README.md").read_text()
    for layer in (0, 2):
        sae = qs.load_sae(out / f"layer{layer}.sae.pt")
        assert (sae.k, sae.d_sae, sae.layer, sae.dtype) == (4, 48, layer, torch.float32)
        norms = sae.W_dec.norm(dim=0)
        torch.testing.assert_close(norms, torch.ones(48), rtol=1e-6, atol=1e-6)
        x, row = held.first(layer, 10**9), found[layer]
        acts = sae.encode(x)
        assert row["fvu"] == pytest.approx(qs.fvu(x, sae.decode(acts)), rel=1e-6)
        assert row["l0"] == pytest.approx((acts.values > 0).sum().item() / len(x))
        used = sae.encode(seen.first(layer, 10**9))
        used = set(used.indices[used.values > 0].tolist())
        assert row["silent"] == pytest.approx(1 - len(used) / 48)
        assert row["fvu"] < 1 and row["tokens"] == seen.tokens and row["log"][-1][0] == 19
        nats = ", ".join(f"{row[name]:.3f}" for name in ("nats", "spliced", "ablated"))
        said = f"| {layer} | {row['tokens']:,} | {row['fvu']:.3f} | {row['l0']:.1f} "
        assert said + f"| {row['silent']:.1%} " in card
        assert f"| {row['loss_added']:.3f} | {nats} |" in card
    assert any("2,000 tokens at layers [0, 2]" in line for line in lines)


def test_a_finished_suite_stays_and_takes_more_layers(lm, tmp_path, monkeypatch):
    found = suite(lm, tmp_path, [1])
    before = stamps(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "harvest", None)  # nothing is read or trained
        assert suite(lm, tmp_path, [1])[1]["fvu"] == found[1]["fvu"]
    assert stamps(tmp_path) == before
    more = suite(lm, tmp_path, [0, 1])
    assert more[1]["minutes"] == found[1]["minutes"] and sorted(more) == [0, 1]
    assert stamps(tmp_path)["layer1.sae.pt"] == before["layer1.sae.pt"]
    assert (tmp_path / "README.md").read_text().count("\n| 1 |") == 1


def test_a_suite_of_something_else_is_refused_and_stays(lm, tmp_path):
    suite(lm, tmp_path / "mine", [1])
    before = stamps(tmp_path / "mine")
    other = SimpleNamespace(**vars(lm) | {"fingerprint": lambda layers: {"files": ["another"]}})
    for model, recipe, what in (
        (lm, RECIPE._replace(k=5), "recipe"),
        (lm, RECIPE._replace(seed=3), "recipe"),
        (other, RECIPE, "model"),
        (other, RECIPE._replace(tokens=10), "model, recipe"),
    ):
        with pytest.raises(ValueError, match=rf"mine was made from something else \({what}\)"):
            suite(model, tmp_path / "mine", [0, 1], recipe)
    with pytest.raises(ValueError, match=r"mine was made from something else \(context\)"):
        train_suite(lm, TEXTS, HELD_OUT, [1], tmp_path / "mine", RECIPE, context=12)
    with pytest.raises(ValueError, match=r"mine was made from something else \(texts\)"):
        train_suite(lm, TEXTS[1:], HELD_OUT, [1], tmp_path / "mine", RECIPE, context=CONTEXT)
    assert stamps(tmp_path / "mine") == before


def test_a_suite_of_something_else_is_replaced_on_request_only(lm, tmp_path):
    suite(lm, tmp_path, [0, 1])
    suite(lm, tmp_path, [1], replace=True)  # it is of the same: both stay
    assert (tmp_path / "layer0.sae.pt").is_file()
    suite(lm, tmp_path, [1], RECIPE._replace(k=5), replace=True)
    assert not (tmp_path / "layer0.sae.pt").exists()
    assert qs.load_sae(tmp_path / "layer1.sae.pt").k == 5


def test_a_harvest_of_something_else_is_replaced_too(lm, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "train_sae", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            suite(lm, tmp_path, [1], texts=TEXTS[5:])
    with pytest.raises(ValueError, match="made from other texts"):
        suite(lm, tmp_path, [1])
    assert suite(lm, tmp_path, [1], replace=True)[1]["fvu"] < 1


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(b"x")])
def test_an_sae_whose_file_is_lost_or_changed_is_trained_again(lm, tmp_path, harm):
    suite(lm, tmp_path, [0, 1])
    before = stamps(tmp_path)
    harm(tmp_path / "layer1.sae.pt")
    suite(lm, tmp_path, [0, 1])
    assert stamps(tmp_path)["layer0.sae.pt"] == before["layer0.sae.pt"]
    assert qs.load_sae(tmp_path / "layer1.sae.pt").k == RECIPE.k


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("name", ["config.json", "work/thesis.txt"])
def test_a_folder_with_files_of_others_is_refused_and_stays(lm, tmp_path, name, replace):
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ValueError, match=r"mine holds (config.json|work) and no suite of ours"):
        suite(lm, tmp_path / "mine", [1], replace=replace)
    assert mine.read_text() == "mine"


def test_two_trainings_into_one_folder_are_refused(lm, tmp_path):
    def again(line):
        with pytest.raises(ValueError, match="another process trains into suite; wait for it"):
            suite(lm, tmp_path / "suite", [1])
        said.append(line)

    said = []
    assert suite(lm, tmp_path / "suite", [1], told=again)[1]["fvu"] < 1 and said


def test_numbers_belong_to_their_version(tmp_path):
    """If this fails, training gives other numbers: raise VERSION, so that no suite of the old ones
    is taken for one of the new; then write the new ones here."""
    x, _ = sparse_data(0, 3000)
    tensors, _ = train_sae(write_shards(tmp_path, x), 0, Recipe(48, 4, 20_000, 256))
    found = [t.norm().item() for t in tensors.values()]
    assert trainer.VERSION == 1 and found == pytest.approx([6.81, 6.93, 7.59, 5.95], abs=0.03)


def test_texts_are_read_in_a_random_order_and_that_of_the_seed(lm, tmp_path, monkeypatch):
    """They come sorted by language: the first ones decide on scale and centre."""
    read = {}

    def harvest(model, texts, layers, folder, *_, **__):
        read[folder.name.split("-")[0]] = list(texts)
        raise ZeroDivisionError if "held" in folder.name else SystemExit

    monkeypatch.setattr(trainer, "harvest", harvest)
    orders = []
    for seed in (0, 0, 1):
        with pytest.raises(SystemExit):
            suite(lm, tmp_path / str(len(orders)), [1], RECIPE._replace(seed=seed))
        orders.append(read["train"])
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(TEXTS) != orders[0]


def test_a_damaged_checkpoint_is_named(lm, tmp_path):
    state = tmp_path / "layer0.state"
    state.write_bytes(b"PK\x03\x04 half")
    with pytest.raises(ValueError, match=r"layer0\.state in .* is damaged; remove it"):
        train_sae(write_shards(tmp_path / "x", torch.randn(600, 8)), 0, Recipe(8, 2, 600), state)


def test_layers_and_recipes_that_cannot_be_are_refused_before_any_text_is_read(lm, tmp_path):
    def unread():
        pytest.fail("a text was read")
        yield

    with pytest.raises(ValueError, match=r"layers are \[-1, 3\]; choose some of 0 to 2"):
        suite(lm, tmp_path / "x", [3, -1], texts=unread())
    with pytest.raises(ValueError, match=r"layers are \[\]; choose some of 0 to 2"):
        suite(lm, tmp_path / "x", [], texts=unread())
    with pytest.raises(ValueError, match="k is 49; choose from 1 to d_sae, which is 48"):
        suite(lm, tmp_path / "x", recipe=RECIPE._replace(k=49), texts=unread())
    with pytest.raises(ValueError, match="texts is empty; give at least one text"):
        suite(lm, tmp_path / "x", texts=[])
    with pytest.raises(ValueError, match="no held-out text has two tokens: no loss to measure"):
        train_suite(lm, TEXTS, ["a"], [0], tmp_path / "x", RECIPE, context=CONTEXT)
    assert not (tmp_path / "x").exists()


def test_a_recipe_that_failed_may_be_mended_and_keeps_the_shards(lm, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="lower lr"):
        suite(lm, tmp_path, [1], RECIPE._replace(lr=1e30))
    monkeypatch.setattr(shards, "id_residuals", None)  # the forward passes
    assert Shards(tmp_path / "work" / "train-1").tokens >= 2000
    assert suite(lm, tmp_path, [1])[1]["fvu"] < 1


def test_a_suite_that_was_cut_off_goes_on_wherever_that_was(lm, tmp_path, monkeypatch):
    whole = suite(lm, tmp_path / "whole")

    def interrupt(line):
        if line.startswith("layer 2"):
            raise KeyboardInterrupt

    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        suite(lm, cut, told=interrupt)
    minutes = json.loads((cut / "suite.json").read_text())["0"]["minutes"]
    with monkeypatch.context() as patched:  # at the end: all is trained, the card is not written
        patched.setattr(trainer, "card", None)
        with pytest.raises(TypeError):
            suite(lm, cut)
    assert not (cut / "README.md").exists()
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "train_sae", None)
        patched.setattr(trainer, "harvest", None)
        found = suite(lm, cut)
    assert found[0]["minutes"] == minutes
    assert (cut / "README.md").read_text() == (tmp_path / "whole" / "README.md").read_text()
    assert not (cut / "work").exists()
    for layer in (0, 2):
        one, other = (qs.load_sae(tmp_path / x / f"layer{layer}.sae.pt") for x in ("whole", "cut"))
        assert torch.equal(one.W_enc, other.W_enc) and found[layer]["fvu"] == whole[layer]["fvu"]


# What splicing costs


def naive_nats(lm, layer, new) -> float:
    """Mean nats of a token, texts one by one; a layer replaced, but at `Z` and the prefix."""
    total, count, before = 0.0, 0, len(lm.prefix)
    for text in HELD_OUT:
        ids = torch.tensor(lm.ids([text])[0][:CONTEXT])
        stays = ids == lm.own_ids(["Z"])[0][0]
        stays[:before] = True

        def change(module, args, output, stays=stays):
            return torch.where(stays[None, :, None], output, new(output))

        hook = decoder_layers(lm.model)[layer].register_forward_hook(change)
        with torch.no_grad():
            logits = lm.model(ids[None]).logits[0, :-1]
        hook.remove()
        total += cross_entropy(logits, ids[1:], reduction="sum").item()
        count += len(ids) - 1
    return total / count


def identity(d_model: int, layer: int, scale: float = 1.0) -> TopKSAE:
    eye = torch.eye(d_model)
    W_enc, W_dec = torch.cat([eye, -eye]), torch.cat([eye, -eye], 1) * scale
    zeros = torch.zeros(2 * d_model), torch.zeros(d_model)
    return TopKSAE(W_enc, W_dec, *zeros, k=2 * d_model, layer=layer)


def added(lm, sae, mean):
    return trainer.loss_added(lm, sae, mean, HELD_OUT, CONTEXT)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_what_splicing_costs_is_what_plain_loops_find(lm, lm_with_bos, layer, begun):
    lm = lm_with_bos if begun else lm
    mean = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(layer))
    sae = identity(lm.d_model, layer, scale=0.3) if layer else identity(lm.d_model, layer)
    sae.b_dec = mean / 2
    found = added(lm, sae, mean)
    assert found["nats"] == pytest.approx(naive_nats(lm, layer, lambda x: x), rel=1e-5)
    assert found["spliced"] == pytest.approx(naive_nats(lm, layer, sae.reconstruct), rel=1e-5)
    assert found["ablated"] == pytest.approx(
        naive_nats(lm, layer, lambda x: mean.expand_as(x)), rel=1e-5
    )
    nats, spliced, ablated = (found[name] for name in ("nats", "spliced", "ablated"))
    assert found["loss_added"] == pytest.approx((spliced - nats) / (ablated - nats))


def test_a_perfect_sae_adds_no_loss_and_one_that_says_the_mean_all_of_it(lm):
    mean = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))
    assert added(lm, identity(lm.d_model, 1), mean)["loss_added"] == pytest.approx(0, abs=1e-4)
    silent = identity(lm.d_model, 1, scale=0.0)
    silent.b_dec = mean
    assert added(lm, silent, mean)["loss_added"] == pytest.approx(1, abs=1e-5)


def test_only_the_first_tokens_are_measured(lm, monkeypatch):
    monkeypatch.setattr(trainer, "LOSS_TOKENS", 100)
    rows = [ids for rows in trainer._rows(lm, HELD_OUT, CONTEXT) for ids in rows]
    assert 100 <= sum(map(len, rows)) < 100 + CONTEXT and max(map(len, rows)) <= CONTEXT
