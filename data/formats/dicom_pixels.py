"""The numbers of a DICOM frame: claims first, then unpacked by pydicom's plug-ins; which bits count, and what is padding."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, get_decoder, pixel_array

from data.files import Refusal
from data.formats import bounds
from data.formats.dicom_deflated import size_of, source_of
from data.formats.image import decoding

ITEM = 8  # bytes in front of each packed frame
RUNS = 64  # RLE cannot pack better: 128 bytes in two
PIXELS = b"\xe0\x7f\x10\x00"  # the tag
J2K = b"\xff\x4f\xff\x51"
SHAPED = range(0xC0, 0xD0)  # JPEG markers that are followed by the size of the image, but for three
NOT_SHAPED = (0xC4, 0xC8, 0xCC)
JPEG_LS = 0xF7


def header(path: Path) -> pydicom.Dataset:
    """Everything but the pixels."""
    source = source_of(path)
    with decoding(path, "DICOM", private=True):
        ds = pydicom.dcmread(source, stop_before_pixels=True)
        for _ in ds:  # decode every element now: a damaged header must fail here, not later
            pass
    return ds


def frames(ds: pydicom.Dataset, path: Path) -> int:
    """How many there are; refused if the file cannot hold them or the memory is not to."""
    if "Rows" not in ds or "PhotometricInterpretation" not in ds:
        kind = ds.get("SOPClassUID")
        name = kind.name if isinstance(kind, pydicom.uid.UID) else "no SOP class"
        raise Refusal(
            f"{path}: this DICOM file has no image ({name}); an image with rows and pixel data is allowed"
        )
    numbers = [ds.get(key, 1) for key in ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated")]
    if not all(isinstance(n, int) and n > 0 for n in numbers):
        raise Refusal(
            f"{path}: rows, columns, samples or bits are no number; an undamaged DICOM file is allowed"
        )
    samples, rows, columns, bits = numbers
    with decoding(path, "DICOM", private=True):
        total = max(1, int(ds.get("NumberOfFrames") or 1))
        syntax, packed = ds.file_meta.get("TransferSyntaxUID"), size_of(source_of(path))
    held: float | None = (
        packed
        * 8
        / bits
        * (1.5 if "422" in str(ds.PhotometricInterpretation) else 1)
        * -(-bits // 8)
    )
    if _packed(syntax):
        held = packed * RUNS if syntax == pydicom.uid.RLELossless else None
        if total * ITEM > packed:
            raise Refusal(
                f"{path}: promises {total} frames, more than {packed} bytes can hold; an undamaged file is allowed"
            )
    bounds.check(path, (samples, rows, columns), total, -(-bits // 8), held)
    return total


def stored(path: Path, ds: pydicom.Dataset, index: int, total: int) -> np.ndarray:
    """[H, W] or [H, W, 3] of one frame; YBR and palettes come as RGB."""
    syntax = ds.file_meta.get("TransferSyntaxUID")
    source = source_of(path)
    promised = int(ds.Rows), int(ds.Columns)
    shift = _shift(ds, path)
    how: dict[str, Any] = {"correct_unused_bits": False} if shift else {}
    try:
        with decoding(path, "DICOM"):
            if _packed(syntax):
                _check_stream(path, ds, index, total, promised)
            array = (
                pixel_array(source, index=index, **how)
                if total > 1
                else pixel_array(pydicom.dcmread(source), **how)
            )
            whole = (*promised, *(() if ds.SamplesPerPixel == 1 else (3,)))
            if array.shape != whole:  # pydicom takes surplus data for frames that the header forgot
                raise ValueError(f"pixel data for {array.shape} where the header promises {whole}")
    except Refusal as error:
        with decoding(path, "DICOM"):
            absent = _absent_plugins(syntax)
        if not absent:
            raise
        reason = " ".join(str(error.__cause__).split())[:200]
        raise Refusal(
            f"{path}: {syntax.name} needs a plug-in of pydicom that is not installed: {absent} ({reason})"
        ) from error
    if shift:
        array = _shifted(array, int(ds.BitsStored), shift, path)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        with decoding(path, "DICOM", private=True):
            array = apply_color_lut(array, ds)
    return array


def padding(ds: pydicom.Dataset, dtype: np.dtype) -> tuple[float, float] | None:
    """The least and greatest stored number that stand for no image, both included (PS3.3 C.7.5.1.1.2)."""
    prefix = {"f4": "Float", "f8": "DoubleFloat"}.get(dtype.str[1:], "")
    value, limit = (ds.get(f"{prefix}PixelPadding{what}") for what in ("Value", "RangeLimit"))
    if (
        value is None
        or int(ds.get("SamplesPerPixel") or 1) != 1
        or ds.get("PhotometricInterpretation") == "PALETTE COLOR"
    ):
        return None
    ends = [
        v[0] if isinstance(v, pydicom.multival.MultiValue) else v
        for v in (value, value if limit is None else limit)
    ]
    if not all(isinstance(v, (int, float)) for v in ends):
        return None
    if dtype.kind in "iu":  # many files give a signed value as an unsigned one
        bits = dtype.itemsize * 8
        ends = [
            v - 2**bits if dtype.kind == "i" and 2 ** (bits - 1) <= v < 2**bits else v for v in ends
        ]
        ends = [
            v + 2**bits if dtype.kind == "u" and -(2 ** (bits - 1)) <= v < 0 else v for v in ends
        ]
    return float(min(ends)), float(max(ends))


def _shift(ds: pydicom.Dataset, path: Path) -> int:
    """By how many bits the numbers sit above the lowest one; packed pixels never do."""
    high, used, all_bits = (ds.get(key) for key in ("HighBit", "BitsStored", "BitsAllocated"))
    if not all(isinstance(n, int) for n in (high, used, all_bits)):
        return 0
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if _packed(syntax) and syntax != pydicom.uid.RLELossless:
        return 0
    shift = high + 1 - used
    if shift and not 0 < used <= high + 1 <= all_bits:
        raise Refusal(
            f"{path}: HighBit {high} with BitsStored {used} of {all_bits}; from BitsStored - 1 to {all_bits - 1} is allowed"
        )
    return shift


def _shifted(array: np.ndarray, bits: int, shift: int, path: Path) -> np.ndarray:
    below = np.bitwise_and(array, (1 << shift) - 1)
    if below.any():
        raise Refusal(
            f"{path}: {shift} bits lie below HighBit and BitsStored and are not empty; empty ones are allowed"
        )
    above = array.dtype.itemsize * 8 - bits - shift
    return (array << above) >> (above + shift)  # of signed numbers the sign comes along


def _check_stream(
    path: Path, ds: pydicom.Dataset, index: int, total: int, promised: tuple[int, int]
) -> None:
    """The packed image says its own size, and the header must agree before it is unpacked."""
    with path.open("rb") as file:
        pydicom.dcmread(file, stop_before_pixels=True)
        start = file.read(
            12
        )  # tag, VR, length; without a VR (against the syntax, but seen) four bytes less
        if start[:4] != PIXELS:
            return  # the decoder tells
        file.seek(0 if start[4:6].isalpha() else -4, io.SEEK_CUR)
        offsets = [ds.get(key) for key in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
        extended = tuple(offsets) if all(offsets) else None
        packed = get_frame(file, index, number_of_frames=total, extended_offsets=extended)
    size = _stream_size(packed)
    if size is not None and size != promised:
        raise ValueError(
            f"its packed image is {size[0]} x {size[1]} where the header promises {promised[0]} x {promised[1]}"
        )


def _stream_size(packed: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 stream; None for others."""
    place = packed[:4096].find(J2K)
    if place >= 0 and len(packed) >= place + 24:
        right, bottom, left, top = struct.unpack_from(">4I", packed, place + 8)
        return bottom - top, right - left
    place = 2
    while packed[:2] == b"\xff\xd8" and len(packed) >= place + 9 and packed[place] == 0xFF:
        marker, length = packed[place + 1], int.from_bytes(packed[place + 2 : place + 4], "big")
        if (marker in SHAPED and marker not in NOT_SHAPED) or marker == JPEG_LS:
            rows, columns = struct.unpack_from(">2H", packed, place + 5)
            return (rows, columns) if rows else None  # told only at the end of the stream
        place += 1 if marker == 0xFF else 2 + length
    return None


def _packed(syntax: pydicom.uid.UID | None) -> bool:
    """Whether each frame is packed for itself (JPEG and its kind)."""
    return syntax is not None and syntax.is_transfer_syntax and syntax.is_encapsulated


def _absent_plugins(syntax: pydicom.uid.UID | None) -> str:
    """The plug-ins that could unpack this transfer syntax and are not installed."""
    if syntax is None or not _packed(syntax):
        return ""
    try:
        return " or ".join(
            text.partition("requires ")[2] or text
            for text in get_decoder(syntax).missing_dependencies
        )
    except NotImplementedError:  # nobody can unpack it: pydicom's own message says so
        return ""
