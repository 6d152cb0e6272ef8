"""Live controls in JupyterLab, and the names that people give to features."""

import os

from IPython.display import display

from .card import feature_card
from .html import esc
from .strips import name_of, token_strip

MOST_CHARACTERS = 20_000  # shown: a browser draws each token by itself


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
