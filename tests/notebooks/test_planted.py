"""Notebook 03 on features whose effect is known: one that acts, and one that only responds."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.functional import normalize

import qs_helpers as qs
from qs_helpers.loading.catalog import TINY
from qs_helpers.report.check import plan_report
from qs_helpers.report.execute import report
from qs_helpers.tiny import corpus

ROOT = Path(__file__).resolve().parents[2]
LAYERS, LAYER = (0, 2, 4), 4  # spaced, as in the official presets: layer 4 has no neighbour
ACTS, RESPONDS = 5, 6


def plant(sae: Path) -> None:
    """Two features of layer 4 that fire in French texts. The column of the first is the difference
    of two unembedding rows, " le" minus " the"; that of the second is a random direction."""
    scope = qs.load_scope("tiny")
    texts = {
        lang: [t.text for t in corpus.documents(60, "discovery", 0, ["story"], (lang,))]
        for lang in ("fr", "en")
    }
    reads = normalize(
        qs.steering.diff_of_means(scope, texts["fr"], texts["en"], [LAYER])[LAYER], dim=0
    )
    most = {
        lang: max(float((p.x[p.keep] @ reads).max()) for p in qs.residuals(scope, of, [LAYER]))
        for lang, of in texts.items()
    }
    level, gain = most["en"], 2000 / most["fr"]
    rows = scope.model.get_output_embeddings().weight.float()
    le, the = (scope.tokenizer(w, add_special_tokens=False)["input_ids"] for w in (" le", " the"))
    assert len(le) == len(the) == 1
    state = torch.load(sae / f"layer{LAYER}.sae.pt", weights_only=True)
    random = qs.random_directions(1, scope.d_model, seed=99)[0]
    columns = {ACTS: rows[le[0]] - rows[the[0]], RESPONDS: random - (random @ reads) * reads}
    for feature, column in columns.items():
        state["W_enc"][feature], state["b_enc"][feature] = gain * reads, -gain * level
        state["W_dec"][:, feature] = normalize(column, dim=0)
    torch.save(state, sae / f"layer{LAYER}.sae.pt")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    params, own = root / "notebooks" / "params", root / "own"
    shutil.copytree(ROOT / "notebooks", params.parent)
    for part in ("model", "sae"):
        shutil.copytree(TINY["tiny"] / part, own / part)
    for layer in {*range(6)} - {*LAYERS}:
        (own / "sae" / f"layer{layer}.sae.pt").unlink()
    plant(own / "sae")
    prompts = {t.text for s in ("validation", "test") for t in corpus.continuations("en", s, 400)}
    # Prompts of which each is its own group, and enough of them for the margin of .2.
    (root / "prompts.txt").write_text("\n".join(sorted(prompts)[:500]), "utf-8")
    sections = yaml.safe_load((params / "tiny.yaml").read_text("utf-8"))
    steer = sections["03_steer"] | {"LAYERS": list(LAYERS), "LAYER": LAYER, "LANGUAGES": ["fr"]}
    steer |= {"PROMPTS": "../../prompts.txt", "POSITIONS": "prompt", "STRENGTHS": [0.0, 1.0, 1.5]}
    # Enough validation prompts to see that 1.5 keeps more of the language than 1 does.
    steer |= {"N_PROMPTS": 100, "N_VALIDATION": 100, "MAX_NEW_TOKENS": 12}
    scope = sections["scope"] | {part: f"../../own/{part}" for part in ("model", "sae")}
    kept = {"scope": scope, "common": sections["common"], "03_steer": steer}
    (params / "planted.yaml").write_text(yaml.safe_dump(kept, allow_unicode=True), "utf-8")
    return root


@pytest.mark.long
@pytest.mark.parametrize(("feature", "validated"), [(ACTS, True), (RESPONDS, False)])
def test_what_acts_is_validated_and_what_only_responds_is_not(
    project, monkeypatch, feature, validated
):
    monkeypatch.setenv("QS_ROOT", str(project))
    plan = plan_report("planted", ["03"], given=[("FEATURE", str(feature))], root=project)
    _, (outcome,) = report(plan, quiet=True)
    assert not outcome.error, outcome.error
    (path,) = project.glob(f"runs/*FEATURE={feature}*/03_steer/results.json")
    results = json.loads(path.read_text("utf-8"))
    badges = {claim["id"]: claim["badge"] for claim in results["claims"]}
    assert ("yours" in results["values"]["validated"]) == validated
    assert (badges["beyond-random/yours"] == "SHOWN") == validated
    assert "neighbours/yours" not in badges  # not tested, which is no failure
    assert badges["no-hooks-left"] == "HOLDS"
