"""PNG, JPEG and TIFF: one channel or three, 1, 8 and 16 bits, TIFF also 32-bit integers and floats.

Decided here, because files leave it open:
* palette images become gray if every colour used is gray, else RGB;
* an alpha channel that is the same everywhere says nothing and is dropped; any other is refused, and so is CMYK;
* several pages or animation frames need an index;
* 16-bit colour, of which Pillow gives the high bytes only, is decoded twice, the second time for the low bytes.
"""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL.Image
import PIL.ImageFile

from data.files import Refusal
from data.formats import bounds
from data.formats.deep_raster import png_16, tiff_pages
from data.formats.image import Image, Meta, check_index, decoding, from_stored, to_stored

MODES = {
    "1": "uint8",
    "L": "uint8",
    "RGB": "uint8",
    "I;16": "uint16",
    "I;16B": "uint16",
    "I;16L": "uint16",
    "F": "float32",
}
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
ORIENTATION = 274  # of EXIF
FRAME = 18  # bytes of the least page (a TIFF directory of one entry); a frame of a PNG needs more


def count(data: bytes, path: str | Path, format: str) -> int:
    """Pages of a TIFF, frames of an animated PNG, otherwise 1."""
    with decoding(path, format.upper()), _open(data, format) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames > len(data) // FRAME + 1:
            raise ValueError(f"promises {frames} frames, more than {len(data)} bytes can hold")
        return frames


def decode(data: bytes, path: str | Path, format: str, index: int | None = None) -> Image:
    """The bytes of a PNG, JPEG or TIFF → Image, upright as its EXIF orientation says. path: for messages only."""
    index = check_index(index, total := count(data, path, format), path, "pages or frames")
    with decoding(path, format.upper()):
        stored, bits = _pillow(data, format, index, path)
    stored = _without_alpha(stored, path)
    window = (0.0, float(2**bits - 1)) if stored.dtype.kind == "u" and bits <= 16 else None
    photometric = "rgb" if len(stored) == 3 else "gray"
    meta = Meta(
        format,
        str(stored.dtype),
        bits,
        window=window,
        index=index,
        count=total,
        photometric=photometric,
    )
    return from_stored(stored, meta, path)


def encode(images: list[Image]) -> bytes:
    """One Image, or the pages of a TIFF in order → the bytes of its format. JPEG: quality 95 without chroma subsampling."""
    if images[0].meta.format == "tiff":
        return tiff_pages(images)
    if len(images) != 1:
        raise Refusal(
            f"{len(images)} images cannot go into one {images[0].meta.format} file; one is allowed"
        )
    stored, meta = to_stored(images[0]), images[0].meta
    if len(stored) not in (1, 3):
        raise Refusal(
            f"{len(stored)} channels cannot be written as {meta.format}; 1 or 3 are allowed"
        )
    if stored.dtype == np.uint16 and meta.format == "png":
        return png_16(stored)
    if stored.dtype != np.uint8:
        raise Refusal(
            f"{stored.dtype} cannot be written as {meta.format}; uint8{' or uint16' * (meta.format == 'png')} is allowed"
        )
    array = np.ascontiguousarray(stored[0] if len(stored) == 1 else stored.transpose(1, 2, 0))
    picture = PIL.Image.fromarray(array.astype(bool) if meta.bits == 1 else array)
    out = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if meta.format == "jpeg" else {}
    picture.save(out, meta.format.upper(), **options)
    return out.getvalue()


@contextmanager
def _open(data: bytes | IO[bytes], format: str) -> Iterator[PIL.ImageFile.ImageFile]:
    """Not decoded yet. Pillow's own bound on pixels is fixed, and half of it only warns: `bounds` holds instead."""
    before = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        with PIL.Image.open(
            io.BytesIO(data) if isinstance(data, bytes) else data, formats=[format.upper()]
        ) as picture:
            yield picture
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before


def _pillow(data: bytes, format: str, index: int, path: str | Path) -> tuple[np.ndarray, int]:
    """[C, H, W] and the bits used."""
    with _open(data, format) as picture:
        if index:
            picture.seek(index)
        _check_size(picture, format, len(data), path)
        tags = getattr(picture, "tag_v2", {})
        colour = picture.mode in ("LA", "RGB", "RGBA")
        deep = colour and all(";16" in _rawmode(tile[3]) for tile in picture.tile)
        if colour and not deep and max(tags.get(TIFF_BITS, (8,))) > 8:
            raise ValueError(
                "16-bit colour in separate planes would be cut to 8 bits; interleaved colour is allowed"
            )
        if "transparency" in picture.info and (deep or picture.mode == "I;16"):
            raise ValueError(
                "16 bits with a transparent colour; gray or RGB without transparency is allowed"
            )
        if picture.mode in ("P", "PA") or "transparency" in picture.info:
            array = _gray_if_gray(np.asarray(picture.convert("RGBA")))
        elif picture.mode == "I":
            array = _wide_integers(np.asarray(picture), tags)
        elif picture.mode in MODES or picture.mode in ("LA", "RGBA"):
            array = np.asarray(picture)
        else:
            raise ValueError(
                f"colour mode {picture.mode}; gray, RGB, palette and constant alpha are allowed"
            )
        array = array.astype(MODES.get(picture.mode, array.dtype), copy=False)
        orientation = (
            1 if format == "tiff" else picture.getexif().get(ORIENTATION, 1)
        )  # Pillow itself turns TIFF
    if deep:
        with _open(data, format) as picture:
            picture.seek(index)
            array = _sixteen_bits(array, picture)
    bits = 1 if picture.mode == "1" else array.itemsize * 8
    if array.dtype == np.uint16:
        bits = max(tags.get(TIFF_BITS, (16,)))  # 12-bit cameras
    if (
        array.dtype == np.uint16 and tags.get(TIFF_PHOTOMETRIC) == 0
    ):  # white is zero; Pillow turns only 8-bit pages round
        array = 2**bits - 1 - array
    array = _turned(array, orientation)
    return (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)), bits


def greatest(stream: IO[bytes], path: str | Path, format: str) -> int:
    """Bytes that a single picture's file can need, seen from its header; what follows that is no picture. Checks its size."""
    with decoding(path, format.upper()), _open(stream, format) as picture:
        width, height = picture.size
        bands = len(picture.getbands())
    return (
        8 * bounds.check(path, (bands, height, width)) + 4 * bounds.SURPLUS
    )  # doubles, and notes of the writing program


def _check_size(picture: PIL.ImageFile.ImageFile, format: str, size: int, path: str | Path) -> None:
    """Against the greatest image allowed, and for PNG against what deflate can hold."""
    width, height = picture.size
    held = None
    if format == "png":
        bits = {"1": 1, "I;16": 16, "I;16B": 16}.get(
            picture.mode, 1 if picture.mode in ("L", "P") else 8
        )
        held = (
            size * bounds.DEFLATE * 8 / bits
        )  # pixels; gray and palettes may be packed eight to a byte
    bounds.check(path, (len(picture.getbands()), height, width))
    if held is not None and width * height > held:
        raise Refusal(
            f"{path}: promises {height} x {width} pixels, more than {size} bytes can hold; an undamaged file is allowed"
        )


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, …] as EXIF says it is to be looked at: 1 as it is, 2 to 4 mirrored or upside down, 5 to 8 with rows as columns."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _wide_integers(array: np.ndarray, tags) -> np.ndarray:
    """Pillow's 32-bit mode also carries signed 16-bit pages, unsigned 32-bit ones (wrapped), and 16-bit PNGs."""
    bits = max(tags.get(TIFF_BITS, (16,)))
    signed = max(tags.get(TIFF_SAMPLE_FORMAT, (1,))) == 2
    return array.astype(np.dtype(f"{'int' if signed else 'uint'}{bits}"))


def _gray_if_gray(rgba: np.ndarray) -> np.ndarray:
    gray = (rgba[..., :1] == rgba[..., :3]).all()
    return rgba[..., [0, 3]] if gray else rgba


def _without_alpha(stored: np.ndarray, path: str | Path) -> np.ndarray:
    """[2 or 4, H, W] with a constant last channel → [1 or 3, H, W]."""
    if len(stored) not in (2, 4):
        return stored
    if stored[-1].min() != stored[-1].max():
        raise Refusal(
            f"{path}: has a transparent layer (alpha varies); gray or RGB without transparency is allowed"
        )
    return stored[:-1]


def _sixteen_bits(high: np.ndarray, picture: PIL.ImageFile.ImageFile) -> np.ndarray:
    """The same picture, not loaded yet, once more in the other byte order: what Pillow drops then are the high bytes."""
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    tiles: list[Any] = []
    tile: Any
    for tile in picture.tile:
        codec, extents, offset, args = tile
        rawmode = _rawmode(args)[:-1] + other[_rawmode(args)[-1]]
        make = getattr(type(tile), "_make", tuple)  # named tuples since Pillow 11
        tiles.append(
            make(
                (codec, extents, offset, rawmode if isinstance(args, str) else (rawmode, *args[1:]))
            )
        )
    picture.tile = tiles
    return high.astype(np.uint16) * 256 + np.asarray(picture)


def _rawmode(args) -> str:
    """How Pillow's decoders call the layout of stored samples: "RGB;16B" is big-endian."""
    return args if isinstance(args, str) else args[0]
