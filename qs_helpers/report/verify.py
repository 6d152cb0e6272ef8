"""Recomputes the headline claims of runs from the samples that lie beside their results."""

from hashlib import sha256
from pathlib import Path
from typing import Any

from ..evidence.samples import computed, disagreement
from .run import BUILD, RESULTS, STAMP, near, read_json


def verify_runs(folder: Path) -> tuple[list[str], bool]:
    """A line for each notebook of a folder, and whether all headline claims agree: at least one
    does, and every run reached its end.

    folder: of one run, or of several, as runs/tiny or figures. ValueError if it holds none.
    """
    paths = [folder / RESULTS, *sorted(folder.glob(f"*/{RESULTS}"))]
    runs = [(path.parent, read_json(path)) for path in paths if path.is_file()]
    runs = [(where, results) for where, results in runs if "claims" in results]
    if not runs:
        raise ValueError(f"{near(folder)} holds no run; make one with qs-report")
    lines, good, recomputed = [], True, 0
    for where, results in runs:
        claims = [claim for claim in results["claims"] if "samples" in claim]
        wrong = [f"{claim['id']}: {why}" for claim in claims if (why := _differs(where, claim))]
        recomputed += len(claims) - len(wrong)
        said = f"{len(claims) - len(wrong)} of {len(claims)} headline claims agree"
        parts = [said if claims else "no headline claim with samples", *wrong]
        # Neither is written before the end; 00 has no answer, and no stamp where it is committed.
        ended = "answer" in results or (where / STAMP).is_file() or results["notebook"] == BUILD
        if not ended:
            parts.append("it did not reach its end")
        lines.append(f"{results['notebook']}: {'; '.join(parts)}")
        good &= ended and not wrong
    return lines, good and bool(recomputed)


def _differs(folder: Path, claim: dict[str, Any]) -> str:
    """Why a claim does not agree with its samples, in words; "" if it does."""
    about = claim["samples"]
    try:
        content = (folder / about["file"]).read_bytes()
        found = computed(about["by"], content, claim["family"])
    except OSError as bad:
        return f"cannot be recomputed: {about['file']}: {bad.strerror}"
    except ValueError as bad:
        return f"cannot be recomputed: {about['file']}: {bad}"
    why = [disagreement(claim["value"], claim["interval"], found)]
    if sha256(content).hexdigest() != about["sha256"]:
        why.append(f"{about['file']} is not the file that the run wrote")
    return "differs: " + ", and ".join(filter(None, why)) if any(why) else ""
