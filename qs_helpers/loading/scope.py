"""A scope: a language model, its tokenizer, and an SAE for each of its layers."""

import json
import re
from collections import OrderedDict
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch

from ..fast.columns import read_ahead
from ..fast.screening import screen_bytes
from ..forward import checked
from ..sae import TopKSAE
from . import catalog, hub
from .hub import environment, fingerprint, last_name, portable
from .memory import CHUNK_TOKENS, free_bytes, memory_plan
from .origin import BATCH_TOKENS, CACHE_BYTES, find_origin, layer_files
from .saefile import read_sae


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
    chunk = 4 * CHUNK_TOKENS * suite.d_sae
    free = free_bytes(device)
    if free is None or model + sae + chunk <= free:
        return
    plans = {name: memory_plan(name, (), dtype) for name in catalog.GROUPS}
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


class Scope:
    """Model, tokenizer and SAEs that belong together; made by `load_scope`.

    name        preset, or "model + sae"
    model       causal language model, eval mode, no gradients
    tokenizer   pads on the left
    layers      layer numbers that have an SAE file (offline: that are cached)
    n_layers    depth of the model;  d_model, d_sae, k: widths and active features per token
    device, dtype   of the model; SAEs are float32 on the same device
    batch_tokens    of one forward pass over texts, padding included
    cache_bytes     memory that SAEs read before may occupy
    is_tiny     True for the embedded scopes
    """

    def __init__(self, name, model, tokenizer, suite, model_source, sae_source, cache_bytes,
                 batch_tokens=BATCH_TOKENS):  # fmt: skip
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.layers, self.d_model, self.d_sae = tuple(suite.files), suite.d_model, suite.d_sae
        config = model.config.get_text_config()
        self.k, self.n_layers = suite.k, config.num_hidden_layers
        self._max_tokens = config.max_position_embeddings
        self.device, self.dtype = model.device, model.dtype
        self.batch_tokens = batch_tokens
        self.is_tiny = name in catalog.TINY
        self._suite, self._model_source, self._sae_source = suite, model_source, sae_source
        self._cache, self.cache_bytes = OrderedDict(), cache_bytes
        self._layer_bytes = 4 * (2 * self.d_model * self.d_sae + self.d_model + self.d_sae)
        self._layer_bytes += screen_bytes(self.d_sae, self.d_model, self.device)
        self._ahead = None  # the thread that reads an SAE's file
        self._used, self._fingerprints = {}, {}  # layer -> file that was read; file -> sha256

    @property
    def truth(self) -> Path | None:
        """The file of what was planted in an embedded model; None for every other."""
        return catalog.TINY[self.name].parent / "truth.safetensors" if self.is_tiny else None

    def __repr__(self):
        layers = catalog.spans(self.layers)
        return f"Scope({self.name}: d_model {self.d_model}, d_sae {self.d_sae}, layers {layers})"

    @property
    def kept_bytes(self) -> int:
        """Memory of the SAEs that are kept now, at most, in bytes."""
        return len(self._cache) * self._layer_bytes

    def sae(self, layer: int):
        """The TopKSAE of decoder layer `layer`, read on first use and kept while memory allows.

        When the cache is full, the SAE used longest ago is given up first.
        """
        whole = hasattr(layer, "__index__") and not isinstance(layer, bool)  # NumPy's integers too
        if not whole or not 0 <= layer < self.n_layers:
            raise ValueError(f"layer is {layer!r}; valid layers are 0 to {self.n_layers - 1}")
        layer = int(layer)
        if layer in self._cache:
            self._cache.move_to_end(layer)
            return self._cache[layer]
        path = self._sae_file(layer)
        while self._cache and self.kept_bytes + self._layer_bytes > self.cache_bytes:
            self._cache.popitem(last=False)  # before the next one is read: the peak stays bounded
        sae = load_sae(
            path, k=self.k, convention=self._suite.convention, layer=layer,
            expect_d_model=self.d_model, device=self.device, dtype=torch.float32,
        )  # fmt: skip
        if sae.d_sae != self.d_sae:
            raise ValueError(
                f"{path} has {sae.d_sae} features, but {self._sae_source.name} says {self.d_sae}; "
                "download it again, or correct config.json"
            )
        self._cache[layer], self._used[layer] = sae, path
        return sae

    def read_ahead(self, layer: int) -> None:
        """Begin to read the encoder of `layer` from its file in the background, unless the SAE is
        kept, its file is not here yet, or another is being read."""
        folder, file = self._sae_source.folder, self._suite.files.get(layer)
        busy = self._ahead is not None and self._ahead.is_alive()
        if layer in self._cache or busy or not (folder and file):
            return
        with suppress(OSError, ValueError):  # who uses the file is told what is wrong with it
            self._ahead = read_ahead(read_sae(folder / file).tensors["W_enc"])

    def chat(self, messages, add_generation_prompt: bool = True) -> str:
        """The prompt that the model's chat template makes of a text or a list of messages.

        Thinking is off (`enable_thinking=False`), so that prompts of one experiment are alike.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{self._model_source.name} has no chat template; pass plain text")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.tokenizer.apply_chat_template(
            messages,
            tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=False,
        )  # fmt: skip

    def ids(self, texts, first: int = 0) -> list[list[int]]:
        """Token ids of each text, without padding.

        Nothing is added (Qwen has no BOS token) and nothing is cut off: a text that is empty,
        longer than the model's context, or not valid Unicode is refused by its number, counted
        from `first`.
        """
        texts = checked(texts, first)
        ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        longest = max(range(len(ids)), key=lambda i: len(ids[i]))
        if len(ids[longest]) > self._max_tokens:
            raise ValueError(
                f"text {first + longest} has {len(ids[longest])} tokens; split it: the model reads "
                f"at most {self._max_tokens}"
            )
        return ids

    def tokens(self, texts):
        """Texts as one left-padded batch on the device: input_ids, attention_mask [batch, seq].

        `texts` are strings, refused as in `ids`, or lists of token ids.
        """
        if isinstance(texts, str) or not all(isinstance(text, list) for text in texts) or not texts:
            texts = self.ids(texts)
        return self.tokenizer.pad({"input_ids": texts}, return_tensors="pt").to(self.device)

    def suite_note(self) -> str:
        """A warning if the SAEs were trained on another model than this one, else ""."""
        trained, here = self._suite.trained_on, last_name(self._model_source.name)
        if trained is None or last_name(trained) == here:
            return ""
        return f"the SAEs were trained on {last_name(trained)}, not on {here}: check their FVU here"

    def fingerprint(self, layers) -> dict:
        """What decides the activations of some layers: sha256 of the weights, dtype, k."""
        files = hub.weight_files(self._model_source)
        paths = [hub.fetch(self._model_source, file) for file in files]
        paths += [self._sae_file(layer) for layer in layers]
        hashes = [self._hash(path)["sha256"] for path in paths]
        reading = {"k": self.k, "convention": self._suite.convention}
        return {"files": hashes, "dtype": str(self.dtype)} | reading

    def _sae_file(self, layer: int) -> Path:
        """The file of a layer that was checked, fetched where it is not here yet."""
        file = self._suite.files.get(layer)
        if file is None and self._sae_source.offline is None:
            raise FileNotFoundError(
                f"{self._sae_source.name} has no SAE file for layer {layer}; "
                f"it has layers {catalog.spans(self.layers)}"
            )
        return hub.fetch(self._sae_source, file or f"the SAE of layer {layer}")

    def _hash(self, path: Path) -> dict[str, str]:
        if path not in self._fingerprints:
            self._fingerprints[path] = fingerprint(path)
        return self._fingerprints[path]

    def provenance(self) -> dict:
        """Where everything came from, as plain JSON: repos, commits, sha256, versions, device.

        SAE files are listed once they were used. Each sha256 says whether it was computed from
        the file or is the Hub's record of it (large files are not read again).
        """
        weights = [
            hub.fetch(self._model_source, file) for file in hub.weight_files(self._model_source)
        ]
        parts = {}
        for part, source, paths in (
            ("model", self._model_source, weights),
            ("sae", self._sae_source, sorted(self._used.values())),
        ):
            parts[part] = {
                "source": portable(source.name),
                "revision": source.revision,
                "commit": source.commit,
                "files": {path.name: self._hash(path) for path in paths},
            }
        widths = {"name": self.name, "d_model": self.d_model, "d_sae": self.d_sae, "k": self.k}
        return parts | widths | environment(self.device, self.dtype)


def load_scope(
    preset: str | None = None,
    *,
    model: str | Path | None = None,
    sae: str | Path | None = None,
    model_revision: str | None = None,
    sae_revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    k: int | None = None,
    batch_tokens: int | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Scope:
    """Load a model with its SAE suite.

    preset        "tiny", "tiny-instruct", "tiny-sft", a group of the catalog, or a file of
                  notebooks/params; what its section `scope:` says counts unless it is given here
    model, sae    a local folder or a Hub repo; either may replace its half of a preset
    *_revision    branch, tag or commit of a Hub repo; a preset brings its own
    device        default: "cuda" if there is one, else "cpu"
    dtype         of the model; default: "bfloat16" on a GPU, "float32" on a CPU
    k             active features per token, where the suite does not say it itself
    batch_tokens  tokens of one forward pass over texts, default 4096; half of it needs half the
                  memory for activations and logits
    cache_bytes   memory that SAEs read before may occupy

    What does not fit is refused before any weight is downloaded: an unknown name, an SAE suite
    of another model (ValueError), a model larger than the free memory (MemoryError).
    """
    origin = find_origin(
        preset, model=model, sae=sae, model_revision=model_revision, sae_revision=sae_revision,
        device=device, dtype=dtype, k=k, batch_tokens=batch_tokens,
    )  # fmt: skip
    device = torch.device(origin.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = origin.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    if dtype not in catalog.DTYPE_BYTES:
        known = ", ".join(catalog.DTYPE_BYTES)
        raise ValueError(f"dtype is {dtype!r}; it must be one of {known}")

    sae_source = hub.open_source(origin.sae, origin.sae_revision)
    model_source = hub.open_source(origin.model, origin.model_revision)
    suite = read_suite(sae_source, origin.group, origin.k)
    refuse_mismatch(suite, sae_source, model_source)
    refuse_too_large(suite, model_source, device, dtype)
    network, tokenizer = load_model(model_source, device, dtype)
    name = origin.name or f"{portable(model_source.name)} + {portable(sae_source.name)}"
    return Scope(name, network, tokenizer, suite, model_source, sae_source, cache_bytes,
                 origin.batch_tokens)  # fmt: skip
