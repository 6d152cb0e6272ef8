"""TopK sparse autoencoders: five lines of math, and what they refuse."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .fast.columns import BLOCK_BYTES, columns_of, gather_columns, weighted_columns
from .fast.screening import make_screen, may_fire, screened

BLOCK = 4  # columns of a block of pre-activations


class SparseActs(NamedTuple):
    """Active features: `values` float32 [..., k] in descending order, `indices` int64 [..., k].

    An entry of value 0 is an empty place (fewer than k features were positive); its index means
    nothing. Count features with `values > 0`.
    """

    values: Tensor
    indices: Tensor


def topk_linear(x: Tensor, W: Tensor, b: Tensor, k: int, chunk_bytes: int) -> SparseActs:
    """The k largest of relu(x @ W.T + b) for x [tokens, d_model], W (d_sae, d_model), b (d_sae,).

    In float32; the dense (tokens, d_sae) matrix exists for one chunk of `chunk_bytes` at a time.
    """
    values = torch.empty(len(x), k, device=x.device, dtype=torch.float32)
    indices = torch.empty(len(x), k, device=x.device, dtype=torch.int64)
    step = max(1, chunk_bytes // (4 * len(W)))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        pre = _linear(x[part].float(), W, b).relu_()
        values[part], indices[part] = _largest(pre, k)
    return SparseActs(values, indices)


def _largest(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk(pre, k) for pre [tokens, n].

    On a CPU its time grows with n, so it is asked twice for less: the k largest numbers are in the
    k blocks with the largest maxima. A block is every (n / 4)th column, so that maxima are taken
    of whole rows of memory.
    """
    n = pre.shape[1]
    if pre.device.type != "cpu" or n % BLOCK or n < 4 * BLOCK * k:
        return torch.topk(pre, k)
    step = n // BLOCK
    maxima = pre.view(len(pre), BLOCK, step).amax(1)
    blocks = torch.topk(maxima, k, sorted=False).indices
    columns = blocks[:, None] + step * torch.arange(BLOCK)[None, :, None]
    columns = columns.view(len(pre), BLOCK * k)
    values, places = torch.topk(pre.gather(1, columns), k)
    return values, columns.gather(1, places)


def _linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    if W.dtype == torch.float32:
        return torch.addmm(b, x, W.T)
    # Weights kept in another dtype are widened block by block, never as a whole second copy.
    out = torch.empty(len(x), len(W), device=x.device, dtype=torch.float32)
    rows = max(1, BLOCK_BYTES // (4 * W.shape[1]))
    for start in range(0, len(W), rows):
        part = slice(start, start + rows)
        out[:, part] = torch.addmm(b[part], x, W[part].float().T)
    return out


def sparse_change(old: SparseActs, new: SparseActs) -> SparseActs:
    """new - old as entries [tokens, k_old + k_new], exactly zero where nothing changed.

    A feature that `new` names twice counts twice, as it does in a decode.
    """
    same = old.indices[:, :, None] == new.indices[:, None, :]
    kept = torch.where(same, new.values[:, None, :], 0).sum(-1)
    fresh = new.values.masked_fill(same.any(1), 0)
    return SparseActs(
        torch.cat([kept - old.values, fresh], -1), torch.cat([old.indices, new.indices], -1)
    )


def checked_tokens(x: Tensor, sae) -> Tensor:
    """x [..., d_model] as [tokens, d_model] on the SAE's device, of the right width and finite."""
    if x.shape[-1:] != (sae.d_model,):
        raise ValueError(
            f"residuals of shape {tuple(x.shape)} do not fit W_enc {tuple(sae.W_enc.shape)} "
            f"of {sae}; pass [..., {sae.d_model}] or choose an SAE of this model"
        )
    flat = x.reshape(-1, sae.d_model).to(sae.device)
    bad = ~flat.isfinite().all(-1)
    if bad.any():
        first = bad.nonzero()[0, 0].cpu()
        place = [int(i) for i in torch.unravel_index(first, x.shape[:-1] or (1,))]
        raise ValueError(
            f"residual of token {place} given to {sae} holds NaN or inf "
            f"({int(bad.sum())} of {len(flat)} tokens do); look for the layer that makes it"
        )
    return flat


def check_features(ids: Tensor, sae) -> None:
    outside = ids[(ids < 0) | (ids >= sae.d_sae)]
    if outside.numel():
        raise ValueError(
            f"feature {int(outside[0])} of {sae} is out of range; choose from 0 to {sae.d_sae - 1}"
        )


def check_finite(weights: Tensor, name: str) -> None:
    """One pass without a copy: NaN and inf both show in the extremes."""
    if not all(extreme.isfinite() for extreme in torch.aminmax(weights)):
        raise ValueError(f"{name} holds NaN or inf; download the file again")


CHUNK_BYTES = 2**26  # 512 tokens of 32768 features


TURN_TOKENS, TURN_NUMBERS = 1024, 2**24  # decoded, in W_dec: about where turning it pays


def _float32(method):
    """Without gradients, and outside of autocast, which would compute in another type."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run


class TopKSAE:
    """A TopK SAE in the official orientation: a feature's direction is a column of W_dec.

    W_enc (d_sae, d_model), W_dec (d_model, d_sae), b_enc (d_sae,), b_dec (d_model,). Arithmetic is
    in float32 whatever the dtype the weights are kept in. The official reading (model card of
    Qwen/SAE-Res-*): pre = x @ W_enc.T + b_enc; acts = the k largest of relu(pre); reconstruction
    = acts @ W_dec.T + b_dec. Other conventions encode x * input_scale - b_dec and divide the
    reconstruction by input_scale. `path` and `layer` serve messages and provenance. What an object
    computes stays the same: `to` and `read_as` give new ones.

    Large float32 encoders on a CPU are screened (see screening.py), for half of W_enc's memory;
    `settled` counts encoded tokens by the products that were enough. W_dec is turned in memory once
    many tokens were decoded: its values stay, but for a moment it exists twice.
    """

    def __init__(
        self, W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, b_dec: Tensor, k: int,
        convention: str = "official", *, input_scale: float = 1.0, path=None, layer=None,
    ):  # fmt: skip
        self.W_enc = W_enc
        # What is known of the weights, and where they lie: shared by `read_as`.
        self._shared = {"W_dec": W_dec, "finite": set(), "decoded": 0}
        self.settled = {"bfloat16": 0, "float32": 0, "all": 0}
        self.b_enc, self.b_dec = b_enc.float(), b_dec.float()
        self.d_sae, self.d_model = W_enc.shape
        self.convention, self.input_scale = convention, float(input_scale)
        self.path, self.layer, self.k = path, layer, k
        shapes = tuple(W_dec.shape), tuple(b_enc.shape), tuple(b_dec.shape)
        if shapes != ((self.d_model, self.d_sae), (self.d_sae,), (self.d_model,)):
            raise ValueError(
                f"{self} has W_enc {tuple(W_enc.shape)} but W_dec, b_enc, b_dec {shapes}; "
                "make them (d_sae, d_model), (d_model, d_sae), (d_sae,), (d_model,)"
            )
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= self.d_sae:
            raise ValueError(f"k is {k!r} for {self}; give a whole number from 1 to {self.d_sae}")
        if convention not in CONVENTIONS:
            raise ValueError(f"no convention {convention!r}; choose one of {list(CONVENTIONS)}")

    def __repr__(self) -> str:
        layer = "" if self.layer is None else f"layer {self.layer}, "
        return f"TopKSAE({layer}{self.path or f'd_sae {self.d_sae}, d_model {self.d_model}'})"

    @property
    def W_dec(self) -> Tensor:
        """(d_model, d_sae)."""
        return self._shared["W_dec"]

    @property
    def device(self) -> torch.device:
        return self.W_enc.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the two matrices are kept in; arithmetic and biases are float32."""
        return self.W_enc.dtype

    def to(self, device=None, dtype=None) -> "TopKSAE":
        """A TopKSAE on another device, or with its matrices kept in another dtype."""
        device, dtype = device or self.device, dtype or self.dtype
        return TopKSAE(
            self.W_enc.to(device, dtype), self.W_dec.to(device, dtype), self.b_enc.to(device),
            self.b_dec.to(device), self.k, self.convention, input_scale=self.input_scale,
            path=self.path, layer=self.layer,
        )  # fmt: skip

    def read_as(self, convention: str) -> "TopKSAE":
        """The same weights, read with another convention's arithmetic."""
        new = TopKSAE(
            self.W_enc, self.W_dec, self.b_enc, self.b_dec, self.k, convention,
            input_scale=self.input_scale, path=self.path, layer=self.layer,
        )  # fmt: skip
        new._shared = self._shared  # the same tensors: what was checked stays checked
        return new

    @_float32
    def encode(self, x: Tensor, chunk_bytes: int = CHUNK_BYTES) -> SparseActs:
        """The k largest positive pre-activations of each token; x [..., d_model], any float dtype.

        The dense (tokens, d_sae) matrix exists for `chunk_bytes` of tokens at a time. Of features
        tied at the k-th place a screened encoder keeps the smallest numbers, others any. ValueError
        on another width, on NaN or inf in x or in the weights.
        """
        acts = self._largest(self._read(x), chunk_bytes)
        return SparseActs(*(part.view(*x.shape[:-1], self.k) for part in acts))

    @_float32
    def some(self, x: Tensor, ids: Tensor) -> Tensor:
        """What `encode` gives for a few features: float32 [..., n], 0 where one is not active.

        `ids` int64 [n]; ValueError for one that does not exist. Tokens at which none of them is
        positive before the TopK, most of them, are not encoded.
        """
        flat, ids = self._read(x), ids.to(self.device)
        check_features(ids, self)
        out = torch.zeros(len(flat), len(ids), device=self.device, dtype=torch.float32)
        near = may_fire(flat, self.W_enc[ids], self.b_enc[ids])
        if near.any():
            acts = self._largest(flat[near], CHUNK_BYTES)
            out[near] = columns_of(*acts, ids, self.d_sae)
        return out.view(*x.shape[:-1], len(ids))

    @_float32
    def decode(self, acts: SparseActs) -> Tensor:
        """The reconstruction, float32 [..., d_model]; uses only the columns in `acts.indices`."""
        self._require_finite("W_dec", "b_dec")
        out = self._combine(*self._entries(acts)) + self.b_dec
        return (out / self.input_scale).view(*acts.values.shape[:-1], self.d_model)

    def reconstruct(self, x: Tensor) -> Tensor:
        """decode(encode(x)), float32 [..., d_model]."""
        return self.decode(self.encode(x))

    @_float32
    def splice(self, x: Tensor, edit: Callable[[SparseActs], SparseActs] | None = None) -> Tensor:
        """x with some features changed and the SAE's error kept, in x's dtype, [..., d_model].

        `edit` maps the SparseActs of x to new ones. Only the difference is decoded and added
        (x + W_dec (z' - z)), so tokens that `edit` leaves alone come back bit for bit.
        """
        if edit is None:
            return x
        self._require_finite("W_dec")
        acts = self.encode(x)
        new = edit(SparseActs(acts.values.clone(), acts.indices.clone()))
        if new.values.shape[:-1] != x.shape[:-1]:
            raise ValueError(
                f"the edit made {tuple(new.values.shape)} of acts {tuple(acts.values.shape)}; "
                "keep every dimension but the last"
            )
        change = sparse_change(self._entries(acts), self._entries(new))
        touched = (change.values != 0).any(-1)
        if not touched.any():
            return x
        delta = self._combine(change.values[touched], change.indices[touched])
        out, touched = x.reshape(-1, self.d_model).clone(), touched.to(x.device)
        delta = (delta / self.input_scale).to(x.device)
        out[touched] = (out[touched].float() + delta).to(x.dtype)
        return out.view(x.shape)

    @_float32
    def direction(self, ids) -> Tensor:
        """What one unit of each feature adds to the reconstruction: float32 [n, d_model].

        `ids` is one feature number, a sequence or a tensor of them. Rows are columns of W_dec (over
        input_scale where a suite has one), as stored, not normalised. From a memory-mapped .pt
        file each column costs one page per row of W_dec (8 MB at d_model 2048), not the matrix.
        """
        ids = torch.as_tensor(ids, device=self.device).reshape(-1)
        if ids.numel() and (ids.is_floating_point() or ids.dtype == torch.bool):
            raise ValueError(f"feature numbers must be whole numbers, not {ids.dtype}")
        check_features(ids := ids.long(), self)
        rows = gather_columns(self.W_dec, ids)
        if not rows.isfinite().all():
            raise ValueError(f"W_dec of {self} holds NaN or inf; download the file again")
        return rows / self.input_scale

    def _read(self, x: Tensor) -> Tensor:
        """x as the encoder reads it, [tokens, d_model]."""
        flat = checked_tokens(x, self)
        self._require_finite("W_enc", "b_enc", "b_dec")
        if self.input_scale != 1:
            flat = flat.float() * self.input_scale
        return flat.float() - self.b_dec if CONVENTIONS[self.convention].subtract_b_dec else flat

    def _largest(self, flat: Tensor, chunk_bytes: int) -> SparseActs:
        """The k largest positive pre-activations of tokens that `_read` gave."""
        if "screen" not in self._shared:
            self._shared["screen"] = make_screen(self.W_enc, self.b_enc, self.k)
        screen = self._shared["screen"]
        if screen is None:
            return topk_linear(flat, self.W_enc, self.b_enc, self.k, chunk_bytes)
        values, indices, settled = screened(
            flat.float(), self.W_enc, self.b_enc, self.k, screen, chunk_bytes
        )
        self.settled = {form: n + settled[form] for form, n in self.settled.items()}
        return SparseActs(values, indices)

    def _combine(self, values: Tensor, indices: Tensor) -> Tensor:
        """Sums of columns of W_dec, float32 [tokens, d_model]."""
        self._shared["decoded"] += len(values)
        large = self.W_dec.numel() >= TURN_NUMBERS and self.dtype == torch.float32
        often = self._shared["decoded"] >= TURN_TOKENS
        if large and often and not self.W_dec.T.is_contiguous():
            self._shared["W_dec"] = self.W_dec.T.contiguous().T
        return weighted_columns(self.W_dec, values, indices)

    def _entries(self, acts: SparseActs) -> SparseActs:
        """Values and indices as [tokens, entries] on the SAE's device, checked."""
        values, indices = acts
        if values.shape != indices.shape:
            raise ValueError(
                f"acts have values {tuple(values.shape)} but indices {tuple(indices.shape)}; "
                "give each value its feature"
            )
        check_features(indices, self)
        entries = values.shape[-1]
        return SparseActs(
            values.to(self.device, torch.float32).reshape(-1, entries),
            indices.to(self.device, torch.int64).reshape(-1, entries),
        )

    def _require_finite(self, *names: str) -> None:
        """Each tensor is read once in full, when it is first needed."""
        for name in set(names) - self._shared["finite"]:
            check_finite(getattr(self, name), f"{name} of {self}")
            self._shared["finite"].add(name)


NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


@dataclass(frozen=True)
class Convention:
    """How a suite stores and reads its SAEs.

    `keys` are the file's names for W_enc, W_dec, b_enc, b_dec, in this order. `transposed` files
    hold W_enc as (d_model, d_sae) and W_dec as (d_sae, d_model). With `subtract_b_dec` the encoder
    reads x - b_dec. A `scaled` file has a number "scale" that multiplies x before encoding and
    divides the reconstruction; such files keep the tensors under "state".
    """

    name: str
    keys: tuple[str, str, str, str] = NAMES
    transposed: bool = False
    subtract_b_dec: bool = False
    scaled: bool = False
    used_by: str = ""


CONVENTIONS = {
    row.name: row
    for row in (
        Convention("official", used_by="Qwen/SAE-Res-*"),
        Convention("centered", subtract_b_dec=True, used_by="official layout, x - b_dec"),
        Convention("transposed", transposed=True, used_by="SAELens layout, x not centred"),
        Convention(
            "openinterpretability",
            transposed=True,
            subtract_b_dec=True,
            used_by="caiovicentino1/qwen36-27b-sae-papergrade and its family",
        ),
        Convention(
            "leoninverse",
            keys=("W_enc", "W_dec", "b_enc", "b_pre"),
            transposed=True,
            subtract_b_dec=True,
            scaled=True,
            used_by="LeonInverse/qwen3.8-27b-scope-code",
        ),
    )
}
