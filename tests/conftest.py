"""What all tests share: no network progress bars, and runs that write to a temporary folder."""

import os

import pytest

# Set before the libraries read them, on their first import.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def _runs_go_to_tmp(tmp_path, monkeypatch):
    monkeypatch.setenv("QS_OUT", str(tmp_path / "runs"))
    monkeypatch.delenv("QS_PRESET", raising=False)
    monkeypatch.delenv("QS_RUNS", raising=False)
