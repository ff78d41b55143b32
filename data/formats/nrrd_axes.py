"""Which axis of an NRRD file is what: the header's kinds, directions and spacings decide, never its sizes alone.

A layout has one letter per axis of the file: x y z run through space, in the file's order; t counts repetitions (volumes one
after the other: times, directions of diffusion, components of a vector); c holds red, green and blue; s has a single entry.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.files import Refusal
from data.formats.image import Affine
from data.formats.volume import as_affine

SPACE = ("domain", "space")
COLOUR = ("rgb-color", "3-color")
REPEATED = ("time", "list", "vector")
SINGLE = ("scalar", "stub")
KINDS = (*SPACE, "RGB-color", "3-color", *REPEATED, *SINGLE, "none")
PER_AXIS = ("kinds", "units", "centerings", "spacings", "thicknesses", "space directions")
UNITS = {"": "", "mm": "mm", "cm": "cm", "m": "m", "um": "um", "µm": "um", "micron": "um", "microns": "um", "nm": "nm",
         "millimeter": "mm", "millimeters": "mm", "s": "s", "ms": "ms", "us": "us", "hz": "Hz", "ppm": "ppm"}  # fmt: skip
SPACES = {
    "left-posterior-superior": (-1, -1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "right-anterior-superior": (1, 1, 1),
}
SHORT = {
    "lps": "left-posterior-superior",
    "las": "left-anterior-superior",
    "ras": "right-anterior-superior",
}
OTHER_SPACES = ("scanner-xyz", "3d-right-handed", "3d-left-handed")


def standard(header: Mapping[str, Any]) -> dict[str, Any]:
    """Of a header as pynrrd reads it, what says where the numbers lie; words only if they are the format's own.

    Per-axis fields become lists with one entry per axis, an axis without a direction a row of NaN. Raises ValueError if
    their lengths do not agree.
    """
    known: dict[str, Any] = {}
    for key, value in header.items():
        key = {"centers": "centerings"}.get(key, key)
        words = value.split() if isinstance(value, str) else value
        if key == "kinds":
            names = {name.lower(): name for name in (*KINDS, *ODD)}
            known[key] = [names.get(str(word).lower(), "none") for word in words]
        elif key == "centerings":
            known[key] = [
                word if word in ("cell", "node") else "none" for word in map(str.lower, words)
            ]
        elif key in ("units", "space units"):
            known[key] = [UNITS.get(word.lower(), "") for word in words]
        elif key == "space" and (name := SHORT.get(value.lower(), value.lower())) in (
            *SPACES,
            *OTHER_SPACES,
        ):
            known[key] = name
        elif key == "space directions":
            known[key] = _rows(value)
        elif key in ("spacings", "thicknesses", "space origin", "measurement frame"):
            known[key] = np.array(value, dtype=float)
        elif key in ("space dimension", "dimension"):
            known[key] = int(value)
    axes = len(header["sizes"])
    if any(len(known[key]) != axes for key in PER_AXIS if key in known):
        raise ValueError("fields with an entry per axis differ in length")
    if "space" in known:
        known.pop("space dimension", None)  # the one or the other
    return known


ODD = ("complex", "2-vector", "point", "covariant-vector", "normal", "HSV-color", "XYZ-color", "4-color", "RGBA-color",
       "3-vector", "3-gradient", "3-normal", "4-vector", "quaternion", "2D-symmetric-matrix", "2D-masked-symmetric-matrix",
       "2D-matrix", "2D-masked-matrix", "3D-symmetric-matrix", "3D-masked-symmetric-matrix", "3D-matrix",
       "3D-masked-matrix")  # fmt: skip


def layout(header: Mapping[str, Any], sizes: Sequence[int], dtype: np.dtype, path: object) -> str:
    """The letters of the axes. header: `standard`. Raises Refusal for what cannot be placed."""
    kinds = [kind.lower() for kind in header.get("kinds", ["none"] * len(sizes))]
    directed = _directed(header, len(sizes))
    letters = []
    for kind, size, has_direction in zip(kinds, sizes, directed):
        colours = kind in COLOUR or (
            kind == "vector" and dtype.kind == "u"
        )  # so do ITK and Slicer write colours
        if colours and size == 3:
            letters.append("c")
        elif kind in (*SPACE, "none"):
            letters.append("t" if has_direction is False else " ")
        elif kind in REPEATED:
            letters.append("t")
        elif kind in SINGLE and size == 1:
            letters.append("s")
        else:
            raise Refusal(
                f"{path}: an axis of {size} is {kind}; space, time, list, vector and three colours are allowed"
            )
    if letters.count(" ") == 4 and "t" not in letters:
        letters[-1 - letters[::-1].index(" ")] = (
            "t"  # nothing tells: the usual order is space, then time
        )
    if not 2 <= letters.count(" ") <= 3 or letters.count("t") > 1 or letters.count("c") > 1:
        raise Refusal(f"{path}: {letters.count(' ')} axes in space, {letters.count('t')} of repetitions, {letters.count('c')} of"
                      " colours; two or three, at most one and at most one are allowed")  # fmt: skip
    space = iter("xyz")
    return "".join(next(space) if letter == " " else letter for letter in letters)


def spatial(layout: str) -> list[int]:
    """The file's axes that run through space, in order."""
    return [i for i, letter in enumerate(layout) if letter in "xyz"]


def affine_of(header: Mapping[str, Any], layout: str) -> Affine | None:
    """Array index (x, y, z) → mm, RAS. Without space directions: the spacings alone, in the usual directions."""
    axes = spatial(layout)
    matrix = np.eye(4)
    if "space directions" in header:
        rows = header["space directions"][axes]
        dimension = rows.shape[1]
        if dimension not in (2, 3) or not np.isfinite(rows).all():
            return None
        matrix[: len(axes), :dimension] = rows
        if len(axes) == 2:
            across = np.cross(matrix[0, :3], matrix[1, :3])
            matrix[2, :3] = across / (np.linalg.norm(across) or 1)
        matrix[:3, :3] = matrix[:3, :3].T
        origin = header.get("space origin", np.zeros(dimension))
        if len(origin) == dimension and np.isfinite(origin).all():
            matrix[:dimension, 3] = origin
        return as_affine(np.diag([*_signs(header), 1.0]) @ matrix)
    spacings = header.get("spacings")
    if spacings is None or not np.isfinite(spacings[axes]).all():
        return None
    np.fill_diagonal(matrix[: len(axes), : len(axes)], spacings[axes])
    return as_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)


def place(header: dict[str, Any], layout: str, affine: Affine) -> None:
    """Write the affine into a header, in the header's own space."""
    axes = spatial(layout)
    if "space directions" in header:
        matrix = np.diag([*_signs(header), 1.0]) @ np.array(affine)
        rows = header["space directions"].copy()
        dimension = rows.shape[1]
        rows[axes] = matrix[:dimension, : len(axes)].T
        header |= {"space directions": rows, "space origin": matrix[:dimension, 3]}
    elif "spacings" in header:
        spacings = header["spacings"].copy()
        spacings[axes] = np.linalg.norm(np.array(affine)[:3, : len(axes)], axis=0)
        header["spacings"] = spacings


def _directed(header: Mapping[str, Any], axes: int) -> list[bool | None]:
    """Whether each axis has a direction or a spacing; None where the header is silent."""
    if "space directions" in header:
        return [bool(np.isfinite(row).all()) for row in header["space directions"]]
    if "spacings" in header and np.isfinite(header["spacings"]).sum() >= 2:
        return [bool(np.isfinite(step)) for step in header["spacings"]]
    return [None] * axes


def _rows(directions: Any) -> np.ndarray:
    """One row per axis; NaN for `none`."""
    if isinstance(directions, np.ndarray):
        return directions.astype(float)
    width = max((len(row) for row in directions if row is not None), default=3)
    return np.array([[np.nan] * width if row is None else row for row in directions], dtype=float)


def _signs(header: Mapping[str, Any]) -> tuple[int, int, int]:
    return SPACES.get(header.get("space", ""), (1, 1, 1))
