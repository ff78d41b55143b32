"""Arrays inside an NPZ archive: found by their headers, unpacked once, written with a fixed date."""

import io
import zipfile
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.formats import bounds
from data.formats.image import decoding

HEADER = 2**16  # bytes of the text before an array
PACKS = {zipfile.ZIP_STORED: 1.0, zipfile.ZIP_DEFLATED: float(bounds.DEFLATE)}
READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Member(NamedTuple):
    """What the header of one array says."""

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool  # the first index runs fastest
    start: int  # where the numbers begin, in bytes
    held: float | None  # bytes that the archive can hold of it


def members(path: Path) -> dict[str, Member]:
    """The arrays of two or more dimensions in an archive, by name; none is unpacked."""
    with decoding(path, "NPZ", private=True), zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        found = [_member(archive, info) for info in infos]
    return {m.file.removesuffix(".npy"): m for m in found if len(m.shape) >= 2}


def load(path: Path, member: Member) -> np.ndarray:
    """The array; the last one stays in memory, so that reading its slices one by one unpacks it once."""
    status = path.stat()
    data = _unpacked(path, member, status.st_mtime_ns, status.st_size)
    array = np.frombuffer(data, member.dtype, prod(member.shape), member.start)
    return array.reshape(member.shape, order="F" if member.fortran else "C")


def save(out: io.BytesIO, key: str, array: np.ndarray) -> None:
    """As np.savez_compressed, but with a fixed date inside: same input, same bytes."""
    inner = io.BytesIO()
    np.save(inner, array, allow_pickle=False)
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{key}.npy"), inner.getvalue(), zipfile.ZIP_DEFLATED)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    with archive.open(info) as stream:
        head = io.BytesIO(stream.read(HEADER))
    shape, fortran, dtype = READERS[np.lib.format.read_magic(head)](head)
    pack = PACKS.get(info.compress_type)
    held = None if pack is None else info.compress_size * pack
    return Member(info.filename, shape, dtype, fortran, head.tell(), held)


@lru_cache(maxsize=1)
def _unpacked(path: Path, member: Member, changed: int, size: int) -> bytearray:
    """changed, size: of the file, which a new file does not share."""
    claim = prod(member.shape) * member.dtype.itemsize
    with (
        decoding(path, "NPZ", private=True),
        zipfile.ZipFile(path) as archive,
        archive.open(member.file) as stream,
    ):
        return bounds.unpack(stream, claim, path, member.start)
