"""Files of a model or an SAE suite, from a folder or from a repo on the Hugging Face Hub, and what
they say about themselves before a weight is read.

Every error is one line that names the repo or file and the way out. The environment variables of
huggingface_hub (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE) are read once, when it is first imported:
set them before Python starts.
"""

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import huggingface_hub as hf  # quick: its parts are loaded when they are first used

from ..presets import REPO, place_of, without_home
from .catalog import (
    DTYPE_BYTES,
    Group,
    Origin,
    groups_for,
    layer_files,
    refuse_other_sae,
    refuse_pointer,
)


def fingerprint(path: Path) -> dict[str, str]:
    """{"sha256": 64 hex digits, "from": "hub" or "file"}.

    The Hub names the cached copy of a large file by its sha256, so that gigabytes need not be
    read again; "from" says which of the two it was.
    """
    blob = Path(path).resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return {"sha256": blob.name, "from": "hub"}
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "from": "file"}


def portable(name: str) -> str:
    """A source's name without the place of this package on this machine, and without homes."""
    root, path = Path(__file__).parents[2], Path(name)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else without_home(name)


def last_name(name: str) -> str:
    """What a model is called: the last part of a repo's or a folder's name."""
    parts = Path(name).parts
    return parts[-2] if parts[-1] == "model" and len(parts) > 1 else parts[-1]


# Config and tokenizer at the top of the repo; the weights are the files that the index names.
MODEL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_TIMEOUT = 10  # seconds for the Hub to answer before the cache is asked
_RESTART = "(HF_HUB_OFFLINE, HF_ENDPOINT and HF_HOME take effect only if set before Python starts)"


class Source(NamedTuple):
    """A local folder (`commit` None), or a Hub repo at one commit."""

    name: str  # folder path or "owner/repo"
    commit: str | None  # 40 hex digits for a Hub repo
    revision: str | None  # what was asked for: branch, tag or commit
    folder: Path | None  # the local folder; for a Hub repo its cached snapshot, if there is one
    files: dict[str, int]  # file name -> bytes; offline: only what is cached
    offline: str | None  # why the Hub could not be asked, or None


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


def split_revision(name: str | Path, revision: str | None = None) -> tuple[str, str | None]:
    """owner/name@revision in two parts; a revision that is given comes before that of the name."""
    repo, _, said = str(name).partition("@")
    return repo, revision or said or None


def open_source(name: str | Path, revision: str | None = None, timeout: float = _TIMEOUT) -> Source:
    """List the files of a local folder, or of a Hub repo at `revision` (branch, tag or commit),
    which may also be part of the name: owner/name@revision.

    Without a network, or an answer within `timeout` seconds, the cached part of the repo is listed
    instead. Raises FileNotFoundError for a folder, repo or revision that does not exist,
    PermissionError for a gated repo, ConnectionError when the Hub cannot be reached and nothing
    is cached, and ValueError for a name that may mean a folder as well as a repo.
    """
    place = place_of(name)
    folder = Path(place)
    if folder.is_absolute() and folder.is_dir():
        if revision is not None:
            raise ValueError(f"{name} is a local folder, so revision {revision!r} has no meaning")
        return Source(str(folder), None, None, folder, _sizes(folder), None)
    if not REPO.fullmatch(str(place)):
        raise FileNotFoundError(
            f"{name} is neither a folder here nor a Hub repo; give an existing folder or owner/name"
        )
    repo, revision = split_revision(name, revision)
    revision = revision or "main"
    how = {"revision": revision, "timeout": timeout, "files_metadata": True}
    info, reason = _ask(hf.HfApi().model_info, repo, how)
    if reason:
        return _cached_repo(repo, revision, reason)
    if revision != info.sha:
        # Files are then fetched by commit, which leaves no trace of the branch's name in the
        # cache; without one, the branch could not be opened offline.
        home = Path(hf.constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
        with suppress(OSError):  # a cache that others own
            (home / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
            (home / "refs" / revision).write_text(info.sha, encoding="utf-8")
    files = {file.rfilename: file.size or 0 for file in info.siblings}
    return Source(repo, info.sha, revision, _snapshot(repo, info.sha), files, None)


def cached_source(name: str | Path, revision: str | None = None) -> Source | None:
    """`open_source` of what is on this disk, without asking the Hub; None where nothing is."""
    place = place_of(name)
    if Path(place).is_absolute():
        return open_source(place) if Path(place).is_dir() else None
    repo, revision = split_revision(name, revision)
    try:
        return _cached_repo(repo, revision or "main", "the Hub was not asked")
    except ConnectionError:
        return None


def ask_dataset(name: str, revision: str | None, timeout: float) -> str | None:
    """None if the Hub has a dataset, or the reason why the Hub could not be asked.

    FileNotFoundError and PermissionError as in `open_source`.
    """
    return _ask(hf.HfApi().dataset_info, name, {"revision": revision, "timeout": timeout})[1]


def _ask(call, name: str, how: dict):
    """(the Hub's answer to call(name, **how), None), or (None, why it could not be asked)."""
    import httpx

    try:
        return call(name, **how), None
    except (httpx.TransportError, hf.errors.OfflineModeIsEnabled) as error:
        if hf.constants.HF_HUB_OFFLINE:
            return None, "HF_HUB_OFFLINE is set"
        return None, f"{hf.constants.ENDPOINT} cannot be reached ({type(error).__name__})"
    except hf.errors.HfHubHTTPError as error:
        if error.response.status_code >= 500:
            return None, f"the Hub answers {error.response.status_code}"
        raise _refusal(error, name, how["revision"] or "main") from None


def _cached_repo(repo: str, revision: str, reason: str) -> Source:
    try:
        kept = hf.HfApi().resolve_revision(repo, revision=revision, local_files_only=True)
        commit = kept.resolved
    except hf.errors.RevisionResolutionError:
        commit = revision
    folder = _snapshot(repo, commit)
    if folder is None:
        raise ConnectionError(
            f"{repo} at {revision} is not in the cache {hf.constants.HF_HUB_CACHE}, and {reason}; "
            f"connect once to download it, or give a local folder {_RESTART}"
        )
    return Source(repo, commit, revision, folder, _sizes(folder), reason)


def _snapshot(repo: str, commit: str) -> Path | None:
    try:
        return Path(hf.snapshot_download(repo, revision=commit, local_files_only=True))
    except hf.errors.IncompleteSnapshotError as partial:
        return Path(partial.snapshot_path)
    except hf.errors.LocalEntryNotFoundError:
        return None


def _refusal(error: Exception, repo: str, revision: str) -> Exception:
    """The Hub's answer in one line, as the builtin exception that fits."""
    if isinstance(error, hf.errors.GatedRepoError):
        way = "ask for access on its page, then run `hf auth login` or set HF_TOKEN"
        return PermissionError(f"{repo} is gated: {way}")
    if isinstance(error, hf.errors.RepositoryNotFoundError):
        way = "check its name, or run `hf auth login`"
        return FileNotFoundError(f"the Hub has no repo {repo}, or it is private; {way}")
    if isinstance(error, hf.errors.RevisionNotFoundError):
        way = "give a branch, a tag or a full commit, or none"
        return FileNotFoundError(f"{repo} has no revision {revision!r}; {way}")
    return ConnectionError(f"the Hub refuses {repo} at {revision}: {str(error).splitlines()[0]}")


def fetch(source: Source, file: str) -> Path:
    """The local path of `file`, downloaded first if it is not there.

    A connection that breaks is taken up again where it broke. A half-written file never appears
    under its own name. FileNotFoundError if the source lacks the file, ConnectionError if it
    cannot be had now, ValueError for a Git LFS pointer in its place.
    """
    if source.folder is not None and (source.folder / file).is_file():
        refuse_pointer(source.folder / file)
        return source.folder / file
    if source.offline:
        raise ConnectionError(
            f"{file} of {source.name} is not cached, and {source.offline}; connect once to "
            f"download it, or stay with what is cached: {list_some(source.files)} {_RESTART}"
        )
    if file not in source.files or source.commit is None:
        raise FileNotFoundError(f"{source.name} has no {file}; it has {list_some(source.files)}")
    import httpx

    try:
        return Path(hf.hf_hub_download(source.name, file, revision=source.commit))
    except hf.errors.HfHubHTTPError as error:
        raise _refusal(error, source.name, source.commit) from None
    except (httpx.HTTPError, hf.errors.LocalEntryNotFoundError, OSError) as error:
        reason = (str(error) or "broken off").splitlines()[0]
        raise ConnectionError(
            f"the download of {file} from {source.name} failed ({type(error).__name__}: {reason}); "
            "nothing half-written was kept: run it again"
        ) from error


def list_some(files: Iterable[str], limit: int = 6) -> str:
    """The first names, numbers in them in their order, and how many more there are."""
    names = sorted(files, key=lambda name: [part.zfill(9) for part in re.split(r"(\d+)", name)])
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "no files") + rest


def fetch_tokenizer(source: Source) -> Path:
    """Fetch config and tokenizer of a model; return their folder. FileNotFoundError without a
    config.json."""
    config = fetch(source, "config.json")
    for glob in MODEL_FILES:
        for file in fnmatch.filter(source.files, glob):
            if "/" not in file:
                fetch(source, file)
    return config.parent


def fetch_weights(source: Source) -> list[Path]:
    """Fetch the safetensors weights of a model. FileNotFoundError if one of them is missing."""
    return [fetch(source, file) for file in weight_files(source)]


def weight_files(source: Source) -> list[str]:
    """The safetensors files of a model, those that transformers loads: model.safetensors, else what
    the index names. ValueError where both are there, since one of them is left over."""
    single, index = "model.safetensors", "model.safetensors.index.json"
    if index not in source.files:
        return [single]
    named = read_json(source, index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ValueError(f"{index} of {source.name} has no weight_map; download it again")
    files = sorted(set(named.values()))
    if single not in source.files or files == [single]:
        return files
    if set(files) <= set(source.files):
        raise ValueError(
            f"{source.name} has two sets of weights, {single} and those of {index}: remove the one "
            "that is left over"
        )
    return [single]  # the index is left over from shards that are gone


class Suite(NamedTuple):
    """An SAE suite: its files, widths, and the number k of active features per token."""

    files: dict[int, str]  # layer -> file name
    d_model: int
    d_sae: int
    k: int
    n_layers: int | None  # depth of the backbone it was trained on, where the suite says it
    convention: str | None  # None: decided by the file's own layout
    trained_on: str | None = None  # the model's name, where the suite says it


def read_json(source: Source, file: str) -> dict:
    """A file that holds a JSON object; ValueError names one that does not."""
    path = fetch(source, file)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not valid JSON; download or write it again")
    return content


def read_suite(source: Source, origin: Origin) -> Suite:
    """Metadata of the suite at `source`: its config first, then its name, then tensor shapes.

    k and convention of `origin` win over what the suite says. Only where neither config, name nor
    the catalog gives the widths is a layer file opened for them. ValueError if k cannot be found or
    is out of range, if a number of the config is none, and for SAEs of another kind.
    """
    files, group = layer_files(source.files), origin.group
    if not files:
        way = f" ({source.offline}, so only the cache counts)" if source.offline else ""
        raise FileNotFoundError(
            f"{source.name} has no SAE layer files such as layer0.sae.pt{way}; "
            f"it has {list_some(source.files)}"
        )
    configs = [f for f in ("config.json", f"sae_L{min(files)}_cfg.json") if f in source.files]
    config = read_json(source, configs[0]) if configs else {}
    said_in = f"{configs[0] if configs else 'config.json'} of {source.name}"
    refuse_other_sae(config, said_in)
    for name in ("d_model", "d_in", "d_sae", "k", "num_layers"):
        value = config.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{said_in} says {name} is {value!r}; a whole number above 0 is meant")
    named = re.search(r"W(\d+)K-L0_(\d+)", Path(source.name).name)
    d_model = config.get("d_model") or config.get("d_in") or (group and group.d_model)
    d_sae = config.get("d_sae") or (named and int(named[1]) * 1024) or (group and group.d_sae)
    found_k = config.get("k") or (named and int(named[2])) or (group and group.k)
    if not (d_model and d_sae and (origin.k or found_k)):
        # Here, since torch comes with it: a report asks without, where it can.
        from .saefile import find_k, read_sae

        path = fetch(source, files[min(files)])
        file = read_sae(path, group and group.convention)
        d_sae, d_model = file.tensors["W_enc"].shape
        found_k = found_k or file.k or find_k(path)
    k = origin.k if origin.k is not None else found_k
    if k is None:
        raise ValueError(
            f"k of {source.name} is in neither its config.json nor its name, and tensor shapes "
            f"cannot tell it; pass k= (1 to {d_sae})"
        )
    if not isinstance(k, int) or not 1 <= k <= d_sae:
        raise ValueError(f"k is {k!r}; {source.name} has {d_sae} features, so k is 1 to {d_sae}")
    said = origin.convention or config.get("convention") or (group and group.convention)
    if not said and isinstance(config.get("apply_b_dec_to_input"), bool):
        said = "openinterpretability" if config["apply_b_dec_to_input"] else "transposed"
    official = re.search(r"SAE-Res-(.+)-W\d+K", Path(source.name).name)
    trained_on = official[1] if official else config.get("base_model")
    return Suite(files, d_model, d_sae, k, config.get("num_layers"), said, trained_on)


def model_group(model: Source) -> Group:
    """Sizes of a model as a group without SAEs, from its config and the bytes of its weights.

    ValueError for what is no language model, and for an adapter, even beside whole weights: whether
    it counts would depend on what is installed.
    """
    if "adapter_config.json" in model.files:
        raise ValueError(
            f"{model.name} holds an adapter (adapter_config.json): merge it into its model and "
            "give that, or remove the adapter's files"
        )
    config = read_json(model, "config.json")
    if file := config.get("transformers_weights"):
        raise ValueError(f"{model.name} takes its weights from {file!r}: save it as safetensors")
    text = config.get("text_config", config)
    width, depth = text.get("hidden_size"), text.get("num_hidden_layers")
    if not (isinstance(width, int) and isinstance(depth, int)):
        raise ValueError(
            f"{model.name} has no hidden_size and num_hidden_layers in its config.json; "
            "give a causal language model"
        )
    stored = config.get("dtype") or text.get("dtype") or config.get("torch_dtype")
    weights = sum(model.files.get(file, 0) for file in weight_files(model))
    sizes = {"n_layers": depth, "d_model": width, "d_sae": 0, "k": 0, "some_layers": ()}
    sizes |= {"n_params": weights / DTYPE_BYTES.get(stored, 2)}
    sizes |= {"vocabulary": text.get("vocab_size", Group.vocabulary)}
    return Group(name=model.name, sae_repo="", model_repo=model.name, **sizes)


def read_group(origin: Origin, model: Source, sae: Source, suite: Suite) -> Group:
    """Sizes of a model and a suite: the catalog's group, or one made of what their files say.

    ValueError, with both shapes and the suites that fit, unless width and depth agree.
    """
    group = model_group(model)
    width, depth = group.d_model, group.n_layers
    fits = ", ".join(groups_for(width)) or "none"
    if suite.d_model != width:
        raise ValueError(
            f"{sae.name} (W_enc {suite.d_sae} x {suite.d_model}) cannot read "
            f"{model.name}, whose residual is {width} wide; groups for {width}: {fits}"
        )
    trained_on = suite.n_layers or depth
    if trained_on != depth or max(suite.files) >= depth:
        raise ValueError(
            f"{sae.name} was trained on {max(trained_on, max(suite.files) + 1)} layers, but "
            f"{model.name} has {depth}; groups for width {width}: {fits}"
        )
    if origin.group is not None and model.name == origin.group.model_repo:
        if {*suite.files} <= {*origin.group.layers}:
            return origin.group
        return replace(origin.group, some_layers=tuple(suite.files))  # it has grown since
    sizes = {"d_sae": suite.d_sae, "k": suite.k, "some_layers": tuple(suite.files)}
    return replace(group, name=sae.name, sae_repo=sae.name, **sizes)
