"""Rows of a dataset of the Hub, named owner/name, owner/name:configuration, or either with
@revision for a branch, tag or commit of it.

The files are downloaded once to the Hub's cache, from which they can be read offline, and mapped
into memory: a row is read when it is needed, so that a dataset of any size fits.
"""

from collections.abc import Iterator, Sequence

import regex

from ..presets import dataset_parts

CODE = regex.compile(r"[a-z]{2,3}(-\w+)?")  # of a language


def rows(name: str, languages: Sequence[str] = ()) -> Iterator[tuple[str, dict]]:
    """("owner/name, train, row 0", row) of each row, one part of the dataset after the other.

    Where the parts are named by language codes, as in textdetox/multilingual_toxicity_dataset,
    only those of `languages` are read (nothing means all), and they say the rows' language;
    ValueError for one that there is not. Else its parts, such as train and test, are joined.
    """
    parts = _load(name)
    spoken = all(CODE.fullmatch(part) and part not in ("dev", "val", "all") for part in parts)
    missing = [language for language in languages if language not in parts]
    if spoken and missing:
        raise ValueError(f"{name} has no split {', '.join(missing)}; it has {', '.join(parts)}")
    for part in (languages or parts) if spoken else parts:
        for number, row in enumerate(parts[part]):
            row = row | {"language": part} if spoken else row
            yield f"{name}, {part}, row {number}", row


def _load(name: str):
    """The parts of a dataset, by name."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ImportError("datasets from the Hub need: pip install 'qs-helpers[data]'") from None
    repo, configuration, revision = dataset_parts(name)
    return load_dataset(repo, configuration, revision=revision)


def commit(name: str) -> str | None:
    """The commit of a dataset of the Hub that `rows` reads: as the Hub says, or where it cannot be
    asked, the cache; None where neither knows, and for what is no dataset of the Hub."""
    from huggingface_hub import HfApi

    if not (parts := dataset_parts(name)):
        return None
    repo, _, revision = parts
    how = {"repo_id": repo, "revision": revision or "main"}
    try:
        return HfApi().dataset_info(**how, timeout=10).sha
    except Exception:  # offline, slow, refused: whatever it is, the texts are read already
        known = regex.fullmatch(r"[0-9a-f]{40}", revision or "")
    if known:
        return revision
    try:
        return HfApi().resolve_revision(**how, repo_type="dataset", local_files_only=True).resolved
    except Exception:
        return None
