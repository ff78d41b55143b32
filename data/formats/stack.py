"""Slices that are stacked anew: others in number or place than those that were read, in the same space.

A place counts in slices of the source: 0 is its first slice, 1 its second, 0.5 lies half way between the two.
"""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pydicom

from data.files import Refusal
from data.formats.dicom_geometry import AXIAL, affine_of, corner_of, decimal
from data.formats.dicom_groups import of_frame, places
from data.formats.dicom_units import select_frame
from data.formats.image import Meta, decoding, digest
from data.formats.volume import as_affine

SPREAD = 65535  # stored numbers that a spread is written with in DICOM, which knows no floats that others read


def stacked(
    metas: Sequence[Meta], first: float = 0.0, step: float = 1.0, count: int | None = None
) -> list[Meta]:
    """What is true of `count` slices at the places first + k step, by what the source's slices (in order) say.

    Raises Refusal for files that cannot hold another number of slices.
    """
    count = len(metas) if count is None else count
    base = metas[0]
    whole = [meta.index for meta in metas] == list(range(base.count)) or base.count == 1
    if (first, step, count) == (0, 1, len(metas)) and whole and not _thinned(metas):
        return list(metas)
    if base.format == "dicom":
        return [_dicom(metas, first + k * step, step, k) for k in range(count)]
    indices = [meta.index for meta in metas]
    apart = indices[1] - indices[0] if len(indices) > 1 else 1
    if indices != list(range(indices[0], indices[0] + apart * len(indices), apart)):
        raise Refusal("slices that do not lie equally far from each other make no volume")
    if len(base.shape) > 3 and base.shape[3] > 1:
        raise Refusal("a volume with repetitions keeps all its slices")
    if base.key and base.format not in ("npz", "hdf5", "mat"):
        raise Refusal("an archive of pictures keeps all its members")
    affine, shape = base.affine, list(base.shape)
    if affine is not None:
        move = np.eye(4)
        move[base.axis, base.axis], move[base.axis, 3] = step * apart, indices[0] + first * apart
        affine = as_affine(np.array(affine) @ move)
    if base.format in ("nifti", "nrrd"):
        shape[base.axis] = count
    elif "n" in base.layout:
        shape[base.layout.index("n")] = count
    same = replace(base, affine=affine, shape=tuple(shape), count=count)
    return [replace(same, index=k) for k in range(count)]


def spacing(metas: Sequence[Meta]) -> tuple[float, float, float] | None:
    """mm from slice to slice, from row to row and from column to column; None where the files do not say.

    Raises Refusal, in one line, for slices that lie unequally far apart or twice in one place.
    """
    base = metas[0]
    if base.affine is None or base.spacing is None:
        return None
    if base.format != "dicom":
        apart = metas[1].index - metas[0].index if len(metas) > 1 else 1
        between = float(np.linalg.norm(np.array(base.affine)[:3, base.axis])) * apart
        return between, *base.spacing
    if len(metas) < 2:
        return 1.0, *base.spacing
    if any(meta.affine is None for meta in metas):
        return None
    corners = np.array([np.array(meta.affine)[:3, 3] for meta in metas])
    steps = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    usual = float(np.median(steps))
    for k, gap in enumerate(steps):
        if gap < 0.01 * usual or usual == 0:
            raise Refusal(f"slices {k} and {k + 1} lie in one place")
        if abs(gap - usual) > 0.05 * usual:
            raise Refusal(
                f"slices {k} and {k + 1} are {gap:.4g} mm apart, the others {usual:.4g} mm"
            )
    return usual, *base.spacing


def spread(meta: Meta, peak: float) -> Meta:
    """Of a standard deviation, which is no intensity: floats, or in DICOM whole numbers with a slope. peak: its largest value."""
    plain = replace(
        meta, dtype="float32", bits=0, slope=1.0, intercept=0.0, window=None, padded=None
    )
    if meta.format != "dicom":
        return plain
    slope = peak / SPREAD if peak > 0 else 1.0
    photometric = "MONOCHROME2" if meta.photometric == "MONOCHROME1" else meta.photometric
    return replace(
        plain, dtype="uint16", bits=16, slope=float(decimal(slope)), photometric=photometric
    )


def _dicom(metas: Sequence[Meta], place: float, step: float, number: int) -> Meta:
    """One slice of a series, with the header of the nearest that was read."""
    last = len(metas) - 1
    below = min(max(int(np.floor(place)), 0), max(last - 1, 0))
    nearest, beside = metas[min(max(round(place), 0), last)], metas[below : below + 2]
    share = place - below
    with decoding("DICOM header", "DICOM", private=True):
        own, *corners = (_corner(meta) for meta in (nearest, beside[0], beside[-1]))
        ds = _header(nearest)
        if nearest.count > 1:
            select_frame(ds, nearest.index)
        if own is None or corners[0] is None or corners[1] is None:
            _unplaced(ds, beside, share, abs(step))
        else:  # on the line through two slices' corners: tilted stacks keep their shear
            way = corners[1] - corners[0]
            _move(ds, corners[0] + share * way - own, abs(float(_normal(ds) @ way) * step))
        affine = affine_of(ds, 0)
        out = io.BytesIO()
        pydicom.dcmwrite(out, ds, enforce_file_format=False)
    source = digest("stacked", nearest.source, str(number))
    normal = np.array(affine)[:3, 2] if affine is not None else None
    position = float(number) if normal is None else float(normal @ np.array(affine)[:3, 3])
    return replace(
        nearest, index=0, count=1, affine=affine, position=position, source=source, header=out.getvalue(), padded=None,
        series=metas[0].series,
    )  # fmt: skip


def _header(meta: Meta) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(meta.header), force=True)


def _corner(meta: Meta) -> np.ndarray | None:
    """Where the first pixel lies, mm in DICOM's own directions, also where nobody says how large it is."""
    if meta.affine is not None:
        return np.array(meta.affine)[:3, 3] * (-1.0, -1.0, 1.0)
    return corner_of(_header(meta), meta.index)


def _thinned(metas: Sequence[Meta]) -> bool:
    """Whether slices of a DICOM series were left out, so that neighbours lie farther apart than their headers say."""
    if metas[0].format != "dicom" or len(metas) < 2:
        return False
    with decoding("DICOM header", "DICOM", private=True):
        ds, corners = _header(metas[0]), [_corner(meta) for meta in metas[:2]]
        said = float(ds.get("SpacingBetweenSlices") or 0)
        if not said or corners[0] is None or corners[1] is None:
            return False
        return bool(abs(_normal(ds) @ (corners[1] - corners[0])) > 1.5 * abs(said))


def _normal(ds: pydicom.Dataset) -> np.ndarray:
    cosines = np.array(of_frame(ds, 0, "ImageOrientationPatient", AXIAL), float)
    return np.cross(cosines[:3], cosines[3:])


def _move(ds: pydicom.Dataset, shift: np.ndarray, between: float) -> None:
    """The header of a slice that lies elsewhere (shift: mm) and whose neighbours are `between` mm apart along the normal."""
    for _, item in places(ds):
        if item.get("ImagePositionPatient"):
            item.ImagePositionPatient = [
                decimal(v) for v in np.array(item.ImagePositionPatient, float) + shift
            ]
        if item.get("SpacingBetweenSlices"):
            item.SpacingBetweenSlices = decimal(between)
        if item.get("SliceThickness") and float(item.SliceThickness) > between > 0:
            item.SliceThickness = decimal(between)
    if "SliceLocation" in ds:
        corner = np.array(of_frame(ds, 0, "ImagePositionPatient"), float)
        ds.SliceLocation = decimal(float(_normal(ds) @ corner))
    ds.SpacingBetweenSlices = decimal(between)


def _unplaced(ds: pydicom.Dataset, beside: Sequence[Meta], share: float, step: float) -> None:
    """The header of a slice of a series without positions: what it says of distances, and a location between its neighbours'."""
    for _, item in places(ds):
        for key, ratio in (("SpacingBetweenSlices", step), ("SliceThickness", min(step, 1.0))):
            if item.get(key):
                setattr(item, key, decimal(float(item[key].value) * ratio))
    if "SliceLocation" not in ds:
        return
    below, above = (_header(meta).get("SliceLocation") for meta in (beside[0], beside[-1]))
    if below is None or above is None or below == above:
        del ds.SliceLocation
    else:
        ds.SliceLocation = decimal(float(below) + share * (float(above) - float(below)))
