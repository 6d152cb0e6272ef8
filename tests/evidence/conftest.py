"""No run is open when a test begins; `run` opens one."""

import pytest

from qs_helpers.evidence import claims as results


@pytest.fixture(autouse=True)
def _no_run(monkeypatch):
    monkeypatch.setattr(results, "_current", None)


@pytest.fixture
def run():
    return results.start_run("01_load", "tiny", {"N": 3})
