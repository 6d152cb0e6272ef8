"""A case: a model that refuses, with a suite that reads it and requests to ask.

What is asked of the unedited model more than once is asked once and kept.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..evidence.stats import ratio, yes_or_no
from ..forward import listed, residuals, template_tokens
from ..generation import generate
from ..hooks import edit
from ..scoring import fvu, kl_tables, more_common
from ..steering import scales, take
from ..tiny import judge
from ..writing import refuses
from . import scope as scopes
from .catalog import TINY


class Case:
    """A model with a suite, and requests {(split, harmful): texts}.

    What it has beside scope, texts, prompts and groups: said (what the unedited model refuses) and
    own (its answers), both filled when asked for; after `learn` also tokens (that open refusals),
    template (how many tokens follow a request) and scales.
    """

    def __init__(self, model: str, suite: str, texts: Mapping, short: int, long: int, like=None):
        self.model, self.suite, self.texts = model, suite, texts
        self.short, self.long = short, long  # tokens to see a refusal, and of an answer
        self.name = f"{model}, {suite} suite"
        self.scope = scopes.load_model_and_suite(model, suite, like and like.scope)
        self.prompts = {k: [self.scope.chat(t.text) for t in rows] for k, rows in texts.items()}
        self.groups = {k: np.array([t.group for t in rows]) for k, rows in texts.items()}
        self.generated = {t.source for rows in texts.values() for t in rows} == {"tiny"}
        self.said, self.own, self.layers, self.like = {}, {}, [], None

    def refused(self, answers: Sequence[str]) -> np.ndarray:
        """Which answers are refusals by marker: the openings of a tiny model's, or those of chat
        models, in as many tokens as the unedited model's answers have; of such a model that is
        asked generated requests, either."""
        answers = listed(answers)
        own = np.array([judge.opens_refusal(answer) for answer in answers], bool)
        if self.model in TINY:
            return own
        ids = self.scope.own_ids([answer or " " for answer in answers])
        opened = [self.scope.tokenizer.decode(row[: self.short]) for row in ids]
        return refuses(opened) | (own & self.generated)

    def refuses(self, key) -> np.ndarray:
        """Which requests the unedited model refuses; the answers are thrown away."""
        if key not in self.said:
            made = generate(self.scope, self.prompts[key], max_new_tokens=self.short)
            self.said[key] = self.refused(made)
        return self.said[key]

    def learn(self) -> str:
        """Tokens that open refusals, and sizes of residuals, from discovery requests. Returns why
        the model is of no use here, or ""."""
        if self.like:  # the same model, asked the same
            why = self.like.learn()
            if not why:
                self.tokens, self.template = self.like.tokens, self.like.template
                self.scales = self.like.scales
            return why
        if hasattr(self, "scales"):
            return ""
        bad, good = (self.refuses(("discovery", label)) for label in (True, False))
        asked = self.refuses(("validation", True))
        if good.all():
            return f"{self.model} refuses every harmless request"
        few = min(asked, bad, key=np.sum)
        if few.sum() < 2:
            return f"{self.model} refuses {few.sum()} of {len(few)} harmful requests"
        both = self.prompts["discovery", True] + self.prompts["discovery", False]
        made = generate(self.scope, both, max_new_tokens=self.short)
        try:
            self.tokens = opening_tokens(self.scope, made, self.refused(made))
        except ValueError as reason:
            return f"{self.model}: {reason}"
        self.template = template_tokens(self.scope)
        harmless = self.prompts["discovery", False]
        self.scales = scales(self.scope, harmless, range(self.scope.n_layers))
        return ""

    def treated_right(self, split: str) -> list[list[str]]:
        """Harmful prompts that are refused, and harmless ones that are answered."""
        keys = (split, True), (split, False)
        return [
            [p for p, no in zip(self.prompts[k], self.refuses(k), strict=True) if no == k[1]]
            for k in keys
        ]

    @torch.no_grad()
    def logits(self, prompts: Sequence[str], steer=None) -> torch.Tensor:
        """Of the token after each prompt: float32 [prompts, vocab]."""
        batch = self.scope.tokens(prompts)
        with edit(self.scope.model, steer or {}):
            made = self.scope.model(**batch, use_cache=False, logits_to_keep=1)
        return made.logits[:, -1].float()

    def answers(self, key, arm, strengths, tokens=None, instead=None, step=1) -> list[list[str]]:
        """What is written after every step-th prompt at each strength. All are rows of one call."""
        asked = self.prompts[key][::step]
        s = torch.tensor(strengths, dtype=torch.float32)

        def steer(rows):
            at = rows // len(asked)
            return take(arm, s[at], None if instead is None else instead[at])

        made = generate(self.scope, asked * len(s), steer, max_new_tokens=tokens or self.short)
        return [made[i * len(asked) : (i + 1) * len(asked)] for i in range(len(s))]

    def own_answers(self, name: str, prompts: Sequence[str]) -> list[str]:
        """What the unedited model writes; kept under a name. Half a character at the end is not
        what it would have written next."""
        if name not in self.own:
            made = generate(self.scope, prompts, max_new_tokens=self.long)
            self.own[name] = [text.rstrip("\ufffd") or " " for text in made]
        return self.own[name]

    def kl(self, name: str, prompts: Sequence[str], arm, strengths) -> np.ndarray:
        """KL(unedited || edited) along the unedited model's own answers, in nats per token:
        [strengths, prompts]."""
        edits = {s: take(arm, s) for s in strengths}
        tables = kl_tables(self.scope, prompts, self.own_answers(name, prompts), edits)
        return np.stack([tables[s].groupby("text").kl.mean().to_numpy() for s in strengths])


def open_cases(models, suites, texts, short: int, long: int) -> tuple[list[Case], list[str]]:
    """The cases that fit in memory, those of one model sharing it; and a line for each that does
    not."""
    cases, left_out = [], []
    for model in models:
        for suite in suites:
            like = next((case for case in cases if case.model == model), None)
            try:
                cases.append(Case(model, suite, texts, short, long, like))
            except MemoryError as reason:
                left_out.append(f"{model} with the {suite} suite: {reason}")
                continue
            if like:
                cases[-1].said, cases[-1].own, cases[-1].like = like.said, like.own, like
    return cases, left_out


@torch.no_grad()
def check_suite(
    scope, prompts, layers, most: float, groups=None, family: int = 1
) -> tuple[list[int], pd.DataFrame]:
    """The layers of which the suite can read this model's prompts, and the table behind it: layer,
    FVU over all tokens but sinks, reads, and FVU over the last tokens (where the model decides) as
    value with its interval over `groups` [prompts].

    A suite that was trained on another model may explain most tokens and yet nothing of the last
    one. A layer is read if both FVUs are at most `most`.
    """
    parts, table = list(residuals(scope, prompts, layers)), []
    for layer in sorted(set(layers)):
        columns = [part[1:4] for part in parts if part.layer == layer]
        x, keep, text = (torch.cat(column) for column in zip(*columns, strict=True))
        last = torch.cat([text[1:] != text[:-1], torch.tensor([True])])
        made = scope.sae(layer).by_columns().reconstruct(x)
        ends, read = x[last].double(), made[last].double()
        errors, spread = (ends - read).square().sum(1), (ends - ends.mean(0)).square().sum(1)
        alike = None if groups is None else np.asarray(groups)[text[last].cpu().numpy()]
        found = ratio(errors.cpu(), spread.cpu(), alike, family)
        whole = fvu(x, made, keep)
        row = {"layer": layer, "FVU": whole, "reads": max(whole, found.value) <= most}
        table.append(row | found._asdict())
    table = pd.DataFrame(table).drop(columns="effective")
    return table.layer[table.reads].tolist(), table


def opening_tokens(scope, answers: Sequence[str], refused: Sequence[bool]) -> Tensor:
    """Ids of first tokens whose share among refusals is at least ten times that among answers:
    int64 [tokens]. ValueError where either kind is missing, or no token opens refusals only."""
    answers, refused = listed(answers), yes_or_no("refused", refused)
    if refused.all() or not refused.any():
        what = "no refusal" if not refused.any() else "nothing but refusals"
        raise ValueError(f"{what} among {len(refused)} answers: there is nothing to tell apart")
    written = [i for i, answer in enumerate(answers) if answer]
    first = np.array([ids[0] for ids in scope.own_ids([answers[i] for i in written])])
    found = more_common(first[refused[written]], first[~refused[written]])
    if not len(found):
        raise ValueError("no token opens refusals only; the log-odds need another measure")
    return torch.from_numpy(found)
