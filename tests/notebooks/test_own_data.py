"""Notebook 04 on a file of the reader's: small, in one language or two, with groups or without;
and every notebook on the natural sets."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Five frames, each with three mild insults and three words of praise: 30 lines a language.
FRAMES = {
    "en": "My neighbour is such a {}.|What a {} you are!|They call her a {}.|He was always a {}."
    "|Everyone says you are a {}.",
    "fr": "Mon voisin est un vrai {}.|Quel {} tu es !|On l'appelle le {}.|Il est resté un {}."
    "|Tout le monde dit que tu es un {}.",
}
TOXIC = {
    "en": "fool lazybones bore grump chatterbox show-off slowcoach sourpuss twit know-all fusspot"
    " ninny windbag spoilsport busybody",
    "fr": "sot paresseux raseur grognon bavard vantard lambin ronchon nigaud pédant tricheur niais"
    " balourd rabat-joie fouineur",
}
CLEAN = {
    "en": "friend helper angel gem star hero wizard treasure saint genius champion sage joy wonder"
    " craftsman",
    "fr": "ami sauveur ange bijou phare héros magicien trésor saint génie champion sage soleil"
    " prodige artiste",
}


def lines(languages=("en", "fr"), grouped=False) -> list[dict]:
    """30 remarks a language; `grouped`: with a column group, "frame|word"."""
    out = []
    for language in languages:
        frames = FRAMES[language].split("|")
        for label, words in (("toxic", TOXIC), ("clean", CLEAN)):
            for i, word in enumerate(words[language].split()):
                row = {"text": frames[i // 3].format(word), "label": label, "language": language}
                out.append(row | ({"group": f"frame {i // 3}|{word}"} if grouped else {}))
    return out


def write(path: Path, rows: list[dict]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def run_04(tmp_path: Path, rows: list[dict], name: str, *given: str) -> tuple[dict, str]:
    """results.json of the command line's run of 04 on a file, and all that its cells printed."""
    path = str(write(tmp_path / name, rows))
    return run(tmp_path, "04_toxicity", "-p", "DATA", path, *given)


def run(tmp_path: Path, notebook: str, *given: str) -> tuple[dict, str]:
    """results.json of the command line's run of a notebook, and all that its cells printed."""
    params = tmp_path / "notebooks" / "params"
    shutil.copytree(ROOT / "notebooks" / "params", params)
    shutil.copy(ROOT / "notebooks" / f"{notebook}.ipynb", params.parent)
    sections = yaml.safe_load((ROOT / "notebooks" / "params" / "tiny.yaml").read_text("utf-8"))
    kept = {part: sections[part] for part in ("scope", "common", notebook)}
    (params / "tiny.yaml").write_text(yaml.safe_dump(kept), "utf-8")
    argv = [sys.executable, "-m", "qs_helpers.report", "--preset", "tiny", "--only", notebook[:2]]
    env = {k: v for k, v in os.environ.items() if k != "QS_OUT"} | {"QS_ROOT": str(tmp_path)}
    done = subprocess.run([*argv, *given], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = tmp_path.glob(f"runs/*/{notebook}/results.json")
    (ran,) = tmp_path.glob(f"runs/*/{notebook}.ipynb")
    cells = json.loads(ran.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    return json.loads(found.read_text("utf-8")), printed


def badges(results: dict) -> dict[str, str]:
    return {claim["id"]: claim["badge"] for claim in results["claims"]}


def test_sixty_lines_in_two_languages(tmp_path):
    results, printed = run_04(tmp_path, lines(), "mine.csv")
    found = badges(results)
    assert found["hooks"] == found["by-hand"] == found["no-leak"] == "HOLDS"
    # Six test texts a language, each its own group: too few for a verdict.
    assert {found[name] for name in ("one-feature", "transfer/fr", "labels")} == {"MEASURED"}
    assert "60 remarks; toxic 30, clean 30; en 30, fr 30" in printed
    assert "no group column: each text is its own group" in printed
    assert "18 discovery texts in en, fewer than 20: this section is left out" in printed
    assert "few-labels" not in found and "not more than 200: no claim" in printed
    one = next(claim for claim in results["claims"] if claim["id"] == "one-feature")
    assert one["n"] == 6 and one["groups"] < 8 and "verdict needs 8" in one["why"]


@pytest.mark.long
def test_groups_of_two_parts_stay_whole_and_name_the_words(tmp_path):
    results, printed = run_04(tmp_path, lines(grouped=True), "mine.csv")
    assert "60 remarks" in printed and "no group column" not in printed
    assert "words that groups name in toxic texts: 30" in printed
    one = next(claim for claim in results["claims"] if claim["id"] == "one-feature")
    assert one["badge"] == "MEASURED" and one["groups"] == 1
    assert badges(results)["hooks"] == "HOLDS"


@pytest.mark.long
def test_jsonl_in_one_language_that_nobody_named_and_fewer_test_texts(tmp_path):
    rows = [{"text": row["text"], "toxic": row["label"] == "toxic"} for row in lines(["en"])]
    results, printed = run_04(tmp_path, rows, "mine.jsonl", "-p", "N_TEST", "2")
    found = badges(results)
    assert found["hooks"] == "HOLDS" and found["one-feature"] == "MEASURED"
    assert not [name for name in found if name.startswith("transfer/")]
    assert "24 texts whose language nobody said count as en" in printed
    assert "one language: nothing to transfer to" in printed
    one = next(claim for claim in results["claims"] if claim["id"] == "one-feature")
    assert one["n"] == 4  # N_TEST counts for a file too: two of each label


@pytest.mark.long
def test_a_language_that_the_tiny_world_lacks(tmp_path):
    rows = [row | {"language": "de"} for row in lines(["fr"])]
    results, printed = run_04(tmp_path, rows, "mine.csv")
    assert badges(results)["hooks"] == "HOLDS"
    assert "TEXTS has no passages in de: no claim about ordinary texts" in printed


def natural(*names: str) -> list[str]:
    return [word for name in names for word in ("-p", name, "natural")]


def test_no_tiny_feature_is_called_a_detector_of_natural_remarks(tmp_path):
    results, printed = run(tmp_path, "04_toxicity", *natural("TEXTS", "DATA"))
    found = {claim["id"]: claim for claim in results["claims"]}
    assert "natural: 600 remarks; toxic 300, clean 300" in printed
    assert (
        "natural: 120 passages" in printed
        and "words that groups name in toxic texts: 30" in printed
    )
    # Frames enough for a verdict, and the verdict is no: the tiny model never read such language.
    assert found["one-feature"]["badge"] == "NOT SHOWN" and found["one-feature"]["groups"] >= 12
    for language in ("en", "fr", "ru", "ja", "zh"):
        assert found[f"hard-negatives/{language}"]["n"] == 12
        assert found[f"ordinary-texts/{language}"]["n"] == 24
    assert found["hooks"]["badge"] == found["no-leak"]["badge"] == "HOLDS"


@pytest.mark.long
@pytest.mark.parametrize(
    ("notebook", "given", "says", "holds"),
    [
        ("01_load", natural("TEXTS"), ["natural: 120 passages"], None),
        (
            "02_visualize",
            natural("TEXTS", "DATA"),
            ["natural: 240 passages", "too few to call a feature dead"],
            "hooks-left",
        ),
        (
            "03_steer",
            natural("TEXTS", "PROMPTS", "DATA"),
            ["natural: 60 openings; en 60; discovery 12, validation 18, test 30; 60 groups"],
            "no-hooks-left",
        ),
        (
            "05_code_switching",
            [*natural("TEXTS", "PROMPTS"), "-p", "STEPS", "0", "-p", "N_PROMPTS", "10"],
            ["natural: ", "questions"],
            "hooks-left",
        ),
        (
            "06_abliteration_comparison",
            [*natural("TEXTS"), "-p", "PROMPTS", "[natural]", "-p", "REDRAWS", "3"],
            ["natural: 400 requests; harmful 200, harmless 200", "CAUTION: tiny-instruct refuses"],
            "no-hooks-left",
        ),
    ],
)
def test_every_notebook_reads_the_natural_sets_to_its_last_cell(
    tmp_path, notebook, given, says, holds
):
    results, printed = run(tmp_path, notebook, *given)
    for sentence in says:
        assert sentence in printed
    found = badges(results)
    assert "HOLDS" in found.values() and (holds is None or found[holds] == "HOLDS")
    assert not {"well-formed/fr", "planted-direction/tiny-instruct"} & set(found)
