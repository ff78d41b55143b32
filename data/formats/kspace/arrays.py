"""k-space as NPY or NPZ (array `kspace`, or the only one), complex, and a small YAML of the same name (see `description`).

Along a trajectory, which a YAML names or an NPZ holds (array `trajectory`), rows are shots and columns are samples.
"""

from pathlib import Path

import numpy as np

from data.files import Refusal
from data.formats.kspace import numpy_array, trajectory
from data.formats.kspace.description import Description, along_trajectory, described, slice_of
from data.formats.kspace.raw import Raw, agreed, sampled

AXES = {2: "row column", 3: "coil row column", 4: "slice coil row column"}


def count(path: Path) -> int:
    data, axes = _laid_out(path, described(path.with_suffix(".yaml")))
    return data.shape[axes.index("slice")] if "slice" in axes else 1


def read(path: Path, index: int) -> Raw:
    said = described(path.with_suffix(".yaml"))
    data, axes = _laid_out(path, said)
    slices = data.shape[axes.index("slice")] if "slice" in axes else 1
    if "slice" in axes:
        data = data.take(index, axes.index("slice"))
        axes = [axis for axis in axes if axis != "slice"]
    if "coil" not in axes:
        data, axes = data[None], ["coil", *axes]
    order = [axes.index(axis) for axis in ("coil", "row", "column")]
    kspace = np.ascontiguousarray(np.asarray(data).transpose(order), np.complex64)
    k = _trajectory(said, path)
    if k is not None:
        return along_trajectory(said, path, kspace, k, index, slices)
    return slice_of(said, path, kspace, _mask(said, sampled(kspace), path), index, slices)


def _trajectory(said: Description, path: Path) -> np.ndarray | None:
    """The one that the YAML names, else that of the NPZ itself."""
    if said.trajectory:
        return trajectory.load(said.folder / said.trajectory)
    if path.suffix.lower() != ".npz" or "trajectory" not in numpy_array.names(path):
        return None
    return trajectory.load(path)


def _mask(said: Description, found: np.ndarray, path: Path) -> np.ndarray:
    if not said.mask:
        return found
    told = numpy_array.load(said.folder / said.mask, "mask")
    if told.ndim == 1 and len(told) == found.shape[1]:
        return agreed(found, told, str(path))
    if told.shape != found.shape:
        raise Refusal(
            f"{said.folder / said.mask}: a mask of {told.shape}; {found.shape[1:]} or {found.shape} is allowed"
        )
    told = told.astype(bool)
    wrong = int((told != found).sum())
    if wrong:
        raise Refusal(
            f"{path}: its mask disagrees with its k-space at {wrong} points; a mask of this scan is allowed"
        )
    return told


def _laid_out(path: Path, said: Description) -> tuple[np.ndarray, list[str]]:
    data = numpy_array.load(path, "kspace")
    if not np.iscomplexobj(data):
        raise Refusal(f"{path}: holds {data.dtype}; complex numbers are allowed")
    axes = (said.axes or AXES.get(data.ndim, "")).split()
    if (
        len(axes) != data.ndim
        or len(set(axes)) < len(axes)
        or not {"row", "column"} <= set(axes) <= set(AXES[4].split())
    ):
        raise Refusal(
            f"{path}: {data.ndim} axes named {said.axes!r}; each of slice, coil, row, column at most once is allowed"
        )
    return data, axes
