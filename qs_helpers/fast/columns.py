"""Columns of a large matrix: sums of a few, and reading few from a mapped file.

What is mapped from a file is asked for by page, on Linux; elsewhere the system reads as it likes.
"""

import ctypes
import functools
import mmap
import sys
import threading

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

BLOCK_BYTES = 2**24  # what one block of gathered weights may take
PAGE = mmap.PAGESIZE
MOST_PAGES = 2**16  # asked for one by one
SMALL = 2**22  # bytes of a tensor that is read as it is
POPULATE_READ = 22  # since Linux 5.14; mmap has no name for it


def columns_of(values: Tensor, indices: Tensor, ids: Tensor, d_sae: int) -> Tensor:
    """The values of the features `ids` [n] among active ones [tokens, k], 0 where one is not
    active: float32 [tokens, n]."""
    place = torch.full((d_sae,), len(ids), device=indices.device)
    place[ids] = torch.arange(len(ids), device=place.device)
    out = torch.zeros(len(values), len(ids) + 1, device=place.device, dtype=torch.float32)
    out.scatter_add_(1, place[indices], values)
    return out[:, place[ids]]


def weighted_columns(W: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """Sum over e of values[t, e] * W[:, indices[t, e]]: float32 [tokens, d_model].

    W is (d_model, d_sae), values and indices [tokens, entries]. Columns that lie in one piece
    (W.T is contiguous) are read where they are. Others are gathered and transposed for one block
    of rows at a time: the block stays in cache, and W is never copied whole. Entries of value 0
    cost nothing, but on a GPU, where picking them takes longer.
    """
    in_rows = W.dtype == torch.float32 and W.T.is_contiguous()
    if in_rows and W.device.type != "cpu":
        return embedding_bag(indices, W.T, mode="sum", per_sample_weights=values)
    filled = values != 0
    counts = filled.sum(-1)
    offsets, weights = counts.cumsum(0) - counts, values[filled]
    if in_rows:
        return embedding_bag(indices[filled], W.T, offsets, mode="sum", per_sample_weights=weights)
    used, places = torch.unique(indices[filled], return_inverse=True)
    out = torch.zeros(len(values), len(W), device=W.device, dtype=torch.float32)
    if not len(used):
        return out
    rows = min(128, max(1, BLOCK_BYTES // (4 * len(used))))
    for start in range(0, len(W), rows):
        part = slice(start, start + rows)
        block = W[part].index_select(1, used).float().T.contiguous()
        out[:, part] = embedding_bag(places, block, offsets, mode="sum", per_sample_weights=weights)
    return out


def gather_columns(W: Tensor, ids: Tensor) -> Tensor:
    """W[:, ids] as rows, float32 [n, d_model]; of a memory-mapped W only the pages it touches.

    A page fault normally reads its whole neighbourhood, which for strided columns adds up to the
    whole matrix: that is turned off for the time of this read. All pages are asked for before the
    first is waited for.
    """
    if not _may_be_mapped(W):
        return W.index_select(1, ids).T.float().contiguous()
    start, size = W.data_ptr(), W.element_size()
    first = start // PAGE * PAGE
    span = first, start + W.nbytes - first
    _madvise()(*span, mmap.MADV_RANDOM)
    try:
        if ids.numel() * len(W) <= MOST_PAGES:
            rows = torch.arange(len(W)) * W.stride(0)
            places = start + size * (rows[:, None] + W.stride(1) * ids)
            for page in (places // PAGE).unique().tolist():
                _madvise()(page * PAGE, PAGE, mmap.MADV_WILLNEED)
        return W.index_select(1, ids).T.float().contiguous()
    finally:
        _madvise()(*span, mmap.MADV_NORMAL)


def read_ahead(W: Tensor) -> threading.Thread | None:
    """Read the pages of W in a thread, which is returned; None where there is nothing to read."""
    if not _may_be_mapped(W):
        return None
    first = W.data_ptr() // PAGE * PAGE
    length = W.data_ptr() + W.nbytes - first

    def read(keep=W):  # what is mapped stays mapped until it was read
        _madvise()(first, length, POPULATE_READ)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _may_be_mapped(W: Tensor) -> bool:
    """torch does not say what lies in a mapped file; advice harms no other memory."""
    return W.device.type == "cpu" and sys.platform.startswith("linux") and W.nbytes >= SMALL


@functools.cache
def _madvise():
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise
