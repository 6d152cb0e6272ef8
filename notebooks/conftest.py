"""pytest --nbmake notebooks/: every notebook from 01 on, on the preset that $QS_PRESET names.

On a preset of the catalog, or one in bfloat16, the notebooks carry the marker `gpu`, and are
skipped, with the reason printed, where there is no CUDA device. 00 trains the tiny scope for an
hour: it runs only when its file is named.
"""

import json
import os

import pytest

from qs_helpers.loading.catalog import COMMUNITY, GROUPS
from qs_helpers.presets import preset_names, resolve_preset, scope_values

LONGEST_CELL = 4 * 3600  # seconds, on a preset of the catalog; nbmake's own limit is 300

os.environ.setdefault("QS_OUT", f"runs/test/{resolve_preset('auto')}")
for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "QS_STATIC"):
    os.environ.setdefault(name, "1")  # a bar in an output is noise


def pytest_configure(config):
    if _on_gpu() and getattr(config.option, "nbmake_timeout", None) in (None, 300):
        config.option.nbmake_timeout = LONGEST_CELL


def pytest_collection_modifyitems(config, items):
    build = [item for item in items if item.path.name.startswith("00_")]
    if build and not any("00_" in arg for arg in config.args):
        items[:] = [item for item in items if item not in build]
        config.hook.pytest_deselected(items=build)
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = dealt(items, workers)
    if not _on_gpu():
        return
    import torch

    preset = resolve_preset("auto")
    reason = f"preset {preset} needs a CUDA device, and there is none"
    for item in items:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason=reason))


def dealt(items: list, workers: int) -> list:
    """Items so that equal parts of the list, one for each worker, take about as long.

    By the seconds of the committed runs, the longest first, to and fro: pytest-xdist gives each
    worker its part at the start, and two long ones in one part would keep the others waiting.
    """

    def seconds(item) -> float:
        results = item.path.parents[1] / "figures" / item.path.stem / "results.json"
        return json.loads(results.read_text())["seconds"] if results.is_file() else 0.0

    hands: list[list] = [[] for _ in range(workers)]
    for place, item in enumerate(sorted(items, key=seconds, reverse=True)):
        lap, turn = divmod(place, workers)
        hands[turn if lap % 2 == 0 else -1 - turn].append(item)
    return [item for hand in hands for item in hand]


def _on_gpu() -> bool:
    preset = resolve_preset("auto")
    if preset in GROUPS | COMMUNITY:
        return True
    return preset in preset_names() and scope_values(preset).get("dtype") == "bfloat16"
