"""DICOM: single and multi-frame, 1 to 32 bits, signed or not, gray, RGB, YBR and palette, rescaled to HU.

MONOCHROME1 (low is white) is inverted on the way in and put back on the way out. What is compressed is unpacked by pydicom's
own plug-ins, and written uncompressed (Explicit VR Little Endian).
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, get_decoder, pack_bits, pixel_array

from data.files import Refusal
from data.formats.dicom_geometry import affine_of, decimal, of_frame, position_of, resize
from data.formats.dicom_identity import derived, pseudonym, uid
from data.formats.image import Image, Meta, check_index, decoding, digest, from_stored, limits, to_stored

# pydicom logs and warns with the values of elements, which may name the patient: nothing of it may reach a log.
logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").propagate = False


def count(path: Path) -> int:
    """Number of frames."""
    return _frames(_header(path), path)


def read(path: Path, index: int | None = None) -> Image:
    """One frame → Image, pixels in the units of RescaleSlope and RescaleIntercept (CT: HU)."""
    ds = _header(path)
    index = check_index(index, total := _frames(ds, path), path, "frames")
    array = _pixels(path, ds, index, total)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        with decoding(path, "DICOM", private=True):
            array = apply_color_lut(array, ds)
    stored = array.transpose(2, 0, 1) if array.ndim == 3 else array[None]
    meta = _meta(path, ds, index, total, stored)
    return from_stored(_inverted(stored, meta, path), meta, path)


def encode(images: Sequence[Image], image_id: str, config: str, derivation: str, keep_patient: bool, number: int = 0) -> bytes:
    """One frame, or all frames of a file in order → the bytes of a DICOM file with new UIDs (see `derived`).

    image_id, config: what the new UIDs are digests of. number: InstanceNumber in a new series (0: as it was).
    """
    metas = [image.meta for image in images]
    meta = metas[0]
    frames = np.stack([_inverted(to_stored(image), image.meta, "image") for image in images])  # [N, C, H, W]
    with decoding("DICOM header", "DICOM", private=True):
        source = pydicom.dcmread(io.BytesIO(meta.header), force=True) if meta.header else _new_header(meta)
        ds = derived(source, image_id, config, derivation, keep_patient)
        _select_frames(ds, [m.index for m in metas], meta.count)
        resize(ds, meta)
        _put_pixels(ds, frames, meta)
        if number:
            ds.InstanceNumber = number
        out = io.BytesIO()
        pydicom.dcmwrite(out, ds, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return out.getvalue()


def in_order(images: Sequence[Image]) -> list[int]:
    """The order of the slices of a series: along the normal, then (several images at one place) by InstanceNumber."""

    def place(i: int) -> tuple[float, int]:
        ds = pydicom.dcmread(io.BytesIO(images[i].meta.header), force=True, specific_tags=["InstanceNumber"])
        return images[i].meta.position or 0.0, int(ds.get("InstanceNumber") or 0)

    with decoding("DICOM series", "DICOM", private=True):
        return sorted(range(len(images)), key=place)


def _header(path: Path) -> pydicom.Dataset:
    with decoding(path, "DICOM", private=True):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        for _ in ds:  # decode every element now: a damaged header must fail here, not later
            pass
    return ds


def _frames(ds: pydicom.Dataset, path: Path) -> int:
    if "Rows" not in ds or "PhotometricInterpretation" not in ds:
        kind = ds.get("SOPClassUID")
        name = kind.name if isinstance(kind, pydicom.uid.UID) else "no SOP class"
        raise Refusal(f"{path}: this DICOM file has no image ({name}); an image with rows and pixel data is allowed")
    with decoding(path, "DICOM", private=True):
        return max(1, int(ds.get("NumberOfFrames") or 1))


def _pixels(path: Path, ds: pydicom.Dataset, index: int, total: int) -> np.ndarray:
    """[H, W] or [H, W, 3] of one frame; YBR comes as RGB."""
    syntax = ds.file_meta.get("TransferSyntaxUID")
    seekable = total > 1 and syntax != pydicom.uid.DeflatedExplicitVRLittleEndian  # then only this frame is read
    try:
        with decoding(path, "DICOM"):
            array = pixel_array(path, index=index) if seekable else pixel_array(pydicom.dcmread(path))
            promised = (int(ds.Rows), int(ds.Columns), *(() if ds.SamplesPerPixel == 1 else (3,)))
            if array.shape != promised:  # pydicom takes surplus data for frames that the header forgot
                raise Refusal(f"pixel data for {array.shape} where the header promises {promised}")
            return array
    except ValueError as error:
        with decoding(path, "DICOM"):
            absent = _absent_plugins(syntax)
        if not absent:
            raise
        reason = " ".join(str(error.__cause__).split())[:200]
        raise Refusal(f"{path}: {syntax.name} needs a plug-in of pydicom that is not installed: {absent} ({reason})") from error


def _absent_plugins(syntax: pydicom.uid.UID | None) -> str:
    """The plug-ins that could unpack this transfer syntax and are not installed."""
    if syntax is None or not syntax.is_encapsulated:
        return ""
    try:
        return " or ".join(text.partition("requires ")[2] or text for text in get_decoder(syntax).missing_dependencies)
    except NotImplementedError:  # nobody can unpack it: pydicom's own message says so
        return ""


def _meta(path: Path, ds: pydicom.Dataset, index: int, total: int, stored: np.ndarray) -> Meta:
    with decoding(path, "DICOM", private=True):
        slope, intercept = float(of_frame(ds, index, "RescaleSlope", 1)), float(of_frame(ds, index, "RescaleIntercept", 0))
        colour = len(stored) == 3
        palette = ds.PhotometricInterpretation == "PALETTE COLOR"
        bits = stored.dtype.itemsize * 8 if palette else int(ds.get("BitsStored") or ds.BitsAllocated)
        spacing = of_frame(ds, index, "PixelSpacing", None) or ds.get("ImagerPixelSpacing")
        affine = affine_of(ds, index)
        instance = str(ds.get("SOPInstanceUID", path.absolute()))
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, ds, enforce_file_format=False)
        meta = Meta(
            "dicom",
            stored.dtype.newbyteorder("=").name,
            bits=bits if stored.dtype.kind in "iu" else 0,
            slope=slope,
            intercept=intercept,
            window=_window(ds, index, bits, colour, slope, intercept),
            index=index,
            count=total,
            spacing=(float(spacing[0]), float(spacing[1])) if spacing else None,
            affine=affine,
            photometric="RGB" if colour else str(ds.PhotometricInterpretation),
            subject=pseudonym(str(ds.get("PatientID") or "")),
            series=digest("series", str(ds.get("SeriesInstanceUID", path.absolute())), *([instance] if total > 1 else [])),
            source=digest("instance", instance, str(index)),
            position=position_of(affine, ds),
            header=buffer.getvalue(),
        )
    return _checked(meta, ds, stored, path)


def _checked(meta: Meta, ds: pydicom.Dataset, stored: np.ndarray, path: Path) -> Meta:
    """Refuse what cannot be undone on the way out; correct the depth that a header gives too small; turn the window round."""
    slope, intercept = meta.slope, meta.intercept
    if "ModalityLUTSequence" in ds:
        raise Refusal(f"{path}: has a Modality LUT table; RescaleSlope and RescaleIntercept are allowed")
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise Refusal(f"{path}: RescaleSlope {slope}, RescaleIntercept {intercept}; a finite slope other than 0 is allowed")
    if stored.dtype.kind in "iu" and not limits(meta)[0] <= stored.min() <= stored.max() <= limits(meta)[1]:
        meta = replace(meta, bits=stored.dtype.itemsize * 8)  # the header is wrong; nothing is clipped for that
    if meta.photometric == "MONOCHROME1" and meta.window:
        a, b = (slope * v + intercept for v in limits(meta))
        meta = replace(meta, window=(a + b - meta.window[1], a + b - meta.window[0]))
    return meta


def _window(
    ds: pydicom.Dataset, index: int, bits: int, colour: bool, slope: float, intercept: float
) -> tuple[float, float] | None:
    """The first window of the file; colours and 8-bit images: all they can hold."""
    centre, width = (of_frame(ds, index, key, None) for key in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        whole = sorted((intercept, slope * (2**bits - 1) + intercept))
        return (whole[0], whole[1]) if colour or (bits == 8 and not ds.get("PixelRepresentation")) else None
    first = [float(v[0] if isinstance(v, pydicom.multival.MultiValue) else v) for v in (centre, width)]
    return (first[0] - first[1] / 2, first[0] + first[1] / 2) if first[1] > 0 else None


def _inverted(stored: np.ndarray, meta: Meta, path: str | Path) -> np.ndarray:
    """MONOCHROME1 ↔ MONOCHROME2; its own inverse."""
    if meta.photometric != "MONOCHROME1":
        return stored
    if stored.dtype.kind not in "iu":
        raise Refusal(f"{path}: MONOCHROME1 with {stored.dtype} pixels; integers are allowed")
    low, high = limits(meta)
    return (low + high - stored.astype(np.int64)).astype(stored.dtype)


def _new_header(meta: Meta) -> pydicom.Dataset:
    """For images that come from elsewhere: a secondary capture with the units and the place that `meta` gives."""
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.Modality = pydicom.uid.SecondaryCaptureImageStorage, "OT"
    ds.SeriesInstanceUID, ds.StudyInstanceUID = uid("series", meta.series or ""), uid("study", meta.series or "")
    ds.InstanceNumber, ds.PatientID = meta.index + 1, meta.subject or ""
    ds.RescaleSlope, ds.RescaleIntercept = decimal(meta.slope), decimal(meta.intercept)
    if meta.window:
        ds.WindowCenter, ds.WindowWidth = decimal(sum(meta.window) / 2), decimal(meta.window[1] - meta.window[0])
    if meta.spacing:
        ds.PixelSpacing = [decimal(v) for v in meta.spacing]
    if meta.affine:
        matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.array(meta.affine)
        down, across = (matrix[:3, i] / np.linalg.norm(matrix[:3, i]) for i in (0, 1))
        ds.ImageOrientationPatient = [decimal(v) for v in (*across, *down)]
        ds.ImagePositionPatient = [decimal(v) for v in matrix[:3, 3]]
        ds.FrameOfReferenceUID = uid("frame of reference", meta.series or "")
    return ds


def _select_frames(ds: pydicom.Dataset, frames: list[int], total: int) -> None:
    """Keep what the header says of these frames only."""
    if "NumberOfFrames" in ds:
        ds.NumberOfFrames = len(frames)
    groups = ds.get("PerFrameFunctionalGroupsSequence")
    if groups and len(groups) == total:
        ds.PerFrameFunctionalGroupsSequence = [groups[i] for i in frames]
    for keyword in ("FrameTimeVector", "FrameIncrementPointer"):
        if len(frames) != total and keyword in ds:
            del ds[keyword]


def _put_pixels(ds: pydicom.Dataset, frames: np.ndarray, meta: Meta) -> None:
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
