"""Passes that begin above a layer, for edits that leave everything below as it is.

Many interventions are compared on the same texts. Those that edit the residuals after layer l and
above share all that layers 0 to l compute, which is (l + 1) / L of a forward pass.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from torch import Tensor

from ..hooks import decoder_layers, edit, hooks_left

MOST_BYTES = 2**28  # of what one block keeps; what was used longest ago is given up first
_open: dict[int, "_Kept"] = {}  # id of a model -> what the block around it keeps


class _Below(NamedTuple):
    """What layers 0 to l made of a batch: the residuals after l, and keys and values of each."""

    output: Tensor
    cache: list[tuple[Tensor, Tensor]]  # empty for a pass without a KV cache


class _Kept:
    def __init__(self):
        self.found: OrderedDict[tuple, _Below] = OrderedDict()

    def get(self, key: tuple) -> _Below | None:
        if key in self.found:
            self.found.move_to_end(key)
        return self.found.get(key)

    def add(self, key: tuple, below: _Below) -> None:
        self.found[key] = below
        while sum(map(_bytes, self.found.values())) > MOST_BYTES:
            self.found.popitem(last=False)


def _bytes(below: _Below) -> int:
    return sum(t.nbytes for t in (below.output, *(t for pair in below.cache for t in pair)))


def first_place(functions: Mapping) -> int | None:
    """The lowest layer of {layer: function}; None where "writes" changes the embedding too."""
    return min(functions) if functions and "writes" not in functions else None


@contextmanager
def reuse_below(model) -> Iterator[None]:
    """In the block, passes of `edited` over the same tokens run the layers below their first edit
    once. Results are the same, bit for bit. The weights must not change inside the block; what is
    kept, at most 256 MB, is gone after it."""
    outermost = id(model) not in _open
    _open.setdefault(id(model), _Kept())
    try:
        yield
    finally:
        if outermost:
            del _open[id(model)]


@contextmanager
def edited(
    model,
    batch: Mapping[str, Tensor],
    functions: Mapping | None,
    positions: str = "all",
    attention_mask: Tensor | None = None,
    cached: bool = False,
) -> Iterator[None]:
    """`edit(model, functions, positions, attention_mask)` around passes that begin with `batch`.

    Inside a `reuse_below` block, and where no other hook is on the model, layers below the first
    edit are not run again for a batch that has been seen. cached: the pass fills a KV cache, as
    generation does; what follows it runs as always. With no functions nothing is edited.
    """
    if not functions:
        yield
        return
    kept, first = _open.get(id(model)), first_place(functions)
    if kept is None or first is None or hooks_left(model):
        with edit(model, functions, positions, attention_mask):
            yield
        return
    ids, mask = batch["input_ids"], batch["attention_mask"]
    key = first, cached, tuple(ids.shape), *(t.cpu().numpy().tobytes() for t in (ids, mask))
    below = kept.get(key)
    with ExitStack() as hooks:
        if below is None:
            # Registered before the edit, so that it sees what the edit is given.
            seen = hooks.enter_context(_first_pass(model, first, cached))
        hooks.enter_context(edit(model, functions, positions, attention_mask))
        if below is not None:
            hooks.enter_context(run_above(model, first, below.output, below.cache))
        yield
    if below is None and seen:
        kept.add(key, _Below(*seen))


@contextmanager
def _first_pass(model, layer: int, cached: bool) -> Iterator[list]:
    """[output, cache] of the first pass, or nothing if its cache is of a kind that is not known."""
    seen, output = [], []

    def at_layer(module, args, out):
        if not output:
            output.append((out[0] if isinstance(out, tuple) else out).detach())

    def at_end(module, args, kwargs, out):
        if output and not seen:
            pairs = []
            if cached:
                layers = getattr(getattr(out, "past_key_values", None), "layers", [])[: layer + 1]
                # Others (sliding windows, states of linear attention) are updated in place.
                if len(layers) <= layer or any(type(x).__name__ != "DynamicLayer" for x in layers):
                    return
                pairs = [(x.keys, x.values) for x in layers]
            seen.extend([output[0], pairs])

    handles = [
        decoder_layers(model)[layer].register_forward_hook(at_layer),
        model.register_forward_hook(at_end, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def run_above(
    model, layer: int, output: Tensor, cache: list[tuple[Tensor, Tensor]] = ()
) -> Iterator[None]:
    """In the block, the first pass begins above decoder layer `layer`, which gives `output`.

    output: its residuals [batch, seq, d_model], kept from a pass over the same tokens; cache: keys
    and values of layers 0 to `layer`, for a pass that fills a KV cache. Hooks of `layer` and above
    see what they would see; those below do not. Later passes, of generation, run as always;
    without a cache every pass of the block begins there.
    """
    modules = list(decoder_layers(model)[: layer + 1])
    before = [vars(module).get("forward") for module in modules]
    own = [module.forward for module in modules]
    done = [False] * len(modules)

    def forward(number: int):
        def skipped(hidden_states, *args, past_key_values=None, **kwargs):
            if done[number]:
                return own[number](hidden_states, *args, past_key_values=past_key_values, **kwargs)
            if past_key_values is not None:
                if not cache:
                    raise RuntimeError("no keys and values of the layers below: use_cache=False")
                past_key_values.update(*cache[number], number)
                done[number] = True
            return output if number == layer else hidden_states

        skipped._is_ours = True  # `hooks_left` counts it
        return skipped

    try:
        for number, module in enumerate(modules):
            module.forward = forward(number)
        yield
    finally:
        for module, mine in zip(modules, before, strict=True):
            if mine is None:
                vars(module).pop("forward", None)
            else:  # by another library, before us
                module.forward = mine
