"""Baseline TIFF 6.0 and 16-bit PNG, written here: Pillow cuts their depths, signs or colours."""

import struct
import zlib

import numpy as np

from data.files import Refusal
from data.formats.image import Image, to_stored


def png_16(stored: np.ndarray) -> bytes:
    """16-bit PNG, gray or RGB (ISO/IEC 15948): big-endian samples, each row after filter byte 0."""
    channels, height, width = stored.shape
    rows = stored.transpose(1, 2, 0).astype(">u2").reshape(height, -1).view(np.uint8)
    scanlines = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1).tobytes()

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(scanlines, 6))
        + chunk(b"IEND", b"")
    )


def tiff_pages(images: list[Image]) -> bytes:
    """Baseline TIFF 6.0, one directory a page, each pointing to the next."""
    file = bytearray(struct.pack("<2sHI", b"II", 42, 8))
    for i, image in enumerate(images):
        stored = to_stored(image)
        if len(stored) not in (1, 3):
            raise Refusal(f"{len(stored)} channels cannot be written as tiff; 1 or 3 are allowed")
        file += _page(stored, image.meta.bits, len(file), i + 1 < len(images))
    return bytes(file)


def _page(stored: np.ndarray, bits: int, start: int, more: bool) -> bytes:
    """A directory at byte `start` and its image: little-endian, one uncompressed strip, which keeps every dtype and sign."""
    channels, height, width = stored.shape
    if bits == 1:
        body, depth, sample = np.packbits(stored[0].astype(bool), 1).tobytes(), 1, 1
    else:
        body = (
            np.ascontiguousarray(stored.transpose(1, 2, 0))
            .astype(stored.dtype.newbyteorder("<"))
            .tobytes()
        )
        depth, sample = stored.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[stored.dtype.kind]
    if depth > 32 or (channels == 3 and stored.dtype.kind != "u"):
        raise Refusal(
            f"{channels} channels of {stored.dtype} cannot be written as tiff; unsigned RGB, 32-bit gray are allowed"
        )
    short, long = 3, 4
    depths = (short, channels, [depth] * channels)
    entries = {256: (long, 1, [width]), 257: (long, 1, [height]), 258: depths, 259: (short, 1, [1])}
    entries |= {
        262: (short, 1, [2 if channels == 3 else 1]),
        273: (long, 1, [0]),
        277: (short, 1, [channels]),
    }
    entries |= {
        278: (long, 1, [height]),
        279: (long, 1, [len(body)]),
        339: (short, channels, [sample] * channels),
    }
    after = start + 2 + 12 * len(entries) + 4  # values longer than four bytes follow the directory
    extra = b""
    directory = struct.pack("<H", len(entries))
    strip_offset = after + sum(2 * n for kind, n, _ in entries.values() if kind == short and n > 2)
    entries[273] = (long, 1, [strip_offset])
    for tag, (kind, n, values) in entries.items():
        value = struct.pack(f"<{n}{'H' if kind == short else 'I'}", *values)
        if len(value) > 4:
            extra, value = extra + value, struct.pack("<I", after + len(extra))
        directory += struct.pack("<HHI", tag, kind, n) + value.ljust(4, b"\0")
    gap = bytes(
        (after + len(extra) + len(body)) % 2 if more else 0
    )  # directories begin at even bytes
    following = after + len(extra) + len(body) + len(gap) if more else 0
    return directory + struct.pack("<I", following) + extra + body + gap
