"""Where a model and its SAEs come from, by the name of a preset; nothing is read or downloaded.

A preset is an embedded scope, a group of the catalog, or a file of notebooks/params. What the
section `scope:` of its file says comes before the catalog, and what is given before both.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..presets import nearest, preset_names, scope_values
from . import catalog

BATCH_TOKENS = 4096  # of one forward pass, padding included


# Of SAEs kept at once: two layers of an 8B suite (2.15 GB each), or eight of a 1.7B suite.
CACHE_BYTES = 4_500_000_000


class Origin(NamedTuple):
    """Folders or Hub repos. None: the machine's (device, dtype), or said by the suite (k)."""

    name: str | None  # the preset; None where a part of it was replaced
    model: str | Path
    sae: str | Path
    group: catalog.Group | None  # of the suite, if the catalog has it
    model_revision: str | None = None
    sae_revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    k: int | None = None
    batch_tokens: int = BATCH_TOKENS


def find_origin(preset: str | None = None, folder: Path | None = None, **given) -> Origin:
    """The origin of a preset. `given` are keywords of load_scope; None means not given.

    folder: where presets have their files, notebooks/params by default. ValueError for an unknown
    preset, with the nearest names, and where a model or a suite is missing.
    """
    given = {name: value for name, value in given.items() if value is not None}
    said = scope_values(preset, folder) if preset in preset_names(folder) else {}
    group, catalogued = None, {}
    if preset in catalog.TINY:
        home = catalog.TINY[preset]
        catalogued = {"model": home / "model", "sae": home / "sae"}
    elif preset in catalog.GROUPS | catalog.COMMUNITY:
        group = catalog.get_group(preset)
        catalogued = {"model": group.model_repo, "model_revision": group.model_revision}
        catalogued |= {"sae": group.sae_repo, "sae_revision": group.revision}
    elif preset is not None and not said:
        known = {*catalog.TINY, *catalog.GROUPS, *catalog.COMMUNITY, *preset_names(folder)}
        raise ValueError(f"no preset is called {preset!r}; {nearest(preset, known - {preset})}")
    values: dict = {}
    for layer in (catalogued, said, given):
        for part in {"model", "sae"} & set(layer):
            values.pop(f"{part}_revision", None)  # it belonged to what is replaced
        values |= layer
    if "sae" in said or "sae" in given:
        group = None  # its widths and k belong to the suite that was replaced
    if "model" not in values or "sae" not in values:
        raise ValueError("give a preset, or both model= and sae= (folders or Hub repos)")
    whole = "model" not in given and "sae" not in given
    return Origin(name=preset if whole else None, group=group, **values)


def file_layer(path) -> int | None:
    """The layer number in names such as layer12.sae.pt or sae_L12_latest.safetensors."""
    match = re.search(r"layer[_-]?(\d+)|_L(\d+)(?!\d)", Path(path).name)
    return int(match[1] or match[2]) if match else None


def layer_files(files: Iterable[str]) -> dict[int, str]:
    """Layer number to file name, sorted, of the files of a suite; others are left out."""
    # The official ending first: other .pt files (checkpoints to resume from) may lie beside it.
    for ending in (".sae.pt", ".safetensors", ".pt"):
        found: dict[int, str] = {}
        for file in sorted(files):
            if file.endswith(ending) and (layer := file_layer(file)) is not None:
                found.setdefault(layer, file)
        if found:
            return dict(sorted(found.items()))
    return {}
