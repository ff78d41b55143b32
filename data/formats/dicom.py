"""DICOM: single and multi-frame, 1 to 32 bits, signed or not, gray, RGB, YBR and palette, rescaled to HU.

MONOCHROME1 (low is white) is inverted on the way in and put back on the way out, but where numbers have a unit: then it is a
matter of display. What is compressed is unpacked by pydicom's own plug-ins, and written uncompressed (Explicit VR Little Endian).
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import torch
import torch.nn.functional as F

from data.files import Refusal
from data.formats import dicom_pixels
from data.formats.dicom_geometry import affine_of, position_of, spacing_of
from data.formats.dicom_groups import of_frame
from data.formats.dicom_identity import Origin, derived, pseudonym
from data.formats.dicom_units import resize, select_frame
from data.formats.dicom_words import WORDS
from data.formats.dicom_writing import new_header, put_pixels, put_units
from data.formats.image import (
    Image,
    Meta,
    check_index,
    decoding,
    digest,
    from_stored,
    limits,
    to_stored,
)

QUANTITIES = ("CT", "PT")  # modalities whose rescaled numbers have a unit (HU; counts or activity)

# pydicom logs and warns with the values of elements, which may name the patient: nothing of it may reach a log.
logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").propagate = False


def count(path: Path) -> int:
    """Number of frames."""
    return dicom_pixels.frames(dicom_pixels.header(path), path)


def read(path: Path, index: int | None = None) -> Image:
    """One frame → Image, pixels in the units of RescaleSlope and RescaleIntercept (CT: HU)."""
    ds = dicom_pixels.header(path)
    index = check_index(index, total := dicom_pixels.frames(ds, path), path, "frames")
    array = dicom_pixels.stored(path, ds, index, total)
    stored = array.transpose(2, 0, 1) if array.ndim == 3 else array[None]
    meta = _meta(path, ds, index, total, stored)
    nothing = dicom_pixels.padding(ds, array.dtype)
    padding = (array >= nothing[0]) & (array <= nothing[1]) if nothing else None
    return from_stored(_inverted(stored, meta, path), meta, path, padding)


def encode(images: Sequence[Image], image_id: str, origin: Origin, number: int = 0) -> bytes:
    """One frame, or all frames of a file in order → the bytes of a DICOM file with new UIDs (see `derived`).

    image_id, origin: what the new UIDs are digests of. number: InstanceNumber in a new series (0: as it was).
    """
    meta = images[0].meta
    with decoding("DICOM header", "DICOM", private=True):
        source = (
            pydicom.dcmread(io.BytesIO(meta.header), force=True)
            if meta.header
            else new_header(meta)
        )
        frames = np.stack([_stored(image, source) for image in images])  # [N, C, H, W]
        ds = derived(source, image_id, origin)
        if len(images) < meta.count:
            select_frame(ds, meta.index)
            meta = replace(meta, index=0, count=1)
        resize(ds, meta, *frames.shape[2:])
        put_units(ds, meta)
        put_pixels(ds, frames, meta)
        if number:
            ds.InstanceNumber = number
        out = io.BytesIO()
        pydicom.dcmwrite(out, ds, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return out.getvalue()


def in_order(images: Sequence[Image]) -> list[int]:
    """The order of the slices of a series: along the normal, then (several images at one place) by InstanceNumber."""

    def place(i: int) -> tuple[float, int]:
        ds = pydicom.dcmread(
            io.BytesIO(images[i].meta.header), force=True, specific_tags=["InstanceNumber"]
        )
        return images[i].meta.position or 0.0, int(ds.get("InstanceNumber") or 0)

    with decoding("DICOM series", "DICOM", private=True):
        return sorted(range(len(images)), key=place)


def _stored(image: Image, source: pydicom.Dataset) -> np.ndarray:
    """[C, H, W] as the file has it. A number that would be taken for padding, and is none, becomes the nearest that is not."""
    stored = _inverted(to_stored(image), image.meta, "image")
    nothing = dicom_pixels.padding(source, stored.dtype) if stored.dtype.kind in "iu" else None
    if nothing is None:
        return stored
    low, high = (int(v) for v in nothing)
    stray = (stored >= low) & (stored <= high)
    if image.meta.padded is not None:
        padded = F.interpolate(image.meta.padded[None], stored.shape[-2:], mode="nearest-exact")[0]
        stray &= torch.isnan(padded).numpy()
    beside = high + 1 if high < limits(image.meta)[1] else low - 1
    return np.where(stray, beside, stored).astype(stored.dtype)


def _meta(path: Path, ds: pydicom.Dataset, index: int, total: int, stored: np.ndarray) -> Meta:
    with decoding(path, "DICOM", private=True):
        slope, intercept = (
            float(of_frame(ds, index, f"Rescale{k}", d))
            for k, d in (("Slope", 1), ("Intercept", 0))
        )
        colour = len(stored) == 3
        palette = ds.PhotometricInterpretation == "PALETTE COLOR"
        bits = (
            stored.dtype.itemsize * 8 if palette else int(ds.get("BitsStored") or ds.BitsAllocated)
        )
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
            spacing=spacing_of(ds, index),
            affine=affine,
            photometric="RGB" if colour else str(ds.PhotometricInterpretation),
            modality=modality(ds),
            subject=pseudonym(str(ds.get("PatientID") or "")),
            series=digest(
                "series",
                str(ds.get("SeriesInstanceUID", path.absolute())),
                *([instance] if total > 1 else []),
            ),
            source=digest("instance", instance, str(index)),
            position=position_of(affine, ds),
            header=buffer.getvalue(),
        )
    return _checked(meta, ds, stored, path)


def _checked(meta: Meta, ds: pydicom.Dataset, stored: np.ndarray, path: Path) -> Meta:
    """Refuse what cannot be undone on the way out; correct the depth that a header gives too small; turn the window round."""
    slope, intercept = meta.slope, meta.intercept
    if "ModalityLUTSequence" in ds:
        raise Refusal(
            f"{path}: has a Modality LUT table; RescaleSlope and RescaleIntercept are allowed"
        )
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise Refusal(
            f"{path}: RescaleSlope {slope}, RescaleIntercept {intercept}; a finite slope other than 0 is allowed"
        )
    if (
        stored.dtype.kind in "iu"
        and not limits(meta)[0] <= stored.min() <= stored.max() <= limits(meta)[1]
    ):
        meta = replace(
            meta, bits=stored.dtype.itemsize * 8
        )  # the header is wrong; nothing is clipped for that
    if _negative(meta) and meta.window:
        a, b = (slope * v + intercept for v in limits(meta))
        meta = replace(meta, window=(a + b - meta.window[1], a + b - meta.window[0]))
    return meta


def _window(
    ds: pydicom.Dataset, index: int, bits: int, colour: bool, slope: float, intercept: float
) -> tuple[float, float] | None:
    """The first window of the file; colours and 8-bit images: all they can hold."""
    centre, width = (of_frame(ds, index, key) for key in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        whole = sorted((intercept, slope * (2**bits - 1) + intercept))
        return (
            (whole[0], whole[1])
            if (colour and bits <= 16) or (bits == 8 and not ds.get("PixelRepresentation"))
            else None
        )
    first = [
        float(v[0] if isinstance(v, pydicom.multival.MultiValue) else v) for v in (centre, width)
    ]
    return (first[0] - first[1] / 2, first[0] + first[1] / 2) if first[1] > 0 else None


def _inverted(stored: np.ndarray, meta: Meta, path: str | Path) -> np.ndarray:
    """MONOCHROME1 ↔ MONOCHROME2 of numbers without a unit; its own inverse."""
    if not _negative(meta):
        return stored
    if stored.dtype.kind not in "iu":
        raise Refusal(f"{path}: MONOCHROME1 with {stored.dtype} pixels; integers are allowed")
    low, high = limits(meta)
    return (low + high - stored.astype(np.int64)).astype(stored.dtype)


def _negative(meta: Meta) -> bool:
    """Whether low is white and nothing else: an inverted HU would be that of another tissue."""
    return meta.photometric == "MONOCHROME1" and meta.modality not in QUANTITIES


def modality(ds: pydicom.Dataset) -> str:
    """The standard's word for what made the image; "" for any other text, which may say anything."""
    word = str(ds.get("Modality") or "")
    return word if word in WORDS["Modality"] else ""
