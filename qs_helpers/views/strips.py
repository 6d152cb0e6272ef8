"""Features over the tokens of texts: strip, layer map, the same feature across layers, two texts.

Every view shows itself in a notebook, reads without styles too, and has `.data` (DataFrame),
`.alt` and `.to_html(path)`. A value is an activation, of the strongest token where a character
spans several. 0 means: not in the TopK. Attention sinks are marked "sink" and shown as 0,
and so is what the tokenizer puts before a text.
Names that you give to features are kept in a JSONL file and shown in every view.
"""

import json
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from ..evidence.files import json_line, lines, short
from ..forward import activations, read_texts
from ..presets import runs_folder
from ..scoring import decoder_cosines
from .html import Markup, Piece, View, coloured, esc, page, pieces, shade, table, tokens


def _read(scope, text: str, layers) -> tuple[list[Piece], dict]:
    """The pieces of a text and {layer: Part}."""
    parts = {part.layer: part for part in activations(scope, [text], layers)}
    ids = next(iter(parts.values())).ids
    return pieces(scope.tokenizer, ids), parts


def _values(found: list[Piece], part, feature: int) -> list[float]:
    """A feature's activation at each piece: that of its strongest token, 0 at sinks."""
    hit = (part.acts.indices == feature) & (part.acts.values > 0) & part.keep[:, None]
    values = (part.acts.values * hit).amax(-1)
    return [float(values[p.start : p.stop].max()) for p in found]


def token_strip(scope, text: str, layer: int, feature: int) -> View:
    """A feature's activation over the tokens of a text. Data: token, shown, start, value, sink."""
    title = name_of(scope, layer, feature)
    found, parts = _read(scope, text, [layer])
    values = _values(found, parts[layer], feature)
    sinks = [not bool(parts[layer].keep[p.start]) for p in found]
    data = pd.DataFrame(found, columns=["token", "shown", "start", "stop"]).drop(columns="stop")
    data = data.assign(value=values, sink=sinks)
    most, n = max(values), sum(value > 0 for value in values)
    peak = found[values.index(most)].shown
    words = f"fires on {n} of {len(data)} tokens, most ({short(most)}) at {peak!r}"
    if not n:
        words = f"does not fire on any of {len(data)} tokens"
    shown = [p.shown + ("(sink)" if sink else "") for p, sink in zip(found, sinks, strict=True)]
    strip = tokens(shown, values, most or 1).html
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
    body = _map(data, found, "feature", {layer: f"layer {layer}" for layer in parts})
    strongest = data.loc[data.groupby("layer").value.idxmax()]
    alt = f"{title}: {len(parts)} layers by {len(found)} tokens. " + " ".join(
        f"Layer {row.layer}: largest {short(row.value)}, feature {row.feature} at {row.token!r}."
        for row in strongest.itertuples()
    )
    return View(data, alt, page(title, [body], scope.is_tiny))


def _map(data: pd.DataFrame, found: list[Piece], column: str, names: dict[int, str]) -> str:
    """Rows of layers, columns of tokens; a cell says what `column` holds, its value on hover, and
    nothing where the value is 0."""
    rows = []
    for layer, part in data.groupby("layer"):
        cells, most = [names[layer]], part.value.max()
        for content, value in zip(map(short, part[column]), part.value, strict=True):
            cells.append(Markup(coloured(content, value, most), content) if value > 0 else "")
        rows.append(cells)
    return table(rows, ["", *(piece.shown for piece in found)])


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
        for piece, value in zip(found, _values(found, part, best), strict=True):
            rows.append((n, best, float(cosines[best]), piece.shown, piece.start, value))
    data = pd.DataFrame(rows, columns="layer feature cosine token start value".split())
    body = _map(data, found, "value", names)
    largest = data.groupby("layer").value.max()
    alt = "; ".join(f"{names[n]}, largest activation {short(v)}" for n, v in largest.items())
    return View(data, f"{title}: {alt}.", page(title, [body], scope.is_tiny))


def compare_texts(scope, a: str, b: str, layers=None, top: int = 5) -> View:
    """Features that fire on more of the tokens of one text than of the other, layer by layer.

    Data: layer, feature, a, b (shares of tokens, sinks left out), difference; the `top` largest
    differences in either direction for each layer.
    """
    rows = []
    for layer, found in read_texts(scope, [a, b], layers, ["rate"]).items():
        gap = found.rate[0] - found.rate[1]
        order = np.argsort(gap, kind="stable")
        for feature in [*order[::-1][:top], *order[:top][::-1]]:
            if gap[feature]:
                rows.append((layer, int(feature), *found.rate[:, feature], gap[feature]))
    data = pd.DataFrame(rows, columns=["layer", "feature", "a", "b", "difference"])
    lines, labels = [], read_labels(scope)
    for row in data.itertuples():
        text = f"{row.difference:+.2f}"
        gap = Markup(f'<span style="{shade(abs(row.difference))}">{text}</span>', text)
        name = f"{row.feature} {labels.get((row.layer, row.feature), '')}".strip()
        lines.append([row.layer, name, f"{row.a:.2f}", f"{row.b:.2f}", gap])
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
    return Path(os.environ.get("QS_LABELS") or runs_folder() / "labels.jsonl")


def label(scope, layer: int, feature: int, text: str) -> None:
    """Name a feature; a later name replaces it, "" removes it. Appended to $QS_LABELS, by default
    runs/labels.jsonl: one object a line, {"scope", "layer", "feature", "label", "at"}.

    ValueError for a feature that there is not, and for a name that is no text or holds half a
    character.
    """
    if layer not in scope.layers or not 0 <= feature < scope.d_sae:
        raise ValueError(f"layer {layer}, feature {feature} is not in {scope}")
    if not isinstance(text, str) or text != text.encode(errors="replace").decode():
        raise ValueError(f"the label is {text!r}; give a text of whole characters")
    entry = {"scope": scope.name, "layer": int(layer), "feature": int(feature), "label": text}
    entry["at"] = datetime.now(UTC).isoformat(timespec="seconds")
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:  # after a last line that nobody ended, on a new one
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        file.write((b"" if file.read() in (b"", b"\n") else b"\n") + json_line(entry))


def read_labels(scope) -> dict[tuple[int, int], str]:
    """{(layer, feature): label}. A line that is no such object is left out, with a warning that
    names it: it must not hide the other labels, nor every view."""
    path, found = _path(), {}
    for n, line in lines(path) if path.is_file() else ():
        try:
            entry = json.loads(line)
            place, text = (int(entry["layer"]), int(entry["feature"])), entry["label"]
            text.encode()  # no half characters
            if entry["scope"] == scope.name:
                found[place] = text
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            said = f"line {n} of {path.name} is no label, and is left out; mend or remove it"
            warnings.warn(said, stacklevel=2)
    return {place: text for place, text in found.items() if text}
