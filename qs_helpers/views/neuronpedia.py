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
    bins = found.histogram(layer, feature)
    top = found.top(layer, feature)
    contexts = [(rows, row) for rows in [top, *found.bands(layer, feature)] for row in rows]
    activations = []
    for rows, row in contexts:
        span = {"bin_min": float(rows["value"].min()), "bin_max": float(rows["value"].max())}
        span["bin_contains"] = -1 if rows is top else 0.1
        parts = pieces(scope.tokenizer, found.ids(int(row["text"])))
        here = [part.start <= row["position"] < part.stop for part in parts]
        values = [float(row["value"]) if hit else 0.0 for hit in here]
        context = {"tokens": [part.text for part in parts], "values": values}
        activations.append(span | context | {"qualifying_token_index": here.index(True)})
    out: dict[str, Any] = {"feature_index": feature}
    for name, side in (("pos", "promoted"), ("neg", "suppressed")):
        part = lens[lens.side == side]
        out |= {f"{name}_str": part.token.tolist(), f"{name}_values": part.logit.tolist()}
    return out | {
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
