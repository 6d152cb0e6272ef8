"""What was found: estimates and their intervals, claims, figures, and the record of a run."""

import lazy_loader

_NAMES = {
    "stats": "Against groups_needed n_groups",
    "claims": "Announced ClaimFailed",
    "record": "Record",
}

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={module: names.split() for module, names in _NAMES.items()}
)
