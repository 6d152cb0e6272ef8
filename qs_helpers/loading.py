"""Steps of `load_scope`: read a suite's metadata, check that things fit, load the model.

Suite              what is known of an SAE suite before its weights are read
read_suite         a Suite from config.json, else the repo's name, else the tensor shapes
refuse_mismatch    ValueError when the suite was not trained on a model of this shape
refuse_too_large   MemoryError when model and one SAE do not fit in the free memory
load_sae           a TopKSAE from a .pt or .safetensors file, memory-mapped
load_model         the causal language model and its tokenizer
free_bytes         memory that is free now on a device, or None where it cannot be told
"""

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from . import catalog, hub
from .formats import read_sae
from .origins import layer_files
from .sae import TopKSAE

__all__ = [
    "Suite",
    "free_bytes",
    "load_model",
    "load_sae",
    "read_suite",
    "refuse_mismatch",
    "refuse_too_large",
]


class Suite(NamedTuple):
    """An SAE suite: its files, widths, and the number k of active features per token."""

    files: dict[int, str]  # layer -> file name
    d_model: int
    d_sae: int
    k: int
    n_layers: int | None  # depth of the backbone it was trained on, where the suite says it
    convention: str | None  # None: decided by the file's own layout
    trained_on: str | None = None  # the model's name, where the suite says it


def _read_json(source: hub.Source, file: str) -> dict:
    path = hub.fetch(source, file)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not valid JSON; download or write it again")
    return content


def read_suite(source: hub.Source, group: catalog.Group | None, k: int | None) -> Suite:
    """Metadata of the suite at `source`: its config first, then its name, then tensor shapes.

    `k` wins over what the suite says. Only where neither config, name nor `group` gives the
    widths is a layer file opened for them. ValueError if k cannot be found or is out of range.
    """
    files = layer_files(source.files)
    if not files:
        way = f" ({source.offline}, so only the cache counts)" if source.offline else ""
        raise FileNotFoundError(
            f"{source.name} has no SAE layer files such as layer0.sae.pt{way}; "
            f"it has {hub.list_some(source.files)}"
        )
    configs = [f for f in ("config.json", f"sae_L{min(files)}_cfg.json") if f in source.files]
    config = _read_json(source, configs[0]) if configs else {}
    named = re.search(r"W(\d+)K-L0_(\d+)", Path(source.name).name)
    d_model = config.get("d_model") or config.get("d_in") or (group and group.d_model)
    d_sae = config.get("d_sae") or (named and int(named[1]) * 1024) or (group and group.d_sae)
    found_k = config.get("k") or (named and int(named[2])) or (group and group.k)
    if not (d_model and d_sae and (k or found_k)):
        file = read_sae(hub.fetch(source, files[min(files)]), group and group.convention)
        d_sae, d_model = file.tensors["W_enc"].shape
        found_k = found_k or file.k
    k = k if k is not None else found_k
    if k is None:
        raise ValueError(
            f"k of {source.name} is in neither its config.json nor its name, and tensor shapes "
            f"cannot tell it; pass k= (1 to {d_sae})"
        )
    if not isinstance(k, int) or not 1 <= k <= d_sae:
        raise ValueError(f"k is {k!r}; {source.name} has {d_sae} features, so k is 1 to {d_sae}")
    convention = config.get("convention") or (group and group.convention)
    official = re.search(r"SAE-Res-(.+)-W\d+K", Path(source.name).name)
    trained_on = official[1] if official else config.get("base_model")
    return Suite(files, d_model, d_sae, k, config.get("num_layers"), convention, trained_on)


def _text_config(config: dict) -> dict:
    return config.get("text_config", config)


def refuse_mismatch(suite: Suite, sae_source: hub.Source, model_source: hub.Source) -> None:
    """ValueError, with both shapes and the suites that fit, unless width and depth agree."""
    config = _text_config(_read_json(model_source, "config.json"))
    width, depth = config.get("hidden_size"), config.get("num_hidden_layers")
    if not (isinstance(width, int) and isinstance(depth, int)):
        raise ValueError(
            f"{model_source.name} has no hidden_size and num_hidden_layers in its config.json; "
            "give a causal language model"
        )
    fits = ", ".join(catalog.groups_for(width)) or "none"
    if suite.d_model != width:
        raise ValueError(
            f"{sae_source.name} (W_enc {suite.d_sae} x {suite.d_model}) cannot read "
            f"{model_source.name}, whose residual is {width} wide; groups for {width}: {fits}"
        )
    trained_on = suite.n_layers or depth
    if trained_on != depth or max(suite.files) >= depth:
        raise ValueError(
            f"{sae_source.name} was trained on {max(trained_on, max(suite.files) + 1)} layers, but "
            f"{model_source.name} has {depth}; groups for width {width}: {fits}"
        )


def free_bytes(device: str | torch.device = "cpu") -> int | None:
    """Bytes free now on "cpu" (Linux's MemAvailable) or on a "cuda" device; None if unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024


def refuse_too_large(suite: Suite, source: hub.Source, device: torch.device, dtype: str) -> None:
    """MemoryError, with what is needed, what is free and the way out, if the model cannot fit.

    Needed: the checkpoint's bytes in `dtype`, one float32 SAE, and one chunk of pre-activations.
    """
    config = _read_json(source, "config.json")
    stored = config.get("dtype") or _text_config(config).get("dtype") or config.get("torch_dtype")
    stored_bytes = catalog.DTYPE_BYTES.get(stored, 2)
    on_disk = sum(source.files.get(file, 0) for file in hub.weight_files(source))
    model = on_disk * catalog.DTYPE_BYTES[dtype] // stored_bytes
    sae = 4 * (2 * suite.d_model * suite.d_sae + suite.d_model + suite.d_sae)
    chunk = 4 * catalog.CHUNK_TOKENS * suite.d_sae
    free = free_bytes(device)
    if free is None or model + sae + chunk <= free:
        return
    plans = {name: catalog.memory_plan(name, (), dtype) for name in catalog.GROUPS}
    small = [name for name, plan in plans.items() if plan.device <= free]
    way = "dtype='bfloat16' halves the model; " if dtype == "float32" else ""
    raise MemoryError(
        f"{source.name} needs {_gb(model + sae + chunk)} on {device}: model {_gb(model)} "
        f"in {dtype}, one SAE layer {_gb(sae)}, one chunk {_gb(chunk)}; {_gb(free)} is free; {way}"
        f"groups that fit: {', '.join(small) or 'tiny'}"
    )


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


@contextmanager
def _quiet():
    """No progress bars and no notes of transformers; what they would say is checked instead."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    hook = logging.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **kwargs | {"disable": True}))
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.set_tqdm_hook(hook)


def load_model(source: hub.Source, device: torch.device, dtype: str):
    """(model, tokenizer): eval mode, no gradients, no code from the repo, left padding.

    ValueError if the weights are incomplete, unreadable, or hold NaN or inf.
    """
    folder = hub.fetch_model(source)
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **safe)
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                output_loading_info=True,
                **safe,
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source.name} does not load as a language model: {reason}") from error
    lacking = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if lacking:
        raise ValueError(
            f"{source.name} lacks {len(lacking)} weights, {lacking[0]} first; download it again"
        )
    for name, weight in model.named_parameters():
        # One pass without a copy: NaN and inf both show in the extremes.
        if not all(extreme.isfinite() for extreme in weight.detach().aminmax()):
            raise ValueError(f"{source.name} has NaN or inf in {name}; download it again")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval().requires_grad_(False), tokenizer


def load_sae(
    path, k=None, convention=None, layer=None, expect_d_model=None, device="cpu",
    dtype=torch.float32,
) -> TopKSAE:  # fmt: skip
    """A TopKSAE from `path` (.pt or .safetensors), memory-mapped where the dtype allows it.

    Nothing in the file is executed. k comes from config.json beside the file, else from the name
    of its folder (...L0_50); `convention` from keys and shapes, see CONVENTIONS; `layer` from the
    file name. Weights are read from disk when first used. Raises FileNotFoundError or ValueError,
    naming the file and the way out; `expect_d_model` is the model's width, checked if given.
    """
    file = read_sae(path, convention)
    width = file.tensors["W_enc"].shape[1]
    if expect_d_model is not None and width != expect_d_model:
        fits = ", ".join(catalog.groups_for(expect_d_model)) or "none in the catalog"
        raise ValueError(
            f"{path} reads residuals of width {width} (W_enc {tuple(file.tensors['W_enc'].shape)}) "
            f"but the model's have width {expect_d_model}; SAEs that fit: {fits}"
        )
    k = file.k if k is None else k
    if k is None:
        raise ValueError(
            f"k of {path} is not known (no config.json beside it, no L0_<k> in a folder name) and "
            "shapes cannot tell it; pass k="
        )
    sae = TopKSAE(
        **file.tensors, k=k, convention=file.convention, input_scale=file.input_scale,
        path=str(path), layer=file.layer if layer is None else layer,
    )  # fmt: skip
    return sae.to(device, dtype)
