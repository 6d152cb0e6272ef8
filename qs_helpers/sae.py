"""TopK sparse autoencoders: the object that encodes and decodes, and loading it from files.

SparseActs   the k active features of each token: values and indices
TopKSAE      encode, decode, reconstruct, splice, direction
CONVENTIONS  how other suites store and read their SAEs
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .formats import CONVENTIONS
from .topk import (
    SparseActs,
    columns_of,
    gather_columns,
    may_fire,
    sparse_change,
    topk_linear,
    weighted_columns,
)

__all__ = ["CONVENTIONS", "SparseActs", "TopKSAE"]

CHUNK_BYTES = 2**26  # 512 tokens of 32768 features


class TopKSAE:
    """A TopK SAE in the official orientation: a feature's direction is a column of W_dec.

    W_enc (d_sae, d_model), W_dec (d_model, d_sae), b_enc (d_sae,), b_dec (d_model,). Arithmetic is
    in float32 whatever the dtype the weights are kept in. The official reading (model card of
    Qwen/SAE-Res-*): pre = x @ W_enc.T + b_enc; acts = the k largest of relu(pre); reconstruction
    = acts @ W_dec.T + b_dec. Other conventions encode x * input_scale - b_dec and divide the
    reconstruction by input_scale. `path` and `layer` serve messages and provenance. An object
    does not change after it is made: `to` and `read_as` give new ones that share its weights.
    """

    def __init__(
        self, W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, b_dec: Tensor, k: int,
        convention: str = "official", *, input_scale: float = 1.0, path=None, layer=None,
    ):  # fmt: skip
        self.W_enc, self.W_dec = W_enc, W_dec
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
        self._finite: set[str] = set()

    def __repr__(self) -> str:
        layer = "" if self.layer is None else f"layer {self.layer}, "
        return f"TopKSAE({layer}{self.path or f'd_sae {self.d_sae}, d_model {self.d_model}'})"

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
        new._finite = self._finite  # the same tensors: what was checked stays checked
        return new

    @torch.no_grad()
    def encode(self, x: Tensor, chunk_bytes: int = CHUNK_BYTES) -> SparseActs:
        """The k largest positive pre-activations of each token; x [..., d_model], any float dtype.

        The dense (tokens, d_sae) matrix exists for one chunk of `chunk_bytes` at a time (one token
        at least). Of features exactly tied at the k-th place any may be kept (torch.topk's rule);
        the values are the same. ValueError on another width, on NaN or inf in x or in the weights.
        """
        acts = topk_linear(self._read(x), self.W_enc, self.b_enc, self.k, chunk_bytes)
        return SparseActs(*(part.view(*x.shape[:-1], self.k) for part in acts))

    @torch.no_grad()
    def some(self, x: Tensor, ids: Tensor) -> Tensor:
        """What `encode` gives for a few features: float32 [..., n], 0 where one is not active.

        `ids` int64 [n]; ValueError for one that does not exist. A feature that is not positive
        before the TopK is not in it, so tokens at which none of them is positive, most of them,
        are not encoded.
        """
        flat, ids = self._read(x), ids.to(self.device)
        self._require_features(ids)
        out = torch.zeros(len(flat), len(ids), device=self.device)
        near = may_fire(flat, self.W_enc[ids], self.b_enc[ids])
        if near.any():
            acts = topk_linear(flat[near], self.W_enc, self.b_enc, self.k, CHUNK_BYTES)
            out[near] = columns_of(acts, ids, self.d_sae)
        return out.view(*x.shape[:-1], len(ids))

    @torch.no_grad()
    def decode(self, acts: SparseActs) -> Tensor:
        """The reconstruction, float32 [..., d_model]; uses only the columns in `acts.indices`."""
        self._require_finite("W_dec", "b_dec")
        out = weighted_columns(self.W_dec, *self._entries(acts)) + self.b_dec
        return (out / self.input_scale).view(*acts.values.shape[:-1], self.d_model)

    def reconstruct(self, x: Tensor) -> Tensor:
        """decode(encode(x)), float32 [..., d_model]."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def splice(self, x: Tensor, edit: Callable[[SparseActs], SparseActs] | None = None) -> Tensor:
        """x with some features changed and the SAE's error kept, in x's dtype, [..., d_model].

        `edit` maps the SparseActs of x to new ones: other values, other features, or both. Only
        the difference is decoded and added (x + W_dec (z' - z)), so tokens that `edit` leaves
        alone, and x itself without an edit, come back bit for bit.
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
        out[touched] = (out[touched].float() + delta).to(x.dtype)
        return out.view(x.shape)

    @torch.no_grad()
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

    def _tokens(self, x: Tensor) -> Tensor:
        """x as [tokens, d_model] on the SAE's device, of the right width and finite."""
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
        return flat

    def _read(self, x: Tensor) -> Tensor:
        """x as the encoder reads it, [tokens, d_model]."""
        flat = self._tokens(x)
        self._require_finite("W_enc", "b_enc", "b_dec")
        if self.input_scale != 1:
            flat = flat.float() * self.input_scale
        return flat.float() - self.b_dec if CONVENTIONS[self.convention].subtract_b_dec else flat

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

    def _require_features(self, ids: Tensor) -> None:
        outside = ids[(ids < 0) | (ids >= self.d_sae)]
        if outside.numel():
            raise ValueError(
                f"feature {int(outside[0])} of {self} is out of range; "
                f"choose from 0 to {self.d_sae - 1}"
            )

    def _require_finite(self, *names: str) -> None:
        """Each tensor is read once in full, when it is first needed."""
        for name in set(names) - self._finite:
            low, high = torch.aminmax(getattr(self, name))
            if not (low.isfinite() and high.isfinite()):
                raise ValueError(f"{name} of {self} holds NaN or inf; download the file again")
            self._finite.add(name)
