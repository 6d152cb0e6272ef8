"""The published SAE suites as data, and what the name of a preset stands for.

A preset is an embedded scope, a group of the catalog, or a file of notebooks/params. Nothing is
read from the network, and torch is not needed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..presets import nearest, place_of, prepare_values, preset_names, scope_values

# The model card tags the suites `license: other` and asks readers to be careful; we name both.
OFFICIAL_LICENCE = (
    "Qwen licence (the card's tag is 'other'). The card's caution: not for interfering with model "
    "capabilities outside science, nor for producing harmful content. No weights are redistributed."
)


COMMUNITY_LICENCE = "see the card of the repo; no weights are redistributed"


DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Group:
    """One suite of SAEs, one file per layer, on the residual stream of one backbone.

    `n_params` is the nominal size of the backbone (8.2e9 for "8B"), good to a few percent, and
    `n_layers` its depth. `revision` and `model_revision` are commits where one is known, else
    "main". `layers` are the decoder layers that have a file, counted from 0; the file of layer n
    reads the output of decoder layer n. `post_trained` is True when the backbone is not a base.
    """

    name: str
    sae_repo: str
    model_repo: str
    n_layers: int
    d_model: int
    d_sae: int
    k: int
    n_params: float
    revision: str = "main"
    model_revision: str = "main"
    moe: bool = False
    post_trained: bool = False
    convention: str = "official"
    licence: str = OFFICIAL_LICENCE
    some_layers: tuple[int, ...] | None = None
    vocabulary: int = 151_936

    @property
    def layers(self) -> tuple[int, ...]:
        """Layer numbers that have an SAE file."""
        return tuple(range(self.n_layers)) if self.some_layers is None else self.some_layers

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's file: float32, 4 x (2 d_model d_sae + d_model + d_sae)."""
        return 4 * (2 * self.d_model * self.d_sae + self.d_model + self.d_sae)


# backbone: (layers, d_model, parameters, commit of the model repo, d_sae / 1024 at k 50 and
# at k 100). On the mixture-of-experts backbones the two are coupled: no other pair exists.
_BACKBONES = {
    "Qwen3-1.7B-Base": (28, 2048, 1.7e9, "ea980cb0a6c2ae4b936e82123acc929f1cec04c1", 32, 32),
    "Qwen3-8B-Base": (36, 4096, 8.2e9, "49e3418fbbbca6ecbdf9608b4d22e5a407081db4", 64, 64),
    "Qwen3.5-2B-Base": (24, 2048, 2e9, "b1485b2fa6dfa1287294f269f5fb618e03d52d7c", 32, 32),
    "Qwen3.5-9B-Base": (32, 4096, 9e9, "68c46c4b3498877f3ef123c856ecfde50c39f404", 64, 64),
    "Qwen3.5-27B": (64, 5120, 27e9, "fc05daec18b0a78c049392ed2e771dde82bdf654", 80, 80),
    "Qwen3-30B-A3B-Base": (48, 2048, 30.5e9, "1b75feb79f60b8dc6c5bc769a898c206a1c6a4f9", 32, 128),
    "Qwen3.5-35B-A3B-Base": (40, 2048, 36e9, "0f0813072d2358973511097385626f21fcb6d422", 32, 128),
}


# Commits of SAE repos that are known in full; the others resolve at load and are recorded then.
_SAE_REVISIONS = {
    "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50": "ce1a79d9c5163932d65c417380e53230e1086370",
    "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_100": "2756a49850d1d0288a18e561783deae0d810791e",
    "Qwen/SAE-Res-Qwen3.5-2B-Base-W32K-L0_100": "027267657257a8d490296286e8fab41e1c1a1a3d",
    "Qwen/SAE-Res-Qwen3.5-27B-W80K-L0_50": "13d4221569f7ca5d3c1e605e3e3dc95117e4807c",
}


def _official() -> dict[str, Group]:
    groups = {}
    for backbone, (n_layers, d_model, n_params, commit, at_50, at_100) in _BACKBONES.items():
        for width, k in ((at_50, 50), (at_100, 100)):
            name = f"{backbone.lower().removesuffix('-base')}-l{k}"
            sae_repo = f"Qwen/SAE-Res-{backbone}-W{width}K-L0_{k}"
            groups[name] = Group(
                name=name,
                sae_repo=sae_repo,
                model_repo=f"Qwen/{backbone}",
                n_layers=n_layers,
                d_model=d_model,
                d_sae=width * 1024,
                k=k,
                n_params=n_params,
                revision=_SAE_REVISIONS.get(sae_repo, "main"),
                model_revision=commit,
                moe="-A3B" in backbone,
                vocabulary=248_320 if backbone.startswith("Qwen3.5") else 151_936,
                post_trained=not backbone.endswith("-Base"),
            )
    return groups


GROUPS: dict[str, Group] = _official()


COMMUNITY: dict[str, Group] = {
    "openinterp-qwen3.6-27b": Group(
        name="openinterp-qwen3.6-27b",
        sae_repo="caiovicentino1/qwen36-27b-sae-papergrade",
        model_repo="Qwen/Qwen3.6-27B",
        n_layers=64,
        d_model=5120,
        d_sae=65536,
        k=128,
        n_params=27e9,
        vocabulary=248_320,
        post_trained=True,
        convention="openinterpretability",
        licence=COMMUNITY_LICENCE,
        some_layers=(11, 31, 55),
    )
}


_TINY_ROOT = Path(__file__).parents[1] / "tiny"


TINY: dict[str, Path] = {
    "tiny": _TINY_ROOT / "base",
    "tiny-instruct": _TINY_ROOT / "instruct",
    "tiny-sft": _TINY_ROOT / "sft",
    "tiny-moe": _TINY_ROOT / "moe",
}


# What the world of the embedded models says, one text a line: a reading is measured on it.
TINY_SENTENCES = _TINY_ROOT / "sentences.md"


def spans(layers: Sequence[int]) -> str:
    """(0, 1, 2) as "0 to 2", (11, 31) as "11, 31", () as "none"."""
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers)) or "none"


def get_group(name: str) -> Group:
    """The official or community group called `name`. ValueError with the nearest names if none."""
    groups = GROUPS | COMMUNITY
    if name not in groups:
        raise ValueError(f"no SAE group is called {name!r}; {nearest(name, groups)}")
    return groups[name]


def groups_for(d_model: int) -> list[str]:
    """Names of the groups whose SAEs read residuals of width `d_model`."""
    return [group.name for group in (GROUPS | COMMUNITY).values() if group.d_model == d_model]


BATCH_TOKENS = 4096  # of one forward pass, padding included


class Origin(NamedTuple):
    """Folders or Hub repos. None: as the machine has it (device, dtype), as the suite says."""

    name: str | None  # the preset; None where a part of it was replaced
    model: str | Path
    sae: str | Path
    group: Group | None  # of the suite, if the catalog has it
    model_revision: str | None = None
    sae_revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    k: int | None = None
    batch_tokens: int = BATCH_TOKENS
    thinking: bool = False  # of prompts made by the chat template
    convention: str | None = None


def find_origin(preset: str | None = None, folder: Path | None = None, **given) -> Origin:
    """The origin of a preset. `given` are keywords of load_scope; None means not given.

    What the section `scope:` of the preset's file says comes before the catalog, and what is given
    before both.

    folder: where presets have their files, notebooks/params by default. ValueError for an unknown
    preset, with the nearest names, where a model or a suite is missing, and where the name of one
    may mean a folder as well as a Hub repo (see `place_of`).
    """
    given = {name: value for name, value in given.items() if value is not None}
    said = {}
    if preset is not None and preset in preset_names(folder):
        said = scope_values(preset, folder)
    group, catalogued = None, {}
    if preset in TINY:
        home = TINY[preset]
        catalogued = {"model": home / "model", "sae": home / "sae"}
    elif preset in GROUPS | COMMUNITY:
        group = get_group(preset)
        catalogued = {"model": group.model_repo, "model_revision": group.model_revision}
        catalogued |= {"sae": group.sae_repo, "sae_revision": group.revision}
    elif preset is not None and preset not in preset_names(folder):
        known = {*TINY, *GROUPS, *COMMUNITY, *preset_names(folder)}
        raise ValueError(f"no preset is called {preset!r}; {nearest(preset, known - {preset})}")
    values: dict = {}
    for layer in (catalogued, said, given):
        for part in {"model", "sae"} & set(layer):
            values.pop(f"{part}_revision", None)  # it belonged to what is replaced
        values |= layer
    if "sae" in said or "sae" in given:
        group = None  # its widths and k belong to the suite that was replaced
    lacking = [part for part in ("model", "sae") if part not in values]
    if lacking and preset is not None:
        raise ValueError(
            f"{preset}.yaml has no {' and no '.join(lacking)} in its section scope: give a folder "
            "or a Hub repo"
        )
    if lacking:
        raise ValueError("give a preset, or both model= and sae= (folders or Hub repos)")
    values["model"] = model_place(values["model"])
    for part in ("model", "sae"):
        values[part] = place_of(values[part])
    whole = "model" not in given and "sae" not in given
    return Origin(name=preset if whole else None, group=group, **values)


def model_place(model: str | Path) -> str | Path:
    """The folder of an embedded model that is given by its name; what else is given, as it is."""
    return TINY[model] / "model" if model in TINY else model


def require_made(origin: Origin) -> None:
    """FileNotFoundError, with the command, where a preset's model or suite is yet to be made."""
    for part in prepare_values(origin.name) if origin.name in preset_names() else ():
        if not Path(getattr(origin, part)).is_dir():
            command = f"make report PRESET={origin.name} ARGS='--only 10'"
            raise FileNotFoundError(f"the {part} of {origin.name} is not made yet: {command}")


def file_layer(path) -> int | None:
    """The layer number in names such as layer12.sae.pt or sae_L12_latest.safetensors.

    "layer" comes before "_L", and of several "_L" an "_L0_50" says how many features are active.
    ValueError for a name that says two layers.
    """
    name = Path(path).name
    patterns = r"(?i:layer)[_-]?([0-9]+)", r"_L(?!0_[0-9])([0-9]+)", r"_L([0-9]+)"
    found = next(filter(None, (re.findall(pattern, name) for pattern in patterns)), [])
    if len(numbers := {int(number) for number in found}) > 1:
        raise ValueError(f"{path} names layers {spans(sorted(numbers))}: rename it, to one of them")
    return numbers.pop() if numbers else None


# A plain .pt may be a checkpoint to resume from: it lies beside the SAE, or says what it is.
_CHECKPOINT = re.compile(r"resume|checkpoint|ckpt|optim", re.IGNORECASE)


def layer_files(files: Iterable[str]) -> dict[int, str]:
    """Layer number to file name, sorted, of the files of a suite; others are left out, and so are
    hidden ones (macOS writes ._layer3.sae.pt) and those in folders.

    .sae.pt and .safetensors count alike, .pt only for a layer that has neither. ValueError names
    two files that claim one layer.
    """
    claims: dict[int, dict[bool, list[str]]] = {}
    for file in files:
        if file.startswith(".") or "/" in file or not file.endswith((".pt", ".safetensors")):
            continue
        plain = file.endswith(".pt") and not file.endswith(".sae.pt")
        if plain and _CHECKPOINT.search(file):
            continue
        if (layer := file_layer(file)) is not None:
            claims.setdefault(layer, {}).setdefault(plain, []).append(file)
    found = {layer: claims[layer].get(False) or claims[layer][True] for layer in sorted(claims)}
    for layer, names in found.items():
        if len(names) > 1:
            raise ValueError(
                f"{' and '.join(sorted(names))} both claim layer {layer}: keep one of them there"
            )
    return {layer: names[0] for layer, names in found.items()}


def refuse_pointer(path: Path) -> None:
    """ValueError for what Git leaves in the place of a large file that was not fetched."""
    with open(path, "rb") as file:
        if file.read(43) == b"version https://git-lfs.github.com/spec/v1\n":
            raise ValueError(
                f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` there"
            )


def refuse_other_sae(config: dict, where) -> None:
    """ValueError, naming the entry, where a config says that an SAE is no TopK SAE on the residual
    stream after a layer, or that something else is done to its input or activations.

    config: of a suite or a file, in the names of SAELens and others; where: what to call it.
    """
    said = config | (config["metadata"] if isinstance(config.get("metadata"), dict) else {})

    def refuse(key, way):
        raise ValueError(f"{where} says {key} is {said[key]!r}; {way}")

    kinds = ("architecture", "sae_type", "activation", "activation_fn", "activation_fn_str")
    plain = {key: re.sub(r"[^a-z]", "", str(said[key]).lower()) for key in kinds if said.get(key)}
    topk = [key for key, kind in plain.items() if kind.startswith(("topk", "autoencodertopk"))]
    for key, kind in plain.items():  # "standard", with "topk" as its activation, is how SAELens was
        if key not in topk and not (kind == "relu" or (topk and kind in ("standard", "sae"))):
            refuse(key, "only TopK SAEs are read here")
    for key in ("hook_point", "hook_name", "hook_site"):
        if said.get(key) and not _is_after_a_layer(str(said[key])):
            refuse(key, "only SAEs of the residual stream after a layer (resid_post) are read here")
    if said.get("rescale_acts_by_decoder_norm"):
        refuse("rescale_acts_by_decoder_norm", "qs.loading.import_suite folds it into the weights")
    for key in ("normalize_activations", "reshape_activations", "finetuning_scaling_factor"):
        if said.get(key) not in (None, False, "none"):
            refuse(key, "that is not read here: fold it into the weights, then save it again")


def _is_after_a_layer(hook: str) -> bool:
    """Whether a hook point is the output of a decoder layer, in the words of several libraries."""
    hook = hook.lower()
    if re.search(r"pre|mid|attn|attention|in$|input", hook):
        return False
    residual = r"(.*[^a-z])?(res|resid|residual|(layer|block)_?out(put)?)([^a-z].*)?"
    module = r"(.*\.)?(layers|blocks|h)\.[^.]+(\.output)?"
    return re.fullmatch(f"{residual}|{module}", hook) is not None


def hook_layer(config: dict) -> int | None:
    """The layer that a config of SAELens is about; None where it says none."""
    said = config | (config["metadata"] if isinstance(config.get("metadata"), dict) else {})
    found = re.search(r"(?:layers|blocks|h)\.([0-9]+)", str(said.get("hook_name") or ""))
    return int(found[1]) if found else None
