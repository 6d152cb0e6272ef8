"""Labelled texts and prompts from datasets of the Hugging Face Hub; needs the extra `data`.

load_texts   labelled texts of a file or of a dataset, whichever a name means
hub_texts    a dataset with columns text and toxic, and one split a language
hub_prompts  two datasets with a column text, one harmful and one harmless

A dataset is named owner/name, or owner/name@revision for a branch, tag or commit of it.
"""

from collections import Counter
from collections.abc import Sequence

from .data import Record, read_labelled
from .presets import dataset_name

__all__ = ["hub_prompts", "hub_texts", "load_texts"]


def load_texts(
    source: str, languages: Sequence[str] = (), most: int = 5000, seed: int = 0
) -> list[Record]:
    """Labelled texts of a csv or jsonl file, all that it has (`read_labelled`), or of a dataset
    of the Hub, at most `most` of each label in each of `languages` (`hub_texts`)."""
    if dataset_name(source):
        return hub_texts(source, languages, most, seed)
    return read_labelled(source, seed=seed)


def hub_texts(
    name: str, languages: Sequence[str] = (), most: int = 5000, seed: int = 0
) -> list[Record]:
    """Texts of a dataset with columns text and toxic and one split a language, such as
    "textdetox/multilingual_toxicity_dataset": at most `most` of each label and language, drawn at
    random. languages: those to keep; nothing means all. ValueError for one that it has not."""
    parts = _load(name)
    missing = [language for language in languages if language not in parts]
    if missing:
        raise ValueError(f"{name} has no split {', '.join(missing)}; it has {', '.join(parts)}")
    out = []
    for language in languages or parts:
        count: Counter = Counter()
        for row in _rows(name, parts[language], ("text", "toxic"), seed):
            toxic = bool(int(row["toxic"]))
            count[toxic] += 1
            if count[toxic] <= most and row["text"].strip():
                out.append(Record(row["text"], toxic, language, "", name))
    return out


def hub_prompts(harmful: str, harmless: str, language: str = "en", most: int = 1000):
    """Records of two datasets with a column "text", such as "mlabonne/harmful_behaviors" and
    "mlabonne/harmless_alpaca".

    At most `most` prompts of each are kept, a shuffle of all of the dataset's splits, which are
    not ours. ValueError for a dataset without that column.
    """
    out, kept = [], Counter()
    for name, toxic in ((harmful, True), (harmless, False)):
        parts = _load(name)
        from datasets import concatenate_datasets

        rows = concatenate_datasets(list(parts.values()))
        for row in _rows(name, rows, ("text",), 0):
            if kept[toxic] < most and row["text"].strip():
                kept[toxic] += 1
                out.append(Record(row["text"], toxic, language, "", name))
    return out


def _load(name: str):
    """The splits of a dataset, by name."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ImportError("datasets from the Hub need: pip install 'qs-helpers[data]'") from None
    repo, _, revision = name.partition("@")
    return load_dataset(repo, revision=revision or None)


def _rows(name: str, rows, columns: Sequence[str], seed: int):
    """The rows in random order; ValueError if a column is missing."""
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise ValueError(f"{name} has columns {rows.column_names}, no {', '.join(missing)}")
    return rows.shuffle(seed=seed)
