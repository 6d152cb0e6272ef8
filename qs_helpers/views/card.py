"""The card of one feature: what it fires on, what it writes, what it resembles."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..evidence.files import short
from ..forward import id_residuals, sink_mask
from ..scoring import logit_lens, nearest
from .html import Markup, View, esc, page, table, tokens
from .labels import name_of
from .neuronpedia import neuronpedia_link
from .scan import Scan
from .tokens import pieces

DENSE = 0.1  # share of tokens
WINDOW = 10  # tokens shown on each side of a peak


def badges(scope, found: Scan, layer: int, feature: int) -> list[str]:
    """Warnings about a feature, in words."""
    density, out = float(found.density(layer)[feature]), []
    if density == 0:
        out.append("dead: it fires nowhere in this corpus")
    if density > DENSE:
        out.append(f"dense: it fires on {density:.0%} of the tokens")
    sample = found.stats(layer)["sample"]
    sample = sample[sample["feature"] == feature]
    first = float((sample["position"] == 0).mean()) if len(sample) else 0.0
    if first > 0.5:
        out.append(f"register feature: {first:.0%} of its firings are at the first token of a text")
    if note := scope.suite_note():
        out.append(note)
    return out


def feature_card(scope, found: Scan, layer: int, feature: int, band="all") -> View:
    """Everything a scan and the weights say about a feature.

    Density, histogram, logit lens, nearest features, warnings, the 20 strongest contexts and up to
    5 contexts of each tenth of its activations; `band` ("top", or 1 for the strongest tenth to 10)
    shows one group only. Data: one row a context with band, value, text (number in the corpus),
    position and the context in words.
    """
    title = name_of(scope, layer, feature)
    density, fired = found.density(layer)[feature], int(found.stats(layer)["fired"][feature])
    warnings = badges(scope, found, layer, feature)
    groups = {"top": found.top(layer, feature)} | dict(enumerate(found.bands(layer, feature), 1))
    most = float(groups["top"]["value"][0]) if fired else 1.0
    if band != "all":
        groups = {name: rows for name, rows in groups.items() if name == band}
    contexts = _contexts(scope, found, layer, feature, groups)
    lens, like = logit_lens(scope, layer, feature), nearest(scope, layer, feature)

    words = (
        f"fires on {density:.3%} of {found.n_tokens - found.n_sinks[layer]:,} tokens "
        f"({fired:,}; {found.n_sinks[layer]:,} sinks left out)"
    )
    parts = [f"<div>{esc(words)}</div>"]
    parts += [f"<div><b>warning:</b> {esc(warning)}</div>" for warning in warnings]
    if link := neuronpedia_link(scope.name, layer, feature):
        parts.append(f'<div><a href="{esc(link)}">{esc(link)}</a></div>')
    parts.append(_histogram(found.histogram(layer, feature)))
    sides = [lens[lens.side == side] for side in ("promoted", "suppressed")]
    rows = zip(*(column for s in sides for column in (s.token, s.logit)), strict=True)
    parts.append(table(rows, ["promoted", "logit", "suppressed", "logit"]))
    parts.append(table(like.itertuples(index=False), ["nearest feature", "cosine of W_dec"]))
    for band, part in contexts.groupby("band", sort=False):
        name = f"{len(part)} strongest contexts" if band == "top" else f"tenth {band} of 10"
        rows = [(row.value, _strip(row, most)) for row in part.itertuples()]
        parts.append(table(rows, ["activation", name]))
    alt = f"{title}: {words}. " + " ".join(f"Warning: {warning}." for warning in warnings)
    if len(contexts):
        alt += f" Strongest ({short(most)}) in {contexts.iloc[0].words!r}."
    promoted = ", ".join(lens[lens.side == "promoted"].token[:3])
    alt += f" Promotes {promoted}. Nearest: {like.feature[0]} (cosine {like.cosine[0]:.2f})."
    data = contexts.drop(columns=["shown", "values"])
    return View(data, alt, page(title, parts, scope.is_tiny))


def _histogram(bins: Sequence[tuple[float, float, int]]) -> str:
    """Bars of characters, so that the shape is there without styles."""
    most = max((count for *_, count in bins), default=0)
    rows = []
    for low, high, n in bins:
        bar = "█" * max(1, round(20 * n / most)) if n else ""
        rows.append((f"{short(float(low))} to {short(float(high))}", bar, f"{n:,}"))
    return table(rows, ["activation", "", "tokens"])


def _contexts(scope, found: Scan, layer: int, feature: int, groups: dict) -> pd.DataFrame:
    """Contexts with the feature's activation at every token of their windows."""
    places = [(band, row) for band, rows in groups.items() for row in rows]
    columns = ["band", "value", "text", "position", "words", "shown", "values"]
    if not places:
        return pd.DataFrame(columns=columns)
    texts = list(dict.fromkeys(int(row["text"]) for _, row in places))
    ids = [found.ids(text).tolist() for text in texts]
    values = dict(zip(texts, id_activations(scope, ids, layer, feature), strict=True))
    cut = {text: pieces(scope.tokenizer, i) for text, i in zip(texts, ids, strict=True)}
    rows = []
    for band, row in places:
        text, at = int(row["text"]), int(row["position"])
        near = [p for p in cut[text] if p.stop > at - WINDOW and p.start <= at + WINDOW]
        around = [float(values[text][p.start : p.stop].max()) for p in near]
        # The recorded peak itself comes from the scan.
        here = next(i for i, p in enumerate(near) if p.start <= at < p.stop)
        around[here] = float(row["value"])
        shown = [p.shown for p in near]
        rows.append((band, float(row["value"]), text, at, "".join(shown), shown, around))
    return pd.DataFrame(rows, columns=columns)


def _strip(row, most: float) -> Markup:
    return tokens(row.shown, row.values, [short(value) for value in np.array(row.values)], most)


@torch.no_grad()
def id_activations(scope, texts: list[list[int]], layer: int, feature: int) -> list[np.ndarray]:
    """One feature's activation at every token of texts given as ids: a float array for each."""
    found, text, _, _ = id_residuals(scope, texts, [layer])
    keep = ~sink_mask(found[layer])
    acts = scope.sae(layer).encode(found[layer])
    values = (acts.values * (acts.indices == feature)).amax(-1) * keep
    return [values[text.to(values.device) == i].cpu().numpy() for i in range(len(texts))]
