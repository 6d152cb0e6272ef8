"""Features to look at: a corpus scanned, and its features as strips, maps and cards."""

import lazy_loader

_NAMES = {
    "scan": ["Scan", "plan_scan", "scan_corpus"],
    "strips": ["across_layers", "compare_texts", "layer_map", "token_strip"],
    "card": ["badges", "feature_card"],
    "labels": ["label", "read_labels"],
    "explorer": ["explore"],
    "neuronpedia": ["export_neuronpedia", "neuronpedia_link", "read_neuronpedia"],
}

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
