"""Passes that begin above a layer, for interventions that leave everything below as it is.

run_above    context manager: decoder layers up to one are not run again
first_place  the lowest layer that some edits change, or None
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from .blocks import decoder_layers

__all__ = ["first_place", "run_above"]


def first_place(functions: Mapping) -> int | None:
    """The lowest layer of {layer: function}; None where "writes" changes the embedding too."""
    return min(functions) if functions and "writes" not in functions else None


@contextmanager
def run_above(model, layer: int | None, output: Tensor | None) -> Iterator[None]:
    """In the block, decoder layer `layer` gives `output` and those below it are not run.

    output: its residuals [batch, seq, d_model], captured in a pass over the same tokens. Hooks of
    `layer` and above see what they would see, bit for bit; hooks below do not. For passes
    without a KV cache: RuntimeError with one, which would miss the layers that are not run. With
    `layer` None nothing changes.
    """
    modules = list(decoder_layers(model)[: layer + 1]) if layer is not None else []

    def forward(number: int):
        def skipped(hidden_states, *args, past_key_values=None, **kwargs):
            if past_key_values is not None:
                raise RuntimeError("run_above has no KV cache of the layers below: use_cache=False")
            return output if number == layer else hidden_states

        skipped._is_ours = True  # `hooks_left` counts it
        return skipped

    before = [vars(module).get("forward") for module in modules]
    try:
        for number, module in enumerate(modules):
            module.forward = forward(number)
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                vars(module).pop("forward", None)
            else:  # by another library, before us
                module.forward = own
