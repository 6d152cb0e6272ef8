"""What every committed notebook must keep to, as functions from a notebook to its problems.

Each gate takes the notebook and its path and returns one line per problem, none if it passes.
GATES maps the name of a gate to its function.
"""

import ast
import base64
import re
from pathlib import Path
from statistics import median

from qs_helpers.evidence.figures import MAX_PNG_BYTES
from qs_helpers.report.refresh import MACHINE_PATH, cell_text

PARAMETER = re.compile(
    r"[A-Z][A-Z0-9_]*: (str|int|float|bool|list|dict)(\[[\w, \[\]]+\])? = [^=|]+?  # [^=]+"
)
MEDIAN_LINES, MAX_LINES = 10, 25


def code_cells(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_lines(cell) -> int:
    """Lines of a cell that are not blank, not only a comment, and not only closing brackets."""
    lines = (line.strip(" )]},") for line in cell.source.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def opening(nb, path: Path) -> list[str]:
    """Cell 0 is markdown: title with the notebook's number, question, what it writes, links."""
    if not nb.cells or nb.cells[0].cell_type != "markdown":
        return ["cell 0 must be markdown"]
    text = nb.cells[0].source
    problems = []
    title = rf"# {path.stem[:2]} · \S.*" if path.stem[:2].isdigit() else r"# \d\d · \S.*"
    if not re.fullmatch(title, text.split("\n", 1)[0]):
        problems.append("cell 0 must begin with '# NN · Title', NN as in the file name")
    for label in ("Question", "Writes"):
        if not re.search(rf"^\*\*{label}\.\*\* \S", text, re.MULTILINE):
            problems.append(f"cell 0 needs a line '**{label}.** …'")
    question = re.search(r"^\*\*Question\.\*\* (.+?)(?=\n\s*\n|\n\*\*|\Z)", text, re.M | re.S)
    if question and not question[1].rstrip().endswith("?"):
        problems.append("the question in cell 0 must end with '?'")
    if not re.search(r"\[(← previous|next →)\]\([\w.-]+\.ipynb\)", text):
        problems.append("cell 0 needs '[← previous](x.ipynb) · [next →](y.ipynb)'")
    return problems


def links(nb, path: Path) -> list[str]:
    """Every relative link leads to a file that exists beside the notebook."""
    problems = []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)", cell.source):
                if "://" not in target and not (path.parent / target).exists():
                    problems.append(f"link to {target}, which does not exist")
    return problems


def headings(nb, path: Path) -> list[str]:
    """One heading of level 1, and no level is skipped on the way down."""
    levels = []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S)
            levels += [len(found) for found in re.findall(r"^(#+) ", text, re.M)]
    problems = [] if levels.count(1) == 1 else ["exactly one heading of level 1 is expected"]
    for before, after in zip(levels, levels[1:], strict=False):
        if after > before + 1:
            problems.append(f"a heading of level {after} follows one of level {before}")
    return problems


def parameters(nb, path: Path) -> list[str]:
    """The first code cell, alone, is tagged parameters; each line is NAME: type = value  # help."""
    tagged = [i for i, cell in enumerate(code_cells(nb)) if "parameters" in tags(cell)]
    if tagged != [0]:
        return ["exactly one cell is tagged 'parameters': the first code cell"]
    lines = [line for line in code_cells(nb)[0].source.splitlines() if line.strip()]
    problems = [
        f"parameters line is not 'NAME: type = value  # help': {line}"
        for line in lines
        if not PARAMETER.fullmatch(line)
    ]
    if not any(line.startswith('PRESET: str = "auto"  #') for line in lines):
        problems.append('the parameters need the line PRESET: str = "auto"  # help')
    return problems


def imports(nb, path: Path) -> list[str]:
    """The second code cell imports the helper and shows versions."""
    source = code_cells(nb)[1].source if len(code_cells(nb)) > 1 else ""
    if "import qs_helpers as qs" in source and "version" in source:
        return []
    return ["the second code cell must 'import qs_helpers as qs' and show versions"]


def measured(nb, path: Path) -> list[str]:
    """Among the first four code cells, one tagged results prints the recorded time and memory."""
    for cell in code_cells(nb)[:4]:
        if "results" in tags(cell) and cell.source.startswith("qs.measured("):
            return []
    return ["one of the first four code cells must be qs.measured(…), tagged 'results'"]


def lengths(nb, path: Path) -> list[str]:
    """Code cells: the median at most 10 lines, none above 25, blank lines, comments and
    closing brackets apart."""
    counts = [code_lines(cell) for cell in code_cells(nb)]
    problems = [f"a code cell has {n} lines, above {MAX_LINES}" for n in counts if n > MAX_LINES]
    if counts and median(counts) > MEDIAN_LINES:
        problems.append(f"the median code cell has {median(counts)} lines, above {MEDIAN_LINES}")
    return problems


def calls(cell, *names: str) -> list[ast.Call]:
    """Calls of qs.<name> in a cell, in order."""
    found = [node for node in ast.walk(parsed(cell)) if isinstance(node, ast.Call)]
    found = [call for call in found if ast.unparse(call.func) in {f"qs.{name}" for name in names}]
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def parsed(cell) -> ast.Module:
    """A code cell without its magics."""
    lines = (line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!")))
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:
        return ast.Module([], [])


def claim_id(call: ast.Call) -> str | None:
    """The id of a claim, with … where a name is filled in: "fluent/…" for f"fluent/{language}"."""
    given = [word.value for word in call.keywords if word.arg == "id"]
    match [*call.args, *given]:
        case [ast.Constant(value=str(name)), *_]:
            return name
        case [ast.JoinedStr(values=parts), *_]:
            return "".join(x.value if isinstance(x, ast.Constant) else "…" for x in parts)
    return None


def claims(nb, path: Path) -> list[str]:
    """Claims are announced in one place, before the first of them and before a cell names the test
    split (other than to load texts); their ids are written out, or filled in, and unique."""
    cells = code_cells(nb)
    judged = [i for i, cell in enumerate(cells) for _ in calls(cell, "claim")]
    made = [call for cell in cells for call in calls(cell, "claim", "holds")]
    names = [claim_id(call) for call in made]
    problems = [
        f"the id of a claim is no literal: {ast.unparse(call)[:60]}"
        for call, name in zip(made, names, strict=True)
        if name is None
    ]
    twice = {name for name in names if name and names.count(name) > 1}
    problems += [f"two claims have the id {name!r}" for name in sorted(twice)]
    announcing = [i for i, cell in enumerate(cells) if calls(cell, "announce")]
    if not announcing or announcing != list(range(announcing[0], announcing[-1] + 1)):
        wanted = bool(judged or announcing)
        return problems + ["one place is to announce the claims: qs.announce"] * wanted
    tables = [call.args[0] for i in announcing for call in calls(cells[i], "announce")]
    if not all(isinstance(table, ast.Dict) for table in tables):
        return problems + ["qs.announce needs a dict that is written out, its ids literal"]
    keys = [key for table in tables for key in table.keys]
    known = [key.value if isinstance(key, ast.Constant) else None for key in keys]
    if None in known:
        return problems + ["qs.announce needs a dict that is written out, its ids literal"]
    problems += [f"{name!r} is announced twice" for name in set(known) if known.count(name) > 1]
    for call, name in zip(made, names, strict=True):
        if name and call.func.attr == "claim":
            pattern = re.escape(name.partition("/")[0]).replace("…", ".+")
            if not any(re.fullmatch(pattern, other) for other in known):
                problems.append(f"claim {name!r} is not announced")
    if judged and judged[0] < announcing[0]:
        problems.append("a claim is judged before the cell that announces the claims")
    for cell in cells[: announcing[0]]:
        named = any(
            isinstance(x, ast.Constant) and x.value == "test" for x in ast.walk(parsed(cell))
        )
        if named and not calls(cell, "load_texts"):
            problems.append("the test split is named before the claims are announced")
    return problems


def executed(nb, path: Path) -> list[str]:
    """Outputs are committed, from one run in order: cells are numbered 1, 2, 3, …"""
    counts = [cell.execution_count for cell in code_cells(nb) if cell.source.strip()]
    problems = []
    if counts != list(range(1, len(counts) + 1)):
        problems.append("cells were not run once, in order, on a fresh kernel")
    if not any(cell.outputs for cell in code_cells(nb)):
        problems.append("there are no outputs")
    return problems


def quiet(nb, path: Path) -> list[str]:
    """No errors, nothing on stderr, no missing glyphs."""
    problems = []
    for cell in code_cells(nb):
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"an error was committed: {output.ename}")
            elif output.get("name") == "stderr":
                problems.append(f"stderr was committed: {output.text.strip()[:80]}")
            elif output.get("text", "").startswith("No font for "):
                problems.append(f"a figure lacks glyphs: {output.text.strip()[:80]}")
    return problems


def machine(nb, path: Path) -> list[str]:
    """No path of somebody's machine, in text, outputs or metadata."""
    texts = [str(dict(nb.metadata))] + [cell_text(cell) for cell in nb.cells]
    found = [MACHINE_PATH.search(text) for text in texts]
    return [f"a path of a machine was committed: {hit[0]}" for hit in found if hit]


def metadata(nb, path: Path) -> list[str]:
    """No widget state and no traces of a runner."""
    problems = [
        f"notebook metadata has {k!r}" for k in ("widgets", "papermill") if k in nb.metadata
    ]
    for cell in code_cells(nb):
        for key in ("papermill", "execution"):
            if key in cell.metadata:
                problems.append(f"cell metadata has {key!r}")
        if "injected-parameters" in tags(cell):
            problems.append("an injected parameters cell was committed")
        mimes = {mime for output in cell.outputs for mime in output.get("data", {})}
        problems += [f"an output is a widget: {mime}" for mime in mimes if "jupyter.widget" in mime]
    return problems


def pictures(nb, path: Path) -> list[str]:
    """Every picture is a PNG of at most 150 kB with alt text."""
    problems = []
    for cell in code_cells(nb):
        for output in cell.outputs:
            data = output.get("data", {})
            if any(m.startswith("image/") and m != "image/png" for m in data):
                problems.append("a picture is not a PNG")
            if "image/png" not in data:
                continue
            if not output.metadata.get("image/png", {}).get("alt", "").strip():
                problems.append("a picture has no alt text")
            size = len(base64.b64decode(data["image/png"]))
            if size > MAX_PNG_BYTES:
                problems.append(f"a picture has {size // 1000} kB, above {MAX_PNG_BYTES // 1000}")
    return problems


GATES = {
    gate.__name__: gate
    for gate in (
        *(opening, links, headings, parameters, imports, measured, lengths, claims),
        *(executed, quiet, machine, metadata, pictures),
    )
}
