"""Feature excess: how far pre-activations rise above what is usual, as a signal to train on.

Notebook 05 has the loss of SASFT that goes with it. As a reward for reinforcement learning, use
minus the mean excess of an output.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..evidence.files import json_line, lines, write_whole
from ..evidence.stats import auroc
from ..forward import listed, residuals

FIELDS = {"text": str, "language": str, "reward": float, "layer": int, "scope": str}
FIELDS |= dict.fromkeys(("tokens", "excess", "features", "usual"), list)


class Signal(NamedTuple):
    """Features of one layer with the level above which they count."""

    layer: int
    features: tuple[int, ...]
    usual: tuple[float, ...]


def _pre(sae, x: Tensor, features: Sequence[int]) -> Tensor:
    """Pre-activations of some features, float32 [..., features]."""
    W, b = sae.encoder(torch.as_tensor(features, device=x.device))
    return x.float() @ W.T + b


@torch.no_grad()
def pre_activations(scope, texts, layer: int, features) -> list[np.ndarray]:
    """Pre-activations of features at every token of `own_ids`: a list of float32 [tokens, features]
    for each text."""
    found: list[np.ndarray] = []
    texts = listed(texts)
    for part in residuals(scope, texts, [layer]) if texts else ():
        own = (part.position >= len(scope.prefix)).numpy()
        values = _pre(scope.sae(layer), part.x, features).cpu().numpy()[own]
        counts = np.bincount(part.text.numpy()[own] - len(found))
        found += np.split(values, counts.cumsum()[:-1])
    return found


def usual_levels(scope, texts: Sequence[str], layer: int, features: Sequence[int]) -> Signal:
    """The Signal of features whose usual level is their mean over all tokens of `texts` but the
    first of each (often an attention sink). ValueError where no other is there."""
    rows = [values[1:] for values in pre_activations(scope, texts, layer, features)]
    if not sum(map(len, rows)):
        raise ValueError("no text has two tokens, so no level is usual; give longer texts")
    rows = np.concatenate(rows)
    return Signal(layer, tuple(int(f) for f in features), tuple(rows.mean(0).tolist()))


def excess(scope, texts: Sequence[str], signal: Signal) -> list[np.ndarray]:
    """Mean over features of ReLU(pre - usual) at every token: a list of float64 [tokens]."""
    found = pre_activations(scope, texts, signal.layer, signal.features)
    return [np.maximum(0.0, values - np.array(signal.usual)).mean(1) for values in found]


def export_excess(path: Path, scope, texts, languages, signal: Signal) -> Path:
    """One JSON object a line: text, language, tokens (as the tokenizer spells them), excess (one
    number a token), reward (minus their mean), and the signal: layer, features, usual, scope."""
    texts, languages = listed(texts), listed(languages)
    rows, about = [], signal._asdict() | {"scope": scope.name}
    for text, language, values in zip(texts, languages, excess(scope, texts, signal), strict=True):
        tokens = scope.tokenizer.convert_ids_to_tokens(scope.own_ids([text])[0])
        row = {"text": text, "language": language, "tokens": tokens}
        row |= {"excess": [round(float(v), 6) for v in values], "reward": -float(values.mean())}
        rows.append(json_line(row | about))
    write_whole(Path(path), b"".join(rows))
    return Path(path)


def read_excess(path: Path) -> list[dict]:
    """The rows of a file of `export_excess`; ValueError names the line and field that is wrong."""
    rows = []
    for number, line in lines(Path(path)):
        where = f"{Path(path).name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where}: no JSON ({getattr(error, 'msg', error)})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: not an object {{…}}")
        for name, kind in FIELDS.items():
            if not isinstance(row.get(name), kind):
                raise ValueError(f"{where}: {name} is no {kind.__name__}")
        if len(row["tokens"]) != len(row["excess"]):
            raise ValueError(f"{where}: not one excess for each token")
        numbers = [row["reward"], *row["excess"]]
        if not all(isinstance(v, int | float) and np.isfinite(v) for v in numbers):
            raise ValueError(f"{where}: reward or excess is no finite number")
        rows.append(row)
    return rows


def single_feature(values, places, lead: int, groups):
    """How well the feature that tells slips best on every second pair tells those between: the
    AUROC. values: an array [tokens, features] a text, all slips before all matched places; places:
    where each is; lead: tokens before it; groups: of all of them."""
    at = np.stack([one[place - lead] for one, place in zip(values, places, strict=True)])
    n = len(at) // 2
    slip, other = at[:n], at[n:]
    best = (slip[::2, None] > other[None, ::2]).mean((0, 1)).argmax()
    both = np.concatenate([slip[1::2, best], other[1::2, best]])
    labels = [*groups[:n][1::2], *groups[n:][1::2]]
    return auroc(both, np.repeat([True, False], len(both) // 2), labels)


def open_share(scope, texts: Sequence[str], signal) -> float:
    """Share of the tokens of texts at which a feature of a Signal is above its usual level."""
    values = pre_activations(scope, texts, signal.layer, signal.features)
    return float((np.concatenate(values) > np.array(signal.usual)).any(1).mean())
