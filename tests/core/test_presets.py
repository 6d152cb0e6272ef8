"""Settings: a preset's file with the notebook's parameters on top, and what is refused."""

import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qs_helpers import presets
from qs_helpers.loading import catalog
from qs_helpers.report.check import check_preset
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


def test_files_of_texts_are_relative_to_the_preset(project):
    values = {
        "TEXTS": "mine.txt",
        "LISTS": "./lists.csv",
        "DATA": "tiny",
        "PROMPTS": ["a.txt", "x/y"],
    }
    (project / "tiny.yaml").write_text(f"01_load: {values}")
    found = presets.preset_values("01_load", "tiny")
    assert found["TEXTS"] == str(project / "mine.txt")
    assert found["LISTS"] == str(project / "lists.csv")
    assert found["DATA"] == "tiny" and found["PROMPTS"] == [str(project / "a.txt"), "x/y"]
    assert all(map(presets.is_bundled, ("tiny", "tiny:story", "natural", "natural:recipe")))
    assert not any(map(presets.is_bundled, ("tiny.csv", "a/tiny", "natural.jsonl", "nature")))


def test_tiny_presets():
    names = ("tiny", "tiny-sft", "qwen3-8b-l50", "tinyllama")
    assert [presets.is_tiny(name) for name in names] == [True, True, False, False]


@pytest.mark.parametrize("group", catalog.GROUPS.values(), ids=lambda g: g.name)
def test_every_official_group_has_a_preset_that_fits_it(group):
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
    assert set(values) == {"dtype", "batch_tokens"} | made
    assert set(presets.SCOPE_KEYS) <= set(inspect.signature(load_scope).parameters)
    on_cpu = presets.is_tiny(name) or made
    assert values["dtype"] == ("float32" if on_cpu else "bfloat16")


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
    trained_on = {"pydoc"} if name == "smollm2" else set()
    assert worlds == {"tiny" if presets.is_tiny(name) else "natural"} | trained_on
