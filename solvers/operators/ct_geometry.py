"""The geometry of a real scan: any angles, parallel or fan beam, flat or curved detector, offsets; lengths in mm.

Coordinates are those of `projection`: x to the right, y upwards (rows run down), the rotation axis at the origin. At angle
beta, counterclockwise as the image is looked at, the detector axis is n = (cos beta, sin beta) and the beam runs along
e = (-sin beta, cos beta): at 0 the source stands below, the detector above, and u, the place on it, grows to the right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.files import Refusal

FULL = 2 * math.pi
LEAST_PATH = (
    0.05  # of the source's distance from the axis, which the image must leave free on its side
)


@dataclass(frozen=True)
class Geometry:
    """source_to_axis, source_to_detector: of a fan beam; None: the beam is parallel.

    The axis is seen at bin (bins - 1)/2 + offset, counted from 0 in the order of the file; `flip`: that order runs along -n.
    """

    angles: tuple[float, ...]  # radians, counterclockwise, in the order of the views
    bins: int
    pitch: float  # mm from cell to cell, on the detector (curved: along its arc)
    pixel_size: float  # mm, of the image
    source_to_axis: float | None = None
    source_to_detector: float | None = None
    curved: bool = False  # an arc around the source
    offset: float = 0.0  # bins
    flip: bool = False
    centre: tuple[float, float] = (0.0, 0.0)  # mm (x, y) of the middle of the image

    def __post_init__(self) -> None:
        lengths: dict[str, float | None] = {"pitch": self.pitch, "pixel_size": self.pixel_size}
        if self.fan:
            lengths |= {
                "source_to_axis": self.source_to_axis,
                "source_to_detector": self.source_to_detector,
            }
        for name, value in lengths.items():
            if value is None or not 0 < value < math.inf:
                raise Refusal(f"{name} {value}: a length in mm, above 0, is due")
        if not self.angles or self.bins < 2:
            raise Refusal(f"{len(self.angles)} views of {self.bins} bins: at least 1 and 2 are due")
        if not all(map(math.isfinite, (*self.angles, self.offset, *self.centre))):
            raise Refusal("angles, offset and centre must be finite numbers")
        near, far = self.distances
        if self.fan and far <= near:
            raise Refusal(
                f"source_to_detector {far:g} mm must be more than source_to_axis {near:g} mm"
            )
        if self.curved and not self.fan:
            raise Refusal(
                "a curved detector needs a fan beam: parallel beams have no source for it to be around"
            )
        if self.fan and float(np.abs(self.fan_angles).max()) >= math.pi / 2:
            raise Refusal(
                f"{self.bins} bins of {self.pitch:g} mm are seen under more than 90 degrees: is pitch in mm?"
            )

    @property
    def fan(self) -> bool:
        return self.source_to_axis is not None or self.source_to_detector is not None

    @property
    def distances(self) -> tuple[float, float]:
        """source_to_axis and source_to_detector; infinite where the beam is parallel."""
        return self.source_to_axis or math.inf, self.source_to_detector or math.inf

    @property
    def views(self) -> int:
        return len(self.angles)

    @property
    def magnification(self) -> float:
        return self.distances[1] / self.distances[0] if self.fan else 1.0

    @property
    def cells(self) -> np.ndarray:
        """u of every bin in mm, 0 where the axis is seen, [bins]"""
        u = (np.arange(self.bins) - (self.bins - 1) / 2 - self.offset) * self.pitch
        return -u if self.flip else u

    @property
    def fan_angles(self) -> np.ndarray:
        """Angles from the central ray toward n, radians, [bins]; of a fan beam."""
        u = self.cells / self.distances[1]
        return u if self.curved else np.arctan(u)

    @property
    def reach(self) -> np.ndarray:
        """Signed distance of each bin's ray from the axis, mm, [bins]"""
        return self.distances[0] * np.sin(self.fan_angles) if self.fan else self.cells

    @property
    def field_of_view(self) -> float:
        """Diameter in mm of the circle around the axis that every view sees; 0 if one side of the detector is too short."""
        half = self.pitch / self.magnification / 2
        return 2 * max(0.0, min(float(self.reach.max()), -float(self.reach.min())) + half)

    @property
    def arc(self) -> float:
        """Radians that the views cover, with half a step beyond the first and the last; at most a full turn."""
        steps = np.diff(np.sort(np.array(self.angles)))
        step = float(np.median(steps)) if len(steps) else 0.0
        return min(FULL, float(np.ptp(self.angles)) + step)

    def pixel(self, height: int, width: int) -> float:
        return self.pixel_size

    def rays(self, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """A point on each ray, from the middle of the image, and its direction, [bins,2] as (x, y)."""
        n, e = (
            np.array([math.cos(angle), math.sin(angle)]),
            np.array([-math.sin(angle), math.cos(angle)]),
        )
        if not self.fan:
            return self.cells[:, None] * n - self.centre, np.broadcast_to(e, (self.bins, 2))
        gamma = self.fan_angles[:, None]
        return np.broadcast_to(-self.distances[0] * e - self.centre, (self.bins, 2)), np.cos(
            gamma
        ) * e + np.sin(gamma) * n

    def with_angles(self, angles: Sequence[float]) -> "Geometry":
        return replace(self, angles=tuple(float(a) for a in angles))

    def check_image(self, height: int, width: int) -> None:
        """Raise Refusal if the source would stand within the image."""
        corner = math.hypot(height, width) / 2 * self.pixel_size + math.hypot(*self.centre)
        if self.fan and corner > (1 - LEAST_PATH) * self.distances[0]:
            raise Refusal(
                f"an image of {height} x {width} pixels of {self.pixel_size:g} mm reaches {corner:.0f} mm from the axis,"
                f" beyond the source at source_to_axis {self.source_to_axis:g} mm"
            )
