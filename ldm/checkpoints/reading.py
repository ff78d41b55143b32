"""Reading files of unknown origin: tensors and plain values come out; nothing a file contains is ever executed.

A weight file is recognised by its first bytes, never by its name, checked for what it claims before anything is unpacked,
and read by safetensors, by `torch.load(weights_only=True)`, or by an unpickler that builds nothing but tensors, plain
containers and inert placeholders. Whatever goes wrong inside a foreign file is one ValueError of one line.
"""

import io
import json
import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number that opens torch files before 1.6
TEXT_LIMIT = 256 << 10  # bytes of YAML or JSON; published model descriptions are a few kB
DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool}


def weights(path: str | Path) -> dict[str, Any]:
    """What a weight file holds, nested as it was stored; tensors are memory-mapped where the format allows it.

    Raises ValueError (one line) for anything that is not a sound safetensors, torch or plain pickle file.
    """
    path = regular(path)
    with path.open("rb") as file:
        start = file.read(len(LEGACY))
    if start[:4] == b"PK\x03\x04":
        found = guarded(path, _archive)
    elif start == LEGACY:
        found = guarded(path, _torch)
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:  # length of the header, header
        found = guarded(path, _safetensors)
    elif start[:1] == b"\x80":
        found = guarded(path, _pickle)
    else:
        raise ValueError(f"{path}: not a weight file (safetensors, torch or pickle)")
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, not a dictionary of tensors")
    return found


def regular(path: str | Path) -> Path:
    """The path of a regular file that is not empty; pipes and devices would hang a reader."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty")
    return path


def guarded(path: Path, read: Callable[[Path], Any]) -> Any:
    """read(path), where any failure is the file's: parsers of hostile bytes fail in every way there is."""
    try:
        return read(path)
    except Exception as error:
        line = next((text.strip() for text in str(error).splitlines() if text.strip()), type(error).__name__)
        message = line if line.startswith(str(path)) else f"{path}: cannot be read safely: {line[:200]}"
        raise ValueError(message) from None


def sound(state: dict[str, Tensor], path: str | Path) -> None:
    """Check that every tensor is what it says: plain, dense, no larger than its storage, finite. Lists those that are not."""
    bad = [f"{name} ({fault})" for name, tensor in state.items() if (fault := _fault(tensor))]
    if bad:
        raise ValueError(f"{path}: {len(bad)} unsound tensors: {listed(bad)}")


def listed(names: list[str], most: int = 8) -> str:
    """The first few names and how many more there are: an error must stay one readable line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def text_mapping(path: str | Path) -> dict[str, Any]:
    """A YAML or JSON mapping as plain values; aliases are refused, for they let a small file stand for a huge tree."""
    path = regular(path)
    if path.stat().st_size > TEXT_LIMIT:
        raise ValueError(f"{path}: {path.stat().st_size} bytes is too large for a model description")
    found = guarded(path, _json if path.suffix == ".json" else _yaml)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must hold a mapping, not a {type(found).__name__}")
    return found


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _yaml(path: Path) -> Any:
    text = path.read_text("utf-8")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError(f"{path}: YAML aliases are not allowed in a model description")
    return yaml.safe_load(text)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a sound safetensors file: {error}") from None


def _archive(path: Path) -> Any:
    """torch stores its archives uncompressed and entry after entry: anything else is a bomb or was tampered with."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"{path}: compressed archive; torch files are stored uncompressed")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError(f"{path}: its entries claim more bytes than the file has")
    return _torch(path, mmap=True)


def _torch(path: Path, mmap: bool = False) -> Any:
    """`weights_only`; files whose pickle names other classes (old Lightning callbacks) are read with those left inert."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        return torch.load(path, map_location="cpu", weights_only=False, mmap=mmap, pickle_module=INERT)


def _pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return Unpickler(file).load()


def _fault(tensor: Any) -> str:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return "not a plain tensor"
    if tensor.dtype not in DTYPES:
        return f"{tensor.dtype}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"claims {tensor.numel()} entries of a storage of {tensor.untyped_storage().nbytes()} bytes"
    if tensor.is_floating_point() and not finite(tensor):
        return "not finite"
    return ""


def finite(tensor: Tensor) -> bool:
    """Whether every entry is finite: the sum says so at once, unless it overflows itself."""
    total = tensor.detach().sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    return bool(total.isfinite()) or bool(tensor.isfinite().all())


STORED = (  # what training programs leave in their files beside tensors: trainer state, options, the networks of EDM
    *("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "argparse.Namespace", "ldm.", "taming."),
    *("torch.nn.modules.", "torch.optim.", "torch_utils.persistence.", "dnnlib.util.", "training.", "numpy.", "_codecs.encode"),
    *("collections.", "typing.", "pathlib.", "copyreg._reconstructor", "builtins.object", "builtins.set", "builtins.dict"),
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
        raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in a weight file")
    return type(name.rpartition(".")[2] or "Inert", (Inert,), {"__module__": module})


def _storage(content: bytes) -> Any:
    """A tensor storage pickled inside a pickle is a small torch file of its own."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, tuple(size), tuple(stride))


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in DTYPES},
}


PurePython: Any = pickle._Unpickler  # type: ignore[attr-defined]  # the one in C can be made to allocate gigabytes of memo


class Unpickler(PurePython):
    """Builds tensors, containers and placeholders. Other names become Inert classes of that name, or are refused."""

    def __init__(self, file: BinaryIO, **options: Any):
        super().__init__(file, **{"encoding": "latin1", **options})

    def find_class(self, module: str, name: str) -> Any:
        return ALLOWED.get((module, name)) or inert(module, name)

    def load_build(self) -> None:
        """State is given to placeholders and ordered dictionaries only: on a function it would change the function."""
        if not isinstance(self.stack[-2], (Inert, OrderedDict)):
            raise pickle.UnpicklingError(f"state for a {type(self.stack[-2]).__name__}")
        super().load_build()

    def load_reduce(self) -> None:
        function = self.stack[-2]
        if function not in ALLOWED.values() and not (isinstance(function, type) and issubclass(function, Inert)):
            raise pickle.UnpicklingError("call of something that is not a constructor")
        super().load_reduce()

    dispatch = {**PurePython.dispatch, pickle.BUILD[0]: load_build, pickle.REDUCE[0]: load_reduce}


def _load(file: BinaryIO, **options: Any) -> Any:
    return Unpickler(file, **options).load()


INERT = types.SimpleNamespace(Unpickler=Unpickler, load=_load, __name__="inert")
