"""The YAML beside an array of k-space, which has its name and says what it is.

axes: slice coil row column     # of the array; row: readout, column: phase; the default by the number of axes
field_of_view: [256, 256]       # mm that rows and columns of k-space span
picture: [256, 256]             # mm of it that are shown; the rest is oversampling
slice_step: 5                   # mm from slice to slice
mask: mask.npy                  # columns [W] or points [H,W]; default: what is not 0
trajectory: traj.npy            # where samples lie (see `trajectory`); rows are shots then, and columns samples
matrix: [256, 256]              # rows and columns of the image of a trajectory; default: as many as it resolves
noise: noise.npy                # complex [coils,n], samples of noise alone
position: [0, 0, 0]             # mm, middle of the first slice; left, back, head, as DICOM counts
row_direction: [0, 1, 0]        # along which the row index grows
column_direction: [1, 0, 0]
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.bounded_yaml import numbered, read_yaml
from data.files import Refusal, nearest
from data.formats import bounds
from data.formats.image import Affine, digest
from data.formats.kspace import numpy_array, trajectory
from data.formats.kspace.raw import Raw, place

LEAST, MOST = 1e-3, 1e5  # mm, and pixels of a matrix


@dataclass(frozen=True)
class Description:
    """What a YAML says about an array; lengths in mm."""

    folder: Path = Path()
    axes: str = ""
    field_of_view: tuple[float, ...] = ()
    picture: tuple[float, ...] = ()
    slice_step: float = 0.0
    mask: str = ""
    trajectory: str = ""
    matrix: tuple[float, ...] = ()
    noise: str = ""
    position: tuple[float, ...] = (0, 0, 0)
    row_direction: tuple[float, ...] = (0, 1, 0)
    column_direction: tuple[float, ...] = (1, 0, 0)

    def with_trajectory(self, path: Path) -> "Description":
        return replace(self, trajectory=str(path.absolute()))

    def noise_samples(self, coils: int) -> Tensor | None:
        if not self.noise:
            return None
        noise = numpy_array.load(self.folder / self.noise, "noise")
        if noise.shape[0] != coils or not np.iscomplexobj(noise):
            raise Refusal(
                f"{self.folder / self.noise}: noise of shape {noise.shape}; complex [{coils},n] is allowed"
            )
        return torch.from_numpy(noise.reshape(coils, -1).astype(np.complex64))


def described(path: Path) -> Description:
    """Raises Refusal for keys that are not known and values that are none."""
    if not path.is_file():
        return Description()
    said: Any = numbered(read_yaml(path.read_text("utf-8", "replace"), path)) or {}
    known = {field.name: field.default for field in fields(Description) if field.name != "folder"}
    if not isinstance(said, dict):
        raise Refusal(f"{path}: no list of keys and values; {', '.join(known)} are allowed")
    values: dict[str, Any] = {}
    for key, value in said.items():
        if key not in known:
            raise Refusal(f"{path}: unknown key {key!r}{nearest(str(key), known)}")
        values[key] = _value(path, key, value, known[key])
    made = Description(path.parent, **values)
    if not any(made.row_direction + made.column_direction):
        raise Refusal(f"{path}: directions of 0; unit vectors at right angles are allowed")
    return made


def slice_of(
    said: Description,
    path: Path,
    kspace: np.ndarray,
    mask: np.ndarray,
    index: int,
    count: int,
    matrix: tuple[int, ...] = (),
) -> Raw:
    """Slice `index` of `count`, k-space [coils,H,W] and mask [H,W], with what is said about its file. matrix: of the image,
    where it is not k-space's own."""
    rows, columns = matrix or kspace.shape[1:]
    kept, spacing, affine, notes = pictured(said, path, rows, columns)
    return Raw(
        torch.from_numpy(kspace),
        torch.from_numpy(mask),
        kept,
        spacing,
        affine,
        said.noise_samples(len(kspace)),
        index=index,
        count=count,
        shape=(*kept, count),
        series=digest("kspace", str(path.absolute())),
        notes=notes,
    )


def along_trajectory(
    said: Description, path: Path, kspace: np.ndarray, k: np.ndarray, index: int, count: int
) -> Raw:
    """Slice `index` of `count`, k-space [coils,shots,samples] along a trajectory k [2,shots,samples]."""
    if k.shape[1:] != kspace.shape[1:]:
        raise Refusal(
            f"{path}: {kspace.shape[1]} shots of {kspace.shape[2]} samples, but a trajectory of {k.shape[1]} of {k.shape[2]}"
        )
    if said.mask:
        raise Refusal(f"{path}: a mask along a trajectory; leave unmeasured samples out of both")
    if np.abs(k).max() <= trajectory.PIXELS:
        raise Refusal(
            f"{path}: a trajectory in cycles per pixel (it ends at {np.abs(k).max():.3g}); cycles per field of view are allowed"
        )
    matrix = trajectory.matrix(k)
    if said.matrix:
        matrix = (round(said.matrix[0]), round(said.matrix[1]))
    if min(matrix) < 1:
        raise Refusal(f"{path}: a matrix of {list(said.matrix)}; 1 each or more is allowed")
    bounds.check(path, matrix, 1, 8)
    raw = slice_of(said, path, kspace, np.ones(k.shape[1:], bool), index, count, matrix)
    return replace(raw, trajectory=torch.from_numpy(k), matrix=matrix)


def pictured(
    said: Description, path: Path, rows: int, columns: int
) -> tuple[tuple[int, int], tuple[float, float] | None, Affine | None, tuple[str, ...]]:
    """kept, spacing, affine and notes of `Raw`."""
    if not said.field_of_view:
        return (
            (rows, columns),
            None,
            None,
            ("its pixel spacing is not known: field_of_view in a YAML beside it says it",),
        )
    spacing = (said.field_of_view[0] / rows, said.field_of_view[1] / columns)
    shown = said.picture or said.field_of_view
    kept = (min(rows, round(shown[0] / spacing[0])), min(columns, round(shown[1] / spacing[1])))
    normal = np.cross(said.column_direction, said.row_direction) * (said.slice_step or 1.0)
    affine = place(
        str(path),
        kept,
        spacing,
        said.position,
        said.row_direction,
        said.column_direction,
        list(normal),
    )
    return kept, spacing, affine, ()


def _value(path: Path, key: str, value: Any, default: Any) -> Any:
    if isinstance(default, str):
        good = isinstance(value, str)
    elif isinstance(default, tuple):
        due = 2 if key in ("field_of_view", "picture", "matrix") else 3
        low, high = (LEAST, MOST) if due == 2 else (-MOST, MOST)
        good = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == due
        good = good and all(_is_number(v) and low <= v <= high for v in value)
        value = tuple(float(v) for v in value) if good else value
    else:
        good = _is_number(value) and LEAST <= value <= MOST
    if not good:
        between = f"{LEAST:g} to {MOST:g}"
        if key.endswith("direction"):
            allowed = "a list of 3 numbers, a unit vector,"
        elif isinstance(default, tuple):
            allowed = f"a list of {due} numbers, {f'each {between}' if due == 2 else 'in mm'},"
        else:
            allowed = "text" if isinstance(default, str) else f"{between} mm"
        raise Refusal(f"{path}: {key} is {str(value)[:60]!r}; {allowed} is allowed")
    return value


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
    )
