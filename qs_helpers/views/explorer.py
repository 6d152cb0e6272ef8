"""Live controls in JupyterLab, and a page to try things on: analyze, compare, steer."""

import os
from collections.abc import Callable

import pandas as pd
from IPython.display import display

from ..controls import random_directions
from ..evidence.files import short
from ..generation import Arm, sweep
from .card import feature_card
from .html import TEXT, esc, page, shade
from .strips import compare_texts, layer_map, name_of, token_strip

MOST_CHARACTERS = 20_000  # shown: a browser draws each token by itself
COLUMNS = 24  # of the map of buttons, for the same reason
STRONGEST = 1.5  # in median norms: beyond, hardly a model writes words
NEW_TOKENS = 24
# Inside a widget a table has no fixed-width font, and lines are as high as buttons.
STYLE = """<style>
.qs-explore pre { font-family: var(--jp-code-font-family, monospace); margin: 0.6em 0; }
.qs-explore .widget-html-content { line-height: 1.5; }
.qs-explore .widget-html-content > div + div { margin-top: 1em; }
.qs-tabs .lm-TabBar-tabLabel { color: var(--jp-ui-font-color1, #212121); }
.qs-steered { white-space: pre-wrap; }
</style>"""


def explore(scope, text: str, layer: int, feature: int, found=None) -> None:
    """Show a feature on a text, and controls that redraw it.

    The static view of the given text, layer and feature is shown first: it is what a page, a
    printed sheet or GitHub keeps. Below it, controls for text, layer and feature; with `found`, a
    Scan, one more chooses a band of contexts. What cannot be shown, such as an empty text or an
    endless one, is said in words. In a report ($QS_STATIC is set) there is nobody to move a
    control, so the static view stands alone. ValueError for a layer or feature that there is not.
    """
    scope.sae(layer), name_of(scope, layer, feature)
    if reason := _unshown(scope, text):
        print(reason)
    else:
        display(token_strip(scope, text, layer, feature))
    if os.environ.get("QS_STATIC"):
        print("Run this cell in JupyterLab to change text, layer and feature.")
        return
    import ipywidgets as widgets

    bands = ["text", "top", *range(1, 11)] if found is not None else ["text"]
    wide, late = widgets.Layout(width="95%"), {"continuous_update": False}
    layers = {"options": list(scope.layers), "value": layer}
    text_box = widgets.Textarea(text, description="text", layout=wide, **late)
    layer_slider = widgets.SelectionSlider(**layers, description="layer", **late)
    feature_box = widgets.BoundedIntText(feature, max=scope.d_sae - 1, description="feature")
    band_box = widgets.Dropdown(options=bands, value="text", description="show")
    picture = widgets.HTML()
    picture.add_class("qs-explore")

    def draw(change=None) -> None:
        place = layer_slider.value, feature_box.value
        try:
            if band_box.value == "text":
                if reason := _unshown(scope, text_box.value):
                    raise ValueError(reason)
                picture.value = token_strip(scope, text_box.value, *place).to_html()
            else:
                picture.value = feature_card(scope, found, *place, band_box.value).to_html()
        except ValueError as error:
            picture.value = f"<div>{esc(error)}</div>"

    controls = [text_box, layer_slider, feature_box, band_box]
    for control in controls:
        control.observe(draw, "value")
    draw()
    display(widgets.VBox([*controls, picture]))


def _unshown(scope, text: str) -> str:
    """Why a text cannot be shown, "" if it can."""
    if len(text) > MOST_CHARACTERS:
        return (
            f"the text has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are shown: "
            "take a part of it"
        )
    try:
        scope.ids([text])
    except ValueError as error:
        return str(error)
    return ""


def explore_app(scope, found, scales, text: str, prompt: str) -> None:
    """Three tabs. Analyze: the strongest features of a text as a map, and a dashboard of the one
    that is chosen. Compare: two texts. Steer: what is written after a prompt, unedited, with the
    feature added, and with a random direction of the same size.

    found: the Scan from which dashboards are made; its layers are those to choose from. scales: of
    `qs.scales`, of these layers. Whatever goes wrong is said in words, and the next try works. In
    a report ($QS_STATIC is set) the map of the text stands alone.
    """
    if os.environ.get("QS_STATIC"):
        display(layer_map(scope, text, found.layers))
        print(
            "Run `make explore`, or this notebook in JupyterLab, to try other texts and to steer."
        )
        return
    import ipywidgets as widgets

    middle = found.layers[len(found.layers) // 2]
    layer = widgets.Dropdown(options=found.layers, value=middle, description="layer")
    feature = widgets.Text(description="feature", continuous_update=False)
    parts = {
        "Analyze": _analyze(scope, found, layer, feature, text),
        "Compare": _compare(scope, found.layers, text, prompt),
        "Steer": _steer(scope, scales, layer, feature, prompt),
    }
    tabs = widgets.Tab(list(parts.values()), titles=list(parts))
    tabs.add_class("qs-tabs")
    display(widgets.VBox([widgets.HTML(STYLE), tabs]))


def steer_beside(scope, scales, prompt: str, place: tuple, strength: float) -> pd.DataFrame:
    """What a model writes after a prompt under edits of equal size, one row each: unedited, a
    feature (place: layer, feature), a random direction. Columns: edit, arm (None: no edit), text.

    strength: in median norms of the layer's residuals. A model with a chat template that writes
    nothing after the plain prompt is asked, in all three rows, to continue it in its own turn.
    ValueError for a layer, feature or prompt that there is not.
    """
    name, own = name_of(scope, *place), scope.sae(place[0]).direction(place[1])[0]
    random = random_directions(1, scope.d_model)[0]
    arms = [Arm(place[0], size, d) for size, d in ((0, own), (strength, own), (strength, random))]
    made = sweep(scope, [prompt], scales, arms, max_new_tokens=NEW_TOKENS)
    if not made[0][0].strip() and scope.tokenizer.chat_template is not None:
        turn = scope.chat("Continue this text.") + prompt
        made = sweep(scope, [turn], scales, arms, max_new_tokens=NEW_TOKENS)
    edits, texts = ["unedited", name, "a random direction"], [text for (text,) in made]
    return pd.DataFrame({"edit": edits, "arm": arms, "text": texts})


def _analyze(scope, found, layer, feature, text: str):
    """The first tab. A text or layer that is new leads to its strongest feature."""
    import ipywidgets as widgets

    box = _text_box("text", text)
    cells = widgets.GridBox(layout={"overflow": "auto", "grid_gap": "2px", "max_width": "100%"})
    hint, picture = widgets.HTML(), _picture()
    ranked = widgets.Select(description="strongest", rows=6, layout={"width": "36em"})
    kept = {}  # the map of the text, once it was read

    def read() -> None:
        kept.clear()
        for old in cells.children:
            old.close()
        ranked.options, cells.children, hint.value = (), (), ""
        if reason := _unshown(scope, box.value):
            raise ValueError(reason)
        view = layer_map(scope, box.value, found.layers)
        kept["map"] = view.data
        n = view.data.start.nunique()
        cells.children = _cells(view.data, pick)
        cells.layout.grid_template_columns = f"5em repeat({min(n, COLUMNS)}, max-content)"
        first = f"The first {COLUMNS} of {n} tokens. " * (n > COLUMNS)
        hint.value = (
            f"<div>{first}The strongest feature of each layer and token; the darker, the larger "
            "its share of the layer's largest activation. Click one, or choose a layer and a "
            f"feature below.</div><details><summary>The map in words</summary>{esc(view.alt)}"
            "</details>"
        )
        follow()

    def follow() -> None:
        if not kept:  # say again what is wrong with the text
            return read()
        here = kept["map"][(kept["map"].layer == layer.value) & (kept["map"].value > 0)]
        here = here.sort_values("value", ascending=False).drop_duplicates("feature")
        often, rows = found.density(layer.value), here[["feature", "value", "token"]].to_numpy()
        ranked.options = [
            (f"{f}: {short(v)} at {t} (fires on {often[f]:.1%} of the corpus)", f)
            for f, v, t in rows
        ]
        was, feature.value = feature.value, str(here.feature.iloc[0] if len(here) else 0)
        if feature.value == was:  # nothing told `draw`
            draw()

    def draw() -> None:
        if reason := _unshown(scope, box.value):
            raise ValueError(reason)
        place = layer.value, _number(scope, feature.value)
        ranked.value = place[1] if place[1] in dict(ranked.options).values() else None
        parts = token_strip(scope, box.value, *place), feature_card(scope, found, *place, "top")
        picture.value = "".join(view.to_html() for view in parts)

    def pick(of: int, number: int) -> None:
        layer.value = of
        feature.value = str(number)

    def take() -> None:
        if ranked.value is not None:
            feature.value = str(ranked.value)

    for control, act in ((box, read), (layer, follow), (feature, draw), (ranked, take)):
        control.observe(_careful(picture, act), "value")
    _careful(picture, read)()
    chosen = widgets.HBox([widgets.VBox([layer, feature]), ranked], layout={"flex_flow": "wrap"})
    return widgets.VBox([box, cells, hint, chosen, picture])


def _cells(data: pd.DataFrame, pick: Callable[[int, int], None]) -> list:
    """A map's buttons, row by row, with a row of tokens on top. Tab skips them, as there are too
    many: the controls below do the same."""
    import ipywidgets as widgets

    data = data[data.start.isin(sorted(data.start.unique())[:COLUMNS])]
    layout = widgets.Layout(width="auto", margin="0", padding="0 4px")
    colours = [shade(i / 5).split(":")[1].split(";")[0] for i in range(6)]
    tints = [widgets.ButtonStyle(button_color=colour, text_color=TEXT) for colour in colours]
    top = data.token[: data.start.nunique()]
    out = [widgets.Label(word, style={"font_family": "monospace"}) for word in ("", *top)]
    for layer, part in data.groupby("layer"):
        out.append(widgets.Label(f"layer {layer}"))
        most = part.value.max() or 1.0
        for row in part.itertuples():
            fires, tint = row.value > 0, tints[round(5 * row.value / most)]
            name = str(row.feature) if fires else "–"
            cell = widgets.Button(description=name, layout=layout, style=tint, disabled=not fires)
            cell.tooltip = f"layer {layer}, {row.token!r}: activation {short(row.value)}"
            cell.tabbable = False
            cell.on_click(lambda _, place=(layer, row.feature): pick(*place))
            out.append(cell)
    return out


def _compare(scope, layers, a: str, b: str):
    """The second tab."""
    import ipywidgets as widgets

    boxes, picture = [_text_box("text a", a), _text_box("text b", b)], _picture()

    def draw() -> None:
        texts = [box.value for box in boxes]
        for reason in filter(None, (_unshown(scope, text) for text in texts)):
            raise ValueError(reason)
        picture.value = compare_texts(scope, *texts, layers, top=3).to_html()

    button = widgets.Button(description="compare", button_style="primary")
    button.on_click(_careful(picture, draw))
    return widgets.VBox([*boxes, button, picture])


def _steer(scope, scales, layer, feature, prompt: str):
    """The third tab; its layer and feature are those of the first."""
    import ipywidgets as widgets

    box, picture = _text_box("prompt", prompt), _picture()
    # Typed, or moved by arrow keys: the handle of a slider of ipywidgets has no name to read out.
    typed = {"value": 0.5, "min": -STRONGEST, "max": STRONGEST, "step": 0.1}
    strength = widgets.BoundedFloatText(**typed, description="strength")
    button = widgets.Button(description="write", button_style="primary")

    def draw() -> None:
        place, norm = (layer.value, _number(scope, feature.value)), scales[layer.value].median
        made, parts = steer_beside(scope, scales, box.value, place, strength.value), []
        for i, row in enumerate(made.itertuples()):
            same = "<div>(the same as unedited)</div>" * (i > 0 and row.text == made.text[0])
            text = f'<div class="qs-steered">{esc(row.text.strip() or "(nothing)")}</div>'
            parts.append(f"<div><div><b>{esc(row.edit)}</b></div>{text}{same}</div>")
        size = (
            f"Both edits are {short(abs(strength.value) * norm)} long; the median residual of "
            f"layer {place[0]} is {short(norm)} long. "
            "One text is an anecdote: notebook 03 asks many."
        )
        columns = "display:grid;grid-template-columns:repeat(auto-fit,minmax(16em,1fr));gap:1.5em"
        three = f'<div style="{columns};margin:1em 0">{"".join(parts)}</div>'
        title = f"After {box.value!r}"
        picture.value = page(title, [three, f"<div>{esc(size)}</div>"], scope.is_tiny)

    button.on_click(_careful(picture, draw))
    said = widgets.HTML("in median norms of the layer's residuals; 0 is no edit")
    return widgets.VBox([box, layer, feature, widgets.HBox([strength, said]), button, picture])


def _number(scope, typed: str) -> int:
    if not typed.strip().isdecimal():
        raise ValueError(f"feature {typed!r} is no number; choose 0 to {scope.d_sae - 1}")
    return int(typed)


def _text_box(name: str, text: str):
    import ipywidgets as widgets

    return widgets.Textarea(
        text, description=name, layout={"width": "95%"}, continuous_update=False
    )


def _picture():
    import ipywidgets as widgets

    picture = widgets.HTML()
    picture.add_class("qs-explore")
    return picture


def _careful(picture, act: Callable[[], None]) -> Callable:
    """What a control calls: whatever `act` raises is said in `picture`, so that it neither gets
    lost in a log nor ends the session."""

    def callback(change=None) -> None:
        try:
            act()
        except Exception as error:  # the next try may be all right: out of memory, a lost file
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            picture.value = f'<div role="alert">{esc(kind + str(error))}</div>'

    return callback
