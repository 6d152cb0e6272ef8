"""TopK sparse autoencoders: the math, how suites store it, and what an SAE refuses."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .fast.columns import columns_of, gather_columns, weighted_columns
from .fast.halves import halved, make_halves
from .fast.topk import linear, make_screen, may_fire, screened, topk

CHUNK_BYTES = 2**26  # of pre-activations at a time: 512 tokens of 32768 features
GPU_CHUNK_BYTES = 2**28  # the same on a GPU, where a product of few tokens is slower for each


@dataclass(frozen=True)
class Convention:
    """How a suite stores and reads its SAEs.

    `keys` are the file's names for W_enc, W_dec, b_enc, b_dec, in this order. `transposed` files
    hold W_enc as (d_model, d_sae) and W_dec as (d_sae, d_model). With `subtract_b_dec` the encoder
    reads x - b_dec. A `scaled` file has a number "scale" that multiplies x before encoding and
    divides the reconstruction; such files keep the tensors under "state".
    """

    name: str
    keys: tuple[str, str, str, str] = ("W_enc", "W_dec", "b_enc", "b_dec")
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


class SparseActs(NamedTuple):
    """Active features: `values` float32 [..., k] in descending order, `indices` int64 [..., k].

    An entry of value 0 is an empty place (fewer than k features were positive); its index means
    nothing, but no other place of the token has it. Count features with `values > 0`.
    """

    values: Tensor
    indices: Tensor


def _float32(method):
    """Without gradients, and outside of autocast, which would compute in another type."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run


class TopKSAE:
    """A TopK sparse autoencoder on residuals x [..., d_model].

        pre  = x @ W_enc.T + b_enc             W_enc (d_sae, d_model), b_enc (d_sae,)
        acts = the k largest of pre, where they are positive; all others are 0
        x̂    = acts @ W_dec.T + b_dec          W_dec (d_model, d_sae), b_dec (d_model,)

    So a feature's direction is a column of W_dec. This is the official reading (model card of
    Qwen/SAE-Res-*): x is neither centred nor scaled. Other suites encode x * input_scale - b_dec
    and divide the reconstruction by input_scale; see CONVENTIONS.

    Arithmetic is in float32, whatever dtype the weights are kept in. An SAE does not change: `to`,
    `read_as` and `by_columns` give new ones. `path` and `layer` serve messages and provenance.
    """

    def __init__(
        self,
        W_enc: Tensor,
        W_dec: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        k: int,
        convention: str = "official",
        *,
        input_scale: float = 1.0,
        path=None,
        layer=None,
    ):
        self.W_enc, self.W_dec = W_enc, W_dec
        self.b_enc, self.b_dec = b_enc.float(), b_dec.float()
        self.d_sae, self.d_model = W_enc.shape
        self.k, self.convention, self.input_scale = k, convention, float(input_scale)
        self.path, self.layer = path, layer
        # Of the encoded tokens, how many each kind of product was enough for (fast/).
        self.settled = {"int8": 0, "float16": 0, "float32": 0, "all": 0}
        self._known = {}  # what was found out about the weights: finite, and the encoder's screen
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

    @_float32
    def encode(self, x: Tensor, chunk_bytes: int | None = None) -> SparseActs:
        """The active features of each token: x [..., d_model] of any float dtype.

        The dense (tokens, d_sae) matrix exists for `chunk_bytes` of tokens at a time; None: 64 MB
        on a CPU, 256 MB elsewhere. Of features tied at the k-th place a screened encoder keeps the
        smallest numbers, others any. ValueError on another width, on NaN or inf in x or in the
        weights, and where the product overflows.
        """
        values, indices = self._top_k(self._read(x), chunk_bytes)
        if not values.isfinite().all():
            raise ValueError(f"residuals up to {x.abs().max():g} overflow in {self}")
        return SparseActs(*(part.view(*x.shape[:-1], self.k) for part in (values, indices)))

    @_float32
    def decode(self, acts: SparseActs) -> Tensor:
        """The reconstruction, float32 [..., d_model]. W_dec is read whole once, to see that it is
        finite; after that only the columns in `acts.indices`. ValueError where it leaves the range
        of floats, and for acts that are not finite."""
        self._require_finite("W_dec", "b_dec")
        x_hat = weighted_columns(self.W_dec, *self._entries(acts)).add_(self.b_dec)
        if self.input_scale != 1:
            x_hat /= self.input_scale
        x_hat = self._held(x_hat, acts)
        return x_hat.view(*acts.values.shape[:-1], self.d_model)

    def reconstruct(self, x: Tensor) -> Tensor:
        """decode(encode(x)), float32 [..., d_model]."""
        return self.decode(self.encode(x))

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
        self._require_features(ids := ids.long())
        rows = gather_columns(self.W_dec, ids)
        if not rows.isfinite().all():
            raise ValueError(f"W_dec of {self} holds NaN or inf; download the file again")
        return rows / self.input_scale

    def encoder(self, ids=slice(None)) -> tuple[Tensor, Tensor]:
        """(W, b) with which `x @ W.T + b` gives the pre-activations of x as it is, before the TopK:
        float32 [d_sae, d_model] and [d_sae], or of the features `ids`. They are W_enc and b_enc, of
        a suite that subtracts b_dec or scales x with that folded in."""
        W, b = self.W_enc[ids].to(self.device).float(), self.b_enc[ids]
        if CONVENTIONS[self.convention].subtract_b_dec:
            b = b - W @ self.b_dec
        return W * self.input_scale if self.input_scale != 1 else W, b

    @_float32
    def some(self, x: Tensor, ids: Tensor) -> Tensor:
        """What `encode` gives for a few features: float32 [..., n], 0 where one is not active.

        `ids` int64 [n]; ValueError for one that does not exist. Tokens at which none of them is
        positive before the TopK, most of them, are not encoded.
        """
        flat, ids = self._read(x), ids.to(self.device)
        self._require_features(ids)
        out = torch.zeros(len(flat), len(ids), device=self.device, dtype=torch.float32)
        near = may_fire(flat, self.W_enc[ids], self.b_enc[ids])
        if near.any():
            out[near] = columns_of(*self._top_k(flat[near]), ids, self.d_sae)
        return out.view(*x.shape[:-1], len(ids))

    @_float32
    def splice(self, x: Tensor, edit: Callable[[SparseActs], SparseActs] | None = None) -> Tensor:
        """x with some features changed and the SAE's error kept, in x's dtype, [..., d_model].

        `edit` maps the SparseActs z of x to new ones, z'. Only the difference is decoded and added,
        x + W_dec (z' - z), so tokens that `edit` leaves alone come back bit for bit. ValueError
        where the new x leaves the range of its dtype.
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
        delta = weighted_columns(self.W_dec, change.values[touched], change.indices[touched])
        out, touched = x.reshape(-1, self.d_model).clone(), touched.to(x.device)
        delta = (delta / self.input_scale).to(x.device)
        out[touched] = self._held((out[touched].float() + delta).to(x.dtype), new)
        return out.view(x.shape)

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
        new = self._copy(_known={})
        new.W_enc, new.W_dec = self.W_enc.to(device, dtype), self.W_dec.to(device, dtype)
        new.b_enc, new.b_dec = self.b_enc.to(device), self.b_dec.to(device)
        return new

    def read_as(self, convention: str) -> "TopKSAE":
        """The same weights, read with another convention's arithmetic."""
        if convention not in CONVENTIONS:
            raise ValueError(f"no convention {convention!r}; choose one of {list(CONVENTIONS)}")
        return self._copy(convention=convention)  # what was checked stays checked

    def by_columns(self) -> "TopKSAE":
        """The same SAE with W_dec laid out in memory column by column: for decoding many tokens.

        A second copy of W_dec exists as long as both objects do.
        """
        return self._copy(W_dec=self.W_dec.T.contiguous().T)

    def _copy(self, **changes) -> "TopKSAE":
        new = copy.copy(self)
        vars(new).update({"settled": dict.fromkeys(self.settled, 0)} | changes)
        return new

    def _read(self, x: Tensor) -> Tensor:
        """x as the encoder reads it, [tokens, d_model] on the SAE's device; refused if it does not
        fit or is not finite."""
        if x.shape[-1:] != (self.d_model,):
            raise ValueError(
                f"residuals of shape {tuple(x.shape)} do not fit W_enc {tuple(self.W_enc.shape)} "
                f"of {self}; pass [..., {self.d_model}] or choose an SAE of this model"
            )
        flat = x.reshape(-1, self.d_model).to(self.device)
        bad = ~flat.isfinite().all(-1)
        if bad.any():
            first = bad.nonzero()[0, 0].cpu()
            place = [int(i) for i in torch.unravel_index(first, x.shape[:-1] or (1,))]
            raise ValueError(
                f"residual of token {place} given to {self} holds NaN or inf "
                f"({int(bad.sum())} of {len(flat)} tokens do); look for the layer that makes it"
            )
        self._require_finite("W_enc", "b_enc", "b_dec")
        if self.input_scale != 1:
            flat = flat.float() * self.input_scale
        return flat.float() - self.b_dec if CONVENTIONS[self.convention].subtract_b_dec else flat

    def _top_k(self, flat: Tensor, chunk_bytes: int | None = None) -> tuple[Tensor, Tensor]:
        """The k largest of relu(x @ W_enc.T + b_enc) of what `_read` gave: values, indices."""
        if chunk_bytes is None:
            chunk_bytes = CHUNK_BYTES if self.device.type == "cpu" else GPU_CHUNK_BYTES
        if "screen" not in self._known:  # not before it is needed: it reads all of W_enc
            weights = self.W_enc, self.b_enc, self.k
            self._known["screen"] = make_screen(*weights) or make_halves(*weights)
        if screen := self._known["screen"]:  # of a large encoder: the same numbers, sooner
            find = screened if self.device.type == "cpu" else halved
            weights = self.W_enc, self.b_enc, self.k, screen
            values, indices, settled = find(flat.float(), *weights, chunk_bytes)
            self.settled = {form: n + settled.get(form, 0) for form, n in self.settled.items()}
            return values, indices
        parts = []
        for part in flat.split(max(1, chunk_bytes // (4 * self.d_sae))):
            pre = linear(part.float(), self.W_enc, self.b_enc)  # part @ W_enc.T + b_enc
            parts.append(topk(pre.relu_(), self.k))
        values, indices = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(indices)

    def _entries(self, acts: SparseActs) -> SparseActs:
        """Values and indices as [tokens, entries] on the SAE's device, checked."""
        values, indices = acts
        if values.shape != indices.shape:
            raise ValueError(
                f"acts have values {tuple(values.shape)} but indices {tuple(indices.shape)}; "
                "give each value its feature"
            )
        self._require_features(indices)
        entries = values.shape[-1]
        return SparseActs(
            values.to(self.device, torch.float32).reshape(-1, entries),
            indices.to(self.device, torch.int64).reshape(-1, entries),
        )

    def _held(self, made: Tensor, acts: SparseActs) -> Tensor:
        """What was made of activations, refused where its dtype cannot hold it."""
        # NaN and inf both show in the extremes, which take no copy.
        if made.numel() and not torch.stack(made.aminmax()).isfinite().all():
            raise ValueError(
                f"activations up to {acts.values.abs().max().item():g} make {self} decode to inf "
                f"or NaN in {made.dtype}; give smaller ones"
            )
        return made

    def _require_features(self, ids: Tensor) -> None:
        if not ids.numel():
            return
        low, high = torch.stack(ids.aminmax()).tolist()
        if low < 0 or high >= self.d_sae:
            outside = ids[(ids < 0) | (ids >= self.d_sae)]
            raise ValueError(
                f"feature {int(outside[0])} of {self} is out of range; "
                f"choose from 0 to {self.d_sae - 1}"
            )

    def _require_finite(self, *names: str) -> None:
        """Each tensor is read once in full, when it is first needed."""
        for name in set(names) - self._known.keys():
            # One pass without a copy: NaN and inf both show in the extremes.
            if not torch.stack(getattr(self, name).aminmax()).isfinite().all():
                raise ValueError(f"{name} of {self} holds NaN or inf; download the file again")
            self._known[name] = "finite"


def sparse_change(old: SparseActs, new: SparseActs) -> SparseActs:
    """new - old as entries [tokens, k_old + k_new], exactly zero where nothing changed.

    A feature that `new` names twice counts twice, as it does in a decode. An empty place of `old`
    is no feature, whatever its index.
    """
    same = (old.indices[:, :, None] == new.indices[:, None, :]) & (old.values != 0)[:, :, None]
    kept = torch.where(same, new.values[:, None, :], 0).sum(-1)
    fresh = new.values.masked_fill(same.any(1), 0)
    return SparseActs(
        torch.cat([kept - old.values, fresh], -1), torch.cat([old.indices, new.indices], -1)
    )
