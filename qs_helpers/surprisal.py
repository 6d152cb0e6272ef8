"""What one model makes of given text, token by token: teacher forcing, plain or steered.

text_nats          mean cross-entropy of each text
usual_nats         the cross-entropy that 19 of 20 real texts stay below, by length
fluent             which texts stay below it, and do not loop
continuation_nats  cross-entropy of each token of a continuation, after its prompt
kl_by_position     how far an intervention moves the predictions, by place in the continuation
kl_tables          the same for several interventions at once
kl_summary         median, p95, p99 and means by place of such a table
BUCKETS            first, 2-8, 9-64, later
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import pad

from .metrics import cross_entropy
from .replay import edited, reuse_below
from .tokens import batches
from .writing import loops

__all__ = [
    "BUCKETS",
    "continuation_nats",
    "fluent",
    "kl_by_position",
    "kl_summary",
    "kl_tables",
    "text_nats",
    "usual_nats",
]

BUCKETS = {"first": (1, 1), "2-8": (2, 8), "9-64": (9, 64), "later": (65, 10**9)}


@torch.no_grad()
def text_nats(scope, texts: Sequence[str], steer: Mapping | None = None) -> np.ndarray:
    """Mean cross-entropy of each text in nats per token, float64 [texts]; its first token is given.

    NaN where a text has fewer than two tokens, an empty one among them: models do write nothing.
    `steer` as in `edit`.
    """
    out = np.full(len(texts), np.nan)
    long = [i for i, text in enumerate(texts) if text.strip()]
    ids = dict(zip(long, scope.ids([texts[i] for i in long]), strict=True)) if long else {}
    ids = {i: tokens for i, tokens in ids.items() if len(tokens) > 1}
    for rows in batches({i: len(tokens) for i, tokens in ids.items()}, scope.batch_tokens):
        batch = scope.tokens([ids[i] for i in rows])
        with edited(scope.model, batch, steer):
            nats = cross_entropy(scope.model, batch["input_ids"], batch["attention_mask"])
        out[rows] = nats.double().nanmean(1).cpu().numpy()
    return out


@torch.no_grad()
def usual_nats(scope, texts: Sequence[str], max_tokens: int) -> np.ndarray:
    """The cross-entropy, in nats per token, below which 19 of 20 real texts lie: float64
    [max_tokens + 1]. Entry n is for the first n tokens of the texts: short texts surprise more.

    NaN below 2 tokens. ValueError where no text has `max_tokens`.
    """
    ids = [tokens[:max_tokens] for tokens in scope.ids(list(texts)) if len(tokens) >= max_tokens]
    if not ids:
        raise ValueError(f"none of {len(texts)} texts has {max_tokens} tokens; give longer ones")
    each = torch.cat([
        cross_entropy(scope.model, torch.tensor(ids[i : i + 64], device=scope.device))
        for i in range(0, len(ids), 64)
    ])  # fmt: skip
    so_far = each.double().cumsum(1) / torch.arange(1, max_tokens, device=each.device)
    limits = so_far.quantile(0.95, dim=0).cpu().numpy()
    return np.concatenate([[np.nan, np.nan], limits])


def fluent(scope, texts: Sequence[str], limits: np.ndarray, among=None) -> np.ndarray:
    """Which texts the plain model finds no more surprising than real ones, and do not end in a
    loop: bool [texts]. Both are needed: a loop is not surprising. Less than two tokens is not
    fluent. `limits` as `usual_nats` gives them; longer texts are held against its last entry.
    `among` (bool [texts]) saves the work for texts that do not count: they are not fluent."""
    texts = [text.strip() for text in texts]
    if among is not None:
        texts = [text if counts else "" for text, counts in zip(texts, among, strict=True)]
    lengths = [len(i) for i in scope.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    limit = limits[np.minimum(lengths, len(limits) - 1)]
    looping = np.array([loops(text) for text in texts], bool)
    return (text_nats(scope, texts) <= limit) & ~looping


@torch.no_grad()
def continuation_nats(
    scope, prompts: Sequence[str], continuations: Sequence[str], steer: Mapping | None = None,
    positions: str = "all",
) -> list[np.ndarray]:  # fmt: skip
    """-log p of each token of each continuation, given its prompt: a list of float64 [tokens].

    `steer` and `positions` as in `edit`: the continuation's tokens count as generated ones.
    """
    out = [np.empty(0)] * len(prompts)
    for rows, targets, passes in _passes(scope, prompts, continuations, [(steer, positions)]):
        for row, target, values in zip(rows, targets, next(passes), strict=True):
            out[row] = -values.gather(-1, target[:, None])[:, 0].cpu().numpy()
    return out


def kl_by_position(
    scope, prompts: Sequence[str], continuations: Sequence[str], steer: Mapping,
    positions: str = "all",
) -> pd.DataFrame:  # fmt: skip
    """KL(plain || steered) of the next-token distributions along given continuations, in nats.

    Continuations should be the plain model's own (on-policy). One row a token: text, place (1 is
    the first token of the continuation), bucket of BUCKETS, kl, nats (cross-entropy of the token
    under the steered model). The first place alone can be 0 where a model opens every answer in
    the same way, so read all buckets.
    """
    return kl_tables(scope, prompts, continuations, {"": steer}, positions)[""]


@torch.no_grad()
def kl_tables(
    scope, prompts: Sequence[str], continuations: Sequence[str], steers: Mapping[str, Mapping],
    positions: str = "all",
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """The table of `kl_by_position` for each of some interventions; the plain model runs once."""
    parts = {name: [] for name in steers}
    arms = [(None, "all"), *((steer, positions) for steer in steers.values())]
    for rows, targets, passes in _passes(scope, prompts, continuations, arms):
        plain = next(passes)
        for name, steered in zip(steers, passes, strict=True):
            for row, target, before, after in zip(rows, targets, plain, steered, strict=True):
                # 0 * log 0 is 0, also where the other model says 0.
                kl = (before.exp() * (before - after)).nan_to_num(0.0, posinf=float("inf"))
                nats = -after.gather(-1, target[:, None])[:, 0]
                columns = np.full(len(nats), row), np.arange(1, len(nats) + 1)
                columns += kl.sum(-1).clamp(min=0).cpu().numpy(), nats.cpu().numpy()
                parts[name].append(np.stack(columns, 1))
    return {name: _by_place(np.concatenate(rows)) for name, rows in parts.items()}


def kl_summary(table: pd.DataFrame) -> dict[str, float]:
    """Of a table of `kl_by_position`: mean, median, p95, p99 over tokens, and the mean of each
    bucket that has tokens."""
    out = {"mean": table.kl.mean()}
    out |= {name: table.kl.quantile(q) for name, q in (("median", 0.5), ("p95", 0.95),
                                                       ("p99", 0.99))}  # fmt: skip
    return out | {name: part.kl.mean() for name, part in table.groupby("bucket", sort=False)}


def _by_place(rows: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["text", "place", "kl", "nats"])
    table = table.astype({"text": int, "place": int})
    table = table.sort_values(["text", "place"], ignore_index=True)
    edges = [0, *(last for _, last in BUCKETS.values())]
    table.insert(2, "bucket", pd.cut(table.place, edges, labels=list(BUCKETS)).astype(str))
    return table


def _passes(scope, prompts, continuations, arms) -> Iterator[tuple]:
    """Batches: row numbers, target ids of each row, and an iterator that gives, for each arm of
    (functions, positions), the log-probabilities of each row, float64 [tokens, vocab]."""
    if len(prompts) != len(continuations):
        raise ValueError(f"{len(prompts)} prompts but {len(continuations)} continuations")
    before, after = scope.ids(list(prompts)), scope.ids(list(continuations))
    lengths = {i: len(a) + len(b) for i, (a, b) in enumerate(zip(before, after, strict=True))}
    for rows in batches(lengths, scope.batch_tokens):
        # Prompts are padded on the left and continuations on the right, so that all of these
        # begin in one column and the edit knows which tokens count as generated.
        prompt = scope.tokens([before[i] for i in rows])
        longest = max(len(after[i]) for i in rows)
        ids = [pad(torch.tensor(after[i]), (0, longest - len(after[i]))) for i in rows]
        mask = [pad(torch.ones(len(after[i])), (0, longest - len(after[i]))) for i in rows]
        ids = torch.cat([prompt["input_ids"], torch.stack(ids).to(scope.device)], 1)
        mask = torch.stack(mask).to(scope.device, prompt["attention_mask"].dtype)
        mask = torch.cat([prompt["attention_mask"], mask], 1)
        targets = [torch.tensor(after[i], device=scope.device) for i in rows]
        yield rows, targets, _logp(scope, ids, mask, prompt["attention_mask"], targets, arms)


def _logp(scope, ids, mask, prompt_mask, targets, arms) -> Iterator[list]:
    longest = ids.shape[1] - prompt_mask.shape[1]
    # What is below the first edits is the same in every arm, and is computed once.
    batch = {"input_ids": ids, "attention_mask": mask}
    with reuse_below(scope.model):
        for functions, positions in arms:
            with edited(scope.model, batch, functions, positions, prompt_mask):
                logits = scope.model(
                    ids, attention_mask=mask, use_cache=False, logits_to_keep=longest + 1
                ).logits
            yield [
                row[: len(target)].double().log_softmax(-1)
                for row, target in zip(logits, targets, strict=True)
            ]
