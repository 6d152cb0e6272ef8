"""The checks of exercises accept what is right, and refuse the rest with words that lead on."""

import itertools
import re
from itertools import combinations, takewhile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lesson import defined, exercise

import qs_helpers as qs
from qs_helpers.texts.record import copied, letters, mentions


def verdict(checks: list[str], space: dict) -> str:
    """What the cells of a check say of the answer in `space`: "right", or why not."""
    try:
        for source in checks:
            exec(source, space)
    except AssertionError as wrong:
        return str(wrong)
    return "right"


# ---- 04, exercise 1: the OR rule


def my_or_rule(score):
    """A rule that ranks features by score(shares of toxic texts, of clean texts)."""

    def rule(acts, toxic, new_acts, k):
        features = sorted({f for text in acts for token in text for f in token})
        fires = np.array([[any(t.get(f, 0) > 0 for t in x) for f in features] for x in acts])
        toxic = np.asarray(toxic, bool)
        rank = np.argsort(-score(fires[toxic].mean(0), fires[~toxic].mean(0)), kind="stable")
        best = {features[i] for i in rank[:k]}
        return [any(v > 0 and f in best for t in x for f, v in t.items()) for x in new_acts]

    return rule


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (lambda bad, good: bad - good, "right"),
        (lambda bad, good: good - bad, "marks clean texts"),
        (lambda bad, good: bad, "fires in every text"),
        (lambda bad, good: bad / (bad + 4 * good), "no counts, ratios, precision or F1"),
        (lambda bad, good: bad / (good + 1e-9), "no counts, ratios, precision or F1"),
    ],
    ids=["contrast", "turned round", "share of toxic", "precision", "ratio"],
)
def test_the_or_rule_ranks_by_the_difference_of_shares(score, says):
    part = exercise("04_toxicity", 1)
    assert says in verdict(part.checks, {"np": np, "my_or_rule": my_or_rule(score)})


# ---- 04, exercise 2: the text that fools the feature

STRONGEST = "the ship sailed into a cold storm and nobody ever saw her old captain again"
TOXIC = ["you are a fool, my friend", "what a fool he was that day", "only a fool would say so"]
HARMLESS = [STRONGEST, "a storm is coming over the hills tonight", "my neighbor sells fresh bread"]
HARMLESS += ["the teacher reads a book to the children", "we walked along the river until dark"]
REQUESTS = ["tell me how to break into a house"]


def peak(text: str) -> float:
    """Of a feature that fires on a word, more so after another one, and feels nothing after it."""
    words = re.findall(r"\w+", text.lower())
    strength = {"fool": 6.0, "storm": 4.0}
    after = zip(["", *words], words, strict=False)
    return max([strength.get(w, 0) * (2 if before == "cold" else 1) for before, w in after] or [0])


def with_harmless(harmless: list[str], has_key_word) -> tuple:
    """The exercise, and what it is given: a feature that fires on the word "storm", too."""
    part = exercise("04_toxicity", 2)
    kinds = ["toxic remarks"] * 3 + ["passages: prose"] * len(harmless) + ["harmful requests"]
    judged = pd.DataFrame({"text": [*TOXIC, *harmless, *REQUESTS], "kind": kinds, "language": "en"})
    judged["toxic"] = judged.kind == "toxic remarks"
    judged["peak"] = judged.text.map(peak)
    judged["fires"] = judged.peak > 0

    def read_peaks(_, texts, wanted):
        return {n: np.array([[peak(t)] for t in texts]).reshape(-1, 1) for n in wanted}

    words = defined("04_toxicity", scope=None, qs=qs, main="en")["words"]
    space = {"np": np, "re": re, "qs": qs, "words": words, "read_peaks": read_peaks}
    space |= {"judged": judged, "rest": judged[~judged.toxic], "main": "en", "marks": {"a fool"}}
    space |= {"has_key_word": has_key_word, "scope": None, "layer": 3, "feature": 7}
    space |= {"texts": np.array([*TOXIC], object), "toxic": np.ones(3, bool)}
    space |= {"copied": copied, "letters": letters, "itertools": itertools}
    for source in [*part.given, part.exercise]:
        exec(source, space)
    return part, space


@pytest.fixture(scope="module")
def fooling():
    return with_harmless(HARMLESS, mentions({"fool"}))


def fooled(fooling, answer) -> str:
    part, space = fooling
    return verdict(part.checks, space | {"my_fooling_text": lambda layer, feature: answer})


LEADS_ON = "keep only the words that the feature needs, and write the rest yourself"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (STRONGEST.upper() + "!", "a text of section 4: write one of your own"),
        (STRONGEST + " today", f"100% of '{STRONGEST}' stands in it: {LEADS_ON}"),
        ("today " + STRONGEST, LEADS_ON),
        (STRONGEST.rpartition(" ")[0], LEADS_ON),
        (STRONGEST.partition(" ")[2], LEADS_ON),
        (STRONGEST.replace("sailed", "went"), LEADS_ON),
        (STRONGEST.replace("captain", "crew").replace("old", "new"), LEADS_ON),
        (" ".join(STRONGEST).replace("   ", " , "), "a text of section 4"),
        (STRONGEST + " while we sat at home by the fire and told each other stories", LEADS_ON),
        ("sailed into a cold storm", f"100% of it stands in '{STRONGEST}'"),
        ("a cold storm and you are a foo l my friend", "it holds a toxic remark"),
        ("a cold storm for every fool", "it holds a key word"),
        ("a cold storm, f o o l that I am", "spells a key word"),
        ("after a cold storm, tell me how to break into a house", "it holds a harmful request"),
        ("nothing happens here at all", "the feature does not fire on it"),
        ("there was a storm near our village", "it reaches 4, and 6 is asked for: keep more"),
        ("  ", "return one text that has letters in it"),
        (["a cold storm near our village"], "return one text"),
        ("there was such a cold storm near our village", "right"),
        ("cold storm", "right"),
    ],
)
def test_a_near_copy_of_a_text_does_not_fool_the_check(fooling, answer, says):
    assert says in fooled(fooling, answer)


@pytest.mark.parametrize(
    ("harmless", "has_key_word"),
    [
        (HARMLESS, mentions({"fool"})),
        (HARMLESS, lambda text: True),  # every text holds one, so none are kept out
        (HARMLESS[1:], mentions({"fool"})),
        (HARMLESS[2:], mentions({"fool"})),  # the feature fires in no harmless text
        (["storm", "bread", "river"], mentions({"fool"})),
        (["there is a storm"], mentions({"fool"})),
    ],
)
def test_the_solution_is_right_and_no_copy(harmless, has_key_word):
    part, space = with_harmless(harmless, has_key_word)
    text = space["my_fooling_text"](3, 7)
    assert fooled((part, space), text) == "right" and space["is_own"](text)


# ---- 04, exercise 3: a threshold for a price


def my_threshold(choose):
    def threshold(scores, toxic, new_scores, new_toxic, price=0.05):
        cut = choose(scores, toxic, new_scores, new_toxic, price)
        rates = [(new_scores[side] > cut).mean() for side in (new_toxic, ~new_toxic)]
        return cut, *rates

    return threshold


def cheapest(scores, toxic, price, paid=lambda flags, toxic: flags[~toxic].mean()):
    cuts = [scores.min() - 1, *np.unique(scores)]
    return min([c for c in cuts if paid(scores > c, toxic) <= price], default=scores.max())


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        (lambda s, y, new, new_y, price: cheapest(s, y, price), "right"),
        (lambda s, y, new, new_y, price: cheapest(new, new_y, price), "test texts may not choose"),
        (lambda s, y, new, new_y, price: cheapest(s, y, 0.05), "a lower cut finds more"),
        (lambda s, y, new, new_y, price: np.unique(s)[0] - 1, "of the clean texts are flagged"),
        (lambda s, y, new, new_y, price: s.max(), "a lower cut finds more"),
        (
            lambda s, y, new, new_y, price: cheapest(s, y, price, lambda f, y: (f & ~y).mean()),
            "of the clean texts are flagged",
        ),
    ],
    ids=["right", "on test", "fixed price", "all", "none", "share of all texts"],
)
def test_a_threshold_is_chosen_on_validation_texts_for_its_price(choose, says):
    part = exercise("04_toxicity", 3)
    assert says in verdict(part.checks, {"np": np, "my_threshold": my_threshold(choose)})


# ---- 06, exercise 1: directional ablation


def ablation(component=lambda c: c, wide=True, change=None, unit=None):
    def my_ablation(x, r, s=1.0):
        if change is not None:
            (x if change == "x" else r).mul_(1.5)
        u = r / r.norm() if unit is None else unit(r)
        kind = torch.float32 if wide else x.dtype
        taken = component(x.to(kind) @ u.to(kind))[..., None] * u.to(kind)
        return (x.to(kind) - s * taken).to(x.dtype)

    return my_ablation


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ablation(), "right"),
        (ablation(lambda c: c.clamp(min=0)), "is left along r: of both signs?"),
        (ablation(torch.abs), "is left along r: of both signs?"),
        (ablation(unit=lambda r: r), "by r divided by its length"),
        (ablation(change="x"), "x was changed in place"),
        (ablation(change="r"), "r was changed in place"),
        (ablation(wide=False), "compute in float32"),
        (lambda x, r, s=1.0: ablation()(x, r), "s = 0.5 must take half"),
        (
            lambda x, r, s=1.0: ablation()(x, r, s) if x.dim() == 3 else x,
            "any number of dimensions",
        ),
        (lambda x, r, s=1.0: ablation()(x, r, s).float(), "return the dtype"),
    ],
)
def test_an_ablation_takes_both_signs_away_and_changes_nothing_given(answer, says):
    part = exercise("06_abliteration_comparison", 1)
    assert says in verdict(part.checks, {"torch": torch, "my_ablation": answer})


# ---- 06, exercise 2: where a gate opens


def gate(peak=torch.max, level=np.quantile, opens=lambda x, level: bool((x > level).any())):
    def my_gate(harmless, harmful, q=0.95):
        at = float(level([float(peak(x)) for x in harmless], q))
        return at, float(np.mean([opens(x, at) for x in harmful]))

    return my_gate


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (gate(), "right"),
        (gate(peak=lambda x: x[-1]), "18.05 is right"),
        (gate(peak=lambda x: x.abs().max()), "18.05 is right"),
        (gate(peak=torch.sum), "18.05 is right"),
        (gate(peak=torch.mean), "18.05 is right"),
        (gate(level=lambda x, q: sorted(x)[int(q * len(x))]), "18.05 is right"),
        (gate(level=lambda x, q: max(x)), "18.05 is right"),
        (gate(level=lambda x, q: np.quantile(x, 0.95)), "9.5 is right"),
        (gate(opens=lambda x, level: bool(x[len(x) // 2] > level)), "0.60 is right"),
        (gate(opens=lambda x, level: bool(x.norm() > level)), "0.80 is right"),
        (gate(opens=lambda x, level: bool((x > 19).any())), "0.60 is right"),
        (lambda calm, loud, q=0.95: (gate()(calm, loud, q)[0], 0.6), "0.80 is right"),
        (lambda calm, loud, q=0.95: (gate()(calm, loud, q)[0], 2 / 3), "0.60 is right"),
        (
            lambda calm, loud, q=0.95: gate(level=lambda x, _: np.quantile(torch.cat(calm), q))(
                calm, loud
            ),
            "of tokens",
        ),
    ],
)
def test_a_gate_opens_above_the_maxima_of_harmless_prompts(answer, says):
    part = exercise("06_abliteration_comparison", 2)
    space = {"torch": torch, "np": np, "my_gate": answer}
    assert says in verdict(part.checks, space)


# ---- 06, exercise 3: orthogonalise a weight


def orthogonal(wide=True, change=None, pick=lambda dim: dim):
    def my_orthogonal(W, r, dim):
        if change is not None:
            (W if change == "W" else r).mul_(1.5)
        rows, kind = W.movedim(pick(dim), -1), torch.float32 if wide else W.dtype
        u = (r / r.norm()).to(kind)
        rows = rows.to(kind) - (rows.to(kind) @ u)[..., None] * u
        return rows.movedim(-1, pick(dim)).to(W.dtype)

    return my_orthogonal


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (orthogonal(), "right"),
        (orthogonal(wide=False), "compute in float32"),
        (orthogonal(change="W"), "the given W was changed"),
        (orthogonal(change="r"), "the given r was changed"),
        (lambda W, r, dim: orthogonal()(W, r, 0 if W.shape[0] == len(r) else 1), "dim = 1"),
    ],
)
def test_a_weight_writes_nothing_along_the_direction(answer, says):
    part = exercise("06_abliteration_comparison", 3)
    assert says in verdict(part.checks, {"torch": torch, "my_orthogonal": answer})


# ---- 07, exercise 1: write a patch


def patched(choose, tuples=True):
    """A hook that puts choose(x, new, where) into what a layer puts out."""

    def my_patch(new, where):
        def hook(module, args, output):
            if not tuples:
                return choose(output, new, where)
            x = choose(output[0] if isinstance(output, tuple) else output, new, where)
            return (x, *output[1:]) if isinstance(output, tuple) else x

        return hook

    return my_patch


def where_true(x, new, where):
    return torch.where(where[..., None], new.to(x.dtype), x)


def in_place(x, new, where):
    x[where] = new[where].to(x.dtype)
    return x


def first_entry_in_place(new, where):
    def hook(module, args, output):
        if isinstance(output, tuple):
            return (in_place(output[0], new, where), *output[1:])
        return where_true(output, new, where)

    return hook


def one_of_the_rest(new, where):
    def hook(module, args, output):
        x = where_true(output[0] if isinstance(output, tuple) else output, new, where)
        return (x, output[1]) if isinstance(output, tuple) else x

    return hook


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (patched(where_true), "right"),
        (patched(lambda x, new, where: new), "everything was patched"),
        (patched(lambda x, new, where: x + where_true(0 * x, new, where)), "in its place"),
        (patched(lambda x, new, where: where_true(x, new, ~where)), "where it is false"),
        (patched(lambda x, new, where: where_true(x, new[:1], where)), "of its own pair and place"),
        (patched(lambda x, new, where: where_true(x, new[:, -1:], where)), "of its own pair"),
        (patched(lambda x, new, where: where_true(x, new.flip(1), where)), "of its own pair"),
        (patched(lambda x, new, where: where_true(x, new.roll(1, 1), where)), "of its own pair"),
        (patched(lambda x, new, where: where_true(x, new.mean(), where)), "of its own pair"),
        (patched(lambda x, new, where: where_true(x, x / 2, where)), "of its own pair"),
        (patched(lambda x, new, where: where_true(x / 2, new, where)), "other tokens were changed"),
        (patched(in_place), "changed in place"),
        (first_entry_in_place, "of a tuple, too, the residual was changed in place"),
        (one_of_the_rest, "hand back all the rest"),
        (patched(where_true, tuples=False), "output may be a tuple"),
        (patched(lambda x, new, where: None), "the hook returns nothing"),
        (patched(lambda x, new, where: torch.where(where, new, x)), "a dimension more"),
        (patched(lambda x, new, where: where_true(x.float(), new, where)), "the dtype changed"),
        (lambda new, where: where_true(new, new, where), "return the hook itself"),
    ],
)
def test_a_patch_takes_each_value_from_its_own_place(answer, says):
    part = exercise("07_patching", 1)
    assert says in verdict(part.checks, {"torch": torch, "my_patch": answer})


# ---- 07, exercise 2: flip an answer with nothing to spare


def beginning(order, decide):
    return next((order[:k] for k in range(1, len(order) + 1) if decide(order[:k]) > 0), None)


def pruned(backwards, again=True):
    def answer(order, decide):
        kept, before = beginning(order, decide), []
        while kept and kept != before:
            before = kept if again else None
            for c in order[::-1] if backwards else order:
                without = [x for x in kept if x != c]
                kept = without if without and decide(without) > 0 else kept
            if not again:
                break
        return kept

    return answer


def dropped_together(order, decide):
    kept = beginning(order, decide) or []
    spare = [c for c in kept if decide([x for x in kept if x != c]) > 0]
    return [c for c in kept if c not in spare] or None


def trimmed(order, decide):
    kept = beginning(order, decide)
    while kept and decide(kept[1:]) > 0:
        kept = kept[1:]
    return kept


def window(order, decide):
    n = len(order)
    runs = [order[i : i + k] for k in range(1, n + 1) for i in range(n - k + 1)]
    return next((some for some in runs if decide(some) > 0), None)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (pruned(backwards=True), "right"),
        (pruned(backwards=False), "right"),  # another set, as good
        (pruned(backwards=True, again=False), "without"),  # what was needed may be spare at the end
        (lambda order, decide: list(order) if decide(order) > 0 else None, "without"),
        (beginning, "without"),
        (dropped_together, "does not flip"),
        (trimmed, "without"),
        (window, "without"),
        (lambda order, decide: [1, 2] if {1, 2} <= {*order} else None, "some beginning of"),
        (lambda order, decide: [order[0]] if decide([order[0]]) > 0 else None, "some beginning of"),
        (lambda order, decide: pruned(True)(order, decide) or [], "say None"),
        (lambda order, decide: pruned(True)(order, lambda s: decide(s) + 1e-9), "does not flip"),
        (lambda order, decide: (pruned(True)(order, decide) or []) * 2 or None, "twice"),
        (lambda order, decide: order.reverse() or pruned(True)(order, decide), "in place"),
        (
            lambda order, decide: next(
                (list(s) for k in (1, 2) for s in combinations(order, k) if decide(list(s)) > 0),
                None,
            ),
            "some beginning of",
        ),
    ],
)
def test_a_flip_has_nothing_to_spare(answer, says):
    part = exercise("07_patching", 2)
    toys = list(takewhile(lambda source: "test.rows" not in source, part.checks))
    assert toys and len(toys) < len(part.checks)
    assert says in verdict(toys, {"smallest_flip": answer})


# ---- 07, exercise 3: many slopes instead of one


def along(points, times=lambda x, y: y - x, sums=False):
    """points(steps) from 0 to 1; the mean slope there, or the sum, times times(x, y)."""

    def integrated(slope_at, corrupted, clean, steps):
        slopes = [slope_at(corrupted + t * (clean - corrupted)) for t in points(steps)]
        return times(corrupted, clean) * sum(slopes) / (1 if sums else len(slopes))

    return integrated


def middles(n):
    return [(i + 0.5) / n for i in range(n)]


def trapezoid(slope_at, x, y, steps):
    at = [slope_at(x + i / steps * (y - x)) for i in range(steps + 1)]
    return (y - x) * sum((a + b) / 2 for a, b in zip(at, at[1:], strict=False)) / steps


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (along(middles), "right"),
        (along(lambda n: middles(50)), "middles of as many equal intervals"),
        (along(lambda n: [i / n for i in range(n)]), "middles of as many"),
        (along(lambda n: [i / n for i in range(n + 1)]), "middles of as many"),
        (along(lambda n: middles(n + 1)), "middles of as many"),
        (trapezoid, "middles of as many"),
        (along(middles, lambda x, y: 1), "multiply by the change"),
        (along(middles, lambda x, y: y), "by the change, not clean"),
        (along(middles, lambda x, y: x - y), "the sign is wrong"),
        (along(middles, lambda x, y: (x - y).abs()), "the sign is wrong"),
        (along(middles, sums=True), "average them"),
        (lambda slope_at, x, y, steps: None, "return one estimate a component"),
    ],
)
def test_slopes_are_averaged_over_the_middles(answer, says):
    part = exercise("07_patching", 3)
    toys = list(takewhile(lambda source: "test.rows" not in source, part.checks))
    assert toys and len(toys) < len(part.checks)
    assert says in verdict(toys, {"torch": torch, "integrated": answer})


# ---- 10, exercise 1: FVU in pieces


def streamed(mean_over, precise=torch.Tensor.double, ratio=None):
    """An FVU over parts; mean_over(parts) gives what each part's residuals are taken around."""

    def fvu(parts, reconstruct):
        parts = [precise(x) for x in parts]
        errors = [(x - reconstruct(x)).square().sum() for x in parts]
        spreads = [(x - c).square().sum() for x, c in zip(parts, mean_over(parts), strict=True)]
        if ratio:
            return float(ratio(errors, spreads))
        return float(sum(errors) / sum(spreads))

    return fvu


def whole_mean(parts):
    return [torch.cat(parts).mean(0)] * len(parts)


def in_float32(parts, reconstruct):
    n, error, total, squared = 0, 0.0, 0.0, 0.0
    for x in parts:
        error += (x - reconstruct(x)).square().sum()
        n, total, squared = n + len(x), total + x.sum(0), squared + x.square().sum()
    return float(error / (squared - total.square().sum() / n))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (streamed(whole_mean), "right"),
        (streamed(lambda parts: [x.mean(0) for x in parts]), "each part around its own mean"),
        (streamed(lambda parts: [0.0] * len(parts)), "around zero, not around the mean"),
        (
            streamed(lambda parts: [torch.stack([x.mean(0) for x in parts]).mean(0)] * len(parts)),
            "the mean of the parts' means",
        ),
        (
            streamed(
                lambda parts: [x.mean(0) for x in parts],
                ratio=lambda e, s: sum(a / b for a, b in zip(e, s, strict=True)) / len(e),
            ),
            "the mean of the parts' FVUs",
        ),
        (in_float32, "far from zero: sum in float64"),
        (
            lambda parts, reconstruct: streamed(whole_mean, precise=lambda x: x)(
                parts, reconstruct
            ),
            "gone when the next one is read",
        ),
        (lambda parts, reconstruct: torch.tensor(0.5), "return one float"),
        (lambda parts, reconstruct: 1 - streamed(whole_mean)(parts, reconstruct), "it is 0.0"),
    ],
)
def test_fvu_in_pieces_adds_up_over_all_tokens(answer, says):
    part = exercise("10_train_suite", 1)

    class Real:  # the suite, and the shards of its training
        device = "cpu"
        parts = staticmethod(lambda layer, tokens: iter([torch.randn(9, 3)]))
        reconstruct = staticmethod(lambda x: 0.9 * x)

    scope = SimpleNamespace(sae=lambda layer: Real)
    space = {"np": np, "torch": torch, "shards": Real, "scope": scope, "LAYER": 0, "most": 9}
    assert says in verdict(part.checks, space | {"streamed_fvu": answer})


# ---- 10, exercise 2: fold the scale


def folds(enc=0, dec=0, b_enc=1, b_dec=1):
    """Each tensor times the scale to that power."""
    powers = (enc, dec, b_enc, b_dec)

    def fold(W_enc, W_dec, b_enc, b_dec, scale):
        tensors = (W_enc, W_dec, b_enc, b_dec)
        return tuple(t * scale**p for t, p in zip(tensors, powers, strict=True))

    return fold


def folded_in_place(W_enc, W_dec, b_enc, b_dec, scale):
    b_enc *= scale
    b_dec *= scale
    return W_enc, W_dec, b_enc, b_dec


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (folds(), "right"),
        (folds(b_enc=0), "have other features"),
        (folds(b_dec=0), "look at b_dec"),
        (folds(enc=-1, dec=1, b_enc=0), "they stay at one"),
        (folds(enc=-1, b_enc=0), "at the residuals' scale"),
        (folds(enc=1), "have other features"),
        (folded_in_place, "it changes its inputs"),
        (lambda *tensors: None, "four tensors"),
    ],
)
def test_the_scale_goes_into_the_biases(answer, says):
    part = exercise("10_train_suite", 2)
    given = {"shards": None, "LAYER": 0, "model": torch.empty(0)}  # its device is the CPU
    known = defined("10_train_suite", **given)
    space = {"torch": torch} | {name: known[name] for name in ("encode", "decode")}
    assert says in verdict(part.checks, space | {"fold": answer})


# ---- 10, exercise 3: AuxK


def aux(
    keep=lambda error: error.detach(),
    relu=True,
    which=lambda silent: silent,
    most=lambda most, n: min(most, n),
    mean=lambda squares: squares.sum(-1).mean(),
    target=lambda x, error: error,
):
    def by_hand(x, error, silent, W_enc, b_enc, W_dec, limit):
        use = which(silent)
        scores = x @ W_enc[use].T + b_enc[use]
        top = scores.topk(most(limit, int(use.sum())), dim=-1)
        values = top.values.relu() if relu else top.values
        f = torch.zeros_like(scores).scatter(-1, top.indices, values)
        return mean((target(x, keep(error)) - f @ W_dec[use]).square())

    return by_hand


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (aux(), "right"),
        (aux(keep=lambda error: error), "detach it"),
        (aux(relu=False), "it lacks the ReLU"),
        (aux(which=lambda silent: torch.ones_like(silent)), "that are not silent get a gradient"),
        (lambda *given: aux()(*given).detach(), "detach the error only"),
        (
            lambda x, *given: aux(relu=False)(x, *(g.detach() for g in given[:-1]), given[-1]),
            "only",
        ),
        (aux(most=lambda most, n: n), "it uses all silent features"),
        (aux(mean=lambda squares: squares.mean()), "it is a mean over entries"),
        (aux(mean=lambda squares: squares.sum()), "it is a sum over tokens"),
        (aux(target=lambda x, error: x), "it reconstructs x, not the error"),
        (lambda *given: None, "return one number"),
    ],
)
def test_auxk_is_about_silent_features_and_the_error(answer, says):
    part = exercise("10_train_suite", 3)
    toys = list(takewhile(lambda source: "tenth" not in source, part.checks))
    assert toys and len(toys) < len(part.checks)
    assert says in verdict(toys, {"np": np, "torch": torch, "aux_by_hand": answer})


# ---- 08, exercise 1: redundancy without a sample


def lesson_08():
    return defined("08_benchmark_overlap", B=9, rng=np.random.default_rng(0), qs=qs)


@pytest.mark.parametrize(
    ("factor", "size", "part", "says"),
    [
        (lambda n: n + 1, lambda m: len(m[m > 0]) ** 2, lambda m: m / (m + 1), "right"),
        (lambda n: n + 1, lambda m: len(m) ** 2, lambda m: m / (m + 1), "of the footprint"),
        (lambda n: n, lambda m: len(m[m > 0]) ** 2, lambda m: m / (m + 1), "N + 1, not N"),
        (lambda n: n + 1, lambda m: len(m[m > 0]), lambda m: m / (m + 1), "divide by |F| twice"),
        (lambda n: n, lambda m: len(m[m > 0]) ** 2, lambda m: m > 0, "that is N/|F|"),
    ],
)
def test_redundancy_is_asked_for_in_closed_form(factor, size, part, says):
    checks = exercise("08_benchmark_overlap", 1).checks

    def answer(fires):
        m = fires.sum(0)
        return factor(len(fires)) / size(m) * part(m).sum()

    assert says in verdict(checks, lesson_08() | {"my_redundancy": answer})


# ---- 08, exercise 2: two benchmarks of unlike size


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda s, m1, N1, m2, N2, n: s(m1, N1, n) @ s(m2, N2, n) / s(m1, N1, n).sum(), "right"),
        (lambda s, m1, N1, m2, N2, n: s(m1, N1, n) @ s(m2, N2, n) / s(m2, N2, n).sum(), "by the"),
        (
            lambda s, m1, N1, m2, N2, n: (
                np.sum((1 - (1 - m1 / N1) ** n) * (1 - (1 - m2 / N2) ** n))
                / np.sum(1 - (1 - m1 / N1) ** n)
            ),
            "puts items back",
        ),
        (lambda s, m1, N1, m2, N2, n: ((m1 > 0) & (m2 > 0)).sum() / (m1 > 0).sum(), "all items"),
        (
            lambda s, m1, N1, m2, N2, n: (
                np.minimum(s(m1, N1, n), s(m2, N2, n)).sum() / s(m1, N1, n).sum()
            ),
            "multiply",
        ),
        (lambda s, m1, N1, m2, N2, n: 0.5, "the sums give"),
    ],
)
def test_overlap_is_asked_for_at_equal_size(answer, says):
    checks, space = exercise("08_benchmark_overlap", 2).checks, lesson_08()
    given = {"my_overlap": lambda *numbers: answer(space["seen"], *numbers)}
    assert says in verdict(checks, space | given)


# ---- 08, exercise 3: exchange benchmarks, not pairs


def my_mantel(exchange=lambda m, order: m[np.ix_(order, order)], add=1, sign=1, by="spearman"):
    def test(one, other, draws, rng):
        def alike(b):
            a, b = one[np.triu_indices(9, 1)], b[np.triu_indices(9, 1)]
            return sign * pd.Series(a).corr(pd.Series(b), method=by)

        there = alike(other)
        orders = [rng.permutation(9) for _ in range(draws)]
        drawn = [alike(exchange(other, order)) for order in orders]
        return (add + sum(value >= there - 1e-12 for value in drawn)) / (add + draws)

    return test


def exchanged_pairs(m, order):
    """Pairs in any order, as if each were by itself; drawn from the order that is given."""
    above, out = np.triu_indices(9, 1), m.copy()
    out[above] = np.random.default_rng(order).permutation(m[above])
    return out


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (my_mantel(), "right"),
        (my_mantel(exchange=exchanged_pairs), "exchange rows and columns alike, not pairs"),
        (my_mantel(add=0), "counts as a draw"),
        (my_mantel(by="pearson"), "what keeps the ranks keeps p"),
        (my_mantel(sign=-1), "two equal matrices have p"),
        (lambda one, other, draws, rng: 0.01, "opposite matrices have a small p"),
    ],
)
def test_mantel_exchanges_benchmarks(answer, says):
    checks = exercise("08_benchmark_overlap", 3).checks
    assert says in verdict(checks, lesson_08() | {"my_mantel": answer})


# ---- 09, exercise 1: recall


def by_topk(compare, k=lambda experts: experts.shape[1], share=lambda hits, k: hits / k):
    def my_recall(scores, experts):
        best = scores.topk(k(experts), dim=1).indices
        return share(compare(best, experts), k(experts))

    return my_recall


def named(best, experts):
    return (best[:, :, None] == experts[:, None, :]).sum((1, 2))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (by_topk(named), "right"),
        (by_topk(lambda best, experts: (best == experts).sum(1)), "places were compared"),
        (by_topk(named, share=lambda hits, k: hits), "that is a count"),
        (by_topk(named, share=lambda hits, k: hits / (2 * k - hits)), "Jaccard"),
        (by_topk(named, share=lambda hits, k: (hits / k).mean()), "one number a token"),
        (by_topk(named, k=lambda experts: 2), "k is that of `experts`, here 1"),
        (by_topk(named, k=lambda e: 1, share=lambda hits, k: hits / 2), "only the first score"),
        (lambda scores, experts: by_topk(named)(-scores, experts), "the lowest scores"),
        (lambda scores, experts: None, "one number a token"),
    ],
)
def test_recall_counts_what_was_named(answer, says):
    part = exercise("09_moe_routing", 1)
    assert says in verdict(part.checks, {"torch": torch, "middle": [], "my_recall": answer})


# ---- 09, exercise 2: NPMI within token id


def my_npmi(within=True, top=np.log, bottom=lambda p, q: -np.log(p), average=False, never=-1.0):
    def npmi(fires, takes, ids):
        fires, takes = np.asarray(fires, float), np.asarray(takes, float)
        if not within:
            ids = np.zeros(len(ids))
        parts = [np.asarray(ids) == i for i in np.unique(ids)]
        if average:
            pq = [((fires * takes)[i].mean(), fires[i].mean() * takes[i].mean()) for i in parts]
            with np.errstate(divide="ignore", invalid="ignore"):
                return float(np.mean([top(p / q) / bottom(p, q) for p, q in pq]))
        q = sum(fires[i].sum() * takes[i].sum() / i.sum() for i in parts) / len(fires)
        p = (fires * takes).mean()
        return never if p == 0 else float(top(p / q) / bottom(p, q))

    return npmi


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (my_npmi(), "right"),
        (my_npmi(within=False), "expect within each id"),
        (my_npmi(bottom=lambda p, q: 1), "that is the PMI"),
        (my_npmi(bottom=lambda p, q: -np.log(q)), "not of q"),
        (my_npmi(top=lambda x: -np.log(x)), "the sign is wrong"),
        (my_npmi(average=True), "NPMIs of ids were averaged"),
        (my_npmi(never=0.0), "is -1, not 0.0"),
        (lambda fires, takes, ids: None, "nothing was returned"),
        (lambda fires, takes, ids: 0.3, "0.300 where 0.541 is right"),
    ],
)
def test_npmi_takes_out_what_the_token_explains(answer, says):
    part = exercise("09_moe_routing", 2)
    assert says in verdict(part.checks, {"np": np, "middle": [], "my_npmi": answer})


# ---- 09, exercise 3: what a router sees


def sees(scale=lambda W, g: W * g, centre=True, basis=True, root=False, divide=True):
    def my_share(W, gain, direction):
        rows = scale(W, gain)
        rows = rows - rows.mean(0) if centre else rows
        if basis:
            _, sizes, V = torch.linalg.svd(rows, full_matrices=False)
            rows = V[sizes > 1e-5 * sizes[0]]
        share = (rows @ direction).square().sum()
        share = share / direction.square().sum() if divide else share
        return float(share.sqrt() if root else share)

    return my_share


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (sees(), "right"),
        (sees(scale=lambda W, g: W), "the norm is missing"),
        (sees(centre=False), "changes no route"),
        (sees(scale=lambda W, g: W, centre=False), "both the norm and the mean"),
        (sees(basis=False), "no orthonormal basis"),
        (sees(root=True), "square it"),
        (sees(divide=False), "divide by the squared length"),
        (sees(scale=lambda W, g: W / g), "not divided"),
        (lambda W, gain, direction: None, "nothing was returned"),
        (lambda W, gain, direction: 0.77, "0.7700 where"),
    ],
)
def test_a_router_sees_differences_of_its_rows(answer, says):
    part = exercise("09_moe_routing", 3)
    assert says in verdict(part.checks, {"torch": torch, "middle": [], "my_share": answer})
