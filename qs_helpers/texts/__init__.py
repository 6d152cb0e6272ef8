"""Texts of every kind and source as one record, split by what makes them alike."""

import lazy_loader

_NAMES = {
    "load": "load_pairs load_texts",
    "pairs": "Batch Pair aligned load_counterfactuals",
    "record": "Text masked",
    "splits": "split_texts",
}

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={module: names.split() for module, names in _NAMES.items()}
)
