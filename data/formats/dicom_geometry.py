"""Where the pixels of a DICOM frame lie, wherever the header keeps it."""

import numpy as np
import pydicom

from data.formats.dicom_groups import grouped, of_frame
from data.formats.image import Affine
from data.formats.volume import as_affine

AXIAL = (1, 0, 0, 0, 1, 0)  # how slices lie that do not say it


def spacing_of(ds: pydicom.Dataset, index: int) -> tuple[float, float] | None:
    """mm from row to row and from column to column: in the patient, else at the detector, else (RT images) in their plane."""
    found = (
        of_frame(ds, index, "PixelSpacing")
        or of_frame(ds, index, "ImagerPixelSpacing")
        or ds.get("ImagePlanePixelSpacing")
    )
    if not found:
        return None
    rows, columns = (float(v) for v in found)
    return (rows, columns) if 0 < rows < np.inf and 0 < columns < np.inf else None


def affine_of(ds: pydicom.Dataset, index: int) -> Affine | None:
    """(row, column, slice) → mm, RAS; DICOM itself counts left and back (PS3.3 C.7.6.2.1.1)."""
    cosines, spacing = (
        of_frame(ds, index, key) for key in ("ImageOrientationPatient", "PixelSpacing")
    )
    corner = corner_of(ds, index)
    if corner is None or cosines is None or spacing is None:
        return None
    across, down = np.array(cosines, float)[:3], np.array(cosines, float)[3:]
    matrix = np.eye(4)
    matrix[:3] = np.stack(
        [down * float(spacing[0]), across * float(spacing[1]), np.cross(across, down), corner], 1
    )
    return as_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)


def corner_of(ds: pydicom.Dataset, index: int) -> np.ndarray | None:
    """The centre of the first pixel of a frame, mm, in DICOM's own directions.

    One position for many frames is that of the first; only a dose grid says how far the others are from it: along the
    normal if its offsets begin with 0, else they are positions along z (PS3.3 C.8.8.3.2).
    """
    own = grouped(ds, index, "ImagePositionPatient")
    found = own if own is not None else ds.get("ImagePositionPatient")
    if found in (None, ""):
        return None
    corner = np.array(found, float)
    offsets = ds.get("GridFrameOffsetVector")
    if own is not None or int(ds.get("NumberOfFrames") or 1) == 1:
        return corner
    if not isinstance(offsets, pydicom.multival.MultiValue) or index >= len(offsets):
        return corner if index == 0 else None
    cosines = np.array(ds.get("ImageOrientationPatient") or AXIAL, float)
    normal = np.array([0.0, 0.0, 1.0]) if float(offsets[0]) else np.cross(cosines[:3], cosines[3:])
    return corner + normal * (float(offsets[index]) - float(offsets[0]))


def position_of(affine: Affine | None, ds: pydicom.Dataset) -> float | None:
    """Where the slice lies along its normal; without geometry its InstanceNumber."""
    if affine is not None:
        matrix = np.array(affine)
        return float(matrix[:3, 2] @ matrix[:3, 3])
    number = ds.get("InstanceNumber")
    return None if number in (None, "") else float(number)


def decimal(value: float) -> pydicom.valuerep.DSfloat:
    """A DS element holds at most 16 characters."""
    return pydicom.valuerep.DSfloat(value, auto_format=True)
