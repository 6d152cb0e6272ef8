"""Counterfactual pairs: two prompts that are alike but for what decides how they go on; and remarks
cut before the word that makes them toxic."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..tiny.corpus import LANGUAGES, topic_twins
from . import files, natural
from .record import draw, own_group
from .rows import to_text
from .splits import SPLITS, split_texts


class Pair(NamedTuple):
    """A clean prompt, a corrupted one, and what may follow each."""

    clean: str
    corrupted: str
    answers: tuple[str, ...] = ()
    """what may follow the clean prompt; nothing: nobody said"""
    others: tuple[str, ...] = ()
    """what may follow the corrupted one"""
    language: str = ""
    label: str = ""
    """the task: pairs of one task may share the components that decide"""
    group: str = ""
    """as in `Text`"""
    split: str = ""


def load_counterfactuals(sources: Sequence[str], n: int, seed: int = 0) -> list[Pair]:
    """At most n pairs of each language and split; a summary is printed.

    sources  ["tiny"] or ["natural"]; one .csv or .jsonl file with the columns positive (the clean
             prompt) and negative, and where it has them answer and other (what may follow each:
             a list, or words with "|" between them, each with the space before it), language,
             label, group and split; or two files of prompts, line by line, the clean ones first.

    Splits of a file without them are made as in `split_texts`. ValueError with file and line for
    what cannot be read, two files of unequal length, and prompts that are the same.
    """
    sources = [str(source) for source in sources]
    if not sources or len(sources) > 2:
        raise ValueError(f"{len(sources)} sources of pairs; give one, or two files of prompts")
    pairs = _tiny(n, seed) if sources == ["tiny"] else _split(_pairs(sources), seed)
    kept, taken = [], Counter()
    for pair in sorted(pairs, key=lambda p: draw(seed, "pairs", f"{p.clean}\n{p.corrupted}")):
        taken[pair.language, pair.split] += 1
        if taken[pair.language, pair.split] <= n:
            kept.append(pair)
    kept.sort(key=lambda pair: (pair.language, list(SPLITS).index(pair.split)))
    counts = Counter(pair.split for pair in kept)
    said = ", ".join(f"{split} {counts[split]}" for split in SPLITS if split in counts)
    name = " and ".join(Path(source).name for source in sources)
    print(f"{name}: {len(kept)} pairs; {said}; {len({pair.group for pair in kept})} groups")
    return kept


def _tiny(n: int, seed: int) -> Iterator[Pair]:
    for language in LANGUAGES:
        space = "" if language in ("ja", "zh") else " "
        for split in SPLITS:
            for t in topic_twins(language, split, n, seed):
                answers, others = (
                    tuple(space + word for word in side) for side in (t.answers, t.other_answers)
                )
                group = f"{t.frame}|{t.topics}"
                yield Pair(t.text, t.other, answers, others, language, t.topics, group, split)


def _pairs(sources: list[str]) -> Iterator[Pair]:
    """Pairs of the natural set or of files, in the order of their rows."""
    if sources == ["natural"]:
        found = files.rows(natural.FOLDER / "counterfactuals.jsonl")
    elif len(sources) == 1:
        found = files.rows(Path(sources[0]).expanduser())
    else:
        sides = [list(files.rows(Path(source).expanduser())) for source in sources]
        if len(sides[0]) != len(sides[1]):
            raise ValueError(
                f"{len(sides[0])} prompts in {Path(sources[0]).name}, {len(sides[1])} in "
                f"{Path(sources[1]).name}: line by line, each needs the other"
            )
        found = (
            (where, one | {"positive": one.get("text"), "negative": other.get("text")})
            for (where, one), (_, other) in zip(*sides, strict=True)
        )
    for where, row in found:
        record = to_text(where, row, "openings", {"text": "positive"}, "")
        other = to_text(where, row, "openings", {"text": "negative"}, "").text
        if record.text == other:
            raise ValueError(f"{where}: both prompts are {other!r}; a pair must differ")
        answers, others = (_words(row.get(name)) for name in ("answer", "other"))
        if bool(answers) != bool(others):
            raise ValueError(f"{where}: give both answer and other, or none of them")
        yield Pair(record.text, other, answers, others, *record[1:5])


def _words(cell) -> tuple[str, ...]:
    words = cell if isinstance(cell, list) else str(cell or "").split("|")
    return tuple(str(word) for word in words if str(word).strip())


def _split(pairs: Iterator[Pair], seed: int) -> list[Pair]:
    """Pairs with their splits; of those that are the same, one."""
    by_text = {f"{pair.clean}\n{pair.corrupted}": pair for pair in pairs}
    records = [
        to_text("", {"text": text} | pair._asdict(), "openings", {}, "")
        for text, pair in by_text.items()
    ]
    records = [r if r.group else r._replace(group=own_group(r.text)) for r in records]
    placed, _ = split_texts(records, seed, ())
    return [by_text[r.text]._replace(group=r.group, split=r.split) for r in placed]


class Batch(NamedTuple):
    """Pairs as two batches of tokens, padded on the left: a column is the same place in both."""

    pairs: list[Pair]
    clean: dict[str, Tensor]
    """input_ids and attention_mask [pairs, seq], as the model takes them"""
    corrupted: dict[str, Tensor]
    differs: Tensor
    """bool [pairs, seq], tokens that are not the same in both"""
    onward: Tensor
    """bool [pairs, seq], tokens from the first that differs on: before it both runs are alike"""
    answers: Tensor
    """bool [pairs, vocab], tokens that may follow the clean prompt"""
    others: Tensor
    """those that may follow the corrupted one"""

    def rows(self, rows) -> "Batch":
        """Some pairs."""
        rows = [int(row) for row in rows]
        sides = [{k: v[rows] for k, v in side.items()} for side in (self.clean, self.corrupted)]
        return Batch([self.pairs[i] for i in rows], *sides, *(x[rows] for x in self[3:]))


def aligned(scope, pairs: Sequence[Pair]) -> tuple[Batch, Counter]:
    """The pairs that can be patched token by token, and of how many others, by reason.

    Left out: prompts of unlike length, prompts that differ in their very first token (often an
    attention sink), and answers that begin with the same token. Where nobody said what may follow
    it is what the model finds most likely. ValueError if no pair is left.
    """
    kept, sides, left = [], [], Counter()
    for pair in pairs:
        one, other = scope.own_ids([pair.clean, pair.corrupted])
        if len(one) != len(other):
            left["of unlike length"] += 1
            continue
        if one[0] != other[0]:
            left["that differ in the first token"] += 1
            continue
        said = (pair.clean, pair.answers), (pair.corrupted, pair.others)
        a, b = (_next_ids(scope, prompt, words) for prompt, words in said)
        if not (a - b and b - a):
            left["with the same answer"] += 1
            continue
        kept, sides = [*kept, pair], [*sides, (a - b, b - a)]
    if not kept:
        raise ValueError(f"none of {len(pairs)} pairs can be patched; left out: {dict(left)}")
    clean, corrupted = (
        dict(scope.tokens([getattr(pair, side) for pair in kept]))
        for side in ("clean", "corrupted")
    )
    vocab = scope.model.get_output_embeddings().weight.shape[0]
    masks = torch.zeros(2, len(kept), vocab, dtype=torch.bool)
    for row, both in enumerate(sides):
        for mask, ids in zip(masks, both, strict=True):
            mask[row, list(ids)] = True
    differs = clean["input_ids"] != corrupted["input_ids"]
    onward = differs.cumsum(1) > 0
    return Batch(kept, clean, corrupted, differs, onward, *masks.to(scope.device)), left


@torch.no_grad()
def _next_ids(scope, prompt: str, words: tuple[str, ...]) -> set[int]:
    """The first token of each word, as the tokenizer cuts it after the prompt; without words the
    token that the model itself finds most likely."""
    if not words:
        logits = scope.model(**scope.tokens([prompt]), use_cache=False).logits[0, -1]
        return {int(logits.argmax())}
    before, found = scope.ids([prompt])[0], set()
    for word, ids in zip(words, scope.ids([prompt + word for word in words]), strict=True):
        fits = len(ids) > len(before) and ids[: len(before)] == before
        found.add(ids[len(before)] if fits else scope.own_ids([word])[0][0])
    return found


class HalfRemark(NamedTuple):
    """A toxic remark up to its word, and two words that could end it."""

    head: str
    group: str
    """the frame of the remark: the word is gone"""
    toxic: str
    """with the space before it, where there is one"""
    clean: str


def remark_words(remarks: Iterable) -> dict[str, dict[str, list[str]]]:
    """The words that make remarks toxic or clean, {label: {language: sorted words}}.

    They are the word parts of the groups ("frame|word") which stand in their texts. A word of toxic
    remarks is none of clean ones, though harmless remarks may hold it.
    """
    found = {"toxic": defaultdict(set), "clean": defaultdict(set)}
    for text in remarks:
        _, _, word = text.group.partition("|")
        if word and word in text.text:
            found[text.label][text.language].add(word)
    for language, words in found["clean"].items():
        words -= found["toxic"][language]
    return {
        label: {language: sorted(words) for language, words in of.items() if words}
        for label, of in found.items()
    }


def half_remarks(remarks: Iterable, words: Mapping, n: int, seed: int = 0) -> list[HalfRemark]:
    """At most n toxic remarks, cut before their word; no two begin alike.

    words: as `remark_words` gives them; both ends are drawn from those of the remark's language.
    Remarks whose group has no word, that begin with it, or in whose language one label has no
    words, are left out.
    """
    rng, found = np.random.default_rng(seed), {}
    remarks = list(remarks)
    for i in rng.permutation(len(remarks)):
        text = remarks[i]
        frame, _, word = text.group.partition("|")
        head = text.text.partition(word)[0] if word and word in text.text else ""
        ends = [words[label].get(text.language) for label in ("toxic", "clean")]
        if text.label == "toxic" and (start := head.rstrip()) and all(ends):
            tails = (head[len(start) :] + str(rng.choice(end)) for end in ends)
            found.setdefault(start, HalfRemark(start, frame, *tails))
    return list(found.values())[:n]
