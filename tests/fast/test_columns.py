"""Mapped weights: a column costs its pages, and what is read ahead need not be read again."""

import ctypes
import mmap
import os
import sys
import threading
import weakref

import pytest
import torch

import qs_helpers as qs
from qs_helpers.fast import columns as mapped
from qs_helpers.fast.columns import PAGE, gather_columns, read_ahead
from qs_helpers.loading.saefile import read_sae

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="asks Linux what lies in its page cache"
)


@pytest.mark.parametrize("shape", [(8, 40), (600, 4096)])
@pytest.mark.parametrize("kind", ["rows", "columns", "bfloat16", "part"])
def test_columns_of_any_layout(shape, kind):
    W = torch.randn(shape)
    W = {"rows": W, "columns": W.T.contiguous().T, "bfloat16": W.bfloat16(), "part": W[1:, 3:-1]}[
        kind
    ]
    for ids in ([5], [7, 0, 7], [], list(range(30)) * 9):
        ids = torch.tensor(ids, dtype=torch.int64)
        found = gather_columns(W, ids)
        assert torch.equal(found, W[:, ids].T.float()) and found.is_contiguous()


def rss_of_file(path) -> int:
    """Bytes of a mapped file that are in this process's memory (/proc/self/smaps)."""
    total, inside = 0, False
    for line in open("/proc/self/smaps"):
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            inside = line.rstrip().endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.fixture
def big_file(tmp_path):
    """A file of the official layout with 32 MB a matrix, none of it in the page cache."""
    d_model, d_sae = 256, 32768
    path = tmp_path / "layer0.sae.pt"
    torch.save(
        {
            "W_enc": torch.ones(d_sae, d_model),
            "W_dec": torch.ones(d_model, d_sae),
            "b_enc": torch.zeros(d_sae),
            "b_dec": torch.zeros(d_model),
        },
        path,
    )
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


@linux
def test_a_direction_takes_its_pages(big_file):
    W = read_sae(big_file).tensors["W_dec"]
    assert gather_columns(W, torch.tensor([7, 20000])).eq(1).all()
    assert rss_of_file(big_file) <= 2 * len(W) * 4096 + 2**20 < 0.2 * W.nbytes


@linux
def test_read_ahead_reads_one_matrix(big_file):
    tensors = read_sae(big_file).tensors
    thread = read_ahead(tensors["W_enc"])
    thread.join(30)
    read = rss_of_file(big_file)
    probe = mmap.mmap(-1, mmap.PAGESIZE)
    place = ctypes.addressof(ctypes.c_char.from_buffer(probe))
    if mapped._madvise()(place, mmap.PAGESIZE, 22) != 0:  # MADV_POPULATE_READ
        pytest.skip("this kernel does not populate mapped memory on request")
    assert tensors["W_enc"].nbytes <= read < 1.2 * tensors["W_enc"].nbytes
    assert read_ahead(tensors["b_dec"]) is None, "not worth a thread"


@linux
def test_the_pages_of_a_column_are_asked_for_and_no_others(monkeypatch):
    asked = []
    monkeypatch.setattr(mapped, "_madvise", lambda: lambda *advice: asked.append(advice))
    W = torch.randn(600, 4096)
    gather_columns(W, torch.tensor([7, 4000]))
    (start, length, random), *pages, (again, as_long, normal) = asked
    assert (random, normal) == (mmap.MADV_RANDOM, mmap.MADV_NORMAL)
    assert (again, as_long) == (start, length)
    assert start <= W.data_ptr() and start + length == W.data_ptr() + W.nbytes
    wanted = {
        (W.data_ptr() + 4 * (4096 * row + f)) // PAGE for row in range(600) for f in (7, 4000)
    }
    assert {page // PAGE for page, _, _ in pages} == wanted
    assert {(n, advice) for _, n, advice in pages} == {(PAGE, mmap.MADV_WILLNEED)}


@linux
def test_what_is_read_ahead_stays_mapped(monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def slow(*advice):
        begun.set()
        go.wait(30)

    monkeypatch.setattr(mapped, "_madvise", lambda: slow)
    W = torch.zeros(2**21)
    alive = weakref.ref(W)
    thread = read_ahead(W)
    assert begun.wait(30)
    del W
    assert alive() is not None
    go.set()
    thread.join(30)
    del thread
    assert alive() is None


def test_what_is_kept_or_not_here_is_not_read_ahead(monkeypatch):
    from qs_helpers.loading import scope as module

    scope, read = qs.load_scope("tiny"), []
    monkeypatch.setattr(module, "read_ahead", lambda W: read.append(tuple(W.shape)))
    scope.read_ahead(2)
    assert read == [(scope.d_sae, scope.d_model)]
    scope.sae(3)
    scope.read_ahead(3)
    scope.read_ahead(99)
    assert len(read) == 1


@linux
def test_one_file_is_read_at_a_time_and_a_broken_one_is_left_to_its_user(monkeypatch, tmp_path):
    from qs_helpers.loading import scope as module

    scope, read = qs.load_scope("tiny"), []
    go = threading.Event()

    def slowly(W):
        read.append(W)
        thread = threading.Thread(target=go.wait, args=[30], daemon=True)
        thread.start()
        return thread

    monkeypatch.setattr(module, "read_ahead", slowly)
    scope.read_ahead(1)
    scope.read_ahead(2)
    assert len(read) == 1
    go.set()
    scope._ahead.join(30)
    scope.read_ahead(2)
    assert len(read) == 2
    scope._ahead.join(30)
    (tmp_path / "layer4.sae.pt").write_bytes(b"half of it")
    scope._sae_source = scope._sae_source._replace(folder=tmp_path)
    scope.read_ahead(4)
    scope.read_ahead(5)  # not there
    assert len(read) == 2
