"""What goes into a DICOM file that is written: a new header, the units of the numbers, the pixels."""

import numpy as np
import pydicom
from pydicom.pixels import pack_bits

from data.formats.dicom_geometry import decimal
from data.formats.dicom_groups import of_frame, places
from data.formats.dicom_identity import uid
from data.formats.image import Meta


def new_header(meta: Meta) -> pydicom.Dataset:
    """For images that come from elsewhere: a secondary capture with the units and the place that `meta` gives."""
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.Modality = pydicom.uid.SecondaryCaptureImageStorage, meta.modality or "OT"
    ds.SeriesInstanceUID, ds.StudyInstanceUID = (
        uid("series", meta.series or ""),
        uid("study", meta.series or ""),
    )
    ds.InstanceNumber, ds.PatientID = meta.index + 1, meta.subject or ""
    ds.RescaleSlope, ds.RescaleIntercept = decimal(meta.slope), decimal(meta.intercept)
    if meta.modality == "CT":
        ds.RescaleType = "HU"
    if meta.window:
        ds.WindowCenter, ds.WindowWidth = (
            decimal(sum(meta.window) / 2),
            decimal(meta.window[1] - meta.window[0]),
        )
    if meta.spacing:
        ds.PixelSpacing = [decimal(v) for v in meta.spacing]
    if meta.affine:
        matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.array(meta.affine)
        down, across = (matrix[:3, i] / np.linalg.norm(matrix[:3, i]) for i in (0, 1))
        ds.ImageOrientationPatient = [decimal(v) for v in (*across, *down)]
        ds.ImagePositionPatient = [decimal(v) for v in matrix[:3, 3]]
        ds.FrameOfReferenceUID = uid("frame of reference", meta.series or "")
    return ds


def put_units(ds: pydicom.Dataset, meta: Meta) -> None:
    """What stored numbers mean, where that is not what the source's did."""
    wanted = {"RescaleSlope": meta.slope, "RescaleIntercept": meta.intercept}
    index = meta.index if meta.count > 1 else 0
    found = {key: float(of_frame(ds, index, key, key == "RescaleSlope")) for key in wanted}
    if found == wanted:
        return
    for _, place in places(ds):
        for key in (
            *wanted,
            "WindowCenter",
            "WindowWidth",
            "PixelPaddingValue",
            "PixelPaddingRangeLimit",
        ):
            if key in place:
                del place[key]
    ds.RescaleSlope, ds.RescaleIntercept = (decimal(value) for value in wanted.values())


def put_pixels(ds: pydicom.Dataset, frames: np.ndarray, meta: Meta) -> None:
    """frames [N, C, H, W] → the image pixel module of an uncompressed file."""
    channels, rows, columns = frames.shape[1:]
    ds.Rows, ds.Columns, ds.SamplesPerPixel = rows, columns, channels
    ds.PhotometricInterpretation = meta.photometric or ("RGB" if channels == 3 else "MONOCHROME2")
    if channels == 3:
        ds.PlanarConfiguration = 0
    frames = np.ascontiguousarray(frames.transpose(0, 2, 3, 1))
    little = frames.astype(frames.dtype.newbyteorder("<")).tobytes()
    ds.BitsAllocated = frames.dtype.itemsize * 8
    if frames.dtype.kind == "f":
        setattr(ds, {4: "FloatPixelData", 8: "DoubleFloatPixelData"}[frames.dtype.itemsize], little)
        return
    ds.BitsStored = meta.bits or ds.BitsAllocated
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(frames.dtype.kind == "i")
    if ds.BitsStored == 1:
        ds.BitsAllocated, little = 1, pack_bits(frames.reshape(-1))
    ds.PixelData = little + b"\0" * (len(little) % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated <= 8 else "OW"
