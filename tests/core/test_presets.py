"""Settings: a preset's file with the notebook's parameters on top, and what is refused."""

import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qs_helpers import presets
from qs_helpers.loading import catalog
from qs_helpers.loading.memory import training_plan
from qs_helpers.report.check import check_preset
from qs_helpers.report.needs import in_words
from qs_helpers.report.run import TRAIN, Preset, find_notebooks

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

FILE = """
common:
  SEED: 0
  RATE: 0.5
01_load:
  LAYERS: [1, 2]
  NAME: base
  DEEP: false
  LIMIT: null
02_other:
  WIDTH: 3
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks" / "params"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(FILE)
    (folder / "qwen3-8b-l50.yaml").write_text("common:\n  SEED: 1\n")
    monkeypatch.setattr(presets, "project_root", lambda: tmp_path)
    return folder


def test_values_come_from_the_file():
    values = vars(presets.settings("01_load", "auto", SEED=None, LIMIT=None))
    assert values == {
        "PRESET": "tiny",
        **{"SEED": 0, "RATE": 0.5, "LAYERS": [1, 2], "NAME": "base", "DEEP": False, "LIMIT": None},
    }


def test_parameters_win_and_an_int_serves_as_float():
    values = presets.settings("01_load", "tiny", SEED=7, RATE=1, LAYERS=(3,), LIMIT="anything")
    assert (values.SEED, values.RATE, values.LAYERS, values.LIMIT) == (7, 1.0, [3], "anything")
    assert type(values.RATE) is float
    assert presets.settings("01_load", "tiny").LAYERS == [1, 2]


def test_auto_is_the_variable_else_tiny(monkeypatch):
    assert presets.resolve_preset("auto") == "tiny"
    monkeypatch.setenv("QS_PRESET", "qwen3-8b-l50")
    assert presets.resolve_preset("auto") == "qwen3-8b-l50"
    assert presets.resolve_preset("tiny-sft") == "tiny-sft"
    assert presets.settings("01_load", "auto").SEED == 1


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (
            {"SEDE": 1},
            ValueError,
            r"'SEDE' is not in notebooks/params/tiny.yaml for 01_load; did you mean SEED\?",
        ),
        ({"WIDTH": 1}, ValueError, "parameter 'WIDTH' is not in"),
        ({"seed": 1}, ValueError, "did you mean SEED"),
        ({"SEED": "1"}, TypeError, "SEED = '1' is str, but int is expected, such as 0"),
        ({"SEED": True}, TypeError, "SEED = True is bool, but int is expected"),
        ({"SEED": 1.0}, TypeError, "SEED = 1.0 is float, but int is expected"),
        ({"DEEP": 1}, TypeError, "DEEP = 1 is int, but bool is expected"),
        ({"LAYERS": 3}, TypeError, r"LAYERS = 3 is int, but list is expected, such as \[1, 2\]"),
        ({"LAYERS": [1, "b"]}, TypeError, r"LAYERS\[1\] = 'b' is str, but int is expected"),
        ({"LAYERS": [True]}, TypeError, r"LAYERS\[0\] = True is bool, but int is expected"),
        ({"LAYERS": [2, 3, 2]}, ValueError, "LAYERS has 2 twice; leave one out"),
    ],
)
def test_wrong_parameters(params, error, message):
    with pytest.raises(error, match=message):
        presets.settings("01_load", "tiny", **params)


def test_wrong_files(project):
    with pytest.raises(ValueError, match=r"no file notebooks/params/qwen3-8b-l5.yaml; .*-l50\?"):
        presets.settings("01_load", "qwen3-8b-l5")
    (project / "tiny.yaml").write_text("- SEED\n")
    with pytest.raises(ValueError, match="tiny.yaml: sections are expected, such as 'common:'"):
        presets.settings("01_load", "tiny")
    (project / "tiny.yaml").write_text("common: 3\n")
    with pytest.raises(ValueError, match="section 'common' must hold lines 'NAME: value'"):
        presets.settings("01_load", "tiny")
    (project / "tiny.yaml").write_text("")
    assert vars(presets.settings("01_load", "tiny")) == {"PRESET": "tiny"}


TWO_MEANINGS = [
    ("LANGUAGES: [no, en]", "line 1, LANGUAGES: no is a truth value to some readers and a text to"),
    ("DEEP: yes", "line 1, DEEP: yes is a truth value .* quotes for a text, else true or false"),
    ("A:\n  DEEP: Off", "line 2, DEEP: Off is a truth value"),
    ("LAYERS: [1, 010]", "LAYERS: 010 is one number to some readers and another to others"),
    ("LAYERS: [09]", "LAYERS: 09 is a text .* and a number"),
    ("START: 1:30", "START: 1:30 is a number .* and a text"),
    ("START: 12:30:45.5", "START: 12:30:45.5 is a number"),
    ("RATE: 1e-4", "RATE: 1e-4 is a text .* and a number to others; .* in decimals, as 10 or 0.1"),
    ("STRENGTHS: [-.5]", "STRENGTHS: -.5 is a text .* and a number"),
    ("model_revision: 12e5", "model_revision: 12e5 is a text .* and a number"),
    ("N_TEXTS: 1_000", "N_TEXTS: 1_000 is a number .* and a text"),
    ("N_TEXTS: 0x10", "N_TEXTS: 0x10 is a number"),
    ("N_TEXTS: 0b11", "N_TEXTS: 0b11 is a number"),
    ("AT: 2026-11-26", "AT: 2026-11-26 is a date .* and a text"),
    ("SEED: 1\nSEED: 2", "line 2: SEED is there twice, first in line 1"),
    ("{SEED: 1, SEED: 1}", "line 1: SEED is there twice"),
    ("a: {b: 1}\nc: 3\na: {d: 1}", "line 3: a is there twice, first in line 1"),
    ("a:\n- {b: 1, b: 1}", "line 2: b is there twice"),
    ("1: {}", "line 1: 1 is no name, but a number; put it in quotes"),
    ("a:\n  on: 1", "line 2: on is no name, but a truth value"),
    ("~: 1", "line 1: ~ is no name, but nothing"),
    ("? [a, b]\n: 1", "line 1: a list is no name"),
    ("a:\n\t- 1", "line 2: found character .* indent with spaces"),
    ("a: b: c", "line 1: mapping values .* quotes around texts with signs"),
    ("a: [1", "line 1: expected ',' or ']'"),
    ("a: 1\n---\nb: 2", "line 2: .*document"),
    ("a: \x00", "special characters are not allowed"),
    ("a: !!python/name:os.system", "line 1"),
]


@pytest.mark.parametrize(("text", "message"), TWO_MEANINGS)
def test_yaml_with_two_meanings_is_refused_by_its_line(text, message):
    with pytest.raises(ValueError, match=message) as refused:
        presets.read_yaml(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['no', \"010\", '1:30', '1e-1', '12e5']", ["no", "010", "1:30", "1e-1", "12e5"]),
        ("[true, False, 0, -3, +4, 10]", [True, False, 0, -3, 4, 10]),
        ("[0.5, -0.5, .5, 1., 1.0e-4, 1.5e+3]", [0.5, -0.5, 0.5, 1.0, 1e-4, 1500.0]),
        ("[~, null, ]", [None, None]),
        ("[y, n, None, ~/x, 1.2.3, суп, .]", ["y", "n", "None", "~/x", "1.2.3", "суп", "."]),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  b: 2", {"a": {"b": 1}, "c": {"b": 2}}),
        ("a: !!str no", {"a": "no"}),
        ("", None),
        ("# nothing", None),
    ],
)
def test_yaml_with_one_meaning_is_read(text, value):
    assert presets.read_yaml(text) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FILE.encode("utf-16"), "tiny.yaml, line 1: not UTF-8; save the file as UTF-8"),
        (
            FILE.encode() + "  TOPIC: [d\u00e9part]\n".encode("cp1252"),
            "tiny.yaml, line 12: not UTF-8",
        ),
        (FILE.encode() + "  A: д\n".encode("koi8-r"), "tiny.yaml, line 12: not UTF-8"),
        (FILE.encode() + "  A: あ\n".encode("cp932"), "tiny.yaml, line 12: not UTF-8"),
        (FILE.replace("01_load", "1").encode(), "tiny.yaml, line 5: 1 is no name, but a number"),
        (FILE.encode() + b"01_load:\n  NAME: x\n", "tiny.yaml, line 12: 01_load is there twice"),
    ],
)
def test_a_file_that_cannot_be_meant_is_named(project, content, message):
    (project / "tiny.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        presets.settings("01_load", "tiny")


def test_a_byte_order_mark_is_no_part_of_a_name(project):
    (project / "tiny.yaml").write_bytes(FILE.strip().encode("utf-8-sig"))
    assert presets.settings("01_load", "tiny").SEED == 0


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("LAYERS", [1, True], TypeError),
        ("LAYERS", [1.0], TypeError),
        ("LAYERS", ["1"], TypeError),
        ("LAYERS", [[1]], TypeError),
        ("LAYERS", [None], TypeError),
        ("LAYERS", [3, 1, 3], ValueError),
        ("STRENGTHS", [0.0, "0.5"], TypeError),
        ("STRENGTHS", [0, 0.0], ValueError),
        ("LANGUAGES", ["en", False], TypeError),
        ("LANGUAGES", ["en", "en"], ValueError),
        ("TOPIC", ["soup", 3], TypeError),
        ("MODELS", ["tiny", "tiny"], ValueError),
    ],
)
def test_items_of_lists_are_checked(name, value, error):
    with pytest.raises(error, match=name):
        presets.check_items(name, value)


def test_right_items_pass():
    for name, value in {
        "LAYERS": [0, 3],
        "STRENGTHS": [0, 0.5],
        "TOPIC": ["a"],
        "LANGUAGES": [],
        "OF_YOUR_OWN": [1, "a", 1],
    }.items():
        presets.check_items(name, value)


def test_the_project_is_found_from_a_folder_below_it_and_runs_may_be_elsewhere(
    tmp_path_factory, monkeypatch
):
    monkeypatch.undo()
    tmp_path = tmp_path_factory.mktemp("bare")  # tmp_path holds a project
    monkeypatch.delenv("QS_ROOT", raising=False)
    monkeypatch.setattr(presets, "__file__", str(tmp_path / "site" / "qs_helpers" / "presets.py"))
    (tmp_path / "clone" / "notebooks" / "params").mkdir(parents=True)
    for folder in ("clone", "clone/notebooks", "clone/notebooks/params"):
        monkeypatch.chdir(tmp_path / folder)
        assert presets.project_root() == tmp_path / "clone"
    assert presets.runs_folder() == tmp_path / "clone" / "runs"
    monkeypatch.setenv("QS_RUNS", str(tmp_path / "scratch"))
    assert presets.runs_folder() == tmp_path / "scratch"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no file .*; set QS_ROOT to the folder of the clone"):
        presets.settings("01_load", "tiny")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice/model", "~/model"),
        ("'/Users/al.ice/a b.csv'", "'~/a b.csv'"),
        ("/net/home/alice/x and /export/home/bob/y", "~/x and ~/y"),
        (r"C:\Users\alice\x.csv", r"~\x.csv"),
        ("file:///home/alice/x", "file://~/x"),
        ("&quot;/home/alice&quot;", "&quot;~&quot;"),
        ("/cluster/alice/x of the user", "~/x of the user"),
        ("https://x.org/home/page and /cluster/alicette", None),
        ("data:image/png;base64,iVBO/home/w+A/Users/b", None),
        ("a/home/b ./home/b ../home/b", None),
    ],
)
def test_home_folders_are_not_shown(monkeypatch, text, shown):
    monkeypatch.setenv("HOME", "/cluster/alice")
    assert presets.without_home(text) == (shown or text)
    monkeypatch.delenv("HOME")
    assert presets.without_home("/cluster/x") == "/cluster/x"


def test_files_of_texts_are_relative_to_the_preset(project):
    values = {
        "TEXTS": "mine.txt",
        "DATA": "./lists.csv",
        "PROMPTS": ["a.txt", "x/y"],
    }
    (project / "tiny.yaml").write_text(f"01_load: {values}")
    found = presets.preset_values("01_load", "tiny")
    assert found["TEXTS"] == str(project / "mine.txt")
    assert found["DATA"] == str(project / "lists.csv")
    assert found["PROMPTS"] == [str(project / "a.txt"), "x/y"]
    assert all(map(presets.is_bundled, ("tiny", "tiny:story", "natural", "natural:recipe")))
    assert not any(map(presets.is_bundled, ("tiny.csv", "a/tiny", "natural.jsonl", "nature")))


def test_tiny_presets():
    names = ("tiny", "tiny-sft", "qwen3-8b-l50", "tinyllama")
    assert [presets.is_tiny(name) for name in names] == [True, True, False, False]


ALL_GROUPS = catalog.GROUPS | catalog.COMMUNITY


@pytest.mark.parametrize("group", ALL_GROUPS.values(), ids=lambda g: g.name)
def test_every_group_has_a_preset_that_fits_it(group):
    folder = NOTEBOOKS / "params"
    for path in sorted(NOTEBOOKS.glob("0[1-9]_*.ipynb")):
        values = presets.preset_values(path.stem, group.name, folder)
        for name, value in presets.preset_values(path.stem, "tiny", folder).items():
            presets.check_type(name, values[name], value)
        assert set(values["LAYERS"]) <= set(group.layers)
    refusers = presets.preset_values("06_abliteration_comparison", group.name, folder)
    assert refusers["SUITES"] == [group.name]
    assert not any(model.endswith("-Base") for model in refusers["MODELS"])


@pytest.mark.parametrize("name", presets.preset_names(NOTEBOOKS / "params"))
def test_scope_sections_are_keywords_of_load_scope(name):
    from qs_helpers.loading.scope import load_scope

    values = presets.scope_values(name, NOTEBOOKS / "params")
    made = set(presets.prepare_values(name, NOTEBOOKS / "params"))  # folders that a report makes
    # A suite that a report makes is of a model that the file names, made too or of the Hub.
    named = {"model", "sae"} if made else set()
    assert set(values) == {"dtype", "batch_tokens"} | named and made <= named
    assert set(presets.SCOPE_KEYS) <= set(inspect.signature(load_scope).parameters)
    on_cpu = presets.is_tiny(name) or "model" in made
    assert values["dtype"] == ("float32" if on_cpu else "bfloat16")


def test_the_presets_are_those_of_the_catalog_and_two_that_train_their_suite():
    trained = {"smollm2", "qwen3.6-27b"}
    folder = NOTEBOOKS / "params"
    assert set(presets.preset_names(folder)) == {*presets.TINY, *ALL_GROUPS} | trained
    assert {n for n in presets.preset_names(folder) if presets.prepare_values(n, folder)} == trained


def head(name: str) -> str:
    """The comment at the top of a preset's file, as one line."""
    lines = (NOTEBOOKS / "params" / f"{name}.yaml").read_text("utf-8").split("# common:")[0]
    return " ".join(line.removeprefix("# ") for line in lines.splitlines())


def test_a_preset_that_trains_says_its_plan():
    values = presets.preset_values(TRAIN, "qwen3.6-27b", NOTEBOOKS / "params")
    (group,) = (g for g in ALL_GROUPS.values() if g.model_repo == values["MODEL"])
    numbers = (values[name] for name in ("LAYERS", "D_SAE", "K", "TOKENS"))
    plan = training_plan(group, *numbers)
    hours = in_words(plan.hours())
    said = f"planned, not measured: {plan}; about {hours} on an H100."
    assert head("qwen3.6-27b").endswith(said)
    scope = presets.scope_values("qwen3.6-27b", NOTEBOOKS / "params")
    assert scope["model"] == values["MODEL"] and scope["sae"] == values["OUT"]
    assert values["D_SAE"] == 8 * group.d_model
    for section, own in presets.preset_sections("qwen3.6-27b", NOTEBOOKS / "params").items():
        assert own.get("LAYERS", [31]) == values["LAYERS"] == [31], section


def test_the_community_preset_says_what_is_read_and_whose_numbers_it_quotes():
    group = catalog.COMMUNITY["openinterp-qwen3.6-27b"]
    said = head(group.name)
    for fact in (group.sae_repo, f"{group.d_sae // 1024}K features", f"{group.k} of them active"):
        assert fact in said
    assert f'"{group.convention}"' in said and "only layers 11, 31 and 55" in said
    assert (
        f"{group.layer_bytes / 1e9:.1f} GB, {3 * group.layer_bytes / 1e9:.1f} GB for all 3" in said
    )
    assert "Its card, not we, says" in said and "Never run by us yet" in said


def test_every_preset_passes_its_own_check():
    """Names, types, ranges and layers, as a report checks them."""
    notebooks = find_notebooks(NOTEBOOKS)
    for name in presets.preset_names(NOTEBOOKS / "params"):
        preset = Preset(name, NOTEBOOKS / "params")
        assert preset.layers
        mine = [path for path in notebooks if path.stem != TRAIN or TRAIN in preset.sections]
        check_preset(preset, mine)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


@given(VALUES, VALUES)
def test_check_type_keeps_the_type_or_refuses(value, expected):
    try:
        checked = presets.check_type("X", value, expected)
    except TypeError as error:
        assert str(error).startswith("X")
    else:
        assert expected is None or type(checked) is type(expected)


def test_nearest():
    assert presets.nearest("layer", ["LAYER", "SEED"]) == "did you mean LAYER?"
    assert presets.nearest("zzz", ["b", "a"]) == "known: a, b"
    assert presets.nearest("zzz", []) == "known: none"


@pytest.mark.parametrize("name", presets.preset_names(NOTEBOOKS / "params"))
def test_official_presets_read_natural_texts_or_datasets_and_tiny_ones_the_tiny_world(name):
    sections = presets.preset_sections(name, NOTEBOOKS / "params").values()
    values = [
        section[source] for section in sections for source in presets.SOURCES if source in section
    ]
    named = {text for value in values for text in ([value] if type(value) is str else value)}
    worlds = {text.partition(":")[0] for text in named if not presets.dataset_name(text)}
    trained_on = {"pydoc", "lm-eval"} if name == "smollm2" else set()  # and asked
    assert worlds == {"tiny" if presets.is_tiny(name) else "natural"} | trained_on


# ---- one name, one meaning


@pytest.mark.parametrize("value", ["runs/suites/mine", "suite", "a b", "owner/na me", "mine.d"])
def test_a_folder_of_a_scope_is_marked_as_one(tmp_path, value):
    (tmp_path / "mine.yaml").write_text(f"scope:\n  sae: {value}\n")
    with pytest.raises(ValueError, match="mine.yaml, scope: sae is .*begin a folder with ./"):
        presets.scope_values("mine", tmp_path)


def test_a_repo_of_a_scope_is_no_folder_in_disguise(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("scope:\n  model: lab/model@main\n  sae: runs/suite\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    want = {"model": "lab/model@main", "sae": "runs/suite"}
    assert presets.scope_values("mine", tmp_path) == want
    for base in (tmp_path, elsewhere, presets.project_root()):  # of the preset, here, the project
        (base / "runs" / "suite").mkdir(parents=True)
        with pytest.raises(ValueError, match=f"or the folder {base / 'runs' / 'suite'}: give"):
            presets.scope_values("mine", tmp_path)
        (base / "runs" / "suite").rmdir()


@pytest.mark.parametrize("here", [".", "elsewhere"])
def test_a_name_means_the_same_wherever_one_is(tmp_path, monkeypatch, here):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.yaml").write_text("scope:\n  model: ./m\n  sae: ../s\n")
    monkeypatch.chdir(tmp_path / here)
    origin = catalog.find_origin("mine", tmp_path)
    assert (origin.model, origin.sae) == (str(tmp_path / "m"), str(tmp_path.parent / "s"))
    assert presets.place_of("owner/name") == "owner/name"
    assert presets.place_of(Path("owner/name")) == Path.cwd() / "owner" / "name"
    assert presets.place_of("~/m") == str(Path.home() / "m")
