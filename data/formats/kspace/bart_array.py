"""Arrays of BART: `.hdr` lists up to 16 dimensions, `.cfl` holds complex64, the first dimension fastest."""

from math import prod
from pathlib import Path

import numpy as np

from data.files import Refusal
from data.formats import bounds

DIMENSIONS = 16


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
