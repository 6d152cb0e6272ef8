"""Every notebook on a device that is not the CPU: what a GPU would refuse is refused here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qs_helpers.report.run import declared

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))[1:]
# Run by the kernel before the first cell.
START = "import sys; sys.path.insert(0, {!r}); import other_device; other_device.take_over()"


@pytest.mark.long
@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_on_another_device(stem, tmp_path):
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text(START.format(str(ROOT / "tests")), encoding="utf-8")
    names = declared(ROOT / "notebooks" / f"{stem}.ipynb")
    small = {name: 12 for name in names if name.startswith("N_")} | {"STEPS": 2, "TOKENS": 20_000}
    # A fresh model fills memory below the place where this device is played.
    small |= {"N_ITEMS": [12], "RANDOM_MODELS": 0}
    given = {name: small[name] for name in names if name in small}
    given = ["-y", json.dumps(given)] if given else []
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3"]
    command += [f"{stem}.ipynb", str(tmp_path / "out.ipynb"), *given]
    env = os.environ | {"IPYTHONDIR": str(tmp_path), "QS_OUT": str(tmp_path / "runs")}
    ran = subprocess.run(command, env=env, cwd=ROOT / "notebooks", capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    if stem == "explore":  # it makes no claims
        return
    results = json.loads((tmp_path / "runs" / stem / "results.json").read_text("utf-8"))
    assert results["provenance"].get("device", "away") == "away"
