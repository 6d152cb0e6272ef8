"""The card of a feature: its badges, its logit lens, its link where Neuronpedia hosts it."""

import numpy as np
import pytest

import qs_helpers as qs
from qs_helpers.loading.catalog import TINY
from qs_helpers.views.card import HOSTED

TEXT_ = "my neighbor plants the flowers. you are a fool!"


def strongest(found, layer=3):
    return int(found.stats(layer)["fired"].argmax())


def test_a_feature_that_never_fires_is_dead_only_in_a_large_corpus(scope, found, monkeypatch):
    dead = int(np.flatnonzero(found.stats(0)["fired"] == 0)[0])
    card = qs.views.feature_card(scope, found, 0, dead)
    says = f"silent: it fires nowhere in these {found.n_tokens:,} tokens; to call it dead takes"
    assert f"{says} 1,000,000" in card.to_html()
    monkeypatch.setattr(found, "n_tokens", 1_000_000)
    assert qs.views.badges(scope, found, 0, dead) == ["dead: it fires nowhere in this corpus"]
    assert len(card.data) == 0 and "0 sinks" in card.alt
    strip = qs.views.token_strip(scope, TEXT_, 0, dead)
    assert "does not fire on any of" in strip.alt


def test_badges_name_dense_register_and_foreign(scope, found, monkeypatch):
    feature = strongest(found)
    monkeypatch.setattr(found, "density", lambda layer: np.full(scope.d_sae, 0.2))
    sample = found.stats(3)["sample"]
    sample["position"][sample["feature"] == feature] = 0
    monkeypatch.setattr(scope, "suite_note", lambda: "its SAEs were trained on A, not on B")
    notes = qs.views.badges(scope, found, 3, feature)
    monkeypatch.setattr(scope, "prefix", [1])  # behind a BOS the first token is at 1
    assert not any("register" in note for note in qs.views.badges(scope, found, 3, feature))
    sample["position"][sample["feature"] == feature] = 1
    assert qs.views.badges(scope, found, 3, feature) == notes
    assert notes == [
        "dense: it fires on 20% of the tokens",
        "register feature: 100% of its firings are at the first token of a text",
        "its SAEs were trained on A, not on B",
    ]


def test_a_base_suite_on_another_model_is_told(scope):
    mixed = qs.load_scope(model=TINY["tiny-instruct"] / "model", sae=TINY["tiny"] / "sae")
    assert "trained on base, not on instruct" in mixed.suite_note()
    assert scope.suite_note() == qs.load_scope("tiny-instruct").suite_note() == ""


def test_the_logit_lens_is_the_final_norm_and_the_output_matrix(scope):
    lens = qs.views.logit_lens(scope, 5, 11, n=4)
    x = scope.sae(5).direction(11)[0]
    model = scope.model
    hidden = x / (x.square().mean() + model.config.rms_norm_eps).sqrt() * model.model.norm.weight
    logits = model.lm_head.weight @ hidden
    expected = (logits - logits.mean()).topk(4).values.tolist()
    assert lens[lens.side == "promoted"].logit.tolist() == pytest.approx(expected, rel=1e-4)
    assert lens[lens.side == "suppressed"].logit.is_monotonic_increasing


def test_only_hosted_layers_have_links():
    link = qs.views.neuronpedia_link("qwen3.5-2b-l50", 11, 7)
    assert link == "https://www.neuronpedia.org/qwen3.5-2b-pt/11-qwenscope-res-32k/7"
    assert qs.views.neuronpedia_link("qwen3.5-27b-l100", 31, 0).endswith("31-qwenscope-res-80k/0")
    for place in (("qwen3.5-2b-l50", 12), ("qwen3-8b-l50", 11), ("tiny", 3), ("a/b + c", 11)):
        assert qs.views.neuronpedia_link(*place, 7) is None


def test_hosted_layers_are_in_the_catalog():
    for (backbone, layer), source in HOSTED.items():
        group = qs.GROUPS[f"{backbone}-l50"]
        assert layer in group.layers
        assert source.endswith(f"/{layer}-qwenscope-res-{group.d_sae // 1024}k")
