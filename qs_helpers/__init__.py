"""Helpers for the Qwen-Scope notebooks: `import qs_helpers as qs`.

Names that notebooks share are reached as `qs.load_scope`, deeper ones through their room, as
`qs.views.token_strip`. All of them are loaded when they are first used, so that the import itself
is quick and silent.
"""

import lazy_loader

__version__ = "0.2.0.dev0"

# Module to its public names: each name is written here and nowhere else.
_NAMES = {
    "sae": "CONVENTIONS SparseActs TopKSAE",
    "hooks": "capture edit hooks_left",
    "fast.reuse": "reuse_below",
    "forward": "activations read_texts residuals sink_mask",
    "steering": "add change_features scales",
    "generation": "generate",
    "controls": "edit_sizes matched_features random_directions",
    "export": "export_steering",
    "scoring": "cross_entropy fvu kl_by_position output_effects text_nats token_odds",
    "writing": "language",
    "presets": "settings versions",
    "texts.load": "load_texts",
    "texts.record": "masked",
    "loading.scope": "Scope load_scope",
    "loading.saefile": "load_sae",
    "loading.catalog": "GROUPS get_group",
    "loading.memory": "memory_plan",
    "evidence.answer": "answer conclude",
    "evidence.stats": "Estimate against auroc difference f1 mean ratio share",
    "evidence.claims": "announce claim holds",
    "evidence.record": "measured record start_run",
    "evidence.figures": "in_words intervals plot_style save_figure",
}
_ROOMS = ["evidence", "fast", "loading", "report", "texts", "tiny", "training", "views"]
_MODULES = _ROOMS + [module for module in _NAMES if "." not in module]

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, _MODULES, {module: names.split() for module, names in _NAMES.items()}
)
