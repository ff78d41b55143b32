"""A slice of a CT scan: its geometry as the YAML says it, a cone's row as a fan, and the picture that is written."""

import math
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from data.files import Refusal
from data.formats import Meta
from data.formats.image import digest
from data.formats.sinogram import Sinogram
from data.formats.sinogram.description import Description
from data.formats.volume import as_affine
from solvers.measured import counts
from solvers.operators.ct_geometry import Geometry


class Common(NamedTuple):
    """What holds for all slices of a file."""

    geometry: Geometry
    size: tuple[int, int]  # of the picture
    mu_water: float  # 1/mm
    notes: tuple[str, ...]


def measured(
    sinogram: Sinogram, where: str
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Line integrals in the plane of the slice; of a cone beam's row they are shortened by the slant of its rays."""
    p, deviation, notes = counts.integrals(sinogram, where)
    if sinogram.said.beam != "cone":
        return p, deviation, notes
    slant = math.cos(math.atan(_row(sinogram) / sinogram.said.source_to_detector))  # type: ignore[operator]
    return p * slant, None if deviation is None else deviation * slant, notes


def geometry_of(said: Description, views: int, bins: int, pixel: float) -> Geometry:
    """Raises Refusal for what is no geometry, and for cones that are no stack of fans."""
    angles = tuple(said.radians(views).tolist())
    rows, columns, _ = said.image()
    parallel = said.beam == "parallel"
    try:
        geometry = Geometry(
            angles,
            bins,
            pitch=cast(float, said.pitch),
            pixel_size=pixel,
            source_to_axis=None if parallel else said.source_to_axis,
            source_to_detector=None if parallel else said.source_to_detector,
            curved=said.detector == "curved",
            offset=said.offset,
            flip=said.bins_run == "left",
            centre=said.centre,
        )
        geometry.check_image(rows, columns)
    except Refusal as error:
        raise Refusal(f"{said.path}: {error}") from None
    return geometry


def check_cone(sinogram: Sinogram, geometry: Geometry, side: float) -> None:
    """Raise Refusal for a row whose rays leave its slice by more than half of it, within the image."""
    said = sinogram.said
    slope = abs(_row(sinogram)) / said.source_to_detector  # type: ignore[operator]
    half = said.row_pitch / geometry.magnification / 2  # type: ignore[operator]
    reach = slope * min(side, geometry.field_of_view or side) / 2
    if reach > half:
        raise Refusal(
            f"{said.path}: row {sinogram.index} of {sinogram.count} is seen {math.degrees(math.atan(slope)):.2g} degrees aslant:"
            f" its rays leave the slice by {reach:.2g} mm, more than {half:.2g}; rows nearer the middle are allowed"
        )


def _row(sinogram: Sinogram) -> float:
    """Height of a cone's row above the plane of the source, mm on the detector."""
    said = sinogram.said
    return (sinogram.index - (sinogram.count - 1) / 2 - said.row_offset) * said.row_pitch  # type: ignore[operator]


def meta_of(
    sinogram: Sinogram, common: Common, output: str, hu: tuple[float, float], path: Path
) -> Meta:
    """Of a result: one DICOM file a slice, or NIfTI with all slices in one file; HU."""
    said, g, (rows, columns) = sinogram.said, common.geometry, common.size
    pixel = g.pixel_size
    fallback = cast(float, said.row_pitch) / g.magnification if said.beam == "cone" else pixel
    step = said.slice_step or fallback
    x, y, z = said.position
    matrix = np.diag([1.0, 1.0, 1.0, 1.0])  # (row, column, slice) -> left, back, head
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = (0, pixel, 0), (pixel, 0, 0), (0, 0, step)
    matrix[:3, 3] = (
        x + g.centre[0] - pixel * (columns - 1) / 2,
        y - g.centre[1] - pixel * (rows - 1) / 2,
        z,
    )
    alone = output == "dicom"
    if alone:
        matrix[:3, 3] += matrix[:3, 2] * sinogram.index
    return Meta(
        output,
        "int16" if alone else "float32",
        bits=16 if alone else 0,
        window=hu,
        index=0 if alone else sinogram.index,
        count=1 if alone else sinogram.count,
        shape=() if alone else (rows, columns, sinogram.count),
        spacing=(pixel, pixel),
        affine=as_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix),
        modality="CT",
        series=digest("sinogram", str(path.absolute())),
        source=digest("sinogram", str(path.absolute()), str(sinogram.index)),
        position=float(matrix[2, 3]) if alone else None,
    )
