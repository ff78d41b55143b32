"""Functional groups: where a multi-frame DICOM file keeps what differs from frame to frame (PS3.3 C.7.6.16).

Only the standard's own sequence counts for an attribute: makers keep others of the same keywords in private sequences, with
other values. A frame's own group comes before the shared one, and both before the top of the file.
"""

from collections.abc import Iterator
from typing import Any

import pydicom

MACROS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "WindowCenter": "FrameVOILUTSequence",
    "WindowWidth": "FrameVOILUTSequence",
    "ImagerPixelSpacing": "FramePixelDataPropertiesSequence",
}
GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")


def of_frame(ds: pydicom.Dataset, index: int, keyword: str, default: Any = None) -> Any:
    """An attribute of one frame."""
    value = grouped(ds, index, keyword)
    value = ds.get(keyword) if value is None else value
    return default if value in (None, "") else value


def grouped(ds: pydicom.Dataset, index: int, keyword: str) -> Any:
    """An attribute of one frame in its functional groups; None if it is not there."""
    for group, item in zip(GROUPS, (index, 0)):
        items = ds.get(group) or []
        macro = (items[item].get(MACROS[keyword]) or []) if item < len(items) else []
        if len(macro) and (value := macro[0].get(keyword)) not in (None, ""):
            return value
    return None


def places(ds: pydicom.Dataset) -> Iterator[tuple[int, pydicom.Dataset]]:
    """(frame, data set) of every place where a standard attribute of the image itself may be: the top, the macros' items, and
    the detectors of nuclear medicine, which say where the first frame lies.
    """
    yield 0, ds
    for detector in ds.get("DetectorInformationSequence") or []:
        yield 0, detector
    for group in GROUPS:
        for frame, item in enumerate(ds.get(group) or []):
            for macro in dict.fromkeys(MACROS.values()):
                if len(found := item.get(macro) or []):
                    yield frame, found[0]
