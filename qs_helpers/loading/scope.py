"""A language model with its tokenizer, and a scope: the same with an SAE for each layer."""

from collections import OrderedDict
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from ..fast.columns import read_ahead
from ..forward import checked, each
from ..hooks import capture, hooks_left
from ..presets import preset_names, versions
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
def _loading(source: hub.Source, what: str = "language model"):
    """No progress bars and no notes of transformers; what they would say is checked instead. What
    it raises becomes a ValueError in one line."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    hook = logging.set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **kwargs | {"disable": True}))
    try:
        yield
    except (MemoryError, RuntimeError):  # of this machine, not of the files
        raise
    except Exception as error:  # whatever broken files make a parser say
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source.name} does not load as a {what}: {reason}") from error
    finally:
        logging.set_verbosity(level)
        logging.set_tqdm_hook(hook)


def _check_thinking(tokenizer, source: hub.Source, thinking: bool) -> None:
    if thinking and "enable_thinking" not in str(tokenizer.chat_template):
        raise ValueError(
            f"thinking=True, but the chat template of {source.name} never asks for "
            "enable_thinking: it cannot be switched on there; leave thinking out"
        )


def load_model(source: hub.Source, device: torch.device, dtype: str, thinking: bool = False):
    """(model, tokenizer): eval mode, no gradients, no code from the repo, left padding.

    ValueError if the weights are incomplete, unreadable, or hold NaN or inf; before they are
    downloaded, if the tokenizer is absent, empty or larger than the embedding, or if `thinking` is
    asked of a chat template that has no such switch.
    """
    folder = hub.fetch_tokenizer(source)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    safe = {"local_files_only": True, "trust_remote_code": False}
    with _loading(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", **safe)
    with _loading(source):
        config = AutoConfig.from_pretrained(folder, **safe)
    _check_tokenizer(tokenizer, config.get_text_config().vocab_size, source)
    _check_thinking(tokenizer, source, thinking)
    hub.fetch_weights(source)
    wanted = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True}
    with _loading(source):
        model, info = AutoModelForCausalLM.from_pretrained(folder, **wanted, **safe)
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


def _check_tokenizer(tokenizer, rows: int, source: hub.Source) -> None:
    """ValueError for a tokenizer that makes nothing of a text, as transformers builds one where its
    files are not there, and for one with tokens that an embedding of `rows` rows lacks."""
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) <= len(tokenizer.get_added_vocab()):
        raise ValueError(
            f"{source.name} has no tokenizer, or an empty one: put the files of its tokenizer "
            "(tokenizer.json and tokenizer_config.json) beside config.json"
        )
    last = max(vocabulary, key=vocabulary.get)
    if vocabulary[last] >= rows:
        beyond = sum(number >= rows for number in vocabulary.values())
        raise ValueError(
            f"the tokenizer of {source.name} has {beyond} tokens beyond the {rows} rows of the "
            f"embedding, such as {last!r}: take the tokenizer of this very model, or resize the "
            "embedding (resize_token_embeddings) and save the model again"
        )


def _prefix(tokenizer) -> tuple[int, ...]:
    """Ids that a tokenizer puts before a text by default."""
    plain, whole = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (False, True))
    places = range(len(whole) - len(plain) + 1)
    return tuple(whole[: next((i for i in places if whole[i : i + len(plain)] == plain), 0)])


class LanguageModel:
    """Model and tokenizer that belong together; made by `load_language_model`.

    name        folder or Hub repo
    model       causal language model, eval mode, no gradients
    tokenizer   pads on the left
    prefix      ids that it puts before every text by default, such as a BOS; () for Qwen
    n_layers, d_model   depth of the model, width of its residual stream
    max_tokens  that it can read at a time
    device, dtype   of the model
    batch_tokens    of one forward pass over texts, padding included
    thinking        whether prompts made by `chat` let the model think
    """

    is_tiny = False  # of the embedded scopes it is True

    def __init__(self, name, model, tokenizer, source, batch_tokens, thinking=False):
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.prefix, self.thinking = _prefix(tokenizer), thinking
        config = model.config.get_text_config()
        self.n_layers, self.d_model = config.num_hidden_layers, config.hidden_size
        self.max_tokens = config.max_position_embeddings
        self.device, self.dtype = model.device, model.dtype
        self._dtype_name = str(model.dtype).removeprefix("torch.")
        self.batch_tokens, self._model_source = batch_tokens, source
        self._hash = cache(hub.fingerprint)
        # More characters than a token stands for, even where a normalizer composes them.
        self._token_chars = 4 * max(map(len, tokenizer.get_vocab()), default=1)

    def __repr__(self):
        return f"LanguageModel({self.name}: d_model {self.d_model}, {self.n_layers} layers)"

    def chat(self, messages, add_generation_prompt: bool = True) -> str:
        """The prompt that the model's chat template makes of a text or a list of messages.

        Its switch `enable_thinking`, where it has one, is `self.thinking`, so that prompts of one
        experiment are alike.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{self._model_source.name} has no chat template; pass plain text")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        form = {"add_generation_prompt": add_generation_prompt, "enable_thinking": self.thinking}
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **form)

    def ids(self, texts, first: int = 0) -> list[list[int]]:
        """Token ids of each text, without padding: `prefix`, then those of the text.

        A text that begins with the prefix, as what `chat` makes may, does not get it twice.
        Nothing is put after a text, whatever the tokenizer does: an EOS there would end what is
        to be continued. Nothing is cut off: a text that is empty, longer than the model's context,
        or not valid Unicode is refused by its number, counted from `first`.
        """
        texts = checked(texts, first)
        most = self.max_tokens * self._token_chars
        for number, text in enumerate(texts, first):
            if len(text) > most:  # tokens of 100 MB would take minutes, and gigabytes
                raise ValueError(
                    f"text {number} has {len(text):,} characters; split it: the model reads at "
                    f"most {self.max_tokens} tokens"
                )
        ids = self._encode(texts)
        longest = max(range(len(ids)), key=lambda i: len(ids[i]))
        if len(ids[longest]) > self.max_tokens:
            raise ValueError(
                f"text {first + longest} has {len(ids[longest])} tokens; split it: the model reads "
                f"at most {self.max_tokens}"
            )
        return ids

    def _encode(self, texts: list[str]) -> list[list[int]]:
        ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        first = list(self.prefix)
        return [text if text[: len(first)] == first else first + text for text in ids]

    def own_ids(self, texts) -> list[list[int]]:
        """`ids` without the prefix: those to count, to compare, or to put after a prompt."""
        return [ids[len(self.prefix) :] for ids in self.ids(texts)]

    def tokens(self, texts):
        """Texts as one left-padded batch on the device: input_ids, attention_mask [batch, seq].

        `texts` are strings, read and refused as in `ids`, or lists of token ids, taken as they are.
        """
        texts = list(each(texts))
        if not texts or not all(isinstance(text, list) for text in texts):
            texts = self.ids(texts)
        # Some tokenizers do not list the mask among their inputs, and padding would be read.
        form = {"return_attention_mask": True, "return_tensors": "pt"}
        return self.tokenizer.pad({"input_ids": texts}, **form).to(self.device)

    def fingerprint(self, layers=()) -> dict:
        """What decides the residuals of a text: sha256 of the weights, dtype, prefix. Of a scope,
        also what decides the activations at `layers`: sha256 of their SAEs, convention, k."""
        reading = {"dtype": str(self.dtype), "prefix": list(self.prefix)}
        return {"files": self._sha256(self._weights())} | reading

    def _sha256(self, paths) -> list[str]:
        return [self._hash(path)["sha256"] for path in paths]

    def _weights(self) -> list[Path]:
        source = self._model_source
        return [hub.fetch(source, file) for file in hub.weight_files(source)]

    def provenance(self) -> dict:
        """Where everything came from, as plain JSON: repos, commits, sha256, versions, device.

        Each sha256 says whether it was computed from the file or is the Hub's record of it (large
        files are not read again). Of the tokenizer: what it puts before a text, and whether
        prompts let the model think.
        """
        on_gpu = self.device.type == "cuda"
        return {
            "model": self._part(self._model_source, self._weights()),
            **{name: getattr(self, name) for name in ("name", "d_model")},
            "device": torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            "dtype": self._dtype_name,
            "tokenizer": {
                "adds": self.tokenizer.convert_ids_to_tokens(list(self.prefix)),
                "thinking": self.thinking,
            },
            "versions": versions(),
        }

    def _part(self, source: hub.Source, paths) -> dict:
        place = {"source": hub.portable(source.name), "revision": source.revision}
        files = {path.name: self._hash(path) for path in paths}
        return place | {"commit": source.commit, "files": files}


class Scope(LanguageModel):
    """A language model and SAEs that belong together; made by `load_scope`.

    What it has beside model, tokenizer and the rest of a `LanguageModel`:

    name        preset, or "model + sae"
    group       sizes of model and suite, for `memory_plan`
    layers      layer numbers that have an SAE file (offline: that are cached)
    d_sae, k    features, and those active per token; SAEs are float32, on the model's device
    cache_bytes     memory that SAEs read before may occupy
    is_tiny     True for the embedded scopes
    """

    def __init__(self, group, suite, sae_source, cache_bytes, *model):
        super().__init__(*model)
        self.group, self._suite, self._sae_source = group, suite, sae_source
        self.layers, self.d_sae, self.k = tuple(suite.files), suite.d_sae, suite.k
        self.cache_bytes = cache_bytes
        self.is_tiny = self.name in catalog.TINY
        self._cache, self._layer_bytes = OrderedDict(), self.plan().sae_layer
        self._ahead = None  # the thread that reads an SAE's file
        self._used = {}  # layer -> file that was read
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
        most = min(SENTENCE_TOKENS, self.max_tokens)
        batch = self.tokens([ids[:most] for ids in self._encode(list(texts))])
        near = range(max(0, sae.layer - 1), min(self.n_layers, sae.layer + 2))
        with torch.no_grad(), capture(self.model, near) as residuals:
            self.model(**batch, use_cache=False)
        real = batch["attention_mask"].cumsum(1) > len(self.prefix)
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

    def sibling(self) -> "Scope | None":
        """The same model, in memory once, read by another suite that is on this disk; or None.

        Of an official group that is the group of the same model with the other k, as far as the
        cache of the Hub has it: nothing is downloaded. Of a suite in a folder it is the first
        folder beside it whose name begins with the same and a hyphen, as smollm2-k64 beside
        smollm2. Its `layers` are those that are here.
        """
        for name, origin in self._siblings():
            source = hub.cached_source(origin.sae, origin.sae_revision)
            if source is None or not catalog.layer_files(source.files):
                continue
            suite = hub.read_suite(source, origin)
            if (suite.d_model, suite.n_layers or self.n_layers) != (self.d_model, self.n_layers):
                continue
            sizes = {"d_sae": suite.d_sae, "k": suite.k, "some_layers": tuple(suite.files)}
            group = replace(self.group, name=name, sae_repo=source.name, **sizes)
            model = self.model, self.tokenizer, self._model_source, self.batch_tokens, self.thinking
            other = Scope(group, suite, source, 0, name, *model)  # keeps one SAE at a time
            other.check()
            return other
        return None

    def sibling_note(self, layer: int) -> str:
        """How to get what `sibling` looks for and does not find, in words."""
        for name, origin in self._siblings():
            if origin.group is not None:
                size = origin.group.layer_bytes / 1e9
                return f"qs.load_scope({name!r}).sae({layer}) fetches this layer, {size:.1f} GB"
        if self._sae_source.commit is not None:
            return "beside a suite of the Hub none is looked for: copy it to a folder first"
        own = Path(self._sae_source.name).name
        return f"notebook 10 trains one; put its folder beside {own}, as {own}-k{2 * self.k}"

    def _siblings(self):
        """(name, origin) of the suites that `sibling` looks for."""
        backbone, _, k = self.name.rpartition("-l")
        if self.name in catalog.GROUPS:
            other = f"{backbone}-l{50 if k == '100' else 100}"
            yield other, catalog.find_origin(other)
        elif self._sae_source.commit is None:
            own = Path(self._sae_source.name)
            for place in sorted(own.parent.glob(f"{own.name}-*")):
                if place.is_dir():
                    model = self._model_source.name
                    yield place.name, catalog.find_origin(model=model, sae=place)

    def suite_note(self) -> str:
        """A warning if the SAEs were trained on another model than this one, else ""."""
        here = hub.last_name(self._model_source.name)
        trained = hub.last_name(self._suite.trained_on or here)
        if trained == here:
            return ""
        return f"the SAEs were trained on {trained}, not on {here}: check their FVU here"

    def fingerprint(self, layers=()) -> dict:
        found = super().fingerprint()
        found["files"] += self._sha256(self._sae_file(layer) for layer in layers)
        return found | {"k": self.k, "convention": self._suite.convention}

    def _sae_file(self, layer: int) -> Path:
        """The file of a layer that was checked, fetched where it is not here yet."""
        file = self._suite.files.get(layer)
        if file is None and self._sae_source.offline is None:
            raise FileNotFoundError(
                f"{self._sae_source.name} has no SAE file for layer {layer}; "
                f"it has layers {catalog.spans(self.layers)}"
            )
        own = f"sae_L{layer}_cfg.json"
        if own in self._sae_source.files:
            hub.fetch(self._sae_source, own)  # `load_sae` reads it
        return hub.fetch(self._sae_source, file or f"the SAE of layer {layer}")

    def provenance(self) -> dict:
        """That of the model, and of the SAE files that were used."""
        sae = self._part(self._sae_source, sorted(self._used.values()))
        sizes = {"d_sae": self.d_sae, "k": self.k, "sae_dtype": "float32"}
        return super().provenance() | {"sae": sae} | sizes


def _place(device, dtype: str | None) -> tuple[torch.device, str]:
    """Where a model goes, and its dtype: as given, or as the machine has it."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or ("float32" if device.type == "cpu" else "bfloat16")
    if dtype not in catalog.DTYPE_BYTES:
        known = ", ".join(catalog.DTYPE_BYTES)
        raise ValueError(f"dtype is {dtype!r}; it must be one of {known}")
    return device, dtype


def load_language_model(
    model: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | None = None,
    batch_tokens: int | None = None,
) -> LanguageModel:
    """A model without SAEs, for whoever is about to train some; parameters as in `load_scope`.
    An embedded model may be given by its name, as "tiny", and a repo as owner/name@revision.

    `qs.residuals` with `layers=`, `qs.text_nats` and `qs.generate` take it in place of a scope.
    A model larger than the free memory is refused before its weights are downloaded (MemoryError),
    and weights that are missing or hold NaN or inf are refused too (ValueError).
    """
    device, dtype = _place(device, dtype)
    batch_tokens = catalog.BATCH_TOKENS if batch_tokens is None else batch_tokens
    source = hub.open_source(catalog.model_place(model), revision)
    refuse_too_large(hub.model_group(source), dtype, device, batch_tokens, cache_bytes=0)
    network, tokenizer = load_model(source, device, dtype)
    return LanguageModel(hub.portable(source.name), network, tokenizer, source, batch_tokens)


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
    thinking: bool | None = None,
    cache_bytes: int = CACHE_BYTES,
    check: bool = True,
    like: LanguageModel | None = None,
) -> Scope:
    """Load a model with its SAE suite.

    preset        "tiny", "tiny-instruct", "tiny-sft", "tiny-moe", a group of the catalog, or a file
                  of notebooks/params; what its section `scope:` says counts unless it is given here
    model, sae    a local folder or a Hub repo (owner/name, or owner/name@revision); either may
                  replace its half of a preset. `model` may be the name of an embedded one
    *_revision    branch, tag or commit of a Hub repo; a preset brings its own
    device        default: "cuda" if there is one, else "cpu"
    dtype         of the model; default: "bfloat16" on a GPU, "float32" on a CPU
    k, convention   active features per token and a name of CONVENTIONS, where the suite does not
                  say them itself
    batch_tokens  tokens of one forward pass over texts, default 4096; half of it needs half the
                  memory for activations and logits
    thinking      whether prompts made by `Scope.chat` let the model think; default False. True is
                  refused where the chat template has no switch `enable_thinking`; False leaves
                  such a template as it is, and it may think or not
    cache_bytes   memory that SAEs read before may occupy
    check         measure the reading of the SAEs on a few texts, in one forward pass: see
                  `Scope.check`
    like          what holds this very model already: it is shared, and not loaded twice; its
                  device and dtype count

    What does not fit is refused before any weight is downloaded: an unknown name, an SAE suite
    of another model (ValueError), a model larger than the free memory (MemoryError). SAEs that
    another reading explains much better are refused at the end (ValueError).
    """
    given = {"device": device, "dtype": dtype, "batch_tokens": batch_tokens, "thinking": thinking}
    given |= {"model": model, "model_revision": model_revision, "k": k, "convention": convention}
    origin = catalog.find_origin(preset, sae=sae, sae_revision=sae_revision, **given)
    catalog.require_made(origin)
    device, dtype = _place(origin.device, origin.dtype)
    sae_source = hub.open_source(origin.sae, origin.sae_revision)
    model_source = hub.open_source(origin.model, origin.model_revision)
    suite = hub.read_suite(sae_source, origin)
    group = hub.read_group(origin, model_source, sae_source, suite)
    if like is None:
        refuse_too_large(group, dtype, device, origin.batch_tokens, cache_bytes)
        network, tokenizer = load_model(model_source, device, dtype, origin.thinking)
    elif like._model_source[:2] != model_source[:2]:
        raise ValueError(
            f"like holds {like._model_source.name}, not {model_source.name}: leave it out"
        )
    else:
        network, tokenizer = like.model, like.tokenizer
        _check_thinking(tokenizer, model_source, origin.thinking)
    name = origin.name or f"{hub.portable(model_source.name)} + {hub.portable(sae_source.name)}"
    model_part = name, network, tokenizer, model_source, origin.batch_tokens, origin.thinking
    scope = Scope(group, suite, sae_source, cache_bytes, *model_part)
    if check:
        scope.check()
    return scope


def load_keywords(scope: Scope) -> dict:
    """Keywords, as plain JSON, by which `load_scope` gives a scope of the same model and SAEs
    wherever its folders are seen. The device is left to the machine; of presets only the embedded
    ones keep their name."""
    keywords = {"preset": scope.name} if scope.is_tiny else {}
    parts = {} if scope.is_tiny else {"model": scope._model_source, "sae": scope._sae_source}
    for part, source in parts.items():
        keywords[part] = source.name if source.commit else str(Path(source.name).resolve())
        keywords[f"{part}_revision"] = source.commit
    keywords |= {"k": scope.k, "convention": scope._suite.convention, "dtype": scope._dtype_name}
    keywords["thinking"] = scope.thinking
    return keywords | {"batch_tokens": scope.batch_tokens, "cache_bytes": scope.cache_bytes}


def load_model_and_suite(model: str, suite: str = "own", like: Scope | None = None) -> Scope:
    """A model, with an SAE suite that may have been trained on another one.

    model: a preset ("tiny-instruct"), or a folder or a Hub repo (owner/name, or
    owner/name@revision);
    suite: "own" (of a preset), or the preset whose suite is to read it ("tiny", "qwen3-8b-l50").
    like: a scope of the same model, which is then shared and not loaded twice.
    ValueError where "own" has no meaning.
    """
    is_preset = model in preset_names() or model in catalog.TINY
    if suite == "own" and not is_preset:
        raise ValueError(f"{model} has no suite of its own; name the preset whose SAEs read it")
    if suite == "own":
        return load_scope(model, like=like)
    if not is_preset:
        return load_scope(suite, model=model, like=like)
    origin = catalog.find_origin(model)
    revision = origin.model_revision
    return load_scope(suite, model=origin.model, model_revision=revision, like=like)
