"""fastMRI (Zbontar et al. 2018): HDF5 with `kspace` [slices,(coils,)H,W], `mask` [W] where undersampled, `ismrmrd_header`.

Columns beyond the encoding limits are padding of the matrix: zeros that no scan measured.
"""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from data.files import Refusal
from data.formats import bounds, hdf5
from data.formats.image import decoding, digest
from data.formats.kspace import header as headers
from data.formats.kspace.header import Header
from data.formats.kspace.raw import Raw, agreed, place, sampled


def count(path: Path) -> int:
    with _opened(path) as file:
        return _kspace(path, file).shape[0]


def read(path: Path, index: int) -> Raw:
    """One slice, which alone is read of the file."""
    with _opened(path) as file:
        data = _kspace(path, file)
        slices, *_, rows, columns = data.shape
        with decoding(path, "HDF5", private=True):
            kspace = np.asarray(data[index], np.complex64)
            told = np.asarray(file["mask"][()]).reshape(-1) if "mask" in file else None
            text = file["ismrmrd_header"][()] if "ismrmrd_header" in file else None
    header = None if text is None else headers.parse(text, str(path))
    if header and header.encoded[:2] != (rows, columns):
        told_by = "×".join(map(str, header.encoded[:2]))
        raise Refusal(
            f"{path}: k-space of {rows}×{columns}, but its header says {told_by}; a header of this scan is allowed"
        )
    kspace = kspace.reshape(-1, rows, columns)
    mask = sampled(kspace)
    if told is not None:
        if len(told) != columns:
            raise Refusal(
                f"{path}: a mask of {len(told)} columns, k-space of {columns}; a mask of this scan is allowed"
            )
        mask = agreed(mask, told, str(path), _padding(header, columns))
    kept = header.kept(rows, columns) if header else (rows, columns)
    spacing = header.spacing(rows, columns) if header else None
    affine, notes = None, ("its file has no header: pixel spacing is not known",)
    if header and spacing:
        step = (0, 0, header.pictured_mm[2] or 1.0)
        affine = place(str(path), kept, spacing, (0, 0, 0), (0, 1, 0), (1, 0, 0), step)
        notes = (
            "fastMRI files do not say how the patient lay: spacing is right, orientation and place are not known",
        )
    return Raw(
        torch.from_numpy(kspace),
        torch.from_numpy(mask),
        kept,
        spacing,
        affine,
        index=index,
        count=slices,
        shape=(*kept, slices),
        series=digest("kspace", str(path.absolute())),
        notes=notes,
    )


def _padding(header: Header | None, columns: int) -> np.ndarray | None:
    """bool [W]: columns of the matrix outside the encoding limits."""
    if header is None or header.lines is None:
        return None
    first = columns // 2 - header.lines.centre
    step = np.arange(columns) - first
    return (step < header.lines.minimum) | (step > header.lines.maximum)


@contextmanager
def _opened(path: Path):
    with decoding(path, "HDF5", private=True):
        file = hdf5.module(path).File(path, "r")
    with file:
        yield file


def _kspace(path: Path, file):
    """The data set, after its claims were looked at."""
    h5py = hdf5.module(path)
    if not isinstance(file.get("kspace", getlink=True), h5py.HardLink) or not isinstance(
        data := file["kspace"], h5py.Dataset
    ):
        raise Refusal(
            f"{path}: its kspace is a link or a group; a data set of the file itself is allowed"
        )
    held = hdf5.check(path, data)
    if data.ndim not in (3, 4) or 0 in data.shape or data.dtype.kind != "c":
        raise Refusal(
            f"{path}: kspace of shape {data.shape} and type {data.dtype}; complex [slices,(coils,)H,W] is allowed"
        )
    slices, *image = data.shape
    bounds.check(path, image, bounds.count(path, slices), data.dtype.itemsize, held)
    return data
