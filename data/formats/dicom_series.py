"""Which DICOM files are slices of one volume, told from their headers alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom

from data.files import Refusal
from data.formats.image import decoding, digest

TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "ImageType",
    "InstanceNumber", "NumberOfFrames", "Rows", "Columns",
]  # fmt: skip
DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR
DIGITS = 3  # of the direction cosines, in which the slices of a volume agree


class Header(NamedTuple):
    """What a file's header says about its place in a series."""

    volume: str = ""  # digest that slices of one series, orientation and size share; "" where the file has several frames
    position: float = 0.0  # mm along the normal; 0 where the header is silent
    number: int = 0  # InstanceNumber
    localizer: bool = False
    nothing: str = ""  # why the file is no image, "" if it is one


def header(path: Path) -> Header:
    """Raises Refusal for a file whose header cannot be read."""
    if path.stat().st_size == 0:
        return Header(nothing="an empty file")
    with decoding(path, "DICOM", private=True):
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        kind = ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID", "")
        if kind == DIRECTORY:
            return Header(nothing="a directory of other files (DICOMDIR)")
        if (
            "Rows" not in ds
        ):  # of a kind that nobody knows it is damaged, which is told when it is read
            known = isinstance(kind, pydicom.uid.UID) and kind.name != kind
            return Header(nothing=f"{kind.name} without an image" if known else "")
        cosines = np.array(ds.get("ImageOrientationPatient") or [], float)
        corner = np.array(ds.get("ImagePositionPatient") or [], float)
        placed = len(cosines) == 6 and len(corner) == 3
        position = float(np.cross(cosines[:3], cosines[3:]) @ corner) if placed else 0.0
        turned = ",".join(f"{v:.{DIGITS}f}" for v in cosines + 0.0)
        size = [
            str(ds.get(key) or "")
            for key in ("SeriesInstanceUID", "Rows", "Columns", "PixelSpacing")
        ]
        several = int(ds.get("NumberOfFrames") or 1) > 1 or not size[0]
        localizer = "LOCALIZER" in [str(word).upper() for word in ds.get("ImageType") or []]
        name = "" if several else digest("stack", turned, *size)
        return Header(name, position, int(ds.get("InstanceNumber") or 0), localizer)


def volume(path: Path) -> str:
    """What the slices of one volume share; of a file that does not say, its own name."""
    try:
        return header(path).volume or str(path)
    except (Refusal, OSError):  # what is wrong with it is told when it is read
        return str(path)
