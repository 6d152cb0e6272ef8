"""Detection by features: the published rule, and what it rests on.

Readings     what an SAE says about each of some texts
read_texts   Readings of texts at some layers
rank         features by how much more often they fire in toxic texts
Rule         fire if any of some features does
fit_rule     the rule of a layer; choose_rule, with the layer chosen on validation texts
flags        which texts a rule fires on; strength, how strongly

The rule is that of the Qwen-Scope report (2026, section 5.1): h = 1 if a feature is in the TopK of
any token of a text (sinks left out), features ranked by P(h | toxic) - P(h | clean) on discovery
texts, a text is called toxic if any of the first K features fires.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .forward import residuals

__all__ = ["Readings", "Rule", "choose_rule", "fit_rule", "flags", "rank", "read_texts", "strength"]


class Readings(NamedTuple):
    """Texts at one layer; float32 arrays. Tokens are those that are no sinks."""

    peak: np.ndarray
    """[texts, d_sae] the strongest activation over tokens; > 0 where a feature fires"""
    mean: np.ndarray
    """[texts, d_sae] mean activation over tokens"""
    last: np.ndarray
    """[texts, d_sae] activation at the last token"""
    residual: np.ndarray
    """[texts, d_model] mean residual over tokens"""

    def rows(self, index) -> "Readings":
        return Readings(*(part[index] for part in self))


@torch.no_grad()
def read_texts(scope, texts: Sequence[str], layers=None) -> dict[int, Readings]:
    """{layer: Readings}, in one pass for all layers. Dense: 12 bytes for each text and feature."""
    layers = list(scope.layers) if layers is None else sorted(set(layers))
    n, found = len(texts), {}
    for layer in layers:
        shapes = [scope.d_sae] * 3 + [scope.d_model]
        found[layer] = [torch.zeros(n, width) for width in shapes]
    for part in residuals(scope, texts, layers):
        peak, mean, last, residual = found[part.layer]
        x = part.x.float().cpu()
        acts = scope.sae(part.layer).encode(part.x)
        values = acts.values.cpu() * part.keep[:, None]
        place = (part.text[:, None] * scope.d_sae + acts.indices.cpu()).view(-1)
        peak.view(-1).scatter_reduce_(0, place, values.view(-1), "amax")
        mean.view(-1).index_add_(0, place, values.view(-1))
        ends = torch.cat([part.text[1:] != part.text[:-1], torch.tensor([True])])
        at = (part.text[ends][:, None] * scope.d_sae + acts.indices.cpu()[ends]).view(-1)
        last.view(-1)[at] = values[ends].view(-1)
        residual.index_add_(0, part.text, x * part.keep[:, None])
        count = torch.bincount(part.text[part.keep], minlength=n)
        present = torch.bincount(part.text, minlength=n) > 0
        for total in (mean, residual):
            total[present] /= count[present].clamp(min=1)[:, None]
    return {layer: Readings(*(part.numpy() for part in parts)) for layer, parts in found.items()}


def rank(fires: np.ndarray, toxic: np.ndarray) -> np.ndarray:
    """All features, best first: P(fires | toxic) - P(fires | clean); ties by number.

    fires: bool [texts, d_sae]; toxic: bool [texts]. ValueError if a label is missing.
    """
    toxic = np.asarray(toxic, bool)
    if toxic.all() or not toxic.any():
        raise ValueError("toxic and clean texts are needed to rank features; one kind is missing")
    return np.argsort(-(fires[toxic].mean(0) - fires[~toxic].mean(0)), kind="stable")


class Rule(NamedTuple):
    """Fire if any feature (layer, feature) has more than `threshold`, read by `pooling`."""

    features: tuple[tuple[int, int], ...]
    pooling: str = "peak"
    threshold: float = 0.0


def fit_rule(readings: Mapping[int, Readings], toxic, layer: int, k: int) -> Rule:
    """The OR of the k best features of a layer on discovery texts."""
    best = rank(readings[layer].peak > 0, toxic)[:k]
    return Rule(tuple((layer, int(f)) for f in best))


def strength(rule: Rule, readings: Mapping[int, Readings]) -> np.ndarray:
    """The largest value of a rule's features in each text: float32 [texts]."""
    values = [getattr(readings[layer], rule.pooling)[:, f] for layer, f in rule.features]
    return np.max(values, axis=0)


def flags(rule: Rule, readings: Mapping[int, Readings]) -> np.ndarray:
    """Which texts a rule calls toxic: bool [texts]."""
    return strength(rule, readings) > rule.threshold


def choose_rule(
    found: Mapping[int, Readings], toxic, checked: Mapping[int, Readings], checked_toxic,
    k: int = 1,
) -> Rule:  # fmt: skip
    """`fit_rule` at the layer with the best F1 on validation texts; ties to the first layer.

    found, toxic: discovery texts; checked, checked_toxic: validation texts.
    """
    from .scores import f1_score

    rules = [fit_rule(found, toxic, layer, k) for layer in found]
    return max(rules, key=lambda rule: f1_score(flags(rule, checked), checked_toxic))
