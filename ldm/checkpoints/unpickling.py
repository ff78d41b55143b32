"""Pickles of unknown origin: an unpickler that builds tensors, plain containers and inert placeholders, and calls nothing else.

It is bounded in what it makes of few bytes: operations and names are counted, containers and shapes are not copied, a tensor
never reaches beyond its storage.
"""

import io
import pickle
import types
from collections import OrderedDict
from typing import Any, BinaryIO

import torch
from torch import Tensor

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number that opens torch files before 1.6
OPERATIONS, NAMES = (
    400_000,
    1000,
)  # of one pickle; the FFHQ file of latent diffusion has 18,500, the nets of EDM 56,000
MOST_DIMENSIONS = 8
DTYPES = {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
}

STORED = (  # what training programs leave in their files beside tensors: trainer state, options, the networks of EDM
    *(
        "pytorch_lightning.",
        "lightning.",
        "lightning_fabric.",
        "omegaconf.",
        "argparse.Namespace",
        "ldm.",
        "taming.",
    ),
    *(
        "torch.nn.modules.",
        "torch.optim.",
        "torch_utils.persistence.",
        "dnnlib.util.",
        "training.",
        "numpy.",
        "_codecs.encode",
    ),
    *(
        "collections.",
        "typing.",
        "pathlib.",
        "copyreg._reconstructor",
        "builtins.object",
        "builtins.set",
        "builtins.dict",
    ),
)


class Inert:
    """Stands for an object of a class that is not built: remembers its name, arguments, state and items; does nothing."""

    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any, **options: Any) -> "Inert":
        self = object.__new__(cls)
        self.args, self.state, self.items = args, options, {}
        return self

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        self.items[len(self.items)] = value


def inert(module: str, name: str) -> type[Inert]:
    """A placeholder class that carries the name of the one the file asked for, if training programs do store such objects."""
    if not f"{module}.{name}".startswith(STORED):
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which has no place in a weight file"
        )
    return type(name.rpartition(".")[2] or "Inert", (Inert,), {"__module__": module})


def _storage(content: bytes) -> Any:
    """A tensor storage pickled inside a pickle is a small torch file of its own, in the format without archive."""
    if not content.startswith(LEGACY):
        raise pickle.UnpicklingError("a storage that is no torch file of the format before 1.6")
    return torch.load(
        io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=INERT
    )


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage; one that reaches beyond its end would make torch enlarge the storage."""
    raw, size, stride = storage._untyped_storage, tuple(size), tuple(stride)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1
    beyond = 0 not in size and end * storage.dtype.itemsize > raw.nbytes()
    if beyond or len(size) != len(stride) or min(offset, *size, *stride, 0) < 0:
        raise pickle.UnpicklingError(
            f"a tensor of {list(size)} in a storage of {raw.nbytes()} bytes"
        )
    return torch.empty(0, dtype=storage.dtype).set_(raw, offset, size, stride)


def _dictionary(items: Any = ()) -> OrderedDict:
    """Filled afterwards, item by item, or (in Python 2's files) made of a list of pairs, which is emptied: never a copy."""
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in items):
        raise pickle.UnpicklingError("an OrderedDict of something else than pairs")
    made = OrderedDict(items)
    if items:
        items.clear()
    return made


def _size(values: Any) -> torch.Size:
    if len(values) > MOST_DIMENSIONS:
        raise pickle.UnpicklingError(f"a shape of {len(values)} dimensions")
    return torch.Size(values)


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _dictionary,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in DTYPES},
}


PurePython: Any = pickle._Unpickler  # type: ignore[attr-defined]  # the one in C can be made to allocate gigabytes of memo


class Bounded(dict):
    """The operations of a pickle, each of which may cost a hundred bytes of memory, and how many are left to it."""

    left = OPERATIONS

    def __getitem__(self, operation: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(
                f"more than {OPERATIONS} operations, which no weight file needs"
            )
        return super().__getitem__(operation)


class Unpickler(PurePython):
    """Builds tensors, containers and placeholders. Other names become Inert classes of that name, or are refused."""

    def __init__(self, file: BinaryIO, **options: Any):
        super().__init__(file, **{"encoding": "latin1", **options})
        self.dispatch, self.names = Bounded(type(self).dispatch), dict(ALLOWED)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.names:
            if len(self.names) > NAMES:
                raise pickle.UnpicklingError(f"it names more than {NAMES} classes")
            self.names[module, name] = inert(module, name)
        return self.names[module, name]

    def load_build(self) -> None:
        """State is given to placeholders and ordered dictionaries only: on a function it would change the function."""
        if not isinstance(self.stack[-2], (Inert, OrderedDict)):
            raise pickle.UnpicklingError(f"state for a {type(self.stack[-2]).__name__}")
        super().load_build()

    def load_reduce(self) -> None:
        function = self.stack[-2]
        if function not in ALLOWED.values() and not (
            isinstance(function, type) and issubclass(function, Inert)
        ):
            raise pickle.UnpicklingError("call of something that is not a constructor")
        super().load_reduce()

    dispatch = {**PurePython.dispatch, pickle.BUILD[0]: load_build, pickle.REDUCE[0]: load_reduce}


def _load(file: BinaryIO, **options: Any) -> Any:
    return Unpickler(file, **options).load()


INERT = types.SimpleNamespace(Unpickler=Unpickler, load=_load, __name__="inert")
