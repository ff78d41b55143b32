"""What MRI scanners write: k-space of one slice at a time, with all that its file says about it.

fastMRI and ISMRMRD (HDF5), BART (.cfl with .hdr), and arrays (NPY, NPZ) described by a YAML beside them. Every failure is a
Refusal of one line: file, reason, what is allowed.
"""

from pathlib import Path

from data.files import Refusal
from data.formats import hdf5
from data.formats.image import decoding
from data.formats.kspace import arrays, cfl, fastmri, mrd
from data.formats.kspace.raw import Raw, checked

__all__ = ["Raw", "SUFFIXES", "count", "read"]

SUFFIXES = (".h5", ".hdf5", ".mrd", ".cfl", ".npy", ".npz")


def count(path: str | Path) -> int:
    """Slices of a file, each of every repetition and contrast."""
    path = Path(path)
    return _reader(path).count(path)


def read(path: str | Path, index: int | None = None) -> Raw:
    """One slice of a file; nothing of the others is held. index: needed where there are several."""
    path = Path(path)
    reader = _reader(path)
    total = reader.count(path)
    if index is None and total > 1:
        raise Refusal(f"{path}: holds {total} slices; an index 0 to {total - 1} is needed")
    index = index or 0
    if not 0 <= index < total:
        raise Refusal(f"{path}: slice {index} is outside 0 to {total - 1}")
    return checked(reader.read(path, index), f"{path}, slice {index}")


def _reader(path: Path):
    """The module for a file, by its name and by what lies in it."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise Refusal(f"{path}: not a known k-space file; {', '.join(SUFFIXES)} are allowed")
    if not path.is_file():
        raise Refusal(f"{path}: cannot be opened (no such file)")
    if suffix == ".cfl":
        return cfl
    if suffix in (".npy", ".npz"):
        return arrays
    with decoding(path, "HDF5", private=True), hdf5.module(path).File(path, "r") as file:
        if "kspace" in file:
            return fastmri
        if mrd.is_one(file):
            return mrd
    raise Refusal(
        f"{path}: has neither a data set kspace (fastMRI) nor a group with xml and data (ISMRMRD)"
    )
