"""Features over the tokens of texts: strip, layer map, the same feature across layers, two texts.

Every view shows itself in a notebook, reads without styles too, and has `.data` (DataFrame),
`.alt` and `.to_html(path)`. A value is an activation, of the strongest token where a character
spans several. 0 means: not in the TopK. Attention sinks are marked "sink" and shown as 0.
Names that you give to features are kept in a JSONL file and shown in every view.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from ..evidence.files import short
from ..forward import activations, read_texts
from ..presets import project_root
from ..scoring import decoder_cosines
from .html import Markup, Piece, View, esc, page, pieces, shade, table, tokens


def _read(scope, text: str, layers) -> tuple[list[Piece], dict]:
    """The pieces of a text and {layer: Part}."""
    parts = {part.layer: part for part in activations(scope, [text], layers)}
    ids = next(iter(parts.values())).ids
    return pieces(scope.tokenizer, ids), parts


def _values(part, feature: int) -> np.ndarray:
    """A feature's activation at each token, 0 at sinks, float [tokens]."""
    hit = (part.acts.indices == feature) & (part.acts.values > 0) & part.keep[:, None]
    return (part.acts.values * hit).amax(-1).numpy()


def _by_piece(found: list[Piece], values) -> list[float]:
    return [float(max(values[p.start : p.stop])) for p in found]


def token_strip(scope, text: str, layer: int, feature: int) -> View:
    """A feature's activation over the tokens of a text. Data: token, shown, start, value, sink."""
    title = name_of(scope, layer, feature)
    found, parts = _read(scope, text, [layer])
    values = _by_piece(found, _values(parts[layer], feature))
    sinks = [not bool(parts[layer].keep[p.start]) for p in found]
    data = pd.DataFrame(
        {"token": [p.text for p in found], "shown": [p.shown for p in found]}
        | {"start": [p.start for p in found], "value": values, "sink": sinks}
    )
    most, active = max(values), data[data.value > 0]
    hints = [short(value) for value in values]
    shown = [p.shown + ("(sink)" if sink else "") for p, sink in zip(found, sinks, strict=True)]
    if len(active):
        peak = active.loc[active.value.idxmax()]
        words = (
            f"fires on {len(active)} of {len(data)} tokens, most ({short(most)}) at {peak.shown!r}"
        )
    else:
        words = f"does not fire on any of {len(data)} tokens"
    strip = tokens(shown, values, hints, most or 1)
    body = page(title, [f"<div>{strip}</div>", f"<div>{esc(words)}</div>"], scope.is_tiny)
    return View(data, f"{title} {words}.", body)


def layer_map(scope, text: str, layers=None) -> View:
    """For each layer and token, the strongest feature and its activation.

    The colour is the activation as a share of the layer's largest: scales differ by layer.
    Data: layer, token, start, feature, value.
    """
    found, parts = _read(scope, text, layers)
    rows = []
    for layer, part in parts.items():
        values = part.acts.values[:, 0] * part.keep
        for piece in found:
            at = piece.start + int(values[piece.start : piece.stop].argmax())
            feature, value = int(part.acts.indices[at, 0]), float(values[at])
            rows.append((layer, piece.shown, piece.start, feature if value else -1, value))
    data = pd.DataFrame(rows, columns=["layer", "token", "start", "feature", "value"])
    title = "The strongest feature of each layer and token"
    body = _map(data, found, lambda row: row.feature, lambda layer: f"layer {layer}")
    alt = f"{title}: {len(parts)} layers by {len(found)} tokens. " + " ".join(
        f"Layer {layer}: largest {short(part.value.max())}, feature "
        f"{part.loc[part.value.idxmax()].feature} at {part.loc[part.value.idxmax()].token!r}."
        for layer, part in data.groupby("layer")
    )
    return View(data, alt, page(title, [body], scope.is_tiny))


def _map(data: pd.DataFrame, found: list[Piece], cell, name) -> str:
    """Rows of layers, columns of tokens; a cell says `cell(row)`, its value on hover."""
    header, rows = ["", *(piece.shown for piece in found)], []
    for layer, part in data.groupby("layer", sort=True):
        most = part.value.max() or 1
        cells = [_coloured(cell(row), row.value, most) for row in part.itertuples()]
        rows.append([name(layer), *cells])
    return table(rows, header)


def _coloured(content, value: float, most: float) -> Markup | str:
    """A cell on the colour of its value, the value on hover; empty where the value is 0."""
    if value <= 0:
        return ""
    style, text = f"text-decoration:none;{shade(value / most)}", short(content)
    inside = f'<abbr title="{esc(short(value))}" style="{style}">{esc(text)}</abbr>'
    return Markup(inside, text)


def across_layers(scope, text: str, layer: int, feature: int, layers=None) -> View:
    """The feature most like a given one in every layer (cosine of W_dec columns), over a text.

    Data: layer, feature, cosine, token, start, value.
    """
    title = f"What is like {name_of(scope, layer, feature)} in each layer"
    found, parts = _read(scope, text, layers)
    direction, rows, names = scope.sae(layer).direction(feature)[0], [], {}
    for n, part in parts.items():
        cosines = decoder_cosines(scope.sae(n), direction)
        best = int(cosines.argmax())
        names[n] = f"layer {n}: {best} (cos {cosines[best]:.2f})"
        for piece, value in zip(found, _by_piece(found, _values(part, best)), strict=True):
            rows.append((n, best, float(cosines[best]), piece.shown, piece.start, value))
    columns = ["layer", "feature", "cosine", "token", "start", "value"]
    data = pd.DataFrame(rows, columns=columns)
    body = _map(data, found, lambda row: short(row.value), names.get)
    alt = f"{title}: " + "; ".join(
        f"{name}, largest activation {short(data[data.layer == n].value.max())}"
        for n, name in names.items()
    )
    return View(data, alt + ".", page(title, [body], scope.is_tiny))


def compare_texts(scope, a: str, b: str, layers=None, top: int = 5) -> View:
    """Features that fire on more of the tokens of one text than of the other, layer by layer.

    Data: layer, feature, a, b (shares of tokens, sinks left out), difference; the `top` largest
    differences in either direction for each layer.
    """
    rows = []
    for layer, found in read_texts(scope, [a, b], layers, ["rate"]).items():
        rates = found.rate
        gap = rates[0] - rates[1]
        order = np.argsort(gap, kind="stable")
        for feature in [*order[::-1][:top], *order[:top][::-1]]:
            if gap[feature]:
                rows.append((layer, int(feature), *rates[:, feature], gap[feature]))
    data = pd.DataFrame(rows, columns=["layer", "feature", "a", "b", "difference"])
    lines, labels = [], read_labels(scope)
    for row in data.itertuples():
        text = f"{row.difference:+.2f}"
        gap = Markup(f'<span style="{shade(abs(row.difference))}">{text}</span>', text)
        name = labels.get((row.layer, row.feature), "")
        lines.append(
            [row.layer, f"{row.feature} {name}".strip(), f"{row.a:.2f}", f"{row.b:.2f}", gap]
        )
    header = ["layer", "feature", "share of a's tokens", "share of b's tokens", "difference"]
    title = "Two texts compared by firing rate"
    texts = [f"<div>a: {esc(a)}</div>", f"<div>b: {esc(b)}</div>"]
    alt = f"{title}, a: {a!r}, b: {b!r}. " + " ".join(
        f"Layer {layer}: feature {part.iloc[0].feature:.0f} differs most towards a "
        f"({part.iloc[0].difference:+.2f}), feature {part.iloc[-1].feature:.0f} towards b "
        f"({part.iloc[-1].difference:+.2f})."
        for layer, part in data.groupby("layer")
    )
    return View(data, alt, page(title, [*texts, table(lines, header)], scope.is_tiny))


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
