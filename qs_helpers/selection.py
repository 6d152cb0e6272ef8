"""Which features to steer with: by what they respond to, and by what they do to the output.

firing_contrast  how much more often each feature fires in some texts than in others
more_common      ids that are ten times as common among some ids as among others
typical_tokens   tokens that some texts have and others lack
token_odds       the log-odds of the next token being one of some
output_effects   what adding a direction does to the odds of such tokens
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .forward import peaks
from .hooks import capture, edit
from .interventions import Scale, add
from .replay import edited, run_above

__all__ = ["firing_contrast", "more_common", "output_effects", "token_odds", "typical_tokens"]


def firing_contrast(
    scope, positive: Sequence[str], negative: Sequence[str], layer: int
) -> tuple[np.ndarray, np.ndarray]:
    """In which texts each feature fires: bool [positive, d_sae] and [negative, d_sae].

    The contrast of a feature is the difference of the two column means.
    """
    fires = peaks(scope, [*positive, *negative], [layer])[layer].numpy() > 0
    return fires[: len(positive)], fires[len(positive) :]


def typical_tokens(scope, positive: Sequence[str], negative: Sequence[str]) -> Tensor:
    """Ids of tokens that make up a larger share of `positive` than of `negative`, by a factor of
    ten or more: int64 [tokens]. ValueError if there are none."""
    ids = [np.concatenate([np.array(i) for i in scope.ids(list(texts))])
           for texts in (positive, negative)]  # fmt: skip
    found = more_common(*ids)
    if not len(found):
        raise ValueError("no token is ten times as common in the positive texts; give other texts")
    return torch.from_numpy(found)


def more_common(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Ids whose share among `positive` ids is at least ten times that among `negative` ones."""
    size = 1 + max(int(ids.max(initial=0)) for ids in (positive, negative))
    first, second = (np.bincount(ids, minlength=size) / max(1, len(ids))
                     for ids in (positive, negative))  # fmt: skip
    return np.flatnonzero((first > 0) & (first >= 10 * second))


@torch.no_grad()
def token_odds(
    scope, prompts: Sequence[str], tokens: Tensor, steer=None, in_order: bool = False
) -> np.ndarray:
    """Log-odds (nats) of the token after each prompt being one of `tokens`: float64 [prompts].

    `steer` as in `edit`; `in_order` keeps prompts in their order, for edits that have an entry
    for each row of a batch (256 prompts at most), at the price of more padding.
    """
    ids = scope.ids(list(prompts))
    order = sorted(range(len(ids)), key=lambda i: 0 if in_order else len(ids[i]))
    out = np.empty(len(ids))
    for start in range(0, len(ids), 256):
        rows = order[start : start + 256]
        batch = scope.tokens([ids[i] for i in rows])
        with edited(scope.model, batch, steer):
            logits = scope.model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1]
        out[rows] = _odds(logits, tokens).numpy()
    return out


def _odds(logits: Tensor, tokens: Tensor) -> Tensor:
    inside = logits.double().log_softmax(-1)[:, tokens.to(logits.device)].logsumexp(-1)
    inside = inside.clamp(max=-1e-12).cpu()
    return inside - torch.log(-torch.expm1(inside))


@torch.no_grad()
def output_effects(
    scope, directions: Tensor, scale: Scale, dose: float, prompts: Sequence[str], tokens: Tensor
) -> np.ndarray:
    """Change of the log-odds of the next token being one of `tokens`: float64 [directions].

    Each direction [n, d_model] is added with the same dose at every token of each prompt; the
    log-odds (nats) are those after the last token, and the mean is over prompts. It is the
    "output score" of Arad et al. 2025 for a set of tokens that is given and not taken from the
    feature's own logit lens: it says what a feature does, not what it responds to.
    """
    ids = scope.ids(list(prompts))
    odds = torch.zeros(len(ids), len(directions) + 1, dtype=torch.float64)
    still = torch.zeros(1, scope.d_model)
    still[0, 0] = 1.0  # any direction: its dose is 0
    every = torch.cat([directions.cpu().float(), still])
    doses = torch.full((len(every),), dose)
    doses[-1] = 0.0
    for row, tokens_of in enumerate(ids):
        batch, step = scope.tokens([tokens_of]), max(1, scope.batch_tokens // len(tokens_of))
        with capture(scope.model, [scale.layer]) as found:
            scope.model(**batch, use_cache=False)
        for start in range(0, len(every), step):
            part = slice(start, start + step)
            # Layers up to the edited one do the same for every direction: they ran once.
            below = found[scale.layer].expand(len(every[part]), -1, -1)
            many = {name: value.expand(len(below), -1) for name, value in batch.items()}
            with (
                edit(scope.model, {scale.layer: add(every[part], doses[part], scale)}),
                run_above(scope.model, scale.layer, below),
            ):
                logits = scope.model(**many, use_cache=False, logits_to_keep=1).logits[:, -1]
            odds[row, part] = _odds(logits, tokens)
    return (odds[:, :-1] - odds[:, -1:]).mean(0).numpy()
