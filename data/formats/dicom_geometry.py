"""Where the pixels of a DICOM frame lie, read and put back: spacing, position, orientation, wherever the header keeps them."""

import numpy as np
import pydicom

from data.formats.image import Affine, Meta


def of_frame(ds: pydicom.Dataset, index: int, keyword: str, default):
    """An element of one frame: in its own functional group, else in the shared one, else at the top."""
    groups = [ds.get("PerFrameFunctionalGroupsSequence"), ds.get("SharedFunctionalGroupsSequence")]
    for group, item in zip(groups, (index, 0)):
        for element in group[item] if group and item < len(group) else ():
            if element.VR == "SQ" and len(element.value) and (value := element.value[0].get(keyword)) not in (None, ""):
                return value
    value = ds.get(keyword)
    return default if value in (None, "") else value


def affine_of(ds: pydicom.Dataset, index: int) -> Affine | None:
    """(row, column, slice) → mm, RAS; DICOM itself counts left and back (PS3.3 C.7.6.2.1.1)."""
    keys = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    corner, cosines, spacing = (of_frame(ds, index, key, None) for key in keys)
    if corner is None or cosines is None or spacing is None:
        return None
    across, down = np.array(cosines, dtype=float)[:3], np.array(cosines, dtype=float)[3:]
    matrix = np.eye(4)
    matrix[:3] = np.stack(
        [down * float(spacing[0]), across * float(spacing[1]), np.cross(across, down), np.array(corner, float)], 1
    )
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
    return tuple(tuple(float(v) for v in row) for row in matrix) if np.isfinite(matrix).all() else None


def position_of(affine: Affine | None, ds: pydicom.Dataset) -> float | None:
    """Where the slice lies along its normal; without geometry its InstanceNumber."""
    if affine is not None:
        matrix = np.array(affine)
        return float(matrix[:3, 2] @ matrix[:3, 3])
    number = ds.get("InstanceNumber")
    return None if number in (None, "") else float(number)


def resize(ds: pydicom.Dataset, meta: Meta) -> None:
    """Pixel spacing and first-pixel position as `meta` says, wherever the header keeps them.

    Positions are moved along each frame's own axes, by as many pixels as the first frame's corner was.
    """
    if meta.spacing is None:
        return
    sets = [s for key in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence") for s in ds.get(key) or []]
    places = [ds, *(e.value[0] for group in sets for e in group if e.VR == "SQ" and len(e.value))]
    found = [p for p in places if p.get("PixelSpacing") or p.get("ImagerPixelSpacing")]
    before = found[0].get("PixelSpacing") or found[0].get("ImagerPixelSpacing") if found else None
    if before is None:
        return
    old = tuple(map(float, before))
    ratio = [new / was for new, was in zip(meta.spacing, old)]
    moved = _moved(affine_of(ds, 0), meta.affine, ratio)
    if ratio == [1, 1] and np.allclose(moved, 0, atol=1e-6):
        return
    orientation = next((p.ImageOrientationPatient for p in places if p.get("ImageOrientationPatient")), None)
    for place in places:
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
            if place.get(keyword):
                setattr(place, keyword, [decimal(float(v) * r) for v, r in zip(place.get(keyword), ratio)])
        if place.get("ImagePositionPatient") and orientation:
            across, down = np.array(orientation, float)[:3], np.array(orientation, float)[3:]
            shift = down * old[0] * moved[0] + across * old[1] * moved[1]
            place.ImagePositionPatient = [decimal(v) for v in np.array(place.ImagePositionPatient, float) + shift]


def _moved(before: Affine | None, after: Affine | None, ratio: list[float]) -> list[float]:
    """Old pixels along (rows, columns) by which the first centre was moved; without geometry so that the outer edges stay."""
    if before is None or after is None:
        return [(r - 1) / 2 for r in ratio]
    old, shift = np.array(before)[:3, :2], np.array(after)[:3, 3] - np.array(before)[:3, 3]
    return [float(v) for v in np.linalg.lstsq(old, shift, rcond=None)[0]]


def decimal(value: float) -> pydicom.valuerep.DSfloat:
    """A DS element holds at most 16 characters."""
    return pydicom.valuerep.DSfloat(value, auto_format=True)
