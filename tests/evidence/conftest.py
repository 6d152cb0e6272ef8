"""No run is open when a test begins; `run` opens one, `by_hand` one that no report asked for."""

import pytest

from qs_helpers.evidence import record


@pytest.fixture(autouse=True)
def _no_run(monkeypatch):
    monkeypatch.setattr(record, "_current", None)


@pytest.fixture
def run():
    return record.start_run("01_load", "tiny", {"N": 3})


@pytest.fixture
def by_hand(monkeypatch, tmp_path):
    monkeypatch.delenv("QS_OUT")
    monkeypatch.setattr(record, "project_root", lambda: tmp_path)
    return record.start_run("01_load", "tiny")
