"""The few benchmark questions that come in the package lm-eval, as examples of its prompts: 282 of
MMLU in 57 subjects, 81 of BIG-Bench Hard in 27 tasks, 8 of GSM8K.

Enough to see that a notebook runs on real questions, and too few for a result. The package is not
installed: its wheel, of a pinned version, is fetched once and read as an archive.
"""

import zipfile
from collections.abc import Iterator

import yaml

from ..presets import nearest, runs_folder
from ..wheels import Package, fetch_wheel

WHEEL = Package(
    package="lm-eval",
    version="0.4.13",
    wheel="lm_eval-0.4.13-py3-none-any.whl",
    sha256="5daaa1973bf874005f64f28d3834b875f6886f0d6475878e6a6c821994a5286a",
    file="lm_eval/tasks",
    model="questions of MMLU, BBH and GSM8K",
    licence="mit",
    url="https://github.com/EleutherAI/lm-evaluation-harness",
    n_bytes=9_149_387,
)
# A part, and the files of its tasks; of MMLU also by the group that a file's tag ends with.
FILES = {
    "mmlu": "lm_eval/tasks/mmlu/flan_cot_fewshot/mmlu_",
    "bbh": "lm_eval/tasks/bbh/cot_fewshot/",
    "gsm8k": "lm_eval/tasks/gsm8k/gsm8k-cot.yaml",
}
GROUPS = ("stem", "humanities", "social_sciences", "other")
PARTS = (*FILES, *(f"mmlu/{group}" for group in GROUPS))


def rows(part: str) -> Iterator[tuple[str, dict]]:
    """("mmlu_anatomy.yaml, item 0", row) of each question; the label is its subject or task.

    ValueError for another part than PARTS, and as `fetch_wheel`.
    """
    if part not in PARTS:
        raise ValueError(f"source 'lm-eval:{part}': {nearest(part, PARTS)}")
    folder = runs_folder() / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    name, _, group = part.partition("/")
    with zipfile.ZipFile(fetch_wheel(WHEEL, folder)) as archive:
        for file in sorted(archive.namelist()):
            short = file.rpartition("/")[2]
            if not file.startswith(FILES[name]) or short[0] == "_" or not short.endswith(".yaml"):
                continue
            said = yaml.load(archive.read(file), _Loader)
            if group and not said["tag"].endswith(group):
                continue
            for number, sample in enumerate(said["fewshot_config"]["samples"]):
                text = sample["question" if "question" in sample else "input"]
                row = {"text": text, "language": "en", "group": short, "label": ""}
                row |= {} if name == "gsm8k" else {"label": said["dataset_name"]}
                yield f"{short}, item {number}", row


class _Loader(yaml.SafeLoader):
    """Functions that a task names by a tag of its own are left out."""


_Loader.add_constructor("!function", lambda loader, node: None)
