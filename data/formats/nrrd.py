"""NRRD volumes (attached header): integers and floats in two or three dimensions, repeated or in colour (see `nrrd_axes`)."""

import bz2
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nrrd
import numpy as np

from data.files import Refusal
from data.formats import bounds, nrrd_axes
from data.formats.image import Image, Meta, decoding, digest
from data.formats.volume import Volume, assemble

HEADER = 2**22  # bytes at most
PACKED: dict[str, Any] = {"gzip": gzip.open, "gz": gzip.open, "bzip2": bz2.open, "bz2": bz2.open}
PLAIN = ("raw", "ascii", "text", "txt")


def open_volume(path: Path) -> Volume:
    """The whole volume, unpacked."""
    with path.open("rb") as file:
        text = _text(file.read(HEADER))
        if not text:
            raise Refusal(
                f"{path}: its NRRD header has no end; an undamaged file with an attached header is allowed"
            )
        with decoding(path, "NRRD", private=True):
            header = nrrd.read_header(io.BytesIO(text))
            known = nrrd_axes.standard(header)
            sizes, encoding = [int(n) for n in header["sizes"]], str(header["encoding"]).lower()
            detached = "data file" in header or "datafile" in header
            dtype = np.dtype(float) if detached else _dtype(header, encoding)
            if known.get("dimension") != len(sizes):
                raise ValueError("dimension and sizes disagree")
        if detached:
            raise Refusal(
                f"{path}: its data are in another file; an attached header (.nrrd) is allowed"
            )
        if dtype.kind not in "iuf" or min(sizes) < 1:
            raise Refusal(
                f"{path}: holds {dtype} of shape {tuple(sizes)}; numbers in two or three dimensions are allowed"
            )
        layout = nrrd_axes.layout(known, sizes, dtype, path)
        side = dict(zip(layout, sizes))
        shape = tuple(side[letter] for letter in "xyz" if letter in side)
        if "t" in side:
            shape = (*shape, 1)[:3] + (side["t"],)
        held = _held(path.stat().st_size - len(text), encoding, dtype)
        claim = bounds.check_volume(path, shape, dtype.itemsize, held, side.get("c", 1))
        file.seek(len(text))
        array = _array(file, path, header, encoding, dtype, claim, len(text))
    order = [layout.index(letter) for letter in "xyztc" if letter in layout]
    array = array.reshape(sizes, order="F").transpose(
        *order, *(i for i, letter in enumerate(layout) if letter == "s")
    )
    array = array.reshape(*(*shape, 1, 1)[:4], *([3] if "c" in side else []))
    meta = Meta(
        "nrrd",
        dtype.newbyteorder("=").name,
        shape=shape,
        affine=nrrd_axes.affine_of(known, layout),
        photometric="rgb" if "c" in side else "gray",
        series=digest("volume", str(path.absolute())),
        layout=layout,
        header=text,
    )
    return Volume(array, meta)


SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")


def encode(images: Sequence[Image], keep_patient: bool) -> bytes:
    """One slice, or all slices of a volume in any order → an NRRD file with the header's encoding, space, units and axes.

    keep_patient: the free key-value pairs stay, which may name the patient.
    """
    volume = assemble(images)
    meta, colour = volume.meta, volume.array.ndim == 5
    repeated = volume.array.shape[3] > 1 or (len(images) == meta.count and "t" in meta.layout)
    found = (
        nrrd.read_header(io.BytesIO(meta.header))
        if meta.header
        else {"sizes": [], "encoding": "gzip"}
    )
    layout = meta.layout or ("c" if colour else "") + "xyz"[: len(meta.shape)] + (
        "t" if len(meta.shape) == 4 else ""
    )
    header = nrrd_axes.standard(found)
    if meta.header:
        kept = [
            i
            for i, letter in enumerate(layout)
            if letter not in ("" if colour else "c") + ("" if repeated else "t")
        ]
        for key in set(nrrd_axes.PER_AXIS) & header.keys():
            header[key] = (
                header[key][kept]
                if isinstance(header[key], np.ndarray)
                else [header[key][i] for i in kept]
            )
        layout = "".join(layout[i] for i in kept)
    elif meta.affine is not None:
        rows = np.full((len(layout), 3), np.nan)
        header |= {"space": "left-posterior-superior", "space directions": rows}
        header["kinds"] = [
            {"c": "RGB-color", "t": "list"}.get(letter, "domain") for letter in layout
        ]
    if meta.affine is not None and meta.affine != nrrd_axes.affine_of(header, layout):
        nrrd_axes.place(header, layout, meta.affine)
    encoding = str(found["encoding"]).lower()
    header |= {"encoding": encoding if encoding in (*PACKED, *PLAIN) else "gzip"}
    if found.get("endian") in ("little", "big"):
        header["endian"] = found["endian"]
    header.pop("dimension", None)
    if keep_patient:
        header |= {
            key: value
            for key, value in found.items()
            if key not in (*header, *STORED, *nrrd_axes.PER_AXIS)
        }
    return _written(_laid_out(volume, layout), header)


STORED = (*SKIPS, "type", "dimension", "sizes", "labels", "centers", "space dimension", "axis mins", "axis maxs", "axismins",
          "axismaxs", "data file", "datafile")  # fmt: skip


def _text(start: bytes) -> bytes:
    """The header: the lines up to an empty one, which is its last."""
    lines = io.BytesIO(start)
    for line in iter(lines.readline, b""):
        if not line.strip():
            return start[: lines.tell()]
    return b""


def _dtype(header: Mapping[str, Any], encoding: str) -> np.dtype:
    """As pynrrd finds it, of no numbers at all."""
    empty = {
        "sizes": np.zeros(len(header["sizes"]), int),
        "encoding": encoding if encoding in PLAIN else "raw",
    }
    return nrrd.read_data({**header, **empty, **dict.fromkeys(SKIPS, 0)}, io.BytesIO()).dtype


def _held(packed: int, encoding: str, dtype: np.dtype) -> float | None:
    """Bytes that so many packed ones can become; None: bzip2 packs zeros without end."""
    if encoding in ("bzip2", "bz2"):
        return None
    return packed * (
        bounds.DEFLATE if encoding in PACKED else dtype.itemsize if encoding != "raw" else 1
    )


def _array(
    file,
    path: Path,
    header: Mapping[str, Any],
    encoding: str,
    dtype: np.dtype,
    claim: int,
    start: int,
) -> np.ndarray:
    """All numbers in the order of the file, whose place is behind the header."""
    lines, skipped = (int(header.get(a, header.get(b, 0))) for a, b in (SKIPS[:2], SKIPS[2:]))
    on_disk = path.stat().st_size
    if not 0 <= lines <= on_disk or not -1 <= skipped <= on_disk:
        raise Refusal(
            f"{path}: {lines} lines and {skipped} bytes to skip; what the file has is allowed"
        )
    if encoding not in PACKED:
        with decoding(path, "NRRD", private=True):
            return nrrd.read_data(dict(header), file, str(path)).reshape(-1, order="F")
    if skipped < 0:
        raise Refusal(
            f"{path}: packed data at the end of others (byte skip -1); data behind the header are allowed"
        )
    for _ in range(lines):
        file.readline()
    data = bounds.unpack(PACKED[encoding](file), claim, path, skipped)
    return np.frombuffer(data, dtype, claim // dtype.itemsize, skipped)


def _laid_out(volume: Volume, layout: str) -> np.ndarray:
    """[X, Y, Z, T] or [X, Y, Z, T, 3] → the file's axes; those that the layout lacks have one entry."""
    array = volume.array
    present = [letter for letter in layout if letter != "s"]
    absent = [letter for letter in "xyztc"[: array.ndim] if letter not in present]
    array = array.transpose(["xyztc".index(letter) for letter in (*present, *absent)])
    sides = iter(array.shape)
    return array.reshape([1 if letter == "s" else next(sides) for letter in layout])


def _written(array: np.ndarray, header: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    nrrd.write(out, np.asfortranarray(array), header, index_order="F")
    head, blank, body = out.getvalue().partition(b"\n\n")
    dated = b"#"  # pynrrd's comments hold the time: same input, same bytes
    return (
        b"\n".join(line for line in head.split(b"\n") if not line.startswith(dated)) + blank + body
    )
