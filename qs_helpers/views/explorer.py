"""Live controls in JupyterLab, and the names that people give to features."""

import os

from IPython.display import display

from .card import feature_card
from .html import esc
from .strips import token_strip


def explore(scope, text: str, layer: int, feature: int, found=None) -> None:
    """Show a feature on a text, and controls that redraw it.

    The static view of the given text, layer and feature is shown first: it is what a page, a
    printed sheet or GitHub keeps. Below it, controls for text, layer and feature; with `found`, a
    Scan, one more chooses a band of contexts. What cannot be shown is said in words. In a report
    ($QS_STATIC is set) there is nobody to move a control, so the static view stands alone.
    """
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
