"""Read SAE files of the known formats, without running or copying what they hold."""

import json
import re
import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import Tensor

from ..sae import CONVENTIONS, Convention, TopKSAE
from .catalog import (
    file_layer,
    groups_for,
    hook_layer,
    layer_files,
    refuse_other_sae,
    refuse_pointer,
)

# Tried in this order when no convention is asked for. The tensors alone cannot tell whether b_dec
# is subtracted, so each layout stands for the suites known to use it; `load_scope` measures it.
LAYOUTS = ("official", "openinterpretability", "leoninverse")

# What damaged bytes make a parser say, beside its own errors.
_BROKEN = (RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError)
_BROKEN += (ArithmeticError, AssertionError, MemoryError, ImportError)


class SaeFile(NamedTuple):
    """W_enc (d_sae, d_model), W_dec (d_model, d_sae), b_enc (d_sae,), b_dec (d_model,)."""

    tensors: dict[str, Tensor]
    convention: str
    input_scale: float
    k: int | None  # where the file itself says it


def file_config(path) -> dict:
    """What is said beside an SAE file: cfg.json (SAELens) or config.json, and before them what its
    own sae_L{n}_cfg.json says. ValueError for one that holds no JSON object."""
    path, values = Path(path), {}
    for name in ("config.json", "cfg.json", f"sae_L{file_layer(path)}_cfg.json"):
        config = path.parent / name
        if config.is_file():
            try:
                found = json.loads(config.read_text(encoding="utf-8"))
            except ValueError:
                raise ValueError(f"{config} is not valid JSON; download it again") from None
            if not isinstance(found, dict):
                raise ValueError(f"{config} is no JSON object; download it again")
            values |= found
    return values


def find_k(path) -> int | None:
    """k from a config beside the file (see `file_config`), else from a folder named ...L0_50.

    Returns None when neither says it. ValueError as `file_config`.
    """
    k = _config_k(file_config(path))
    if k is not None:
        return k
    for part in reversed(Path(path).absolute().parts[:-1]):
        if match := re.search(r"L0_(\d+)(?!\d)", part):
            return int(match[1])
    return None


def _config_k(config: dict) -> int | None:
    options = config.get("activation_fn_kwargs")
    return config.get("k", options.get("k") if isinstance(options, dict) else None)


def _load(path: Path) -> dict:
    """The dict in a file, tensors memory-mapped; nothing in the file is executed."""
    if not path.is_file():
        others = list(layer_files(other.name for other in path.parent.glob("*")))
        there = f"layers {others}, choose one of them" if others else "no layer file"
        raise FileNotFoundError(f"no SAE file {path}; the folder has {there}, or download it")
    refuse_pointer(path)
    again = "nothing in it was executed; download it again, or save it as plain tensors"
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, *_BROKEN) as error:
            bad = " ".join(str(error).split())[:120]
            raise ValueError(f"{path} is not a whole .safetensors file ({bad}); {again}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, struct.error, *_BROKEN) as error:
        bad = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0][:120]
        raise ValueError(f"{path} is not a whole file of plain tensors ({bad}); {again}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors; {again}")
    return content


def _fits(content: dict, convention: Convention) -> str | None:
    """None if the content has the convention's keys and shapes, else what is wrong, in words."""
    missing = [key for key in convention.keys if not isinstance(content.get(key), Tensor)]
    if missing:
        return f"misses {', '.join(missing)} (it has {', '.join(map(str, list(content)[:8]))})"
    for key in convention.keys:
        tensor = content[key]
        if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
            return f"has {key} as a sparse, nested or quantised tensor ({tensor.layout}), not dense"
        if tensor.device.type != "cpu":
            return f"has {key} on the device {tensor.device}, without its numbers"
        if not tensor.is_floating_point():
            return f"has {key} of dtype {tensor.dtype}, not floating point"
    enc, dec, b_enc, b_dec = (content[key] for key in convention.keys)
    if b_enc.ndim != 1 or b_dec.ndim != 1:
        return f"has biases of shapes {tuple(b_enc.shape)} and {tuple(b_dec.shape)}, not vectors"
    wide, tall = (len(b_enc), len(b_dec)), (len(b_dec), len(b_enc))
    want_enc, want_dec = (tall, wide) if convention.transposed else (wide, tall)
    for key, tensor, want in zip(convention.keys, (enc, dec), (want_enc, want_dec), strict=False):
        if tuple(tensor.shape) != want:
            return f"has {key} of shape {tuple(tensor.shape)}, not {want}"
    return None


def _refuse_more(content: dict, inner: dict, row: Convention, path: Path) -> None:
    """ValueError for what a file holds beyond the four tensors and would change its reading."""
    more = {key for part in (content, inner) for key, t in part.items() if isinstance(t, Tensor)}
    more -= {*row.keys, *(["scale", "k"] if row.scaled else [])}
    if more:
        raise ValueError(
            f"{path} holds more than a TopK SAE: {', '.join(sorted(map(str, more)))}; if this "
            "takes no part in the reading, save the file without it"
        )
    for part in (content, content.get("cfg"), content.get("config")):
        if isinstance(part, dict):
            refuse_other_sae(part, path)
    if not row.scaled and content.get("scale", 1) != 1:
        raise ValueError(
            f"{path} says scale is {content['scale']!r}, which convention {row.name!r} does not "
            "apply; give a convention that does"
        )


def read_sae(path, convention: str | None = None) -> SaeFile:
    """Open an SAE file and bring its tensors into the official orientation, as views.

    Without `convention` the keys and shapes decide. Raises FileNotFoundError, or ValueError naming
    the file and what is wrong with it: foreign, truncated, other keys, other shapes, sparse or
    without its numbers, or more than a TopK SAE (a threshold, a gate, a scale).
    """
    path = Path(path)
    if convention is not None and convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}; choose one of {list(CONVENTIONS)}")
    content = _load(path)
    inner = content["state"] if isinstance(content.get("state"), dict) else content
    problems = {name: _fits(inner, CONVENTIONS[name]) for name in LAYOUTS}
    fitting = [name for name, problem in problems.items() if problem is None]
    name = convention or (fitting[0] if fitting else "official")
    if problem := _fits(inner, CONVENTIONS[name]):
        way = f"its layout is that of convention {fitting[0]!r}" if fitting else "download it again"
        raise ValueError(f"{path} {problem} as convention {name!r} wants; {way}")
    row = CONVENTIONS[name]
    _refuse_more(content, inner, row, path)
    tensors = dict(zip(CONVENTIONS["official"].keys, (inner[key] for key in row.keys), strict=True))
    if row.transposed:
        tensors |= {"W_enc": tensors["W_enc"].T, "W_dec": tensors["W_dec"].T}
    scale = content.get("scale", 0) if row.scaled else 1.0
    if isinstance(scale, Tensor) and scale.numel() == 1:
        scale = scale.item()
    if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise ValueError(f"{path} has scale {scale}, not a positive number; download it again")
    return SaeFile(tensors, name, float(scale), content.get("k") if row.scaled else None)


def load_sae(
    path,
    k: int | None = None,
    convention: str | None = None,
    layer: int | None = None,
    expect_d_model: int | None = None,
    device="cpu",
    dtype: torch.dtype = torch.float32,
) -> TopKSAE:
    """A TopKSAE from `path` (.pt or .safetensors), memory-mapped where the dtype allows it.

    Nothing in the file is executed. k comes from a config beside the file, else from the file, else
    from the name of its folder (...L0_50); `convention` from that config, else from keys and
    shapes, see CONVENTIONS; `layer` from the file name, else from the config. Weights are
    read from disk when first used. Raises FileNotFoundError or ValueError, naming the file and the
    way out, also where a config tells of another kind of SAE; `expect_d_model` is the model's
    width, checked if given.
    """
    config = file_config(path)
    refuse_other_sae(config, f"the config beside {path}")
    convention = convention or config.get("convention")
    if convention is None and isinstance(config.get("apply_b_dec_to_input"), bool):
        convention = "openinterpretability" if config["apply_b_dec_to_input"] else "transposed"
    file = read_sae(path, convention)
    shape = tuple(file.tensors["W_enc"].shape)
    if expect_d_model not in (None, shape[1]):
        fits = ", ".join(groups_for(expect_d_model)) or "none in the catalog"
        raise ValueError(
            f"{path} reads residuals of width {shape[1]} (W_enc {shape}) "
            f"but the model's have width {expect_d_model}; SAEs that fit: {fits}"
        )
    if k is None:
        k = _config_k(config) or file.k or find_k(path)
    if k is None:
        raise ValueError(
            f"k of {path} is not known (no config.json beside it, no L0_<k> in a folder name) and "
            "shapes cannot tell it; pass k="
        )
    said = hook_layer(config) if file_layer(path) is None else file_layer(path)
    about = {"path": str(path), "layer": said if layer is None else layer}
    about |= {"convention": file.convention, "input_scale": file.input_scale}
    return TopKSAE(**file.tensors, k=k, **about).to(device, dtype)
