"""Texts of every source: the micro-world, the natural sets, documentation that is installed, a
file, a dataset of the Hub."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..presets import dataset_name, is_bundled, nearest
from ..tiny import corpus
from . import files, hub, lm_eval, natural, pydoc
from .micro import from_micro, micro_texts
from .record import KINDS, Text, draw, own_group
from .rows import check_columns, sample, to_text
from .splits import SPLITS, split_texts

Source = str | Path | Sequence[str | Path]


def load_texts(
    source: Source,
    kind: str,
    languages: Sequence[str] = (),
    n: int | Mapping[str, int] | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    most: int = 5000,
) -> list[Text]:
    """Texts of a kind, in disjoint splits; a summary is printed.

    source     "tiny", the micro-world ("tiny:story": its stories only; of items,
               "tiny:who+when/kitchen": those skills and topics); "natural", the texts that
               were written for this project ("natural:recipe": its recipes only; its card is
               qs_helpers/natural/README.md); "pydoc", English passages of the documentation that
               is installed ("pydoc:scipy": one library's), 4.6 million characters; of items
               "lm-eval:mmlu", "lm-eval:bbh" and "lm-eval:gsm8k", a few of each; a .csv, .jsonl
               or .txt file in UTF-8; a dataset of the Hub, owner/name, owner/name@revision, or
               owner/name:configuration. A list of sources is read as one, except that of remarks
               and requests it holds two files or datasets, the positive label (toxic, harmful)
               first, which then need no label column. "tiny" stands alone.
    kind       passages (running text), openings (to be continued), remarks (toxic or clean),
               requests (harmful or harmless), questions, items (of a benchmark; all of them are
               of the split "test", since nothing is fitted on them)
    languages  those to keep; nothing means all. Of a text whose language nobody said, the first.
    n          the most texts of each language, and of each label of remarks and requests, in each
               split; or {split: how many}, without the splits that are not named. Drawn at random.
    columns    names of columns where they differ: {"text": "comment"}. Columns are text, language,
               label, group and split (`Text`); all but text, and label for remarks and requests,
               may be missing. The label may also be in a column called toxic (harmful), and is
               toxic or clean (harmful or harmless), or yes or no, true or false, 1 or 0; of other
               words {"positive": "LABEL_1"} names the one that means toxic. {"split": ""} ignores
               a column. The text of an item may be called question, problem, prompt or input, and
               its label subject or category.
    most       kept of each language, label and split of a file or dataset, a uniform sample; it is
               read row by row, so that one of any size fits in memory

    A .txt file holds one text a line, of passages one a paragraph between blank lines. How texts
    are split is in `split_texts`; those of tiny and natural come with their splits.

    Raises ValueError with the way out for a source, kind, column, language or split that there is
    not, files that cannot be read (file and line named), one label only, and what split_texts
    refuses; ImportError where a Hub dataset is named and the library for it is missing.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r}; {nearest(kind, KINDS)} ({', '.join(KINDS)})")
    _check_named(n if isinstance(n, Mapping) else ())
    languages = [languages] if isinstance(languages, str) else languages
    sources = [source] if isinstance(source, str | Path) else list(source)
    sources, labels = [str(one) for one in sources], KINDS[kind]
    if not sources or labels and len(sources) > 2:
        two = f", or two, the {labels[0]} first" if labels else " or more"
        raise ValueError(f"{len(sources)} sources of {kind}; give one{two}")
    check_columns(columns := dict(columns or {}))
    if kind == "items":  # one split, and benchmarks have names of their own for their parts
        n, columns = ({"test": n} if isinstance(n, int) else n), {"split": ""} | columns
    name, left = " and ".join(map(_name, sources)), Counter()
    world, _, part = sources[0].partition(":")
    if world == "tiny" and len(sources) == 1:  # its splits are its own
        texts = micro_texts(kind, part, languages, n, seed)
    else:
        wanted = [split for split in n if n[split]] if isinstance(n, Mapping) else []
        found = _found(sources, kind, languages, columns, left)
        texts, beyond = sample(found, labels, most, seed)
        _check_labels(name, texts, labels, languages)
        left += beyond
        if kind == "items":
            texts = [_as_item(text) for text in texts]
        else:
            _check_more_than_one(name, texts)
            texts, dropped = split_texts(texts, seed, labels, wanted)
            left += dropped
        _check_splits(name, texts, wanted, left)
        texts = _drawn(texts, n, labels, seed)
    print(_summary(name, kind, texts, left, languages))
    return texts


def load_pairs(
    source: Source, split: str, languages: Sequence[str], n: int, seed: int = 0
) -> list[tuple[Text, Text]]:
    """At most n pairs (harmful, harmless) of requests for each language, of one split.

    Those of tiny are alike but for the verb. Those of another source are of one frame (the first
    part of the group) where it has both labels; the rest are paired in order of length. Errors are
    those of `load_texts`.
    """
    _check_named([split])
    languages = [languages] if isinstance(languages, str) else languages
    if source in ("tiny", ["tiny"]):
        return [
            tuple(from_micro(text, "requests") for text in pair)
            for language in languages or corpus.LANGUAGES
            for pair in corpus.request_twins(language, split, n, seed)
        ]
    texts = load_texts(source, "requests", languages, {split: 10**9}, seed)
    out = []
    for language in sorted({text.language for text in texts}):
        here = sorted((t for t in texts if t.language == language), key=lambda t: len(t.text))
        frames: dict[str, list[list[Text]]] = defaultdict(lambda: [[], []])
        for text in here:
            frames[text.group.split("|")[0]][text.label == "harmless"].append(text)
        pairs = [pair for sides in frames.values() for pair in zip(*sides, strict=False)]
        paired = {text for pair in pairs for text in pair}
        rest = [text for text in here if text not in paired]
        sides = [[text for text in rest if text.label == label] for label in KINDS["requests"]]
        pairs += zip(*sides, strict=False)
        out += sorted(pairs, key=lambda pair: draw(seed, "pairs", pair[0].text))[:n]
    return out


UNSAID = "texts whose language nobody said"


def _found(
    sources: list[str], kind: str, languages, columns: dict[str, str], left: Counter
) -> Iterator[Text]:
    """The texts of files and datasets in some languages; counts in `left` those that it skips, and
    those whose language nobody said."""
    labels = KINDS[kind] if KINDS[kind] and len(sources) == 2 else [""] * len(sources)
    for source, label in zip(sources, labels, strict=True):
        for where, row in _rows(source, kind, label, languages):
            cell = row.get(columns.get("text", "text"), "?")
            if dataset_name(source) and (cell is None or cell == "" or str(cell).isspace()):
                left["empty texts"] += 1  # nobody can correct a dataset of the Hub
                continue
            text = to_text(where, row, kind, columns, label)
            if languages and not text.language:
                left[UNSAID] += 1
                text = text._replace(language=languages[0])
            if languages and text.language not in languages:
                left["in other languages"] += 1
                continue
            yield text._replace(source=_name(source))


def _rows(source: str, kind: str, label: str, languages) -> Iterator[tuple[str, dict]]:
    """The rows of a file or dataset, each with its place. "" as label: the rows say it."""
    path = Path(source).expanduser()
    name, _, part = source.partition(":")
    if name == "natural" and not label:
        return natural.rows(kind, part)
    if name == "pydoc" and not label:
        if kind != "passages":
            raise ValueError(f"pydoc has passages only, no {kind}; say natural, or a file")
        return pydoc.rows(part)
    if name == "lm-eval" and not label:
        if kind != "items":
            raise ValueError(f"lm-eval has items only, no {kind}; say natural, or a file")
        return lm_eval.rows(part)
    if dataset_name(source):
        return hub.rows(source, languages)
    if path.suffix.lower() not in files.SUFFIXES and not path.is_file():
        raise ValueError(
            f"source {source!r}: there is no such file; give tiny (alone), natural, pydoc, a "
            ".csv, .jsonl or .txt file, or a dataset of the Hub (owner/name)"
        )
    if path.suffix.lower() == ".txt" and KINDS[kind] and not label:
        raise ValueError(
            f"{path.name} cannot say which texts are {KINDS[kind][0]}; use .csv or .jsonl, or two "
            f".txt files, the {KINDS[kind][0]} one first"
        )
    return files.rows(path, paragraphs=kind == "passages")


def _check_named(splits: Iterable[str]) -> None:
    for split in splits:
        if split not in SPLITS:
            raise ValueError(f"there is no split {split!r}; {nearest(split, SPLITS)}")


def _name(source: str) -> str:
    return source if dataset_name(source) or is_bundled(source) else Path(source).name


def _check_labels(name: str, texts: list[Text], labels: Sequence[str], languages) -> None:
    have = {text.label for text in texts}
    if not texts:
        spoken = f" in {', '.join(languages)}" if languages else ""
        raise ValueError(f"{name} holds no texts{spoken}")
    if labels and len(have) < 2:
        raise ValueError(f"{name} holds only {min(have)} texts; both labels are needed")


def _as_item(text: Text) -> Text:
    return text._replace(split="test", group=text.group or own_group(text.text))


def _check_more_than_one(name: str, texts: list[Text]) -> None:
    """ValueError for a single text that no column put in a split: nothing would be left to test.

    A long .txt file without a blank line is such a text.
    """
    if len(texts) > 1 or texts[0].split:
        return
    hint = "; in a .txt file of passages a blank line ends each" * name.endswith(".txt")
    raise ValueError(
        f"{name} holds one text only, of {len(texts[0].text):,} characters: nothing is left to "
        f"test on; give more{hint}"
    )


def _drawn(texts: list[Text], n, labels: Sequence[str], seed: int) -> list[Text]:
    """At most n of each language, label and split, or n[split], in an order of the texts' own."""
    if n is None:
        return texts
    kept, taken = [], Counter()
    for text in sorted(texts, key=lambda text: draw(seed, "draw", text.text)):
        key = text.language, text.label if labels else "", text.split
        taken[key] += 1
        if taken[key] <= (n if isinstance(n, int) else n.get(text.split, 0)):
            kept.append(text)
    order = {split: i for i, split in enumerate(SPLITS)}
    by_label = {label: i for i, label in enumerate(labels)}
    return sorted(kept, key=lambda t: (t.language, order[t.split], by_label.get(t.label, 0)))


def _check_splits(name: str, texts: list[Text], wanted: Iterable[str], left: Counter) -> None:
    if not texts:
        raise ValueError(f"{name}: nothing is left; there were {_said(left)}")
    have = {(text.language, text.split) for text in texts}
    for language in sorted({text.language for text in texts}):
        for split in wanted:
            if (language, split) not in have:
                name = f"language {language!r}" if language else name
                raise ValueError(f"{name} has no text for {split}; give more texts, or groups")


def _said(left: Counter) -> str:
    return ", ".join(f"{n} {why}" for why, n in sorted(left.items()) if why != UNSAID)


def _summary(name: str, kind: str, texts: list[Text], left: Counter, languages) -> str:
    """What there is, what was left out, and what was taken for granted: three lines at most."""

    def counts(column: str, order: Iterable[str] = ()) -> str:
        found = Counter(getattr(text, column) for text in texts)
        return ", ".join(f"{key} {found[key]}" for key in order or sorted(found) if key in found)

    spoken = {text.language for text in texts}
    parts = [f"{name}: {len(texts)} {kind}", counts("label", KINDS[kind]) if KINDS[kind] else ""]
    parts += [counts("language") if spoken != {""} else "", counts("split", SPLITS)]
    parts.append(f"{len({text.group for text in texts})} groups")
    lines = ["; ".join(part for part in parts if part)]
    if _said(left):
        lines.append("left out: " + _said(left))
    said = [f"{left[UNSAID]} {UNSAID} count as {languages[0]}"] if left[UNSAID] else []
    if absent := [language for language in languages if language not in spoken]:
        said.append(f"no text in {', '.join(absent)}")
    own = sum(text.group == own_group(text.text) for text in texts)
    if own == len(texts):
        lead = "" if name.startswith("tiny") else "no group column: "
        said.append(f"{lead}each text is its own group")
    elif own:
        said.append(f"{own} texts without a group: each is its own")
    return "\n".join([*lines, "; ".join(said)]).rstrip()
