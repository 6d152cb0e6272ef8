"""A scope: a language model, its tokenizer, and an SAE for each of its layers.

load_scope   by preset ("tiny", "qwen3-8b-l50"), or from any model and SAE suite
Scope        model, tokenizer, layers, sae(layer), chat(), tokens(), provenance()
CACHE_BYTES  how much memory SAEs that were read before may occupy
"""

from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import torch

from . import catalog, hub, loading
from .formats import read_sae
from .mapped import read_ahead
from .origins import BATCH_TOKENS, CACHE_BYTES, find_origin
from .provenance import environment, fingerprint, last_name, portable
from .screening import screen_bytes
from .tokens import checked

__all__ = ["CACHE_BYTES", "Scope", "load_scope"]


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
        sae = loading.load_sae(
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
    suite = loading.read_suite(sae_source, origin.group, origin.k)
    loading.refuse_mismatch(suite, sae_source, model_source)
    loading.refuse_too_large(suite, model_source, device, dtype)
    network, tokenizer = loading.load_model(model_source, device, dtype)
    name = origin.name or f"{portable(model_source.name)} + {portable(sae_source.name)}"
    return Scope(name, network, tokenizer, suite, model_source, sae_source, cache_bytes,
                 origin.batch_tokens)  # fmt: skip
