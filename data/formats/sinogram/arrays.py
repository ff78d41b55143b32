"""Arrays of projections, one slice at a time: NPY, HDF5, TIFF stacks (a page is the first axis) and NRRD."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nrrd
import numpy as np
import PIL.Image

from data.files import Refusal
from data.formats import bounds, hdf5
from data.formats.image import decoding
from data.formats.sinogram.description import Description

AXES = {2: "view bin", 3: "slice view bin"}


class Stored(NamedTuple):
    """An array that is not read yet. take(axis, index): one slice of it (axis None: all)."""

    shape: tuple[int, ...]
    take: Any


def count(path: Path, said: Description) -> int:
    with opened(path, said) as stored:
        axes = _axes(path, said, stored.shape)
        return stored.shape[axes.index("slice")] if "slice" in axes else 1


def read(path: Path, said: Description, index: int) -> tuple[np.ndarray, int]:
    """One slice [views,bins], float64, and how many the file has."""
    with opened(path, said) as stored:
        axes = _axes(path, said, stored.shape)
        total = stored.shape[axes.index("slice")] if "slice" in axes else 1
        with decoding(path, path.suffix[1:].upper(), private=True):
            data = stored.take(axes.index("slice") if "slice" in axes else None, index)
    if axes.index("view") > axes.index("bin"):
        data = data.T
    if data.dtype.kind not in "biuf":
        raise Refusal(f"{path}: holds {str(data.dtype)[:60]}; counts or line integrals are allowed")
    return np.ascontiguousarray(data, float), total


@contextmanager
def opened(path: Path, said: Description) -> Iterator[Stored]:
    suffix = path.suffix.lower()
    reader = {
        ".npy": _npy,
        ".h5": _hdf5,
        ".hdf5": _hdf5,
        ".tif": _tiff,
        ".tiff": _tiff,
        ".nrrd": _nrrd,
    }.get(suffix)
    if reader is None:
        raise Refusal(f"{path}: not a known sinogram file; .npy, .h5, .tif and .nrrd are allowed")
    with reader(path, said) as stored:
        if 0 in stored.shape or len(stored.shape) not in AXES:
            raise Refusal(
                f"{path}: an array of shape {stored.shape}; views and bins, with or without slices, are allowed"
            )
        bounds.check(path, stored.shape[-2:], int(np.prod(stored.shape[:-2])), 8)
        yield stored


@contextmanager
def _npy(path: Path, said: Description) -> Iterator[Stored]:
    with decoding(path, "NPY", private=True):
        data = np.load(path, "r", allow_pickle=False)
    yield Stored(data.shape, lambda axis, index: _slice(data, axis, index))


@contextmanager
def _hdf5(path: Path, said: Description) -> Iterator[Stored]:
    with decoding(path, "HDF5", private=True):
        file = hdf5.module(path).File(path, "r")
    with file:
        with decoding(path, "HDF5", private=True):
            found = (
                hdf5.arrays(path, file)
                if "/" not in said.dataset
                else {said.dataset: file[said.dataset]}
                if said.dataset in file
                else {}
            )
        names = [said.dataset] if said.dataset else list(found)
        if len(names) != 1 or names[0] not in found:
            raise Refusal(
                f"{path}: holds {', '.join(found) or 'no arrays'}; `dataset:` in its YAML names the one that is meant"
            )
        data = found[names[0]]
        hdf5.check(path, data)
        yield Stored(data.shape, lambda axis, index: _slice(data, axis, index))


@contextmanager
def _tiff(path: Path, said: Description) -> Iterator[Stored]:
    with decoding(path, "TIFF"):
        file = PIL.Image.open(path, formats=("TIFF",))
    with file:
        pages, (width, height) = getattr(file, "n_frames", 1), file.size
        if len(file.getbands()) > 1:
            raise Refusal(f"{path}: holds colours; one number a pixel is allowed")

        def page(k: int) -> np.ndarray:
            file.seek(k)
            if file.size != (width, height):
                raise Refusal(f"{path}: its pages have different sizes; one size is allowed")
            return np.asarray(file)

        def take(axis: int | None, index: int) -> np.ndarray:
            if pages == 1:
                return page(0)
            if axis == 0:
                return page(index)
            every = [
                page(k) if axis is None else page(k).take(index, axis - 1) for k in range(pages)
            ]
            return np.stack(every)

        yield Stored((pages, height, width) if pages > 1 else (height, width), take)


@contextmanager
def _nrrd(path: Path, said: Description) -> Iterator[Stored]:
    with decoding(path, "NRRD", private=True):
        header = nrrd.read_header(str(path))
        if "datafile" in header or "data file" in header:
            raise Refusal(
                f"{path}: its numbers are in another file; numbers in the file itself are allowed"
            )
        bounds.check(path, [int(n) for n in header["sizes"]], 1, 8)
        data, _ = nrrd.read(str(path), index_order="C")
    yield Stored(data.shape, lambda axis, index: _slice(data, axis, index))


def _slice(data: Any, axis: int | None, index: int) -> np.ndarray:
    where = tuple(index if k == axis else slice(None) for k in range(len(data.shape)))
    return np.array(data[where])


def _axes(path: Path, said: Description, shape: tuple[int, ...]) -> list[str]:
    """slice, view and bin in the order of the array."""
    words = (said.axes or AXES[len(shape)]).replace("row", "slice").split()
    if len(words) == 3 and len(shape) == 2 and not said.axes:
        words = words[1:]
    if len(words) != len(shape) or sorted(words) != sorted(AXES[len(shape)].split()):
        raise Refusal(
            f"{path}: an array of shape {shape} with axes {said.axes!r}; {AXES[len(shape)]!r} in any order is allowed"
        )
    return words
