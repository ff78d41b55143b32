"""BART's pairs of files: `.hdr` lists up to 16 dimensions, `.cfl` holds complex64, the first dimension fastest.

Dimensions 0, 1, 2 are readout, phase, partition; 3 coils; 13 slices. Lines that are all 0 were not measured. BART keeps no
place in space: spacing can be given by a YAML of the same name (see `arrays`).
"""

from math import prod
from pathlib import Path

import numpy as np

from data.files import Refusal
from data.formats import bounds
from data.formats.kspace.arrays import described, slice_of
from data.formats.kspace.raw import Raw, sampled

DIMENSIONS, PARTITION, COIL, SLICE = 16, 2, 3, 13


def count(path: Path) -> int:
    return _mapped(path).shape[SLICE]


def read(path: Path, index: int) -> Raw:
    data = _mapped(path)
    kspace = np.array(
        data.take(index, SLICE).reshape(*data.shape[:2], data.shape[COIL]).transpose(2, 0, 1)
    )
    said = described(path.with_suffix(".yaml"))
    return slice_of(said, path, kspace, sampled(kspace), index, data.shape[SLICE])


def load(path: Path) -> np.ndarray:
    """The array of a pair of files, all its dimensions, complex64."""
    header = path.with_suffix(".hdr")
    if not header.is_file():
        raise Refusal(
            f"{path}: its header {header.name} is not beside it; both files of a BART array are allowed"
        )
    lines = [
        line
        for line in header.read_text("utf-8", "replace").splitlines()
        if not line.startswith("#")
    ]
    words = lines[0].split() if lines else []
    if (
        not words
        or not all(word.isdecimal() and int(word) > 0 for word in words)
        or len(words) > DIMENSIONS
    ):
        raise Refusal(
            f"{header}: no line of up to {DIMENSIONS} dimensions; a header as BART writes it is allowed"
        )
    shape = [int(word) for word in words] + [1] * (DIMENSIONS - len(words))
    size = path.stat().st_size
    bounds.check(path, shape[:4], prod(shape[4:]), 8, size)
    if prod(shape) * 8 != size:
        raise Refusal(
            f"{path}: {size} bytes, but its header says {prod(shape) * 8}; a pair of files that belong together"
        )
    return np.memmap(path, np.complex64, "r", 0, tuple(shape), order="F")


def _mapped(path: Path) -> np.ndarray:
    data = load(path)
    if data.shape[PARTITION] > 1:
        raise Refusal(
            f"{path}: {data.shape[PARTITION]} partitions (3-D k-space); make slices of them first: bart fft -iu 4"
        )
    others = [d for d in range(DIMENSIONS) if d not in (0, 1, COIL, SLICE) and data.shape[d] > 1]
    if others:
        raise Refusal(
            f"{path}: more than one entry along dimensions {others}; readout, phase, coils and slices are allowed"
        )
    return data
