"""What every committed notebook must keep to, as functions from a notebook to its problems.

Each gate takes the notebook and its path and returns one line per problem, none if it passes.
GATES maps the name of a gate to its function. A notebook that shows its answer at the top is a
lesson: it opens in another way, and has gates of its own (LESSON_GATES), which pass all others.
"""

import ast
import base64
import re
from functools import wraps
from pathlib import Path
from statistics import median
from symtable import symtable

from qs_helpers.evidence import answer
from qs_helpers.evidence.figures import MAX_PNG_BYTES
from qs_helpers.report.refresh import MACHINE_PATH, cell_text

PARAMETER = re.compile(
    r"[A-Z][A-Z0-9_]*: (str|int|float|bool|list|dict)(\[[\w, \[\]]+\])? = [^=|]+?  # [^=]+"
)
MEDIAN_LINES, MAX_LINES = 10, 25
MAX_PARAMETERS, MAX_CELLS = 8, 50  # of a lesson
EXERCISES = range(2, 5)  # how many a lesson has
NEIGHBOURS = r"\[(← previous|next →)\]\([\w.-]+\.ipynb\)"
TASK = r"### Exercise {} · \S.*\s(★☆☆|★★☆|★★★) \d+ min"
SOLUTION = r"^ +### BEGIN SOLUTION\n.+?^ +### END SOLUTION"
HINT = r"<details>\s*<summary>Hint</summary>.*\S.*</details>"


def code_cells(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def is_lesson(nb) -> bool:
    """True if a cell shows the answer of the committed run."""
    return any(answer.CALL in cell.source for cell in code_cells(nb))


def source_hidden(cell) -> bool:
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))


def is_folded(cell) -> bool:
    """True if the source of a cell is hidden, on our pages and in JupyterLab."""
    return "hide-input" in tags(cell) and source_hidden(cell)


def code_lines(cell) -> int:
    """Lines of a cell that are not blank, not only a comment, and not only closing brackets."""
    lines = (line.strip(" )]},") for line in cell.source.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def opening(nb, path: Path) -> list[str]:
    """Cell 0 is markdown: title with the notebook's number, question, what it writes, links. A
    lesson says not what it writes, and has the links in one of its first three markdown cells."""
    if not nb.cells or nb.cells[0].cell_type != "markdown":
        return ["cell 0 must be markdown"]
    text = nb.cells[0].source
    problems = []
    title = rf"# {path.stem[:2]} · \S.*" if path.stem[:2].isdigit() else r"# \d\d · \S.*"
    if not re.fullmatch(title, text.split("\n", 1)[0]):
        problems.append("cell 0 must begin with '# NN · Title', NN as in the file name")
    for label in ("Question",) if is_lesson(nb) else ("Question", "Writes"):
        if not re.search(rf"^\*\*{label}\.\*\* \S", text, re.MULTILINE):
            problems.append(f"cell 0 needs a line '**{label}.** …'")
    question = re.search(r"^\*\*Question\.\*\* (.+?)(?=\n\s*\n|\n\*\*|\Z)", text, re.M | re.S)
    if question and not question[1].rstrip().endswith("?"):
        problems.append("the question in cell 0 must end with '?'")
    prose = [cell.source for cell in nb.cells if cell.cell_type == "markdown"]
    place = "one of the first three markdown cells" if is_lesson(nb) else "cell 0"
    if not re.search(NEIGHBOURS, "\n".join(prose[: 3 if is_lesson(nb) else 1])):
        problems.append(f"{place} needs '[← previous](x.ipynb) · [next →](y.ipynb)'")
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
    """The first code cell, alone, is tagged parameters; each line is NAME: type = value  # help. In
    a lesson it is the second, after the answer, and has at most eight lines."""
    tagged = [i for i, cell in enumerate(code_cells(nb)) if "parameters" in tags(cell)]
    place = 1 if is_lesson(nb) else 0
    if tagged != [place]:
        which = ("first", "second")[place]
        return [f"exactly one cell is tagged 'parameters': the {which} code cell"]
    lines = [line for line in code_cells(nb)[place].source.splitlines() if line.strip()]
    problems = [
        f"parameters line is not 'NAME: type = value  # help': {line}"
        for line in lines
        if not PARAMETER.fullmatch(line)
    ]
    if not any(line.startswith('PRESET: str = "auto"  #') for line in lines):
        problems.append('the parameters need the line PRESET: str = "auto"  # help')
    if is_lesson(nb) and len(lines) > MAX_PARAMETERS:
        problems.append(f"{len(lines)} parameters, above {MAX_PARAMETERS}: leave sizes to presets")
    return problems


def imports(nb, path: Path) -> list[str]:
    """The second code cell imports the helper and shows versions. In a lesson the third one,
    folded, imports what the lesson uses; the helper is imported above the answer."""
    if is_lesson(nb):
        third = code_cells(nb)[2] if len(code_cells(nb)) > 2 else None
        if third and is_folded(third) and re.search(r"^(import|from) ", third.source, re.M):
            return []
        return ["the third code cell must import what the lesson uses, and be folded"]
    source = code_cells(nb)[1].source if len(code_cells(nb)) > 1 else ""
    if "import qs_helpers as qs" in source and "version" in source:
        return []
    return ["the second code cell must 'import qs_helpers as qs' and show versions"]


def measured(nb, path: Path) -> list[str]:
    """Among the first four code cells, one tagged results prints the recorded time and memory. In a
    lesson it is the first, folded, and shows the answer with them."""
    if is_lesson(nb):
        first, name = code_cells(nb)[0], path.stem if path.stem[:2].isdigit() else r"\w+"
        shows = rf'import qs_helpers as qs\s+qs\.answer\("{name}"\)'
        if re.fullmatch(shows, first.source) and is_folded(first) and "results" in tags(first):
            return []
        return ["the first code cell must be qs.answer(its name), folded and tagged 'results'"]
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


def folded(nb, path: Path) -> list[str]:
    """A cell that is hidden on our pages is hidden in JupyterLab, and the other way round."""
    return [
        f"a cell is hidden in one place only: {cell.source[:40]!r}"
        for cell in code_cells(nb)
        if ("hide-input" in tags(cell)) != source_hidden(cell)
    ]


def own_cells(nb) -> list:
    """The code cells of a lesson itself: those of exercises apart."""
    return [cell for cell in code_cells(nb) if not {"exercise", "check"} & set(tags(cell))]


def few_cells(nb, path: Path) -> list[str]:
    """A lesson is no log: it has at most 50 code cells, exercises apart."""
    n = len(own_cells(nb))
    return [f"{n} code cells, above {MAX_CELLS}"] if n > MAX_CELLS else []


def concluded(nb, path: Path) -> list[str]:
    """The last code cell concludes: it writes the answer that the first one shows."""
    last = code_cells(nb)[-1]
    return [] if calls(last, "conclude") else ["the last code cell must call qs.conclude"]


def called(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def saves(call: ast.Call) -> bool:
    """True for a call that saves a figure."""
    return ast.unparse(call.func) == "qs.save_figure"


def says(call: ast.Call) -> bool:
    """True for a call that shows a sentence made from what was measured: a verdict, or text that is
    more than a literal, printed or displayed as Markdown."""
    name = ast.unparse(call.func)
    if name == "display":
        return any(says(part) for argument in call.args for part in called(argument))
    words = name == "print" or name.split(".")[-1] == "Markdown"
    made = any(not isinstance(word, ast.Constant) for word in call.args)
    return name in ("qs.claim", "qs.holds") or (words and made)


def said(nb, path: Path) -> list[str]:
    """Each figure has a generated sentence after it, in its cell or in the next code cell. What a
    function of the notebook saves and says counts where the function is called."""
    seen, functions = [], {}
    for number, cell in enumerate(code_cells(nb)):
        body = parsed(cell).body
        own = [part for part in body if isinstance(part, ast.FunctionDef)]
        functions |= {function.name: called(function) for function in own}
        made = [call for part in body if part not in own for call in called(part)]
        for call in sorted(made, key=lambda call: (call.end_lineno, call.end_col_offset)):
            inner = functions.get(ast.unparse(call.func), [call])
            seen.append((number, call, any(map(saves, inner)), any(map(says, inner))))
    return [
        f"no sentence follows the figure of {ast.unparse(call)[:50]}"
        for i, (number, call, saved, told) in enumerate(seen)
        if saved and not told
        if not any(told and later <= number + 1 for later, _, _, told in seen[i + 1 :])
    ]


def exercises(nb, path: Path) -> list[str]:
    """Two to four, numbered. Each is a heading with difficulty and minutes, the task, and a hint to
    unfold; then, perhaps after what is given, functions with docstrings and solutions; then their
    check, in one cell or more. Solutions stand nowhere else."""
    at = [i for i, cell in enumerate(nb.cells) if "exercise" in tags(cell)]
    problems = [] if len(at) in EXERCISES else [f"{len(at)} exercises: two to four are expected"]
    for number, i in enumerate(at, 1):
        prose = [cell.source for cell in nb.cells[:i] if cell.cell_type == "markdown"]
        if not re.search(f"^{TASK.format(number)}$", prose[-1], re.M):
            heading = f"### Exercise {number} · Title  ★★☆ 15 min"
            problems.append(f"before exercise {number} the heading must be '{heading}'")
        if not re.search(HINT, prose[-1], re.S):
            problems.append(f"exercise {number} needs <details><summary>Hint</summary>…</details>")
        if not solved(nb.cells[i]):
            problems.append(f"exercise {number} must be a function with docstring and solution")
        if not any("check" in tags(cell) for cell in nb.cells[i + 1 : i + 2]):
            problems.append(f"exercise {number} has no check after it")
    for before, cell in zip(nb.cells, nb.cells[1:], strict=False):
        if "check" in tags(cell) and not {"exercise", "check"} & set(tags(before)):
            problems.append(f"a check follows no exercise: {cell.source[:40]!r}")
        if "BEGIN SOLUTION" in cell.source and "exercise" not in tags(cell):
            problems.append(f"a solution outside of exercises: {cell.source[:40]!r}")
    return problems


def solved(cell) -> bool:
    """True if a cell marks a solution, and each one is in a function that has a docstring."""
    found = list(re.finditer(SOLUTION, cell.source, re.M | re.S))
    lines = [cell.source[: solution.start()].count("\n") + 1 for solution in found]
    functions = [part for part in parsed(cell).body if isinstance(part, ast.FunctionDef)]
    inside = [
        any(f.lineno < line <= f.end_lineno and ast.get_docstring(f) for f in functions)
        for line in lines
    ]
    return bool(found) and all(inside)


def used(cell) -> set[str]:
    return {node.id for node in ast.walk(parsed(cell)) if isinstance(node, ast.Name)}


def defined(cell) -> set[str]:
    """Functions, classes and variables of a cell; what it imports is not its own."""
    table = symtable(ast.unparse(parsed(cell)), "cell", "exec")
    names = [name for name in table.get_symbols() if name.is_assigned() and not name.is_imported()]
    return {name.get_name() for name in names}


def checks(nb, path: Path) -> list[str]:
    """The check of an exercise uses what that defines, says what is wrong with a wrong answer, and
    prints a line for a right one."""
    groups: list[tuple] = []  # an exercise, and the cells of its check
    for cell in code_cells(nb):
        if "exercise" in tags(cell):
            groups.append((cell, []))
        elif "check" in tags(cell) and groups:
            groups[-1][1].append(cell)
    problems = []
    for number, (exercise, its_check) in enumerate(groups, 1):
        if not its_check:
            continue  # exercises says so
        nodes = [node for cell in its_check for node in ast.walk(parsed(cell))]
        asserts = [node for node in nodes if isinstance(node, ast.Assert)]
        raises = [node for node in nodes if isinstance(node, ast.Raise) and node.exc]
        if not defined(exercise) & set().union(*map(used, its_check)):
            problems.append(f"check {number} uses nothing that its exercise defines")
        if not all(node.msg for node in asserts) or not asserts + raises:
            problems.append(f"check {number} must say what is wrong: assert …, message")
        if not any(ast.unparse(n.func) == "print" for n in nodes if isinstance(n, ast.Call)):
            problems.append(f"check {number} must print a line when all is right")
    return problems


def apart(nb, path: Path) -> list[str]:
    """A lesson runs without its exercises: no other cell uses what one of them defines."""
    theirs = set().union(*(defined(cell) for cell in code_cells(nb) if "exercise" in tags(cell)))
    names = theirs & set().union(*(used(cell) for cell in own_cells(nb)))
    return [f"a cell uses {name}, which an exercise defines" for name in sorted(names)]


def of_lessons(gate):
    """The gate for lessons only; its name and docstring stay."""

    @wraps(gate)
    def checked(nb, path: Path) -> list[str]:
        return gate(nb, path) if is_lesson(nb) else []

    return checked


LESSON_GATES = (folded, few_cells, concluded, said, exercises, checks, apart)
GATES = {
    gate.__name__: gate
    for gate in (
        *(opening, links, headings, parameters, imports, measured, lengths, claims),
        *(executed, quiet, machine, metadata, pictures),
        *(of_lessons(gate) for gate in LESSON_GATES),
    )
}
