"""Which tokens of a forward pass an edit may change.

POSITIONS  the choices: all, prompt, generated
Span       follows the passes of a model and knows the columns to keep
"""

import inspect

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["POSITIONS", "Span"]

POSITIONS = ("all", "prompt", "generated")


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
