"""Neuronpedia: links to the Qwen-Scope layers that it hosts, and feature sets in its layout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evidence.files import write_json
from .card import logit_lens
from .html import pieces


def export_neuronpedia(
    folder: str | Path, scope, found, layer: int, features: Sequence[int], dataset: str
) -> Path:
    """Write batch-0.json: features of a scan, one object each; returns its path.

    Keys are those of SAEDashboard's Neuronpedia batches. What a scan does not hold (correlated
    neurons, activations in the other tokens of a context) is an empty list or 0. `dataset` names
    the texts.
    """
    features = [_feature(scope, found, layer, int(f), dataset) for f in features]
    batch = {"model_id": scope.name, "layer": layer, "sae_set": "qwen-scope", "features": features}
    path = Path(folder) / "batch-0.json"
    write_json(path, batch)
    return path


def _feature(scope, found, layer: int, feature: int, dataset: str) -> dict[str, Any]:
    lens = logit_lens(scope, layer, feature)
    promoted, suppressed = (lens[lens.side == side] for side in ("promoted", "suppressed"))
    bins = found.histogram(layer, feature)
    contexts = [("top", row) for row in found.top(layer, feature)]
    contexts += [(n, row) for n, rows in enumerate(found.bands(layer, feature)) for row in rows]
    values = {band: [float(r["value"]) for b, r in contexts if b == band] for band, _ in contexts}
    activations = []
    for band, row in contexts:
        parts = pieces(scope.tokenizer, found.ids(int(row["text"])))
        tokens, value = [part.text for part in parts], float(row["value"])
        at = next(i for i, part in enumerate(parts) if part.start <= row["position"] < part.stop)
        activations.append(
            {
                "bin_min": min(values[band]),
                "bin_max": max(values[band]),
                "bin_contains": -1 if band == "top" else 0.1,
                "tokens": tokens,
                "values": [value if i == at else 0.0 for i in range(len(tokens))],
                "qualifying_token_index": at,
            }
        )
    return {
        "feature_index": feature,
        "pos_str": promoted.token.tolist(),
        "pos_values": promoted.logit.tolist(),
        "neg_str": suppressed.token.tolist(),
        "neg_values": suppressed.logit.tolist(),
        "frac_nonzero": float(found.density(layer)[feature]),
        "freq_hist_data_bar_values": [low for low, _, _ in bins],
        "freq_hist_data_bar_heights": [count for *_, count in bins],
        "logits_hist_data_bar_values": [],
        "logits_hist_data_bar_heights": [],
        "activations": activations,
        "n_prompts_total": found.n_texts,
        "n_tokens_in_prompt": 0,  # texts differ in length
        "dataset": dataset,
        "decoder_weights_dist": [],
        "vector": scope.sae(layer).direction(feature)[0].tolist(),
    }


def read_neuronpedia(path: str | Path) -> dict[int, dict[str, Any]]:
    """The features of a batch file, {feature_index: object}. ValueError if it is no such file."""
    try:
        features = json.loads(Path(path).read_text("utf-8"))["features"]
        return {feature["feature_index"]: feature for feature in features}
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is no SAEDashboard batch: an object with a list 'features' is expected"
        ) from None
