"""k-space as NPY or NPZ (array `kspace`, or the only one), complex, and a small YAML of the same name that says what it is.

axes: slice coil row column     # of the array; row: readout, column: phase; the default by the number of axes
field_of_view: [256, 256]       # mm that rows and columns of k-space span
picture: [256, 256]             # mm of it that are shown; the rest is oversampling
slice_step: 5                   # mm from slice to slice
mask: mask.npy                  # columns [W] or points [H,W]; default: what is not 0
noise: noise.npy                # complex [coils,n], samples of noise alone
position: [0, 0, 0]             # mm, middle of the first slice; left, back, head, as DICOM counts
row_direction: [0, 1, 0]        # along which the row index grows
column_direction: [1, 0, 0]
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.bounded_yaml import read_yaml
from data.files import Refusal, nearest
from data.formats import bounds
from data.formats.image import Affine, decoding, digest
from data.formats.kspace.raw import Raw, agreed, place, sampled

AXES = {2: "row column", 3: "coil row column", 4: "slice coil row column"}


@dataclass(frozen=True)
class Description:
    """What a YAML says about an array; lengths in mm."""

    folder: Path = Path()
    axes: str = ""
    field_of_view: tuple[float, ...] = ()
    picture: tuple[float, ...] = ()
    slice_step: float = 0.0
    mask: str = ""
    noise: str = ""
    position: tuple[float, ...] = (0, 0, 0)
    row_direction: tuple[float, ...] = (0, 1, 0)
    column_direction: tuple[float, ...] = (1, 0, 0)

    def noise_samples(self, coils: int) -> Tensor | None:
        if not self.noise:
            return None
        noise = _array(self.folder / self.noise, "noise")
        if noise.shape[0] != coils or not np.iscomplexobj(noise):
            raise Refusal(
                f"{self.folder / self.noise}: noise of shape {noise.shape}; complex [{coils},n] is allowed"
            )
        return torch.from_numpy(noise.reshape(coils, -1).astype(np.complex64))


def described(path: Path) -> Description:
    """Raises Refusal for keys that are not known and values that are none."""
    if not path.is_file():
        return Description()
    said: Any = read_yaml(path.read_text("utf-8", "replace"), path) or {}
    known = {field.name: field.default for field in fields(Description) if field.name != "folder"}
    if not isinstance(said, dict):
        raise Refusal(f"{path}: no list of keys and values; {', '.join(known)} are allowed")
    values: dict[str, Any] = {}
    for key, value in said.items():
        if key not in known:
            raise Refusal(f"{path}: unknown key {key!r}{nearest(str(key), known)}")
        values[key] = _value(path, key, value, known[key])
    return Description(path.parent, **values)


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
    return slice_of(said, path, kspace, _mask(said, sampled(kspace), path), index, slices)


def slice_of(
    said: Description, path: Path, kspace: np.ndarray, mask: np.ndarray, index: int, count: int
) -> Raw:
    """Slice `index` of `count`, k-space [coils,H,W] and mask [H,W], with what is said about its file."""
    kept, spacing, affine, notes = pictured(said, *kspace.shape[1:])
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


def pictured(
    said: Description, rows: int, columns: int
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
        kept, spacing, said.position, said.row_direction, said.column_direction, list(normal)
    )
    return kept, spacing, affine, ()


def _mask(said: Description, found: np.ndarray, path: Path) -> np.ndarray:
    if not said.mask:
        return found
    told = _array(said.folder / said.mask, "mask")
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
    data = _array(path, "kspace")
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


def _array(path: Path, name: str) -> np.ndarray:
    """The array of an NPY, or that of this name or the only one of an NPZ; never a pickle."""
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


def _value(path: Path, key: str, value: Any, default: Any) -> Any:
    if isinstance(default, str):
        good = isinstance(value, str)
    elif isinstance(default, tuple):
        good = (
            isinstance(value, Sequence)
            and not isinstance(value, str)
            and all(map(_is_number, value))
        )
        due = 2 if key in ("field_of_view", "picture") else 3
        good = good and len(value) == due and (due == 3 or min(value) > 0)
        value = tuple(float(v) for v in value) if good else value
    else:
        good = _is_number(value) and value > 0
    if not good:
        allowed = (
            "text"
            if isinstance(default, str)
            else "a list of mm"
            if isinstance(default, tuple)
            else "mm > 0"
        )
        raise Refusal(f"{path}: {key} is {str(value)[:60]!r}; {allowed} is allowed")
    return value


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
    )
