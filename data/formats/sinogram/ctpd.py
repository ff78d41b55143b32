"""DICOM-CT-PD (Chen et al. 2015): a folder with one DICOM file for each view, line integrals, a curved detector of several rows.

Axial scans are read, each detector row as one slice. Helical ones and flying focal spots are refused. Angle 0 is taken as the
source above, growing counterclockwise, and channels as counted to the right there.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from data.files import Refusal
from data.formats import bounds
from data.formats.image import decoding
from data.formats.sinogram.allowed import check
from data.formats.sinogram.description import Description

SUFFIXES = (".dcm", ".dicom", ".ima")
TAGS = {
    "transverse": 0x70291002,  # mm between channels, on the detector
    "axial": 0x70291006,  # mm between rows
    "rows": 0x70291010,
    "columns": 0x70291011,
    "angle": 0x70311001,  # radians
    "z": 0x70311002,  # mm
    "source_to_axis": 0x70311003,
    "source_to_detector": 0x70311031,
    "central": 0x70311033,  # (column, row) that the axis is seen by, counted from 1
    "angle_shift": 0x7033100B,  # of a flying focal spot
    "z_shift": 0x7033100C,
    "radial_shift": 0x7033100D,
    "mu_water": 0x70411001,
}
OPTIONAL = ("angle_shift", "z_shift", "radial_shift", "mu_water")


def first(path: Path) -> bool:
    """Whether it stands for its folder: the first by name."""
    return path == _views(path)[0]


def count(path: Path) -> int:
    ds = _header(path)
    _number(ds, path, "angle")
    return int(_number(ds, path, "rows")[0])


def read(path: Path, index: int) -> tuple[np.ndarray, Description, int]:
    """One detector row of all views [views,channels], what the headers say, and how many rows there are."""
    stamps = tuple(view.stat().st_mtime_ns for view in _views(path))
    projections, facts = _series(path.parent, stamps)
    rows = projections.shape[1]
    if not 0 <= index < rows:
        raise Refusal(f"{path.parent}: row {index} is outside 0 to {rows - 1}")
    channels, (column, row) = projections.shape[2], facts["central"]
    magnified = facts["source_to_detector"] / facts["source_to_axis"]
    said = Description(
        path.parent / "DICOM-CT-PD",
        beam="cone",
        angles=(np.array(facts["angle"]) + np.pi).tolist(),
        angle_unit="radians",
        pitch=facts["transverse"],
        bins_run="left",
        offset=column - (channels + 1) / 2,
        detector="curved",
        source_to_axis=facts["source_to_axis"],
        source_to_detector=facts["source_to_detector"],
        row_pitch=facts["axial"],
        row_offset=row - (rows + 1) / 2,
        values="integrals",
        mu_water=facts["mu_water"],
        image_size=512,
        field_of_view=500.0,
        slice_step=facts["axial"] / magnified,
    )
    return projections[:, index], said, rows


@lru_cache(maxsize=1)
def _series(folder: Path, stamps: tuple[int, ...]) -> tuple[np.ndarray, dict[str, Any]]:
    """All projections [views,rows,channels], in the order of their names, and the headers' facts. stamps: when files changed."""
    paths = _views(folder / "any")
    headers = [_header(path) for path in paths]
    facts: dict[str, Any] = {key: _number(headers[0], paths[0], key) for key in TAGS}
    facts |= {key: facts[key][0] for key in TAGS if key not in ("central", "mu_water")}
    facts["mu_water"] = facts["mu_water"][0] if facts["mu_water"] else 0.0192
    check(folder, "mu_water", facts["mu_water"])
    facts["angle"] = [_number(ds, path, "angle")[0] for ds, path in zip(headers, paths)]
    z = [_number(ds, path, "z")[0] for ds, path in zip(headers, paths)]
    if np.ptp(z) > 0.5 * facts["axial"]:
        raise Refusal(
            f"{folder}: a helical scan (the table moves {np.ptp(z):.1f} mm); axial scans are allowed, rebin it first"
        )
    for key in ("angle_shift", "z_shift", "radial_shift"):
        if any(
            abs(shift) > 1e-6
            for ds, path in zip(headers, paths)
            for shift in _number(ds, path, key)[:1]
        ):
            raise Refusal(
                f"{folder}: has a flying focal spot; scans with one fixed focus are allowed"
            )
    shape = int(facts["rows"]), int(facts["columns"])
    bounds.check(folder, shape, len(paths), 4)
    return np.stack([_projection(path, shape) for path in paths]), facts


def _projection(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """[rows,channels]; files hold channels down and rows across."""
    with decoding(path, "DICOM-CT-PD", private=True):
        ds = pydicom.dcmread(path)
        stored = ds.pixel_array.astype(np.float32) * float(ds.get("RescaleSlope", 1)) + float(
            ds.get("RescaleIntercept", 0)
        )
    if stored.shape == shape[::-1]:
        return stored.T
    if stored.shape != shape:
        raise Refusal(
            f"{path}: {stored.shape} numbers, where its header tells of {shape[0]} rows and {shape[1]} channels"
        )
    return stored


def _views(path: Path) -> Sequence[Path]:
    return sorted(entry for entry in path.parent.iterdir() if entry.name.lower().endswith(SUFFIXES))


def _header(path: Path) -> pydicom.Dataset:
    with decoding(path, "DICOM", private=True):
        return pydicom.dcmread(path, stop_before_pixels=True)


def _number(ds: pydicom.Dataset, path: Path, key: str) -> list[float]:
    """The numbers of a private element; files of no known dictionary give them as bytes."""
    element = ds.get(TAGS[key])
    if element is None and key in OPTIONAL:
        return [] if key == "mu_water" else [0.0]
    if element is None:
        raise Refusal(
            f"{path}: is no DICOM-CT-PD projection, it has no ({TAGS[key] >> 16:04x},{TAGS[key] & 0xFFFF:04x})"
        )
    value = element.value
    if isinstance(value, bytes):
        if key in ("rows", "columns"):
            return [float(int.from_bytes(value[:2], "little"))]
        if len(value) % 4 == 0 and key != "mu_water":
            return list(struct.unpack(f"<{len(value) // 4}f", value))
        value = value.decode("ascii", "replace").strip("\0 ")
    several = value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]
    with decoding(path, "DICOM-CT-PD", private=True):
        return [float(v) for v in several]
