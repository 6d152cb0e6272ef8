"""Read and change the residual stream of a model while it runs; always clean up.

Layer n means the output of decoder layer n, counted from 0: the residual stream that the SAE file
of layer n reads, and `hidden_states[n + 1]` of transformers except for the last layer, where
`hidden_states` holds the stream after the final norm.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

PATHS = ("model.layers", "model.language_model.layers", "layers", "language_model.layers")
POSITIONS = ("all", "prompt", "generated")


@contextmanager
def capture(model, layers: Iterable[int], stop: bool = True) -> Iterator[dict[int, Tensor]]:
    """The residuals after `layers`: a dict {layer: Tensor [batch, seq, d_model]}, filled by a call.

        with capture(model, [2, 5]) as residuals:
            model(**batch)

    Tensors are detached copies in the model's dtype; each forward pass replaces those of the one
    before. With `stop` a pass ends after the last layer asked for, and the call returns an empty
    object: no later layer and no output head runs. Inside an `edit` block the edited residuals
    are captured. ValueError names a layer out of range.
    """
    modules = decoder_layers(model)
    wanted = sorted(_checked(layers, modules))
    residuals: dict[int, Tensor] = {}
    undo: list[Callable[[], None]] = []
    try:
        if stop and wanted:
            depth = [0]
            undo += [_catch_stop(m, wanted[-1], depth) for m in _callers(model, modules)]
        for layer in wanted:
            hook = _ours(_reader(layer, residuals, stop and layer == wanted[-1]))
            undo.append(modules[layer].register_forward_hook(hook).remove)
        yield residuals
    finally:
        for step in reversed(undo):
            step()


@contextmanager
def edit(
    model,
    functions: Mapping[int | str, Callable[[Tensor], Tensor]],
    positions: str = "all",
    attention_mask: Tensor | None = None,
) -> Iterator[None]:
    """Replace the residuals after some layers: {layer: function of x [batch, seq, d_model]}.

    With "writes" in the place of a layer, a function changes everything that is added to the
    stream: the embedding, each attention's and each MLP's output (Arditi et al. 2024), after the
    norm that some families put there, see `writers`. That is
    more than changing the residuals after every layer, where an MLP has read what the attention
    of its layer wrote.

    A function gets the residuals of one forward pass (with a KV cache: of the new tokens only)
    and returns new ones of the same shape, without changing x in place. Its result is used at
    `positions`, elsewhere x stays bit for bit:
        "prompt"     columns of the prompt, that is of the first pass of a sequence
        "generated"  columns after it: tokens fed back by generation, with or without a cache
        "all"        both
    and never at padding, left or right. What is padding comes from the attention mask that the
    model is called with, or from `attention_mask` [batch, prompt columns] if given, which then
    also says how long the prompt is. The first generated token is predicted at the last prompt
    column, so "generated" cannot change it.

    Generation without a cache feeds the whole text again at each step; a pass counts as its next
    step when it repeats the pass before and adds one column, and as a new prompt otherwise (beam
    search without a cache reorders rows: give `attention_mask` there). In hybrid models a linear
    attention layer passes edits on through its recurrent state, and many such models react to
    edits of the prompt only; choose `positions` with that in mind.

    ValueError names the layer, and the shapes, if a result has another shape, and a model whose
    writes are not known.
    """
    modules = decoder_layers(model)
    if positions not in POSITIONS:
        raise ValueError(f"positions is {positions!r}; choose one of {', '.join(POSITIONS)}")
    if attention_mask is not None and attention_mask.ndim != 2:
        raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}; make it [batch, seq]")
    span = Span(positions, attention_mask)
    undo: list[Callable[[], None]] = []
    try:
        owner = next(m for m in model.modules() if modules in m.children())
        note = _ours(functools.partial(Span.note, span))
        undo.append(owner.register_forward_pre_hook(note, with_kwargs=True).remove)
        for layer in _checked((key for key in functions if key != "writes"), modules):
            hook = _ours(_writer(f"layer {layer}", functions[layer], span))
            undo.append(modules[layer].register_forward_hook(hook).remove)
        if "writes" in functions:
            hook = _ours(_writer("the writes", functions["writes"], span))
            for layer in modules:
                undo += [module.register_forward_hook(hook).remove for module in writers(layer)]
            # The embedding as the first layer reads it: some models embed outside their decoder.
            first = _ours(functools.partial(_before, hook))
            undo.append(modules[0].register_forward_pre_hook(first, with_kwargs=True).remove)
        yield
    finally:
        for step in reversed(undo):
            step()


def hooks_left(model) -> int:
    """How many hooks of `capture` and `edit` are on the model now; 0 outside their blocks."""
    return sum(
        getattr(hook, "_is_ours", False)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
    ) + sum(getattr(vars(m).get("forward"), "_is_ours", False) for m in model.modules())


def decoder_layers(model) -> nn.ModuleList:
    """The decoder layers: as many modules as the text config says. ValueError if there are none.

    Causal LMs of the Qwen3 and Qwen3.5 families keep them at `model.model.layers`, conditional
    generation models at `model.model.language_model.layers`; headless models one level up.
    """
    wanted = text_config(model).num_hidden_layers
    for path in PATHS:
        layers = model
        for name in path.split("."):
            layers = getattr(layers, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers) == wanted:
            return layers
    raise ValueError(
        f"no {wanted} decoder layers in {type(model).__name__} at {', '.join(PATHS)}; "
        "load a Qwen3 or Qwen3.5 model"
    )


def text_config(model):
    """The text part of `model.config`: itself for a causal LM, nested for a multimodal model."""
    return model.config.get_text_config()


# Children of decoder layers whose two sublayers write to the stream as they are, and, for each
# pair of norms after a sublayer (Gemma 2 and 3, OLMo 2 and 3; GLM 4), what else may be there.
_PLAIN = {"self_attn", "linear_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_AFTER = (
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
    ("post_attention_layernorm", "post_feedforward_layernorm"),
)


def writers(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two modules whose outputs are what a decoder layer adds to the residual stream.

    They are the attention (or linear attention) and the MLP (or mixture of experts); where a norm
    follows each of them, as in Gemma 2 and OLMo 2, these norms. ValueError names what is in the
    layer that we do not know: then nobody can say what is added.
    """
    parts = {name: part for name, part in layer.named_children() if type(part) is not nn.Dropout}
    kind = type(layer).__name__
    mixer, mlp = parts.get("self_attn") or parts.get("linear_attn"), parts.get("mlp")
    if mixer is None or mlp is None:
        raise ValueError(f"{kind} has {list(parts)}, no attention and MLP that we know")
    after = next((pair for pair in _AFTER if pair[1] in parts and pair[0] in parts), None)
    known = _PLAIN | ({*after, "pre_feedforward_layernorm"} if after else set())
    unknown = sorted({*parts, *dict(layer.named_buffers(recurse=False))} - known)
    if getattr(layer, "residual_multiplier", 1) != 1:
        unknown.append("residual_multiplier")
    if unknown:
        raise ValueError(
            f"{kind} has {', '.join(unknown)}: what it adds to the stream is not known here, so "
            "edit the residuals after a layer in the place of every write"
        )
    return (parts[after[0]], parts[after[1]]) if after else (mixer, mlp)


class Span:
    """Which columns of the current forward pass are to be edited."""

    def __init__(self, positions: str, mask: Tensor | None):
        self.positions, self.mask = positions, mask
        self.prompt = None if mask is None else mask.shape[1]
        self.seen: Tensor | None = None  # the tokens of the last pass that began at column 0
        self.keep: Tensor | None = None  # bool [batch, seq], or None for all

    def note(self, module, args, kwargs) -> None:
        """Runs before the decoder: works out the columns of this pass."""
        call = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        tokens = call.get("input_ids")
        tokens = call["inputs_embeds"] if tokens is None else tokens
        batch, seq = tokens.shape[:2]
        cache = call.get("past_key_values")
        start = 0 if cache is None else int(cache.get_seq_length())
        if start == 0 and self.mask is None and self.positions != "all":
            if not self._continues(tokens):
                self.prompt = seq
            self.seen = tokens.detach()
        else:
            self.seen = None
            if self.prompt is None:  # the cache was filled before this block
                self.prompt = start + seq
        keep = self._real(call.get("attention_mask"), batch, start, seq, tokens.device)
        if self.positions != "all":
            column = torch.arange(start, start + seq, device=tokens.device)
            inside = column < self.prompt if self.positions == "prompt" else column >= self.prompt
            keep = inside.expand(batch, seq) if keep is None else keep & inside
        self.keep = keep

    def _continues(self, tokens: Tensor) -> bool:
        seen = self.seen
        return (
            seen is not None
            and tokens.shape[:2] == (seen.shape[0], seen.shape[1] + 1)
            and torch.equal(tokens[:, :-1], seen)
        )

    def _real(self, called, batch: int, start: int, seq: int, device) -> Tensor | None:
        """True where the pass has a real token, bool [batch, seq]; None if everywhere."""
        mask = called if self.mask is None else self.mask
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise ValueError(
                "the model was called with an attention mask that is not [batch, seq]; "
                "give edit(..., attention_mask=) the mask of the prompt"
            )
        if len(mask) != batch:
            raise ValueError(f"attention_mask has {len(mask)} rows but the pass has {batch}")
        mask = mask.to(device).bool()[:, start : start + seq]
        # Columns beyond the given mask are generated tokens.
        return pad(mask, (0, seq - mask.shape[1]), value=True)


class _Stop(Exception):
    """Raised by the last hook of a stopped forward pass, caught at its outermost call."""


class _Stopped:
    """What a stopped model returns: an object without outputs, which says so when asked for one."""

    def __init__(self, layer: int):
        self._layer = layer

    def __getattr__(self, name: str):
        raise AttributeError(
            f"the forward pass was stopped after layer {self._layer}, so there is no {name!r}; "
            "use capture(..., stop=False)"
        )


def _reader(layer: int, residuals: dict[int, Tensor], last: bool):
    def read(module, args, output):
        residuals[layer] = _residual(output).detach().clone()
        if last:
            raise _Stop

    return read


def _before(hook, module, args, kwargs):
    """What a forward hook makes of the input of a module, in the place of its output."""
    if args:
        return (hook(module, (), args[0]), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": hook(module, (), kwargs["hidden_states"])}


def _writer(place: str, function: Callable[[Tensor], Tensor], span: Span):
    def write(module, args, output):
        x = _residual(output)
        version = None if x.is_inference() else x._version
        new = function(x)
        if version is not None and x._version != version:
            raise ValueError(f"the edit of {place} changed x in place; return a new tensor")
        if not isinstance(new, Tensor) or new.shape != x.shape:
            made = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ValueError(
                f"the edit of {place} made {made} of residuals {tuple(x.shape)}; keep the shape"
            )
        new = new.to(x.device, x.dtype)
        if span.keep is not None:
            new = torch.where(span.keep.to(x.device)[..., None], new, x)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return write


def _residual(output) -> Tensor:
    # A tensor in today's transformers, the first of a tuple before; indexing a tensor with 0
    # would silently take the first row of the batch.
    return output[0] if isinstance(output, tuple) else output


def _checked(layers: Iterable[int], modules: nn.ModuleList) -> set[int]:
    layers = list(layers)
    for layer in layers:
        whole = hasattr(layer, "__index__") and not isinstance(layer, bool)  # NumPy's integers too
        if not whole or not 0 <= layer < len(modules):
            raise ValueError(
                f"layer {layer!r} is out of range; choose from 0 to {len(modules) - 1}"
            )
    return {int(layer) for layer in layers}


def _callers(model, modules: nn.ModuleList) -> list[nn.Module]:
    """The modules through which a call reaches the layers: the model, its decoder, between."""
    return [m for m in model.modules() if m is not modules and modules in m.modules()]


def _catch_stop(module: nn.Module, layer: int, depth: list[int]) -> Callable[[], None]:
    """Let a stopped pass return from `module`, if the call began there; returns the undoing.

    `depth` counts the calls in progress, over all modules of one `capture`.
    """
    replaced, forward = "forward" in vars(module), module.forward

    @functools.wraps(forward)
    def stoppable(*args, **kwargs):
        depth[0] += 1
        try:
            return forward(*args, **kwargs)
        except _Stop:
            if depth[0] > 1:
                raise
            return _Stopped(layer)
        finally:
            depth[0] -= 1

    def undo():
        if replaced:  # by another library, before us
            module.forward = forward
        else:
            del module.forward

    module.forward = _ours(stoppable)
    return undo


def _ours(hook):
    hook._is_ours = True
    return hook


def writing_weights(model) -> list[Tensor]:
    """The weights of a causal LM that write into the residual stream, each as [..., d_model]: the
    embedding, and the output projection of every attention and MLP, with their biases.

    ValueError for a writer that is no single projection: a mixture of experts, or a norm after a
    sublayer (Gemma 2, OLMo 2), which would turn what is written back.
    """
    found = [model.get_input_embeddings().weight.data]
    for layer in decoder_layers(model):
        for projection in map(_projection, writers(layer)):
            found.append(projection.weight.data.T)
            if projection.bias is not None:
                found.append(projection.bias.data)
    return found


@contextmanager
def weights_to_edit(model):
    """The weights of `writing_weights`, to be changed in place; after the block they are what they
    were. A head that is tied to the embedding is untied in the block. The old ones wait on the
    host; MemoryError if they take more than half of what is free there."""
    weights = writing_weights(model)
    room, free = sum(w.nbytes for w in weights), psutil.virtual_memory().available
    if room > free / 2:
        raise MemoryError(f"{room / 1e9:.3g} GB of weights to keep, and {free / 1e9:.3g} GB free")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied, old = head.weight is embedding.weight, [w.cpu().clone() for w in weights]
    if tied:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    try:
        yield weights
    finally:
        for w, before in zip(weights, old, strict=True):
            w.copy_(before)
        if tied:
            head.weight = embedding.weight


def _projection(module: nn.Module) -> nn.Linear:
    """The last linear map of an attention or MLP, the one that writes."""
    for name in ("o_proj", "out_proj", "down_proj"):
        found = getattr(module, name, None)
        if isinstance(found, nn.Linear):
            return found
    raise ValueError(
        f"{type(module).__name__} has no single output projection, so its weights cannot be "
        "orthogonalised here; hooks can ablate what it writes"
    )
