"""The card of one feature: what it fires on, what it writes, what it resembles."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..evidence.files import short
from ..forward import id_residuals, kept
from ..scoring import nearest
from .html import View, esc, page, pieces, table, token, tokens
from .scan import Scan
from .strips import name_of

DENSE = 0.1  # share of tokens
ENOUGH = 1_000_000  # tokens before a feature that is silent in all of them may be called dead
WINDOW = 10  # tokens shown on each side of a peak
# (backbone, layer) and how neuronpedia.org names model and source. It hosts one of the two
# suites of each backbone and its names do not say which k, so both groups get the link.
HOSTED = {
    ("qwen3.5-2b", 11): "qwen3.5-2b-pt/11-qwenscope-res-32k",
    ("qwen3.5-9b", 15): "qwen3.5-9b-pt/15-qwenscope-res-64k",
    ("qwen3.5-27b", 31): "qwen3.5-27b/31-qwenscope-res-80k",
}


def badges(scope, found: Scan, layer: int, feature: int) -> list[str]:
    """Warnings about a feature, in words."""
    density, out = float(found.density(layer)[feature]), []
    if density == 0 and found.n_tokens >= ENOUGH:
        out.append("dead: it fires nowhere in this corpus")
    elif density == 0:
        out.append(
            f"silent: it fires nowhere in these {found.n_tokens:,} tokens; to call it dead takes "
            f"{ENOUGH:,}"
        )
    if density > DENSE:
        out.append(f"dense: it fires on {density:.0%} of the tokens")
    sample = found.stats(layer)["sample"]
    at = sample["position"][sample["feature"] == feature]
    if (first := (at == len(scope.prefix)).sum() / max(1, len(at))) > 0.5:
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
    groups = {name: rows for name, rows in groups.items() if band in ("all", name)}
    contexts = _contexts(scope, found, layer, feature, groups)
    lens, like = logit_lens(scope, layer, feature), nearest(scope, layer, feature)

    left = "sinks and tokens put before texts" if scope.prefix else "sinks"
    words = (
        f"fires on {density:.3%} of {found.n_tokens - found.n_sinks[layer]:,} tokens "
        f"({fired:,}; {found.n_sinks[layer]:,} {left} left out)"
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
        rows = [(row.value, tokens(row.shown, row.values, most)) for row in part.itertuples()]
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
    peaks = [(band, row) for band, rows in groups.items() for row in rows]
    ids = {int(row["text"]): found.ids(int(row["text"])).tolist() for _, row in peaks}
    values = id_activations(scope, list(ids.values()), layer, feature) if ids else []
    values = dict(zip(ids, values, strict=True))
    cut = {text: pieces(scope.tokenizer, i) for text, i in ids.items()}
    rows = []
    for band, row in peaks:
        value, text, at = row[["value", "text", "position"]].item()
        near = [p for p in cut[text] if p.stop > at - WINDOW and p.start <= at + WINDOW]
        shown, around = [p.shown for p in near], []
        for p in near:  # the recorded peak itself comes from the scan
            here = p.start <= at < p.stop
            around.append(value if here else float(values[text][p.start : p.stop].max()))
        rows.append((band, value, text, at, "".join(shown), shown, around))
    return pd.DataFrame(rows, columns="band value text position words shown values".split())


@torch.no_grad()
def id_activations(scope, texts: list[list[int]], layer: int, feature: int) -> list[np.ndarray]:
    """One feature's activation at every token of texts given as ids: a float array for each."""
    found, text, position, _ = id_residuals(scope, texts, [layer])
    keep = kept(scope, found[layer], position)
    acts = scope.sae(layer).encode(found[layer])
    values = (acts.values * (acts.indices == feature)).amax(-1) * keep.to(acts.values.device)
    return [values[text.to(values.device) == i].cpu().numpy() for i in range(len(texts))]


@torch.no_grad()
def logit_lens(scope, layer: int, feature: int, n: int = 10) -> pd.DataFrame:
    """The n tokens that W_dec[:, feature] promotes most and the n that it suppresses most.

    The column goes through the final norm and the output matrix as if it were the whole residual
    stream (nostalgebraist 2020, "interpreting GPT: the logit lens"), and the mean logit is taken
    off. It leaves out every later layer, so it says more about late layers than about early ones.
    Data: side ("promoted", "suppressed"), token, logit.
    """
    decoder = scope.model.get_decoder()
    norm = getattr(decoder, "norm", None) or decoder.language_model.norm
    direction = scope.sae(layer).direction(feature)[0]
    hidden = norm(direction.to(scope.device, scope.dtype))
    logits = scope.model.get_output_embeddings()(hidden).float().cpu()
    logits -= logits.mean()
    rows = []
    order = logits.argsort(descending=True).tolist()
    for side, ids in (("promoted", order[:n]), ("suppressed", order[::-1][:n])):
        rows += [(side, token(scope.tokenizer, i), float(logits[i])) for i in ids]
    return pd.DataFrame(rows, columns=["side", "token", "logit"])


def neuronpedia_link(group: str, layer: int, feature: int) -> str | None:
    """The address of a feature's page, for "qwen3.5-2b-l50" and the like; else None.

    Compare a few top contexts before you trust it: see HOSTED.
    """
    backbone, _, k = group.rpartition("-l")
    source = HOSTED.get((backbone, layer)) if k in ("50", "100") else None
    return f"https://www.neuronpedia.org/{source}/{feature}" if source else None
