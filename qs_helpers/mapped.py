"""Weights that are mapped from a file: tell the system what will be read. Linux; elsewhere nothing.

gather_columns  a few columns of a matrix, reading only the pages that hold them
read_ahead      read a tensor's pages in the background
"""

import ctypes
import functools
import mmap
import sys
import threading

import torch
from torch import Tensor

__all__ = ["gather_columns", "read_ahead"]

PAGE = mmap.PAGESIZE
MOST_PAGES = 2**16  # asked for one by one
SMALL = 2**22  # bytes of a tensor that is read as it is
POPULATE_READ = 22  # since Linux 5.14; mmap has no name for it


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
