"""What the YAML beside a sinogram says: the scanner's geometry, and what the numbers are. Lengths in mm.

beam: fan                        # parallel, fan, or cone (rows of a detector, stacked as fans)
angles: {start: 0, step: 6}      # of the views; or {start, arc}, a list, or the name of an NPY
angle_unit: degrees              # or radians
direction: counterclockwise      # in which they grow, as the image is looked at; or clockwise
pitch: 1.2                       # from cell to cell, on the detector (curved: along its arc)
bins_run: right                  # or left: which way the bins are counted at angle 0, the source below, the detector above
offset: 0.25                     # the axis is seen at bin (bins - 1)/2 + offset; a quarter shift is 0.25
detector: flat                   # or curved, around the source
source_to_axis: 541              # of fan and cone
source_to_detector: 949
row_pitch: 1.0                   # cone: from row to row on the detector; row_offset: rows, like offset
axes: slice view bin             # of the array; cone: row instead of slice
dataset: sinogram                # which one of an HDF5 file
values: counts                   # photons or what is proportional to them; or integrals, -log(counts / I0)
I0: 10000                        # counts without an object: a number, or an NPY [bins] or [views,bins]
dark: 0                          # counts without X-rays, likewise
electronic_noise: 0              # standard deviation, in counts
gain: 1                          # numbers in the file for one photon
sigma_y: 0.02                    # of integrals; null: from the data
bad_channels: [17, 200-203]      # bins that measure nothing; auto: found in the data; or an NPY, 1 where they are bad
image_size: 256                  # pixels, or [rows, columns]; two of image_size, pixel_size and field_of_view
pixel_size: 1.25
field_of_view: 320               # side of the image
centre: [0, 0]                   # (right, up) of the image's middle from the axis
mu_water: 0.0192                 # 1/mm; or {scan: water.npy}, a scan of water alone in the same geometry
slice_step: 5                    # from slice to slice
position: [0, 0, 0]              # middle of the first slice in the patient; left, back, head, as DICOM counts
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from data.bounded_yaml import numbered, read_yaml
from data.files import Refusal, nearest
from data.formats.image import decoding
from data.formats.sinogram.allowed import ANGLES, CHOICES, check, is_number

BINS = re.compile("[0-9]{1,9}(-[0-9]{1,9})?")  # a bin, or the first and the last of some
SIDE = 2**14  # pixels of an image, at most


@dataclass(frozen=True)
class Description:
    """None: not said. Files are named from `folder`."""

    path: Path  # of the YAML, for messages
    beam: str = ""
    angles: Any = None
    angle_unit: str = "degrees"
    direction: str = "counterclockwise"
    pitch: float | None = None
    bins_run: str = "right"
    offset: float = 0.0
    detector: str = "flat"
    source_to_axis: float | None = None
    source_to_detector: float | None = None
    row_pitch: float | None = None
    row_offset: float = 0.0
    axes: str = ""
    dataset: str = ""
    values: str = ""
    I0: Any = None
    dark: Any = 0
    electronic_noise: float = 0.0
    gain: float = 1.0
    sigma_y: float | None = None
    bad_channels: Any = ()
    image_size: Any = None
    pixel_size: float | None = None
    field_of_view: float | None = None
    centre: tuple[float, float] = (0.0, 0.0)
    mu_water: Any = None
    slice_step: float | None = None
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def need(self, *names: str) -> None:
        """Raise Refusal for the first of these that is not said."""
        for name in names:
            if getattr(self, name) in (None, ""):
                allowed = (
                    f"{', '.join(CHOICES[name])} are allowed"
                    if name in CHOICES
                    else "it is needed here"
                )
                raise Refusal(f"{self.path}: says no {name}; {allowed}")

    def radians(self, views: int) -> np.ndarray:
        """Angles of all views, counterclockwise. Raises Refusal for another number of them, and for the other unit."""
        self.need("angles")
        named = self.angles
        if isinstance(named, Mapping):
            start, step, arc = named.get("start", 0.0), named.get("step"), named.get("arc")
            if (
                set(named) - set(ANGLES)
                or (step is None) == (arc is None)
                or not all(map(is_number, named.values()))
            ):
                raise Refusal(
                    f"{self.path}: angles {dict(named)}; {{start, step}} or {{start, arc}} is allowed, as numbers"
                )
            angles = start + np.arange(views) * (named["step"] if arc is None else arc / views)
        else:
            angles = self.array("angles").astype(float).reshape(-1)
        if len(angles) != views:
            raise Refusal(
                f"{self.path}: {len(angles)} angles for {views} views; one each is allowed (are the axes right?)"
            )
        if not np.isfinite(angles).all():
            raise Refusal(f"{self.path}: angles must be finite numbers")
        span = float(np.ptp(angles)) * (1 + 1 / max(1, views - 1))
        self._check_unit(span, views)
        turned = np.radians(angles) if self.angle_unit == "degrees" else angles
        return turned if self.direction == "counterclockwise" else -turned

    def _check_unit(self, span: float, views: int) -> None:
        if self.angle_unit == "degrees" and views > 8 and span < 2.5 * math.pi:
            raise Refusal(
                f"{self.path}: {views} views cover {span:.4g} degrees; are they radians? angle_unit: radians says so"
            )
        if self.angle_unit == "radians" and span > 20:
            raise Refusal(
                f"{self.path}: {views} views cover {span:.4g} radians; are they degrees? angle_unit: degrees says so"
            )

    def field(self, name: str, views: int, bins: int) -> np.ndarray:
        """I0 or dark, of every ray, [views,bins]."""
        found = self.array(name).astype(float)
        if found.shape not in ((), (1,), (bins,), (views, bins)):
            raise Refusal(
                f"{self.path}: {name} of shape {found.shape}; a number, [{bins}] or [{views},{bins}] is allowed"
            )
        if (
            not np.isfinite(found).all()
            or (found < 0).any()
            or (name == "I0" and (found == 0).any())
        ):
            raise Refusal(f"{self.path}: {name} must be counts {'> 0' if name == 'I0' else '>= 0'}")
        return np.broadcast_to(found, (views, bins))

    def bad(self, views: int, bins: int) -> np.ndarray:
        """Which bins measure nothing, as they are told, bool [bins] or [views,bins]."""
        said = [] if self.bad_channels in (None, "auto") else self.bad_channels
        if isinstance(said, str) and not BINS.fullmatch(said):
            found = self.array("bad_channels")
            if found.shape not in ((bins,), (views, bins)) or not np.isin(found, (0, 1)).all():
                raise Refusal(
                    f"{self.path}: bad_channels of shape {found.shape}; 0 and 1 of [{bins}] or [{views},{bins}] are allowed"
                )
            return found.astype(bool)
        mask = np.zeros(bins, bool)
        for word in said if isinstance(said, (list, tuple)) else [said]:
            first, _, last = str(word).partition("-")
            if not BINS.fullmatch(str(word)) or not int(first) <= int(last or first) < bins:
                raise Refusal(
                    f"{self.path}: bad_channels {word!r}; bins 0 to {bins - 1} and ranges like 200-203 are allowed"
                )
            mask[int(first) : int(last or first) + 1] = True
        return mask

    def array(self, name: str) -> np.ndarray:
        """The numbers of a key, as they are said or in the NPY that it names. Raises Refusal for what are none."""
        found = getattr(self, name)
        if isinstance(found, str):
            path = self.path.parent / found
            if not path.is_file():
                raise Refusal(
                    f"{self.path}: {name} is {path.name!r}, which is no file beside it; a number or an NPY is allowed"
                )
            with decoding(path, "NPY", private=True):
                found = np.load(path, allow_pickle=False)
        try:
            made = np.asarray(found if isinstance(found, (int, float, list, np.ndarray)) else None)
        except ValueError:  # lists of different lengths
            made = np.asarray(None)
        if made.dtype.kind not in ("biuf" if name == "bad_channels" else "iuf"):
            said = str(getattr(self, name))[:40]
            raise Refusal(
                f"{self.path}: {name} {said!r} is no array of numbers; numbers, or an NPY of them, are allowed"
            )
        return made

    def image(self) -> tuple[int, int, float]:
        """Rows, columns and the side of a pixel in mm."""
        size, pixel, field = self.image_size, self.pixel_size, self.field_of_view
        square = tuple(size) if isinstance(size, list) else (size, size)
        if size is not None and not (
            len(square) == 2
            and all(is_number(n) and isinstance(n, int) and 1 <= n <= SIDE for n in square)
        ):
            raise Refusal(
                f"{self.path}: image_size {size!r}; 1 to {SIDE} whole pixels, or [rows, columns], are allowed"
            )
        if sum(x is not None for x in (size, pixel, field)) != 2:
            raise Refusal(
                f"{self.path}: two of image_size, pixel_size and field_of_view are needed, no more and no less"
            )
        if size is not None:
            return *square, pixel or field / max(square)  # type: ignore[return-value,operator]
        if not field / pixel <= SIDE:  # type: ignore[operator]
            raise Refusal(
                f"{self.path}: field_of_view {field:g} of pixels of {pixel:g} mm; up to {SIDE} pixels are allowed"
            )
        side = max(1, round(field / pixel))  # type: ignore[operator]
        return side, side, pixel  # type: ignore[return-value]


def described(path: Path) -> Description:
    """Raises Refusal for keys that are not known, and for values that are none of theirs."""
    said: Any = numbered(read_yaml(path.read_text("utf-8", "replace"), path))
    known = [field.name for field in fields(Description) if field.name != "path"]
    if not isinstance(said, dict):
        raise Refusal(f"{path}: no list of keys and values; {', '.join(known)} are allowed")
    for key, value in said.items():
        if key not in known:
            raise Refusal(f"{path}: unknown key {key!r}{nearest(str(key), known)}")
        check(path, key, value)
    for key in ("centre", "position"):
        if key in said:
            said[key] = tuple(float(v) for v in said[key])
    made = Description(path, **said)
    made.need("beam", "angles", "pitch", "values", "mu_water")
    if made.beam != "parallel":
        made.need("source_to_axis", "source_to_detector")
    elif made.detector == "curved":
        raise Refusal(
            f"{path}: a curved detector needs beam: fan; parallel beams have no source for it to be around"
        )
    if made.beam == "cone":
        made.need("row_pitch")
    if made.values == "counts":
        made.need("I0")
    return made
