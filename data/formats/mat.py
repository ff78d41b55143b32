"""MATLAB files of versions 4 and 5 (to 7.2): which numeric arrays there are, and one of them, unpacked no further than claimed.

A version 5 file is a row of elements, one per variable, mostly packed by zlib. Each begins with its own size, and soon the
shape of its array: those are looked at first, and scipy is given the unpacked element, never the stream.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import scipy.io

from data.files import Refusal
from data.formats import bounds

CLASSES = {"double": 8, "single": 4, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8,
           "uint64": 8, "logical": 1}  # fmt: skip
START = 128  # bytes of text and version before the first element
HEAD = 2**16  # bytes of an element that hold its shape and name
PACKED, MATRIX = 15, 14  # types of elements
VARIABLES = 10_000


class Variable(NamedTuple):
    """A numeric array and where it lies in its file."""

    shape: tuple[int, ...]
    itemsize: int
    place: int = 0  # of its element; 0: version 4
    size: int = 0


class _Inflating:
    """A zlib stream as a file to read from, that gives no more than is asked for."""

    def __init__(self, packed: bytes | bytearray):
        self.packed, self.unpacker = bytes(packed), zlib.decompressobj()

    def read(self, size: int = -1, /) -> bytes:
        data = self.unpacker.decompress(self.packed, max(size, 1))
        self.packed = self.unpacker.unconsumed_tail
        if not data and not self.packed and not self.unpacker.eof:
            raise EOFError("the zlib stream has no end")
        return data


def variables(path: Path) -> dict[str, Variable]:
    """The numeric arrays of more than one value, by name."""
    with path.open("rb") as file:
        if scipy.io.matlab.matfile_version(file)[0] == 0:
            file.seek(0)
            listed = [(entry, 0, 0) for entry in scipy.io.whosmat(file)]
        else:
            listed = [
                (entry, place, size)
                for place, size in _elements(file)
                for entry in _entries(file, place, size)
            ]
    return {
        name: Variable(tuple(map(int, shape)), CLASSES[kind], place, size)
        for (name, shape, kind), place, size in listed
        if kind in CLASSES and len(shape) >= 2 and prod(shape) > 1
    }


def held(path: Path, variable: Variable) -> float:
    """Bytes that its element can hold at most."""
    return (variable.size or path.stat().st_size) * bounds.DEFLATE


def load(path: Path, name: str, variable: Variable) -> np.ndarray:
    """The array."""
    if not variable.place:
        return scipy.io.loadmat(path, variable_names=[name])[name]
    with path.open("rb") as file:
        start = file.read(START)
        file.seek(variable.place)
        kind, size = struct.unpack(_order(start) + "II", file.read(8))
        element: bytes | bytearray = file.read(size)
    if kind == PACKED:
        inner = struct.unpack(_order(start) + "II", _Inflating(element).read(8))[1]
        most = 2 * 8 * prod(variable.shape) + HEAD  # complex doubles
        if inner > most:
            raise Refusal(
                f"{path}: an array of shape {variable.shape} has {inner} bytes; at most {most} are allowed"
            )
        element = bounds.unpack(_Inflating(element), inner + 8, path)
    else:
        element = struct.pack(_order(start) + "II", kind, size) + element
    return scipy.io.loadmat(io.BytesIO(start + element), variable_names=[name])[name]


def _elements(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(place, size) of each variable of a version 5 file."""
    file.seek(0)
    start = file.read(START)
    place = START
    for _ in range(VARIABLES):
        file.seek(place)
        tag = file.read(8)
        if len(tag) < 8:
            return
        kind, size = struct.unpack(_order(start) + "II", tag)
        if kind not in (PACKED, MATRIX):
            raise ValueError(f"an element of type {kind}")
        yield place, size
        place += 8 + size


def _entries(file: BinaryIO, place: int, size: int) -> list[tuple[str, tuple[int, ...], str]]:
    """(name, shape, class) of one element, of which no more than the head is unpacked."""
    file.seek(0)
    start = file.read(START)
    file.seek(place)
    tag = file.read(8)
    head = file.read(min(size, HEAD))
    if struct.unpack(_order(start) + "I", tag[:4])[0] == PACKED:
        head = _Inflating(head).read(HEAD)
    else:
        head = tag + head
    return scipy.io.whosmat(io.BytesIO(start + head))


def _order(start: bytes) -> str:
    return ">" if start[126:128] == b"MI" else "<"
