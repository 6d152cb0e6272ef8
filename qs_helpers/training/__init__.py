"""Training TopK SAEs: residuals on disk, the steps of the training, suites in the official format.

trainer   the loss, one step, a whole training, a whole suite
excess    how far features rise above what is usual: a signal for fine-tuning
shards    residuals of a corpus on disk, written once and read in any order
"""

import lazy_loader

_NAMES = {
    "shards": "Shards harvest",
    "trainer": "Recipe train_sae train_suite",
}

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={module: names.split() for module, names in _NAMES.items()}
)
