"""A scope: a language model, its tokenizer, and an SAE for each of its layers."""

from collections import OrderedDict
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from ..fast.columns import read_ahead
from ..forward import checked
from ..hooks import capture, hooks_left
from ..presets import versions
from ..sae import TopKSAE
from ..scoring import check_reading
from . import catalog, hub
from .memory import CACHE_BYTES, MemoryPlan, memory_plan, refuse_too_large
from .saefile import load_sae, read_sae

# A reading is measured on these, unless the model speaks of a world of its own.
SENTENCES = (
    "The ferry leaves at seven, so we walked to the harbour before the sun was up.",
    "Why do some metals rust in a few days while gold keeps its colour for centuries?",
    "En hiver, la boulangère allume le four bien avant que le village se réveille.",
    "Niemand wusste genau, wie viele Briefe der alte Kasten im Flur noch enthielt.",
    "El tren se detuvo en mitad del puente y todos miramos el río en silencio.",
    "Дождь кончился, и дети снова выбежали во двор играть в мяч.",
    "図書館の窓から、川沿いに咲く桜がよく見えた。",
    "他花了三年时间修好那座老桥，现在村里的人每天都从上面走过。",
)
SENTENCE_TOKENS = 64  # of each at most


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
    wanted = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **safe)
            model, info = AutoModelForCausalLM.from_pretrained(folder, **wanted, **safe)
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


class Scope:
    """Model, tokenizer and SAEs that belong together; made by `load_scope`.

    name        preset, or "model + sae"
    model       causal language model, eval mode, no gradients
    tokenizer   pads on the left
    group       sizes of model and suite, for `memory_plan`
    layers      layer numbers that have an SAE file (offline: that are cached)
    n_layers    depth of the model;  d_model, d_sae, k: widths and active features per token
    device, dtype   of the model; SAEs are float32 on the same device
    batch_tokens    of one forward pass over texts, padding included
    cache_bytes     memory that SAEs read before may occupy
    is_tiny     True for the embedded scopes
    """

    def __init__(self, name, model, tokenizer, group, suite, sources, batch_tokens, cache_bytes):
        self.name, self.model, self.tokenizer, self.group = name, model, tokenizer, group
        self.layers, self.d_model, self.d_sae = tuple(suite.files), suite.d_model, suite.d_sae
        config = model.config.get_text_config()
        self.k, self.n_layers = suite.k, config.num_hidden_layers
        self._max_tokens = config.max_position_embeddings
        self.device, self.dtype = model.device, model.dtype
        self._dtype_name = str(model.dtype).removeprefix("torch.")
        self.batch_tokens, self.cache_bytes = batch_tokens, cache_bytes
        self.is_tiny = name in catalog.TINY
        self._suite, (self._model_source, self._sae_source) = suite, sources
        self._cache, self._layer_bytes = OrderedDict(), self.plan().sae_layer
        self._ahead = None  # the thread that reads an SAE's file
        self._used, self._hash = {}, cache(hub.fingerprint)  # layer -> file that was read
        self._unchecked = False  # whether the reading is still to be measured

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

    def plan(self, layers=None) -> MemoryPlan:
        """What a run that reads `layers` (None: all) needs of memory; see `memory_plan`."""
        layers = self.layers if layers is None else sorted(set(layers))
        limits = {"batch_tokens": self.batch_tokens, "cache_bytes": self.cache_bytes}
        return memory_plan(self.group, layers, self._dtype_name, device=self.device, **limits)

    def sae(self, layer: int) -> TopKSAE:
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
        path = self._local(layer) or self._sae_file(layer)
        while self._cache and self.kept_bytes + self._layer_bytes > self.cache_bytes:
            self._cache.popitem(last=False)  # before the next one is read: the peak stays bounded
        sae = self._open(layer, path)
        if self._unchecked and hooks_left(self.model) == 0:
            self._check(sae)
        self._cache[layer], self._used[layer] = sae, path
        return sae

    def _open(self, layer: int, path: Path) -> TopKSAE:
        sae = load_sae(path, self.k, self._suite.convention, layer, self.d_model, self.device)
        if sae.d_sae != self.d_sae:
            raise ValueError(
                f"{path} has {sae.d_sae} features, but {self._sae_source.name} says {self.d_sae}; "
                "download it again, or correct config.json"
            )
        return sae

    def check(self) -> None:
        """Measure the declared reading on a few texts, with the SAE in the middle of those whose
        files are here; if none is, with the first that is opened outside of `edit` and `capture`.

        ValueError if another reading explains much more: b_dec subtracted or not, an input scale
        or none, a neighbouring layer.
        """
        here = [layer for layer in self.layers if self._local(layer)]
        self._unchecked = True
        if here:
            layer = here[len(here) // 2]
            self._check(self._open(layer, self._local(layer)))

    def _check(self, sae: TopKSAE, texts=None) -> None:
        tiny = Path(self._sae_source.name).resolve().is_relative_to(catalog.TINY_SENTENCES.parent)
        if texts is None:
            texts = catalog.TINY_SENTENCES.read_text("utf-8").splitlines() if tiny else SENTENCES
        most = min(SENTENCE_TOKENS, self._max_tokens)
        ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        batch = self.tokens([text[:most] for text in ids])
        near = range(max(0, sae.layer - 1), min(self.n_layers, sae.layer + 2))
        with torch.no_grad(), capture(self.model, near) as residuals:
            self.model(**batch, use_cache=False)
        real = batch["attention_mask"].bool()
        check_reading(sae, {layer: x[real] for layer, x in residuals.items()})
        self._unchecked = False

    def _local(self, layer: int) -> Path | None:
        """The file of a layer if it is here."""
        folder, file = self._sae_source.folder, self._suite.files.get(layer)
        return folder / file if folder and file and (folder / file).is_file() else None

    def read_ahead(self, layer: int) -> None:
        """Begin to read the encoder of `layer` from its file in the background, unless the SAE is
        kept, its file is not here yet, or another is being read."""
        busy = self._ahead is not None and self._ahead.is_alive()
        if layer in self._cache or busy or not (path := self._local(layer)):
            return
        with suppress(OSError, ValueError):  # `sae` says what is wrong with the file
            self._ahead = read_ahead(read_sae(path).tensors["W_enc"])

    def chat(self, messages, add_generation_prompt: bool = True) -> str:
        """The prompt that the model's chat template makes of a text or a list of messages.

        Thinking is off (`enable_thinking=False`), so that prompts of one experiment are alike.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{self._model_source.name} has no chat template; pass plain text")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        form = {"add_generation_prompt": add_generation_prompt, "enable_thinking": False}
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **form)

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
        here = hub.last_name(self._model_source.name)
        trained = hub.last_name(self._suite.trained_on or here)
        if trained == here:
            return ""
        return f"the SAEs were trained on {trained}, not on {here}: check their FVU here"

    def fingerprint(self, layers) -> dict:
        """What decides the activations of some layers: sha256 of the weights, dtype, k."""
        paths = [*self._weights(), *(self._sae_file(layer) for layer in layers)]
        hashes = [self._hash(path)["sha256"] for path in paths]
        reading = {"k": self.k, "convention": self._suite.convention}
        return {"files": hashes, "dtype": str(self.dtype)} | reading

    def _weights(self) -> list[Path]:
        source = self._model_source
        return [hub.fetch(source, file) for file in hub.weight_files(source)]

    def _sae_file(self, layer: int) -> Path:
        """The file of a layer that was checked, fetched where it is not here yet."""
        file = self._suite.files.get(layer)
        if file is None and self._sae_source.offline is None:
            raise FileNotFoundError(
                f"{self._sae_source.name} has no SAE file for layer {layer}; "
                f"it has layers {catalog.spans(self.layers)}"
            )
        return hub.fetch(self._sae_source, file or f"the SAE of layer {layer}")

    def provenance(self) -> dict:
        """Where everything came from, as plain JSON: repos, commits, sha256, versions, device.

        SAE files are listed once they were used. Each sha256 says whether it was computed from
        the file or is the Hub's record of it (large files are not read again).
        """

        def part(source, paths):
            place = {"source": hub.portable(source.name), "revision": source.revision}
            files = {path.name: self._hash(path) for path in paths}
            return place | {"commit": source.commit, "files": files}

        on_gpu = self.device.type == "cuda"
        return {
            "model": part(self._model_source, self._weights()),
            "sae": part(self._sae_source, sorted(self._used.values())),
            **{name: getattr(self, name) for name in ("name", "d_model", "d_sae", "k")},
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            "dtype": self._dtype_name,
            "sae_dtype": "float32",
            "versions": versions(),
        }


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
    convention: str | None = None,
    batch_tokens: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    check: bool = True,
) -> Scope:
    """Load a model with its SAE suite.

    preset        "tiny", "tiny-instruct", "tiny-sft", a group of the catalog, or a file of
                  notebooks/params; what its section `scope:` says counts unless it is given here
    model, sae    a local folder or a Hub repo; either may replace its half of a preset
    *_revision    branch, tag or commit of a Hub repo; a preset brings its own
    device        default: "cuda" if there is one, else "cpu"
    dtype         of the model; default: "bfloat16" on a GPU, "float32" on a CPU
    k, convention   active features per token and a name of CONVENTIONS, where the suite does not
                  say them itself
    batch_tokens  tokens of one forward pass over texts, default 4096; half of it needs half the
                  memory for activations and logits
    cache_bytes   memory that SAEs read before may occupy
    check         measure the reading of the SAEs on a few texts, in one forward pass: see
                  `Scope.check`

    What does not fit is refused before any weight is downloaded: an unknown name, an SAE suite
    of another model (ValueError), a model larger than the free memory (MemoryError). SAEs that
    another reading explains much better are refused at the end (ValueError).
    """
    given = {"device": device, "dtype": dtype, "batch_tokens": batch_tokens}
    given |= {"model": model, "model_revision": model_revision, "k": k, "convention": convention}
    origin = catalog.find_origin(preset, sae=sae, sae_revision=sae_revision, **given)
    catalog.require_made(origin)
    device = torch.device(origin.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = origin.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    if dtype not in catalog.DTYPE_BYTES:
        known = ", ".join(catalog.DTYPE_BYTES)
        raise ValueError(f"dtype is {dtype!r}; it must be one of {known}")

    sae_source = hub.open_source(origin.sae, origin.sae_revision)
    model_source = hub.open_source(origin.model, origin.model_revision)
    suite = hub.read_suite(sae_source, origin)
    group = hub.read_group(origin, model_source, sae_source, suite)
    limits = origin.batch_tokens, cache_bytes
    refuse_too_large(group, dtype, device, *limits)
    network, tokenizer = load_model(model_source, device, dtype)
    name = origin.name or f"{hub.portable(model_source.name)} + {hub.portable(sae_source.name)}"
    scope = Scope(name, network, tokenizer, group, suite, (model_source, sae_source), *limits)
    if check:
        scope.check()
    return scope
