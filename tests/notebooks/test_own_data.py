"""Notebook 04 on a file of the reader's: small, in one language or two, with groups or without;
and every notebook on the natural sets."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qs_helpers.texts import load_texts

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


def run(tmp_path: Path, notebook: str, *given: str, edit=None) -> tuple[dict, str]:
    """results.json of the command line's run of a notebook, and all that its cells printed; edit:
    (old, new), a text of the notebook and what stands in its place."""
    params = tmp_path / "notebooks" / "params"
    shutil.copytree(ROOT / "notebooks" / "params", params)
    copied = Path(shutil.copy(ROOT / "notebooks" / f"{notebook}.ipynb", params.parent))
    if edit:
        text = copied.read_text("utf-8")
        assert text.count(edit[0]) == 1
        copied.write_text(text.replace(*edit), "utf-8")
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


INVARIANTS = {"counts-agree", "or-agrees", "f1-agrees", "threshold-agrees", "auroc-agrees"}
INVARIANTS |= {"residuals-agree", "hooks-left"}


def claimed(results: dict) -> dict[str, dict]:
    found = {claim["id"]: claim for claim in results["claims"]}
    assert {name for name in found if found[name]["badge"] == "HOLDS"} == INVARIANTS
    return found


def test_sixty_lines_in_two_languages(tmp_path):
    results, printed = run_04(tmp_path, lines(), "mine.csv")
    found = claimed(results)
    # Six test texts a language, each its own group: too few for a verdict.
    assert {found[name]["badge"] for name in ("one-feature", "transfer/fr", "labels")} == {
        "MEASURED"
    }
    assert "60 remarks; toxic 30, clean 30; en 30, fr 30" in printed
    assert "no group column: each text is its own group" in printed
    assert "few-labels" not in found and "18 discovery texts in en: too few for a claim" in printed
    one = found["one-feature"]
    assert one["n"] == 6 and one["groups"] < 8 and "verdict needs 8" in one["why"]
    assert "requests: there are none, so no claim" in printed


def two_hundred(seed: int = 0) -> list[dict]:
    """200 texts, in two languages: words of 30 letters' worth of syllables, so that none repeat."""
    draw, rows = random.Random(seed), []
    for language in ("en", "fr"):
        frames = FRAMES[language].split("|")
        for label, words in (("toxic", TOXIC), ("clean", CLEAN)):
            names = [
                f"{word} {draw.choice('abcdefgh')}{i}"
                for i in range(4)
                for word in words[language].split()
            ]
            for i, name in enumerate(names[:50]):
                row = {"text": frames[i % 5].format(name), "label": label, "language": language}
                rows.append(
                    row | {"split": ("discovery", "discovery", "validation", "test")[i % 4]}
                )
    return rows


def test_two_hundred_texts_in_two_languages_and_a_choice_that_never_sees_test_labels(tmp_path):
    rows = two_hundred()
    flipped = {"toxic": "clean", "clean": "toxic"}
    other = [r | {"label": flipped[r["label"]]} if r["split"] == "test" else r for r in rows]
    given = ["-p", "LAYERS", "[2, 4]"]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    results, printed = run_04(tmp_path / "a", rows, "mine.csv", *given)
    found = claimed(results)
    assert "200 remarks; toxic 100, clean 100; en 100, fr 100" in printed
    assert {"one-feature", "transfer/fr", "false-alarms/passages", "from-data", "student"} <= {
        *found
    }
    folder = next((tmp_path / "a").glob("runs/*/04_toxicity"))
    for table in ("layers", "detectors", "where", "precision", "transfer"):
        with open(folder / "figures" / f"{table}.csv", encoding="utf-8", newline="") as file:
            assert all(int(row["groups"]) > 0 for row in csv.DictReader(file)), table
    slugs = {figure["slug"] for figure in results["figures"]}
    assert slugs == set("layers detectors where precision seeds transfer shared candidates".split())
    said = results["answer"]["text"]
    assert "one feature (layer" in said and f"F1 {found['one-feature']['value']:.2f} (95 %" in said
    mixed, _ = run_04(tmp_path / "b", other, "mine.csv", *given)
    for what in ("chosen", "thresholds"):
        assert mixed["values"][what] == results["values"][what]
    assert claimed(mixed)["one-feature"]["value"] != found["one-feature"]["value"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [r for r in two_hundred() if (r["language"], r["label"]) != ("fr", "toxic")],
            "language 'fr' has no toxic text",
        ),
        (
            [r | {"group": f"g{i % 3}"} for i, r in enumerate(two_hundred())],
            "group 'g0' is in splits",
        ),
        (
            [r for r in two_hundred() if (r["language"] == "en") == (r["label"] == "toxic")],
            "language 'en' has no clean text",
        ),
        (
            [r for r in two_hundred() if r["label"] == "toxic"],
            "holds only toxic texts; both labels",
        ),
        ([r | {"label": "maybe"} for r in two_hundred()], "label"),
        ([r | {"text": ""} if i == 7 else r for i, r in enumerate(two_hundred())], "text"),
        (
            [*two_hundred(), two_hundred()[0] | {"split": "test"}],
            "a text is in splits",
        ),
    ],
    ids=[
        "no-toxic-in-fr",
        "groups-straddle",
        "label-is-language",
        "one-class",
        "words",
        "empty",
        "twice",
    ],
)
def test_what_no_detector_can_be_fitted_on_is_refused_by_name(tmp_path, rows, says):
    with pytest.raises(ValueError, match=says):
        load_texts(str(write(tmp_path / "mine.csv", rows)), "remarks")


def test_labels_that_lean_on_the_language_are_balanced_within_it(tmp_path, capsys):
    rows = [
        r
        for i, r in enumerate(two_hundred())
        if i % 5 == 0 or (r["language"] == "en") == (r["label"] == "toxic")
    ]
    texts = load_texts(str(write(tmp_path / "mine.csv", rows)), "remarks")
    assert "to balance the labels" in capsys.readouterr().out
    for language in ("en", "fr"):
        labels = [t.label for t in texts if t.language == language]
        assert labels.count("toxic") == labels.count("clean") > 0


@pytest.mark.long
def test_groups_of_two_parts_stay_whole(tmp_path):
    results, printed = run_04(tmp_path, lines(grouped=True), "mine.csv")
    assert "60 remarks" in printed and "no group column" not in printed
    one = claimed(results)["one-feature"]
    assert one["badge"] == "MEASURED" and one["groups"] == 1


@pytest.mark.long
def test_jsonl_in_one_language_that_nobody_named_and_fewer_test_texts(tmp_path):
    rows = [{"text": row["text"], "toxic": row["label"] == "toxic"} for row in lines(["en"])]
    results, printed = run_04(tmp_path, rows, "mine.jsonl", "-p", "N_TEST", "2")
    found = claimed(results)
    assert found["one-feature"]["badge"] == "MEASURED"
    assert not [name for name in found if name.startswith("transfer/")]
    assert "texts whose language nobody said count as en" in printed
    assert "one language: nothing to transfer to" in printed
    assert found["one-feature"]["n"] == 4  # N_TEST counts for a file too: two of each label


@pytest.mark.long
def test_a_language_that_the_tiny_world_lacks_and_candidates_of_ones_own(tmp_path):
    rows = [row | {"language": "de"} for row in two_hundred() if row["language"] == "fr"]
    own = [row | {"language": "de"} for row in two_hundred(1) if row["language"] == "fr"]
    own = [{k: v for k, v in r.items() if k != "split"} for r in own]
    tested = next(r for r in rows if (r["label"], r["split"]) == ("toxic", "test"))
    copy = {"text": tested["text"].upper(), "label": "toxic", "language": "de"}
    fresh = [r for r in own if r["text"] not in {r["text"] for r in rows}]
    path = str(write(tmp_path / "more.csv", [*fresh[5:], copy]))
    results, printed = run_04(tmp_path, rows, "mine.csv", "-p", "CANDIDATES", path)
    found = claimed(results)
    assert "passages: there are none, so no claim" in printed and "more.csv: " in printed
    assert "candidates left out, as validation or test texts or of their groups: 1\n" in printed
    assert found["from-data"]["null"]["draws"] == 20


def natural(*names: str) -> list[str]:
    return [word for name in names for word in ("-p", name, "natural")]


def test_no_tiny_feature_is_called_a_detector_of_natural_remarks(tmp_path):
    results, printed = run(tmp_path, "04_toxicity", *natural("TEXTS", "DATA"))
    found = claimed(results)
    assert "natural: 600 remarks; toxic 300, clean 300" in printed
    # Frames enough for a verdict, and the verdict is no: the tiny model never read such language.
    assert found["one-feature"]["badge"] == "NOT SHOWN" and found["one-feature"]["groups"] >= 12
    assert {f"false-alarms/{kind}" for kind in ("clean-remarks", "hard-negatives", "requests")} <= {
        *found
    }
    assert found["false-alarms/hard-negatives"]["n"] == 60


SCRIPTS = {  # words that no text of the tiny world has
    "th": "วันนี้ เด็กชาย เดินไป ตลาด เพื่อซื้อ ขนมปัง และปลา แล้ว กลับบ้าน กับน้องสาว แม่ทำ อาหารเย็น",
    "ar": "في صباح اليوم ذهب الولد إلى السوق واشترى الخبز والسمك ثم عاد إلى البيت مع أخته الصغيرة",
}


def passages(path: Path, languages=("th", "ar"), n: int = 60) -> Path:
    """n passages in each of some scripts, by an order of words of its own."""
    rng, rows = random.Random(0), []
    for language in languages:
        words = SCRIPTS[language].split()
        rows += [
            {"text": " ".join(rng.choices(words, k=14)) + ".", "language": language}
            for _ in range(n)
        ]
    return write(path, rows)


@pytest.mark.long
def test_01_on_a_script_that_the_model_cannot_read_gives_no_verdict_on_its_loss(tmp_path):
    path = str(passages(tmp_path / "thai.jsonl", ["th"]))
    results, printed = run(tmp_path, "01_load", "-p", "TEXTS", path, "-p", "LAYERS", "[3]")
    found = {claim["id"]: claim for claim in results["claims"]}
    assert found["same-features"]["badge"] == found["hooks-left"]["badge"] == "HOLDS"
    # It does no worse with the mean in place of what it read, so a share of that has no meaning.
    assert found["loss-added"]["badge"] == "MEASURED"
    assert found["loss-added"]["why"] == "the value is no number"
    assert "there is no scale" in found["loss-added"]["sentence"]
    assert "these texts give no scale" in results["answer"]["text"]
    assert "nan" not in results["answer"]["text"]


@pytest.mark.long
def test_02_on_other_scripts_and_a_topic_without_texts(tmp_path):
    given = ["-p", "LAYERS", "[2, 3]", "-p", "N_TEXTS", "12", "-p", "TOPIC", "[xyzzy]"]
    path = str(passages(tmp_path / "scripts.jsonl"))
    results, printed = run(tmp_path, "02_visualize", "-p", "TEXTS", path, *given)
    found = {claim["id"]: claim for claim in results["claims"]}
    assert found["hooks-left"]["badge"] == "HOLDS"
    assert {"concept/language-ar", "concept/language-th"} <= set(found)
    assert "topic is left out: 0 texts with or without it" in printed
    assert "concept/topic" not in found


@pytest.mark.long
@pytest.mark.parametrize("notebook", ["01_load", "02_visualize"])
def test_six_passages_are_enough_to_reach_the_last_cell(tmp_path, notebook):
    path = str(passages(tmp_path / "few.jsonl", ["ar"], 6))
    results, printed = run(tmp_path, notebook, "-p", "TEXTS", path, "-p", "LAYERS", "[2, 3]")
    found = badges(results)
    assert found["hooks-left"] == "HOLDS" and "6 passages" not in printed  # test ones only
    if notebook == "02_visualize":
        assert "one test passage only: there is nothing to compare it with" in printed
    else:
        assert found["fvu"] == found["declared-reading"] == found["loss-added"] == "MEASURED"


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
            ["natural: 330 requests; harmful 165, harmless 165"],
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
