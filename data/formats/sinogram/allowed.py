"""What the values of a sinogram's YAML may be, key by key."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.files import Refusal

CHOICES = {
    "beam": ("parallel", "fan", "cone"),
    "angle_unit": ("degrees", "radians"),
    "direction": ("counterclockwise", "clockwise"),
    "bins_run": ("right", "left"),
    "detector": ("flat", "curved"),
    "values": ("counts", "integrals"),
}
LENGTHS = (
    "pitch",
    "source_to_axis",
    "source_to_detector",
    "row_pitch",
    "pixel_size",
    "field_of_view",
    "slice_step",
    "gain",
)
NUMBERS = ("offset", "row_offset", "electronic_noise")
ANGLES = ("start", "step", "arc")
WATER = (0.005, 0.1)  # 1/mm, what water attenuates of 18 keV to 2 MeV


def check(path: Path, key: str, value: Any) -> None:
    """Raises Refusal for a value that is none of its key's."""
    if key in CHOICES and value not in CHOICES[key]:
        raise Refusal(f"{path}: {key} {value!r}; {', '.join(CHOICES[key])} are allowed")
    if key in LENGTHS and not (is_number(value) and value > 0):
        raise Refusal(
            f"{path}: {key} {value!r}; a number > 0 is allowed{'' if key == 'gain' else ', in mm'}"
        )
    if key in NUMBERS and not (is_number(value) and (key != "electronic_noise" or value >= 0)):
        allowed = "a number >= 0" if key == "electronic_noise" else "a number"
        raise Refusal(f"{path}: {key} {value!r}; {allowed} is allowed")
    if key == "sigma_y" and value is not None and not (is_number(value) and value > 0):
        raise Refusal(
            f"{path}: sigma_y {value!r}; a number > 0 (of line integrals), or null, is allowed"
        )
    if key in ("centre", "position"):
        due = 2 if key == "centre" else 3
        if not (isinstance(value, list) and len(value) == due and all(map(is_number, value))):
            raise Refusal(f"{path}: {key} {value!r}; {due} numbers in mm are allowed")
    if key == "mu_water":
        named = (
            isinstance(value, Mapping) and set(value) == {"scan"} and isinstance(value["scan"], str)
        )
        if not (named or (is_number(value) and WATER[0] < value < WATER[1])):
            allowed = f"{WATER[0]} to {WATER[1]} 1/mm (0.0192 at 70 keV), or {{scan: FILE}} of water alone, is allowed"
            raise Refusal(f"{path}: mu_water {value!r}; {allowed}")
    if key in ("axes", "dataset") and not isinstance(value, str):
        raise Refusal(f"{path}: {key} {value!r}; text is allowed")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
