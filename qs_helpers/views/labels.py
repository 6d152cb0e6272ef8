"""What a feature is called: its layer and number, and the name that somebody gave it."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from ..presets import project_root


def name_of(scope, layer: int, feature: int) -> str:
    """ "layer 3, feature 812", with the label that somebody gave it."""
    if not 0 <= feature < scope.d_sae:
        raise ValueError(f"feature {feature!r} is out of range; choose 0 to {scope.d_sae - 1}")
    label = read_labels(scope).get((layer, feature))
    return f"layer {layer}, feature {feature}" + (f" “{label}”" if label else "")


def _path() -> Path:
    return Path(os.environ.get("QS_LABELS") or project_root() / "runs" / "labels.jsonl")


def label(scope, layer: int, feature: int, text: str) -> None:
    """Name a feature; a later name replaces it, "" removes it. Appended to $QS_LABELS, by default
    runs/labels.jsonl: one object a line, {"scope", "layer", "feature", "label", "at"}."""
    if layer not in scope.layers or not 0 <= feature < scope.d_sae:
        raise ValueError(f"layer {layer}, feature {feature} is not in {scope}")
    entry = {"scope": scope.name, "layer": int(layer), "feature": int(feature), "label": text}
    entry["at"] = datetime.now(UTC).isoformat(timespec="seconds")
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def read_labels(scope) -> dict[tuple[int, int], str]:
    """{(layer, feature): label}. ValueError names a line that is not such an object."""
    path, found = _path(), {}
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if entry["scope"] == scope.name:
                found[int(entry["layer"]), int(entry["feature"])] = str(entry["label"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"line {number} of {path.name} is no label; mend or remove it"
            ) from None
    return {place: text for place, text in found.items() if text}
