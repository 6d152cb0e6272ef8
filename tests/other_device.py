"""A device that is not the CPU, played by the CPU.

What mixes the two is refused, as CUDA refuses it: so that code for GPUs is tested where there is
none. Not played: memory, streams, speed, other rounding.

NAME      "away": `x.to("away")`, `torch.zeros(3, device="away")`, as with any device
device()  the context in which it exists; take_over() makes it the default
"""

import functools
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "away"
# Operations that take tensors of two devices: copies, and places of an index.
COPIES = {"_to_copy", "copy_", "copy", "_local_scalar_dense", "_copy_from"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


_HELD: list = []


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.float32, torch.bfloat16]

    def __getattr__(self, name):  # seeds, synchronize, empty_cache: nothing to do
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


_setup_privateuseone_for_python_backend(NAME, _Module())


class Away(torch.Tensor):
    """A tensor on that device; `near` holds its numbers."""

    @staticmethod
    def __new__(cls, near):
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(NAME, 0),
        )
        out.near = near
        return out

    def __repr__(self):
        return f"Away({self.near})"

    def __format__(self, spec):
        return format(self.near, spec)

    def tolist(self):
        return self.near.tolist()

    def __getitem__(self, places):
        """A list of places would be made a tensor below the place where a mode is asked."""
        made = [
            torch.tensor(place, dtype=None if place else torch.int64)
            if isinstance(place, list)
            else place
            for place in (places if isinstance(places, tuple) else (places,))
        ]
        return super().__getitem__(tuple(made) if isinstance(places, tuple) else made[0])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


def _computed(func, args, kwargs):
    """What `func` gives on the CPU, put on the device that it would be on."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    away = [x for x in tensors if isinstance(x, Away)]
    here = [x for x in tensors if not isinstance(x, Away) and x.ndim]  # numbers may come along
    name = func._schema.name.split("::")[1]
    free = name in COPIES or name in INDEXED and isinstance(args[0], Away)
    if away and here and not free:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{NAME}:0 and cpu! ({func})"
        )
    goal = kwargs.get("device")
    if goal is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    goes = bool(away) if goal is None else torch.device(goal).type == NAME
    args_, kwargs_ = tree_map(lambda x: x.near if isinstance(x, Away) else x, (args, kwargs))
    if name == "histc":  # a GPU counts whole numbers, which a CPU does not
        args_ = (args_[0].float(), *args_[1:])
    out = func(*args_, **kwargs_)
    if name.endswith("_"):  # written in place
        return args[0] if isinstance(args[0], torch.Tensor) else None
    known = {id(x.near): x for x in away}

    def placed(x):
        if not isinstance(x, torch.Tensor) or isinstance(x, Away):
            return x
        if id(x) in known:
            return known[id(x)]
        return Away(x) if goes else x

    return tree_map(placed, out)


def _moved(make):
    """torch.tensor fills memory below the place where a mode is asked: made here, then moved."""

    @functools.wraps(make)
    def made(*args, device=None, **kwargs):
        out = make(*args, **kwargs)
        return out if device is None else out.to(device)

    return made


class _Everywhere(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


@contextmanager
def device():
    """Load a model of the same class on the CPU before: transformers fills buffers of the first
    one that it loads in a way that is not seen here."""
    kept = torch.tensor, torch.as_tensor
    torch.tensor, torch.as_tensor = map(_moved, kept)
    try:
        with _Everywhere():
            yield torch.device(NAME)
    finally:
        torch.tensor, torch.as_tensor = kept


def take_over() -> None:
    """From now on in this process models are loaded on that device, where none is asked for."""
    from qs_helpers.loading import scope
    from qs_helpers.scoring import text_nats

    text_nats(scope.load_scope("tiny"), ["one two three"])
    place = scope._place
    scope._place = lambda at, dtype: place(at or NAME, dtype or "float32")
    _HELD.append(device())  # what is collected is left
    _HELD[0].__enter__()
