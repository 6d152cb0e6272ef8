"""Notebook 05. Code-switching: letters of a script that a language does not use.

Han is shared by Chinese and Japanese, so neither is foreign in the other by Han alone; English in
French cannot be told by script. Code, LaTeX, links and what is copied from the prompt do not count,
nor do digits and punctuation of any width.
"""

from typing import NamedTuple

import regex
import torch
from torch import Tensor

from ..writing import SCRIPTS

SCRIPTS_OF = {
    "en": ("Latin",),
    "fr": ("Latin",),
    "ru": ("Cyrillic",),
    "ja": ("Han", "Kana"),
    "zh": ("Han",),
}
# What is written in another script by right.
QUOTED = regex.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|\\\(.*?\\\)|\\\[.*?\\\]"
    r"|\\begin\{.*?\\end\{[^}]*\}|(?:https?://|www\.)[\w\-./?=&%#~:+,;@!]+|[\w.+-]+@[\w-]+\.[\w.]+",
    regex.DOTALL,
)


class Switching(NamedTuple):
    """Foreign letters of one text, what does not count left aside."""

    any: bool
    """is there a run?"""
    share: float
    """foreign letters over letters, 0 for a text without letters"""
    runs: tuple[tuple[int, int], ...]
    """start and stop of each run of two foreign letters or more (one of Han or Kana)"""
    onset: int | None
    """where the first run starts, in characters"""


def switching(text: str, language: str, prompt: str = "") -> Switching:
    """Runs of letters in `text` that are not in a script of `language`.

    A run that stands in `prompt` too was copied and does not count. ValueError for a language
    that SCRIPTS_OF does not know.
    """
    if language not in SCRIPTS_OF:
        raise ValueError(f"no scripts for {language!r}; choose one of {', '.join(SCRIPTS_OF)}")
    own = "".join(SCRIPTS[name].strip("[]") for name in SCRIPTS_OF[language])
    plain = QUOTED.sub(lambda match: " " * len(match[0]), text)
    letters = len(regex.findall(r"\p{L}", plain))
    # A run goes on over marks, apostrophes and hyphens inside a word.
    found = regex.finditer(rf"[^\P{{L}}{own}](?:[\p{{M}}'’-]?[^\P{{L}}{own}])*", plain)
    runs, foreign = [], 0
    for match in found:
        long = len(regex.findall(r"\p{L}", match[0]))
        if prompt and match[0] in prompt:
            continue
        foreign += long
        if long >= 2 or regex.search(r"[\p{Han}\p{Hiragana}\p{Katakana}]", match[0]):
            runs.append(match.span())
    share, onset = foreign / letters if letters else 0.0, runs[0][0] if runs else None
    return Switching(bool(runs), share, tuple(runs), onset)


def foreign_token(scope, text: str, language: str) -> int | None:
    """Number of the first token that overlaps a switch; None without one."""
    onset = switching(text, language).onset
    if onset is None:
        return None
    spans = scope.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return next(i for i, (_, stop) in enumerate(spans["offset_mapping"]) if stop > onset)


def foreign_ids(scope, scripts: tuple[str, ...]) -> Tensor:
    """Ids of tokens that hold a letter of one of `scripts` ("Latin", ...): int64 [tokens].

    Half characters and special tokens are not among them.
    """
    pattern = regex.compile("|".join(SCRIPTS[name] for name in scripts))
    special = set(scope.tokenizer.all_special_ids)
    found = [
        i
        for i in range(len(scope.tokenizer))
        if i not in special and pattern.search(scope.tokenizer.decode([i]))
    ]
    return torch.tensor(found, dtype=torch.int64)
