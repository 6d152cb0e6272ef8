"""Steering for other runtimes: the vectors that edits add, in the files that they read."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save
from torch import Tensor

from .evidence.files import write_whole
from .hooks import _checked, decoder_layers, text_config
from .steering import Edit

FORMAT = "1"  # of the .safetensors file; another number where a reader must change
LAYERS = "layer.N is added to the output of decoder block N, counted from 0"
NOT_CARRIED = (
    "A runtime adds the vectors at every position, the prompt and attention sinks included; "
    "qs_helpers spares sinks, and can choose positions."
)


def export_steering(path: str | Path, steer: Mapping[int, Edit], scope) -> Path:
    """Write what `steer` adds to a file that another runtime reads, whole or not at all: its path.

    steer   {layer: edit} as `edit` and `generate` take it, so that what is exported is what was
            tested. Each edit adds one vector: it is made by `add`, or by `change_features` with
            "add", with the same strength for all rows
    scope   whose model was steered
    path    what its suffix says:
        .gguf         a control vector of llama.cpp (needs gguf): `--control-vector FILE`. Tensors
                      direction.N, float32 [d_model], for the output of block N, our layer N;
                      layer 0 has no place in it
        .safetensors  tensors layer.N, float32 [d_model], of any layer; the metadata, strings, have
                      the model, the sha256 of its weights, each norm, and its strength in
                      median norms
    Strengths are in the vectors, so the scale in the runtime is 1.

    The runtime does less than the hook. It adds at every position, prefill included: there is no
    "prompt" or "generated", no gate, no clamp. And it adds at attention sinks, often the first
    token, which our edits spare; what a sink takes up there can change all that attends to it.

    ValueError names the layer of an edit that is no fixed vector, that the model or the format
    lacks, of another width or not finite; an empty `steer`; another suffix. ImportError without
    gguf. An existing file is replaced.
    """
    path, write = Path(path), _FORMATS.get(Path(path).suffix)
    if write is None:
        raise ValueError(
            f"{path.name} ends in {path.suffix!r}; choose {' or '.join(_FORMATS)}: a control "
            "vector of llama.cpp, or tensors for other tools"
        )
    write_whole(path, write(path, _edits(steer, scope), scope))
    return path


def _edits(steer, scope) -> dict[int, Edit]:
    """The edits by layer, each known to be one finite vector of the model's width."""
    if not isinstance(steer, Mapping) or not steer:
        what = "empty" if isinstance(steer, Mapping) else f"a {type(steer).__name__}"
        raise ValueError(f"steer is {what}; give {{layer: qs.add(...)}}, the same for all prompts")
    if "writes" in steer:
        raise ValueError(
            "the edit at 'writes' changes all that is written to the stream; a runtime adds to "
            "the output of a layer: export qs.add(...) at layers"
        )
    width = text_config(scope.model).hidden_size
    _checked(steer, decoder_layers(scope.model))
    for layer, edit in steer.items():
        vector = _vector(layer, edit)
        if vector.shape != (width,):
            raise ValueError(
                f"the vector for layer {layer} is {tuple(vector.shape)}, but the model has "
                f"[{width}]; make the edit for this model"
            )
        if not vector.isfinite().all():
            raise ValueError(f"the vector for layer {layer} holds NaN or inf; lower its strength")
    return {int(layer): steer[layer] for layer in sorted(steer)}


def _vector(layer: int, edit: Edit) -> Tensor:
    vector = getattr(edit, "adds", None)
    if vector is not None:
        return vector
    name = getattr(edit, "__qualname__", type(edit).__name__).split(".")[0]
    does = getattr(edit, "does", name)
    what = "differs from row to row" if does == "add" else f"changes by what it reads ({does})"
    raise ValueError(
        f"the edit at layer {layer} {what}; a runtime can only add one fixed vector at every "
        "position: export qs.add(...) of the feature's direction, of one strength"
    )


def _gguf(path: Path, edits: dict[int, Edit], scope) -> bytes:
    if 0 in edits:
        raise ValueError(
            f"layer 0 has no place in {path.name}: llama.cpp adds from the output of block 1 on; "
            "steer at layer 1 or above, or write .safetensors"
        )
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(
            f"to write {path.name}, gguf must be there: pip install gguf; 'qs-helpers[runtimes]' "
            "has it, and builds llama.cpp to test with"
        )
    from gguf import GGUFWriter

    kind = "controlvector"
    with TemporaryDirectory() as folder:
        writer = GGUFWriter(whole := Path(folder) / "whole.gguf", kind)
        writer.add_description(NOT_CARRIED)
        # As repeng writes them; llama.cpp reads the tensors only.
        writer.add_string(f"{kind}.model_hint", scope.model.config.model_type)
        writer.add_uint32(f"{kind}.layer_count", len(edits))
        for layer, edit in edits.items():
            writer.add_tensor(f"direction.{layer}", edit.adds.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return whole.read_bytes()


def _safetensors(path: Path, edits: dict[int, Edit], scope) -> bytes:
    said = {"format_version": FORMAT, "layers": LAYERS, "not_carried": NOT_CARRIED}
    said |= {"model": getattr(scope, "name", ""), "model_type": scope.model.config.model_type}
    if hasattr(scope, "fingerprint"):
        said["sha256"] = " ".join(scope.fingerprint()["files"])
    for layer, edit in edits.items():
        norm = torch.linalg.vector_norm(edit.adds).item()
        said[f"norm.{layer}"] = f"{norm:.6g}"
        if hasattr(edit, "scale"):
            said[f"strength.{layer}"] = f"{norm / edit.scale.median:.6g}"  # in median norms
    # Copies: one edit may be that of several layers, and a file holds no tensor twice.
    return save({f"layer.{layer}": edit.adds.clone() for layer, edit in edits.items()}, said)


_FORMATS = {".gguf": _gguf, ".safetensors": _safetensors}
