"""Arrays of NPY and NPZ files, after their claims were looked at; never a pickle."""

from pathlib import Path

import numpy as np

from data.files import Refusal
from data.formats import bounds
from data.formats.image import decoding


def load(path: Path, name: str) -> np.ndarray:
    """The array of an NPY, or that of this name or the only one of an NPZ."""
    if not path.is_file():
        raise Refusal(f"{path}: cannot be opened (no such file)")
    with decoding(path, path.suffix[1:].upper() or "NPY", private=True):
        found = np.load(path, "r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        data: np.ndarray | None = None
        if isinstance(found, np.ndarray):
            data = found
        else:
            names = found.files
            data = (
                found[name if name in names else names[0]]
                if name in names or len(names) == 1
                else None
            )
    if data is None:
        raise Refusal(
            f"{path}: holds {', '.join(names)[:80]}; an array called {name}, or a single one, is allowed"
        )
    if data.ndim == 0 or 0 in data.shape:
        raise Refusal(f"{path}: an array of shape {data.shape}; one with samples is allowed")
    bounds.check(path, data.shape[-3:], int(np.prod(data.shape[:-3])), data.dtype.itemsize)
    return data


def names(path: Path) -> list[str]:
    """Of the arrays of an NPZ."""
    with decoding(path, "NPZ", private=True), np.load(path, allow_pickle=False) as found:
        return list(found.files)
