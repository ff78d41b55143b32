"""Reading files of unknown origin: tensors and plain values come out; nothing a file contains is ever executed.

A weight file is recognised by its first bytes, never by its name, checked for what it claims before anything is unpacked,
and read by safetensors or by an unpickler that builds nothing but tensors, plain containers and inert placeholders. That is
stricter than `torch.load(weights_only=True)`, which also calls `bytearray(n)` and codecs: a kilobyte of file can ask those
for gigabytes. Whatever goes wrong inside a foreign file is one Refusal of one line.
"""

import json
import mmap
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data.bounded_yaml import read_yaml
from data.files import Refusal
from ldm.checkpoints.unpickling import DTYPES, INERT, LEGACY, Unpickler

PROGRAM = "constants.pkl"  # the entry by which torch.load tells a TorchScript archive
LOCAL = 30  # bytes of a ZIP entry's own header before its name
TEXT_LIMIT = 256 << 10  # bytes of YAML or JSON; published model descriptions are a few kB


def weights(path: str | Path) -> dict[str, Any]:
    """What a weight file holds, nested as it was stored; tensors are memory-mapped where the format allows it.

    Raises Refusal (one line) for anything that is not a sound safetensors, torch or plain pickle file; of a broken last.ckpt
    it names the best.ckpt beside it.
    """
    path = Path(path)
    try:
        return _weights(regular(path))
    except Refusal as error:
        best = path.with_name("best.ckpt")
        if path.name == "last.ckpt" and best.is_file():
            raise Refusal(f"{error}; {best} is there to go on from") from None
        raise


def _weights(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        start = file.read(len(LEGACY))
    if start[:4] == b"PK\x03\x04":
        found = parse_safely(path, _archive)
    elif start == LEGACY:
        found = parse_safely(path, _legacy)
    elif (
        start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    ):  # length of the header, header
        found = parse_safely(path, _safetensors)
    elif start[:1] == b"\x80":
        found = parse_safely(path, _pickle)
    else:
        raise Refusal(f"{path}: not a weight file (safetensors, torch or pickle)")
    if not isinstance(found, dict):
        raise Refusal(f"{path}: holds a {type(found).__name__}, not a dictionary of tensors")
    return found


def regular(path: str | Path) -> Path:
    """The path of a regular file that is not empty; pipes and devices would hang a reader."""
    path = Path(path)
    if not path.is_file():
        raise Refusal(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise Refusal(f"{path}: is empty")
    return path


def parse_safely(path: Path, read: Callable[[Path], Any]) -> Any:
    """read(path), where any failure is the file's: parsers of hostile bytes fail in every way there is."""
    try:
        return read(path)
    except Exception as error:
        line = next(
            (text.strip() for text in str(error).splitlines() if text.strip()), type(error).__name__
        )
        message = (
            line if line.startswith(str(path)) else f"{path}: cannot be read safely: {line[:200]}"
        )
        raise Refusal(message) from None


def refuse_unsound(state: dict[str, Tensor], path: str | Path) -> None:
    """Check that every tensor is what it says: plain, dense, no larger than its storage, finite. Lists those that are not."""
    bad = [f"{name} ({fault})" for name, tensor in state.items() if (fault := _fault(tensor))]
    if bad:
        raise Refusal(f"{path}: {len(bad)} unsound tensors: {first_names(bad)}")


def first_names(names: list[str], most: int = 8) -> str:
    """The first few names and how many more there are: an error must stay one readable line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def text_mapping(path: str | Path) -> dict[str, Any]:
    """A YAML or JSON mapping as plain values; aliases are refused, for they let a small file stand for a huge tree."""
    path = regular(path)
    if path.stat().st_size > TEXT_LIMIT:
        raise Refusal(f"{path}: {path.stat().st_size} bytes is too large for a model description")
    found = parse_safely(path, _json if path.suffix == ".json" else _yaml)
    if not isinstance(found, dict):
        raise Refusal(f"{path}: must hold a mapping, not a {type(found).__name__}")
    return found


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _yaml(path: Path) -> Any:
    return read_yaml(path.read_text("utf-8"), path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise Refusal(f"{path}: not a sound safetensors file: {error}") from None


def _archive(path: Path) -> Any:
    """torch stores its archives uncompressed and entry after entry: anything else is a bomb or was tampered with."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Refusal(f"{path}: compressed archive; torch files are stored uncompressed")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise Refusal(f"{path}: its entries claim more bytes than the file has")
    if damaged := _damaged(path, entries):
        raise Refusal(f"{path}: damaged: {damaged} is not what was written (its checksum differs)")
    if (
        PROGRAM in torch._C.PyTorchFileReader(str(path)).get_all_records()
    ):  # asked of the reader that torch.load uses
        raise Refusal(
            f"{path}: holds a TorchScript program, which torch.load would run; a file of tensors is allowed"
        )
    return _torch(path, mapped=True)


def _damaged(path: Path, entries: list[zipfile.ZipInfo]) -> str:
    """The first entry whose content differs from its checksum, or "". torch itself never looks."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
        memoryview(whole) as data,
    ):

        def sound(entry: zipfile.ZipInfo) -> bool:
            fixed = data[entry.header_offset : entry.header_offset + LOCAL]
            start = (
                entry.header_offset + LOCAL + sum(struct.unpack_from("<HH", fixed, LOCAL - 4))
            )  # name, extra field
            return zlib.crc32(data[start : start + entry.file_size]) == entry.CRC

        with ThreadPoolExecutor(2) as pool:  # crc32 lets the other thread run
            return next(
                (
                    entry.filename
                    for entry, good in zip(entries, pool.map(sound, entries))
                    if not good
                ),
                "",
            )


def _legacy(path: Path) -> Any:
    """torch would take a tar archive by that name for one of its first formats and unpack it, links and pipes included."""
    if tarfile.is_tarfile(path):
        raise Refusal(f"{path}: is a tar archive; a file of tensors is allowed")
    return _torch(path)


def _torch(path: Path, mapped: bool = False) -> Any:
    """Storages are read by torch, the pickle that refers to them by the unpickler below, whatever classes it names."""
    return torch.load(
        path, map_location="cpu", weights_only=False, mmap=mapped, pickle_module=INERT
    )


def _pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return Unpickler(file).load()


def _fault(tensor: Any) -> str:
    if (
        not isinstance(tensor, Tensor)
        or tensor.layout != torch.strided
        or tensor.device.type != "cpu"
    ):
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
