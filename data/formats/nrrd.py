"""NRRD volumes (attached header): integers and floats, 2-D to 4-D with space directions, RGB as a leading axis of 3."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nrrd
import numpy as np

from data.formats.image import Image, Meta, decoding, digest
from data.formats.volume import Volume, as_affine, assemble, four_dimensional

# Header fields that say how the numbers are stored and where they lie; all others are free text.
PER_AXIS = {"kinds", "units", "centers", "centerings", "spacings", "thicknesses", "space directions"}
CARRIED = PER_AXIS | {"encoding", "endian", "space", "space origin", "space units", "space dimension", "measurement frame"}
LARGEST_RATIO = 2000  # unpacked to packed: deflate cannot reach it, and who packs zeros with bzip2 is refused
COLOUR_KINDS = ("RGB-color", "3-color", "vector")
TO_RAS = {"left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1), "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1)}


def open_volume(path: Path) -> Volume:
    """The whole volume, unpacked."""
    with decoding(path, "NRRD"), path.open("rb") as file:
        text = io.BytesIO()
        for line in iter(file.readline, b""):
            text.write(line)
            if not line.strip():
                break
        file.seek(0)
        header = nrrd.read_header(file)
        if "data file" in header or "datafile" in header:
            raise ValueError("its data are in another file; an attached header (.nrrd) is allowed")
        promised, on_disk = int(np.prod([int(n) for n in header["sizes"]], dtype=object)), path.stat().st_size
        if promised > on_disk * LARGEST_RATIO or max(header.get("line skip", 0), header.get("lineskip", 0)) > on_disk:
            raise ValueError(f"header promises {promised} values or lines to skip, more than {on_disk} bytes can hold")
        array = nrrd.read_data(header, file, str(path))
    colour = len(kinds := list(header.get("kinds", []))) == array.ndim and kinds[0] in COLOUR_KINDS and array.shape[0] == 3
    shape = array.shape[1:] if colour else array.shape
    if array.dtype.kind not in "iuf" or not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise ValueError(f"{path}: holds {array.dtype} of shape {array.shape}; numbers in two to four dimensions are allowed")
    array = np.stack([four_dimensional(channel) for channel in array], -1) if colour else four_dimensional(array)
    return Volume(array, _meta(path, header, text.getvalue(), array.dtype, shape, colour))


def encode(images: Sequence[Image], keep_patient: bool) -> bytes:
    """One slice, or all slices of a volume in any order → an NRRD file with the header's encoding, space and units.

    keep_patient: the free key-value pairs stay, which may name the patient.
    """
    volume = assemble(images)
    header = nrrd.read_header(io.BytesIO(volume.meta.header)) if volume.meta.header else {}
    if not keep_patient:
        header = {key: value for key, value in header.items() if key in CARRIED}
    for key in ("type", "dimension", "sizes", "line skip", "byte skip", "labels"):
        header.pop(key, None)
    colour = volume.array.ndim == 5
    if not colour and list(header.get("kinds", [None]))[0] in COLOUR_KINDS:  # colours that became gray
        header |= {key: header[key][1:] for key in PER_AXIS & header.keys()}
    _place(header, volume.meta, colour)
    array = np.moveaxis(volume.array, -1, 0) if colour else volume.array
    array = array.reshape((3, *volume.meta.shape) if colour else volume.meta.shape)
    for key in PER_AXIS & header.keys():
        header[key] = header[key][: array.ndim]  # one slice of a 4-D file has no time axis
    out = io.BytesIO()
    nrrd.write(out, np.asfortranarray(array), header, index_order="F")
    head, blank, body = out.getvalue().partition(b"\n\n")
    dated = b"#"  # pynrrd's comments hold the time: same input, same bytes
    return b"\n".join(line for line in head.split(b"\n") if not line.startswith(dated)) + blank + body


def _meta(path: Path, header, text: bytes, dtype: np.dtype, shape: tuple[int, ...], colour: bool) -> Meta:
    with decoding(path, "NRRD"):
        affine = as_affine(_affine(header, colour))
    photometric = "rgb" if colour else "gray"
    series = digest("volume", str(path.absolute()))
    meta = Meta("nrrd", dtype.newbyteorder("=").name, shape=shape, affine=affine, photometric=photometric, series=series)
    return replace(meta, header=text)


def _affine(header, colour: bool) -> np.ndarray | None:
    """Array index → mm, RAS. Without space directions: the spacings alone."""
    matrix = np.eye(4)
    directions = header.get("space directions")
    if directions is None:
        spacings = np.array(header.get("spacings", []), dtype=float)[int(colour) :][:3]
        if len(spacings) < 2 or not np.isfinite(spacings[:2]).all():
            return None
        np.fill_diagonal(matrix[: len(spacings), : len(spacings)], spacings)
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
    rows = np.array([np.full(3, np.nan) if row is None else row for row in directions], dtype=float)
    rows = rows[np.isfinite(rows).all(1)][:3]
    if rows.shape != (3, 3):
        return None
    matrix[:3, :3], matrix[:3, 3] = rows.T, np.array(header.get("space origin", np.zeros(3)), dtype=float)
    return np.diag([*_signs(header), 1.0]) @ matrix


def _signs(header) -> tuple[int, ...]:
    return TO_RAS.get(str(header.get("space", "")).lower(), (1, 1, 1))


def _place(header, meta: Meta, colour: bool) -> None:
    """Write the affine back in the header's own space."""
    before = as_affine(_affine(header, colour))
    if meta.affine is None or before == meta.affine:
        return
    matrix = np.array(meta.affine)
    if not meta.header:
        header |= {"space": "left-posterior-superior", "space directions": np.eye(3)}
    if header.get("space directions") is None:
        spacings = np.array(header["spacings"], dtype=float)
        sides = np.linalg.norm(matrix[:3, :3], axis=0)
        spacings[int(colour) : int(colour) + 3] = sides[: len(spacings) - int(colour)]
        header["spacings"] = spacings
        return
    matrix = np.diag([*_signs(header), 1.0]) @ matrix
    directions = np.array([np.full(3, np.nan) if row is None else row for row in header["space directions"]], dtype=float)
    directions[np.flatnonzero(np.isfinite(directions).all(1))[:3]] = matrix[:3, :3].T
    header |= {"space directions": directions, "space origin": matrix[:3, 3]}
