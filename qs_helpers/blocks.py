"""Where the parts of a model are.

text_config     the part of a model's config that describes its decoder
decoder_layers  the decoder layers of a model, in order
writers         the modules of a decoder layer that write to the residual stream
"""

from torch import nn

__all__ = ["decoder_layers", "text_config", "writers"]

PATHS = ("model.layers", "model.language_model.layers", "layers", "language_model.layers")


def text_config(model):
    """The text part of `model.config`: itself for a causal LM, nested for a multimodal model."""
    return model.config.get_text_config()


def decoder_layers(model) -> nn.ModuleList:
    """The decoder layers: as many modules as the text config says. ValueError if there are none.

    Causal LMs of the Qwen3 and Qwen3.5 families keep them at `model.model.layers`, conditional
    generation models at `model.model.language_model.layers`; headless models one level up.
    """
    wanted = text_config(model).num_hidden_layers
    for path in PATHS:
        layers = model
        for name in path.split("."):
            layers = getattr(layers, name, None)
        if isinstance(layers, nn.ModuleList) and len(layers) == wanted:
            return layers
    raise ValueError(
        f"no {wanted} decoder layers in {type(model).__name__} at {', '.join(PATHS)}; "
        "load a Qwen3 or Qwen3.5 model"
    )


def writers(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The attention (or linear attention) and the MLP (or mixture of experts) of a decoder layer:
    their outputs are what the layer adds to the residual stream. ValueError if they are not there.
    """
    mixer = getattr(layer, "self_attn", None) or getattr(layer, "linear_attn", None)
    mlp = getattr(layer, "mlp", None)
    if mixer is None or mlp is None:
        names = [name for name, _ in layer.named_children()]
        raise ValueError(f"{type(layer).__name__} has {names}, no attention and MLP that we know")
    return mixer, mlp
