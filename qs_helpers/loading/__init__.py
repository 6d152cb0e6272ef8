"""Where models and SAEs come from, how their files are read, and what they need of a machine."""

import lazy_loader

_NAMES = {
    "convert": "export_saelens import_suite",
    "memory": "training_plan",
    "scope": "LanguageModel load_language_model",
}

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={module: names.split() for module, names in _NAMES.items()}
)
