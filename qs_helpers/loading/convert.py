"""Suites of other trainers, to and from the official format. Neither library is needed for it.

import_suite    TopK SAEs of SAELens or of sparsify become layer<n>.sae.pt and config.json
export_saelens  one layer of a suite becomes a folder that SAELens reads
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..evidence.files import write_json
from ..sae import CONVENTIONS, Convention
from .catalog import Origin, hook_layer, refuse_other_sae, spans
from .hub import fetch, open_source, read_suite
from .saefile import _fits, _load, _refuse_more, load_sae, read_sae

SAELENS_FILE, SPARSIFY_FILE = "sae_weights.safetensors", "sae.safetensors"
SAELENS_FORMAT = "6.54.0"  # the version whose cfg.json is written

# Its decoder is stored as [d_sae, d_model], and turned before these keys are looked at.
_SPARSIFY = Convention("sparsify", ("encoder.weight", "W_dec", "encoder.bias", "b_dec"))

# Entries of sparsify's cfg.json that change no number of an SAE that is already trained. Whatever
# else is switched on there may: transcode, skip_connection, embed_skip, those of its forks.
_SPARSIFY_NEUTRAL = {"activation", "d_in", "dtype", "expansion_factor", "k", "lookup_max_order"}
_SPARSIFY_NEUTRAL |= {"multi_topk", "normalize_decoder", "num_latents"}


class _Found(NamedTuple):
    """An SAE of another trainer: its tensors in the official orientation, as they are stored."""

    folder: Path
    layer: int
    k: int
    d_model: int
    d_sae: int
    base_model: str | None
    tensors: dict[str, Tensor]
    centred: bool  # b_dec is subtracted from x
    rescaled: bool  # scores are multiplied by the norms of W_dec's columns before the TopK


def import_suite(source, out) -> Path:
    """Write TopK SAEs of SAELens or sparsify to `out` in the official format.

    Returns `out` as an absolute path, which `load_scope` takes as sae=.

    source: the folder of one SAE, or a folder of such folders, one for each layer. SAELens's have
    cfg.json and sae_weights.safetensors, and the layer in hook_name; sparsify's are named after the
    layer, as layers.10, and have cfg.json and sae.safetensors.

    The official reading takes x as it is, so what is done to x or to the scores elsewhere goes into
    the weights, computed in float64 and stored as float32; the other tensors stay as they are:

        b_enc - W_enc @ b_dec       where b_dec is subtracted from x: in sparsify, and in SAELens
                                    with apply_b_dec_to_input
        n W_enc, n b_enc, W_dec / n     for SAELens's rescale_acts_by_decoder_norm, after that;
                                    n [d_sae] are the norms of W_dec's columns

    Activations and reconstructions are the same but for rounding. Files of 16 bits are computed
    with in float32, as everywhere here. Neither library says how deep the model is, so config.json
    has no num_layers.

    FileNotFoundError where a file is missing. ValueError names folder and entry: another kind of
    SAE or place in the model, no layer, two SAEs of one layer, layers that differ in k, widths or
    model, NaN or inf, and an `out` that is not empty. Nothing is left in `out` then.
    """
    there: dict[int, _Found] = {}
    for folder in _folders(Path(source).absolute()):
        found = _sparsify(folder) if (folder / SPARSIFY_FILE).exists() else _saelens(folder)
        if found.layer in there:
            raise ValueError(
                f"{there[found.layer].folder} and {folder} both are SAEs of layer {found.layer}: "
                "keep one of them there"
            )
        first = next(iter(there.values()), found)
        for entry in ("k", "d_model", "d_sae", "base_model"):
            if getattr(found, entry) != getattr(first, entry):
                raise ValueError(
                    f"{entry} is {getattr(first, entry)!r} in {first.folder} but "
                    f"{getattr(found, entry)!r} in {folder}: import them as two suites"
                )
        there[found.layer] = found
    with _new_folder(out) as half:
        for layer in sorted(there):
            torch.save(_folded(there[layer]), half / f"layer{layer}.sae.pt")
        config = {
            "model_type": "topk_sae",
            "base_model": first.base_model,
            "d_model": first.d_model,
            "d_sae": first.d_sae,
            "k": first.k,
            "hook_point": "resid_post",
        }
        write_json(half / "config.json", {n: v for n, v in config.items() if v is not None})
    return Path(out).absolute()


def export_saelens(suite, layer: int, out) -> Path:
    """Write the SAE of one layer as cfg.json and sae_weights.safetensors; returns `out`, absolute.

    `sae_lens.SAE.load_from_disk(out)` of SAELens 6 reads them: W_enc (d_model, d_sae), W_dec
    (d_sae, d_model), b_enc, b_dec, float32, no b_dec subtracted from x, hook_name
    blocks.<layer>.hook_resid_post. suite: folder, or Hub repo, of layer files.

    ValueError for a layer that the suite lacks, a suite that is not read in the official way, NaN
    or inf, and an `out` that is not empty; for what a suite lacks otherwise as `load_scope`.
    """
    from safetensors.torch import save_file

    source = open_source(suite)
    found = read_suite(source, Origin(name=None, model="", sae=suite, group=None))
    if layer not in found.files:
        raise ValueError(
            f"{source.name} has no SAE of layer {layer}; it has layers {spans([*found.files])}"
        )
    path = fetch(source, found.files[layer])
    sae = load_sae(path, found.k, found.convention, layer, expect_d_model=found.d_model)
    if CONVENTIONS[sae.convention].subtract_b_dec or sae.input_scale != 1:
        raise ValueError(f"{path} is read as {sae.convention!r}; only 'official' is written here")
    tensors = {"W_enc": sae.W_enc.T, "W_dec": sae.W_dec.T, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    _refuse_nan(tensors, path)
    metadata = {
        "sae_lens_version": SAELENS_FORMAT,
        "sae_lens_training_version": None,  # it was not trained there
        "model_name": found.trained_on,
        "hook_name": f"blocks.{layer}.hook_resid_post",
        "hf_hook_name": f"model.layers.{layer}",
    }
    config = {
        "architecture": "topk",
        "d_in": sae.d_model,
        "d_sae": sae.d_sae,
        "k": sae.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "rescale_acts_by_decoder_norm": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    with _new_folder(out) as half:
        save_file({name: _stored(t) for name, t in tensors.items()}, half / SAELENS_FILE)
        write_json(half / "cfg.json", config)
    return Path(out).absolute()


def _folders(source: Path) -> list[Path]:
    """`source` if it is the folder of one SAE, else those in it that are. FileNotFoundError."""

    def is_sae(folder):
        return any((folder / file).is_file() for file in ("cfg.json", SAELENS_FILE, SPARSIFY_FILE))

    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source}")
    inside = sorted(path for path in source.iterdir() if path.is_dir() and path.name[0] != ".")
    found = [source] if is_sae(source) else list(filter(is_sae, inside))
    if not found:
        raise FileNotFoundError(
            f"{source} has no SAE of SAELens or sparsify, nor a folder with one: cfg.json beside "
            f"{SAELENS_FILE} or {SPARSIFY_FILE} is meant"
        )
    return found


def _config(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}; it says k and layer: copy it too"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object; save or download it again")
    return content


def _refuse(where: Path, entry: str, value, meant: str):
    raise ValueError(f"{where} says {entry} is {value!r}; {meant}")


def _saelens(folder: Path) -> _Found:
    where = folder / "cfg.json"
    config = _config(where)
    said = config | (config["metadata"] if isinstance(config.get("metadata"), dict) else {})
    # Defaults are SAELens's own, of before version 6 as well.
    switches = {"apply_b_dec_to_input": True, "rescale_acts_by_decoder_norm": False}
    switches = {name: config.get(name, default) for name, default in switches.items()}
    for name, value in switches.items():
        if not isinstance(value, bool):
            _refuse(where, name, value, "true or false is meant")
    refuse_other_sae(said | {"rescale_acts_by_decoder_norm": False}, where)
    # SAELens before version 6 said it as the activation of a "standard" SAE.
    kinds = ("architecture", "activation_fn", "activation_fn_str")
    if "topk" not in [said.get(name) for name in kinds]:
        _refuse(where, "architecture", said.get("architecture"), "only TopK SAEs are read here")
    for name in ("hook_name_out", "hf_hook_name_out", "hook_head_index", "d_out"):
        if said.get(name) is not None:
            _refuse(
                where, name, said[name], "only SAEs that read and write one place are read here"
            )
    if (layer := hook_layer(config)) is None:
        _refuse(where, "hook_name", said.get("hook_name"), "a layer is meant: blocks.<layer>.…")
    options = config.get("activation_fn_kwargs") or {}
    for name, value in options.items():
        if name != "k" and value:
            _refuse(where, f"activation_fn_kwargs.{name}", value, "only TopK SAEs are read here")
    k = config.get("k", options.get("k"))
    if options.get("k", k) != k:
        _refuse(where, "k", k, f"in activation_fn_kwargs it is {options['k']!r}: correct one")
    tensors = read_sae(folder / SAELENS_FILE, "openinterpretability").tensors
    sizes = _sizes(where, config, k, tensors)
    return _Found(folder, layer, *sizes, said.get("model_name"), tensors, *switches.values())


def _sparsify(folder: Path) -> _Found:
    where = folder / "cfg.json"
    config = _config(where)
    refuse_other_sae({"hook_name": folder.name}, f"the name of {folder}")
    if (layer := hook_layer({"hook_name": folder.name})) is None:
        raise ValueError(f"the name of {folder} says no layer; layers.<layer> is meant")
    if config.get("activation", "topk") != "topk":
        _refuse(where, "activation", config["activation"], "only TopK SAEs are read here")
    for name, value in config.items():
        if name not in _SPARSIFY_NEUTRAL and value not in (None, False, 0, "", "none"):
            _refuse(where, name, value, "only plain TopK SAEs of the residual stream are read here")
    path = folder / SPARSIFY_FILE
    content = _load(path)
    if isinstance(content.get("W_dec"), Tensor) and content["W_dec"].ndim == 2:
        content["W_dec"] = content["W_dec"].T
    if problem := _fits(content, _SPARSIFY):
        raise ValueError(f"{path} {problem} of a TopK SAE of sparsify; download it again")
    _refuse_more(content, content, _SPARSIFY, path)
    names = CONVENTIONS["official"].keys
    tensors = dict(zip(names, (content[key] for key in _SPARSIFY.keys), strict=True))
    sizes = _sizes(where, config, config.get("k"), tensors)
    run = folder.parent / "config.json"  # of the whole training
    model = _config(run).get("model") if run.is_file() else None
    return _Found(folder, layer, *sizes, model, tensors, centred=True, rescaled=False)


def _sizes(where: Path, config: dict, k, tensors: dict[str, Tensor]) -> tuple[int, int, int]:
    """(k, d_model, d_sae), refused where the config says something else than the tensors."""
    d_sae, d_model = tensors["W_enc"].shape
    for name, size in {"d_in": d_model, "d_sae": d_sae, "num_latents": d_sae}.items():
        if config.get(name) and config[name] != size:
            _refuse(where, name, config[name], f"the weights beside it have {size}")
    if type(k) is not int or not 1 <= k <= d_sae:
        _refuse(where, "k", k, f"a whole number from 1 to {d_sae} is meant")
    return k, d_model, d_sae


def _folded(found: _Found) -> dict[str, Tensor]:
    """The tensors of the same SAE in the official reading, float32; see `import_suite`."""
    _refuse_nan(found.tensors, found.folder)
    w_enc, w_dec, b_enc, b_dec = (found.tensors[key] for key in CONVENTIONS["official"].keys)
    if found.centred:
        b_enc = b_enc.double() - w_enc.double() @ b_dec.double()
    if found.rescaled:
        norms = w_dec.double().norm(dim=0)
        if not norms.all():
            raise ValueError(
                f"feature {int(norms.argmin())} in {found.folder} has a decoder of zeros, and "
                "rescale_acts_by_decoder_norm divides by its norm: remove the feature"
            )
        w_enc, b_enc, w_dec = w_enc * norms[:, None], b_enc * norms, w_dec / norms
    tensors = {"W_enc": w_enc, "W_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec}
    tensors = {name: _stored(tensor) for name, tensor in tensors.items()}
    _refuse_nan(tensors, found.folder)  # float32 holds less than float64
    return tensors


def _stored(tensor: Tensor) -> Tensor:
    """float32 in memory of its own, or a file would hold all that a view is a part of."""
    return tensor.float().clone(memory_format=torch.contiguous_format)


def _refuse_nan(tensors: dict[str, Tensor], where: Path) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} in {where} holds NaN or inf; download or train it again")


@contextmanager
def _new_folder(out) -> Iterator[Path]:
    """A hidden folder whose files move to `out` once all are there. ValueError if `out` has any."""
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty: give another out, or empty it")
    half = out.with_name(f".{out.name}.{os.getpid()}")
    half.mkdir(parents=True)
    try:
        yield half
        out.mkdir(exist_ok=True)
        for file in sorted(half.iterdir()):
            file.replace(out / file.name)
    finally:
        shutil.rmtree(half)
