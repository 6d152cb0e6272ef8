"""Pages need no script and no network, and tell verdicts in words."""

import nbformat
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from toy_project import loads, run_report

from qs_helpers.report import pages


def test_page_drops_scripts_and_widgets():
    data = {
        "application/javascript": "alert(1)",
        "application/vnd.jupyter.widget-view+json": {"model_id": "a"},
        "text/plain": "plain words",
    }
    cell = new_code_cell("x", outputs=[new_output("display_data", data=data)])
    html = pages.notebook_page(new_notebook(cells=[cell]), "01_x", "mine", set())
    assert "<script" not in html and "tiny scope" not in html


def test_formulas_and_contents_need_no_script():
    text = "# A\n\n## Two *words*\n\nInline $x^2$, `$code$`, and\n\n$$\\frac{a}{b}$$\n\n### Deep"
    cells = [new_markdown_cell("# 01 · T"), new_markdown_cell(text)]
    html = pages.notebook_page(new_notebook(cells=cells), "01_x", "mine", set())
    soup = BeautifulSoup(html, "html.parser")
    assert [m["display"] for m in soup("math")] == ["inline", "block"]
    assert "$code$" in soup.find("code").text and loads(html) == []
    links = [a["href"] for a in soup.find("nav")("a")]
    assert links == ["#two-words", "#deep"]
    assert all(soup.find(id=link[1:]) for link in links)


def test_pages_do_not_show_whose_home_it_is(tmp_path):
    """Neither in outputs, tracebacks and parameters, nor in what the code was given."""
    words = [
        "/home/alice/my model",
        "/Users/alice/x.csv",
        "/net/home/alice/a",
        "C:\\Users\\alice\\b",
    ]
    outputs = [new_output("stream", text=f"read {word}, 3 texts\n") for word in words]
    trace = ["File /home/alice/.venv/lib/x.py:3", "\x1b[31mOSError\x1b[39m: /home/alice/x"]
    outputs.append(new_output("error", ename="OSError", evalue=words[0], traceback=trace))
    cell = new_code_cell("DATA = '/home/alice/x.csv'  # half a character: \ud800", outputs=outputs)
    nb = new_notebook(cells=[new_markdown_cell("# T"), cell])
    error = "OSError: /home/alice/x.csv"
    for with_code in (False, True):
        page = pages.notebook_page(nb, "01_x", "mine", set(), None, error, with_code)
        assert "alice" in page
        pages.write_page(tmp_path / "new" / "a.html", page)
        shown = (tmp_path / "new" / "a.html").read_text("utf-8")
        assert (
            "alice" not in shown and "read ~/my model, 3 texts" in shown and "OSError: ~/x" in shown
        )


def test_pages_tell_verdicts_in_words(project):
    index, _ = run_report(project, ["01"])
    soup = BeautifulSoup((index.parent / "01_toy.html").read_text(), "html.parser")
    rows = [[c.get_text(" ", strip=True) for c in r("td")] for r in soup.find("table")("tr")[1:]]
    assert rows == [
        [
            "shown",
            "one is one (1; 95 % interval 0.9 to 1.1; n = 20 in 10 groups). "
            "SHOWN needs: the interval lies above 0.5.",
            *("1", "0.9 to 1.1", "20", "10"),
        ],
        ["holds", "no hook is left (0).", "0", "", "", ""],
    ]
    quotes = [q.get_text(" ", strip=True) for q in soup("blockquote")]
    assert quotes[0].startswith("SHOWN one is one (1; 95 % interval") and len(quotes) == 2
    assert "SHOWN needs: the interval lies above 0.5." in soup.find("blockquote").find("sub").text
    announced = soup("table")[-1]
    assert [c.text for c in announced("td")][::2] == ["one", "the interval lies above 0.5"]


def lesson():
    said = new_output("display_data", {"text/markdown": "> **Answer.** Old."})
    cells = [
        new_markdown_cell("# 01 · T\n\n**Question.** Is it?"),
        new_code_cell('qs.answer("01_t")', outputs=[said], metadata={"tags": ["results"]}),
        new_markdown_cell("## 1. First"),
        new_code_cell("import folded", metadata={"tags": ["hide-input"]}),
        new_code_cell("def solved(): ...", metadata={"tags": ["exercise"]}),
        new_code_cell("shown = 1"),
    ]
    return new_notebook(cells=cells)


def test_the_answer_stands_above_the_contents():
    html = pages.notebook_page(lesson(), "01_t", "mine", set())
    assert (
        html.index("Is it?") < html.index("Answer.") < html.index("Contents") < html.index("1. F")
    )


def test_set_up_and_solutions_are_folded_and_code_is_not():
    soup = BeautifulSoup(
        pages.notebook_page(lesson(), "01_t", "mine", set(), with_code=True), "html.parser"
    )
    folded = {d.find("summary").text: d.get_text() for d in soup("details")}
    assert "import folded" in folded["Code"] and "def solved" in folded["Solution"]
    assert "shown" in soup.get_text() and not any("shown = 1" in text for text in folded.values())


def test_the_answer_of_a_page_is_that_of_its_own_run(project):
    path = project / "notebooks" / "01_toy.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells.insert(1, lesson().cells[1])
    end = "qs.save_figure(fig, 'hero', 'A hero.', data)\nqs.conclude('It is *7*.', 'hero')"
    begin = "import matplotlib.pyplot as plt, pandas as pd\n"
    begin += "fig, data = plt.figure(), pd.DataFrame({'x': [1]})\n"
    nb.cells[1].source = "import qs_helpers as qs\n\nqs.answer('01_toy')"
    nb.cells.append(new_code_cell(begin + end))
    nbformat.write(nb, path)
    index, _ = run_report(project, ["01"])
    page = (index.parent / "01_toy.html").read_text("utf-8")
    assert "<strong>Answer.</strong> It is <em>7</em>." in page and 'alt="A hero."' in page
    assert "No answer yet" not in page and "It is 7." in index.read_text("utf-8")
