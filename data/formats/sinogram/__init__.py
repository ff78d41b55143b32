"""What CT scanners write: projections, one slice at a time, with all that is said about them.

NPY, HDF5, TIFF stacks and NRRD described by a YAML of the same name beside them, and folders of DICOM-CT-PD. Every failure is a
Refusal of one line: file, reason, what is allowed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import Refusal
from data.formats.sinogram import arrays, ctpd
from data.formats.sinogram.description import Description, described

__all__ = ["SUFFIXES", "Sinogram", "count", "description", "known", "read"]

SUFFIXES = (".npy", ".h5", ".hdf5", ".tif", ".tiff", ".nrrd")


@dataclass(frozen=True, eq=False)
class Sinogram:
    """values: counts or line integrals as they are stored, float64 [views,bins]. said: what they are, and the geometry."""

    values: np.ndarray
    said: Description
    index: int
    count: int


def known(path: Path) -> bool:
    """Whether a file of this name is a sinogram: it has a YAML beside it, or is the first DICOM file of its folder."""
    if path.name.lower().endswith(ctpd.SUFFIXES):
        return ctpd.first(path)
    return path.name.lower().endswith(SUFFIXES) and path.with_suffix(".yaml").is_file()


def count(path: Path) -> int:
    if path.name.lower().endswith(ctpd.SUFFIXES):
        return ctpd.count(path)
    return arrays.count(path, description(path))


def read(path: Path, index: int) -> Sinogram:
    """One slice; nothing of the others is held. Raises Refusal for numbers that no detector gives."""
    if path.name.lower().endswith(ctpd.SUFFIXES):
        values, said, total = ctpd.read(path, index)
    else:
        said = description(path)
        values, total = arrays.read(path, said, index)
    if not 0 <= index < total:
        raise Refusal(f"{path}: slice {index} is outside 0 to {total - 1}")
    where = f"{path}, slice {index}" if total > 1 else str(path)
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise Refusal(
            f"{where}: {bad} of {values.size} values are NaN or infinite; only finite values are allowed"
        )
    if min(values.shape) < 1 or values.shape[1] < 2:
        raise Refusal(
            f"{where}: {values.shape[0]} views of {values.shape[1]} bins; at least 1 and 2 are due"
        )
    return Sinogram(values, said, index, total)


def description(path: Path) -> Description:
    """What the YAML beside a file says."""
    if path.suffix.lower() not in SUFFIXES:
        raise Refusal(
            f"{path}: not a known sinogram file; {', '.join(SUFFIXES)} are allowed, and folders of DICOM-CT-PD"
        )
    if not path.is_file():
        raise Refusal(f"{path}: cannot be opened (no such file)")
    beside = path.with_suffix(".yaml")
    if not beside.is_file():
        raise Refusal(
            f"{path}: has no {beside.name} beside it, which says its geometry (docs/measured-ct.md)"
        )
    return described(beside)
