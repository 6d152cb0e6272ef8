"""Features to look at: a corpus scanned, and its features as strips, maps and cards."""

import lazy_loader

_NAMES = {
    "scan": "Scan plan_scan scan_corpus",
    "tasks": "merge_tasks run_task run_tasks write_tasks",
    "strips": "across_layers compare_texts label layer_map read_labels token_strip",
    "card": "badges feature_card logit_lens neuronpedia_link",
    "picture": "chords dashboard shares",
    "explorer": "explore explore_app steer_beside",
    "neuronpedia": "export_neuronpedia read_neuronpedia",
}

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={module: names.split() for module, names in _NAMES.items()}
)
