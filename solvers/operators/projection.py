"""Line integrals through an image: scan geometry, Joseph's matrix built view by view, and filtered backprojection.

Coordinates: the image fills a box centred on the rotation axis, x to the right (columns), y upwards (rows run down).
At angle theta the detector axis is n = (cos theta, sin theta) and the beam runs along e = (-sin theta, cos theta).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor


class Rays(Protocol):
    """A scan: which rays there are, relative to the middle of the image; equal ones are equal and hash alike."""

    @property
    def views(self) -> int: ...

    @property
    def bins(self) -> int: ...

    @property
    def angles(self) -> Sequence[float] | np.ndarray: ...

    def pixel(self, height: int, width: int) -> float: ...

    def rays(self, angle: float) -> tuple[np.ndarray, np.ndarray]: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Scan:
    """views angles at (i + 1/2) arc / views; a flat detector of `bins` cells over `width`; lengths in one unit.

    radius: distance of source and of detector from the axis (fan beam, magnification 2), or None for parallel beams.
    """

    views: int
    arc: float  # radians
    bins: int
    width: float
    box: float  # side of the square that holds the image
    radius: float | None = None

    @property
    def angles(self) -> np.ndarray:
        return (np.arange(self.views) + 0.5) * self.arc / self.views

    @property
    def cells(self) -> np.ndarray:
        """Detector cell centres, [bins]"""
        return (np.arange(self.bins) - (self.bins - 1) / 2) * self.width / self.bins

    def pixel(self, height: int, width: int) -> float:
        return self.box / max(height, width)

    def rays(self, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """A point on each ray and its direction, [bins,2] as (x, y)."""
        n, e = (
            np.array([math.cos(angle), math.sin(angle)]),
            np.array([-math.sin(angle), math.cos(angle)]),
        )
        if self.radius is None:
            return self.cells[:, None] * n, np.broadcast_to(e, (self.bins, 2))
        return np.broadcast_to(-self.radius * e, (self.bins, 2)), 2 * self.radius * e + self.cells[
            :, None
        ] * n


def entries(scan: Rays, height: int, width: int) -> int:
    """How many the matrix has at most."""
    return 2 * scan.views * scan.bins * max(height, width)


def blocks(
    scan: Rays, height: int, width: int, most: int
) -> Iterator[Sequence[float] | np.ndarray]:
    """The angles of so many views at a time that their rows have about `most` entries."""
    step = max(1, scan.views * most // entries(scan, height, width))
    for start in range(0, scan.views, step):
        yield scan.angles[start : start + step]


@lru_cache(maxsize=4)
def joseph(scan: Rays, height: int, width: int) -> csr_matrix:
    """The matrix [views*bins, height*width] of line integrals (Joseph 1982): a ray is sampled once per row, or per column
    if it runs closer to the x axis, with linear interpolation between the two nearest pixels. float32 values, int32 indices.
    """
    return rows_of(scan, scan.angles, height, width)


def rows_of(
    scan: Rays, angles: Sequence[float] | np.ndarray, height: int, width: int
) -> csr_matrix:
    """The rows of that matrix that belong to some views."""
    columns, values, counts = [], [], []
    for angle in angles:
        column, value = _view(scan, angle, height, width)
        hit = value > 0
        columns.append(column[hit])
        values.append(value[hit])
        counts.append(hit.sum((1, 2)))
    starts = np.zeros(len(angles) * scan.bins + 1, np.int32)
    np.cumsum(np.concatenate(counts), out=starts[1:])
    shape = (len(angles) * scan.bins, height * width)
    return csr_matrix((np.concatenate(values), np.concatenate(columns), starts), shape=shape)


def _view(scan: Rays, angle: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel indices and weights [bins, samples, 2] of one view; weight 0 where a sample falls outside the image."""
    pixel = scan.pixel(height, width)
    point, direction = (array / pixel for array in scan.rays(angle))  # in pixels
    column = np.zeros((scan.bins, max(height, width), 2), np.int32)
    value = np.zeros(column.shape, np.float32)
    upright = abs(direction[:, 1]) >= abs(direction[:, 0])
    for rays, along, across, flip in (
        (upright, height, width, False),
        (~upright, width, height, True),
    ):
        if not rays.any():
            continue
        # image coordinates in pixels from the first one: column x + (width-1)/2, row (height-1)/2 - y
        at = np.stack([point[rays, 0] + (width - 1) / 2, (height - 1) / 2 - point[rays, 1]], 1)
        to = np.stack([direction[rays, 0], -direction[rays, 1]], 1)
        main, minor = (0, 1) if flip else (1, 0)
        slope = to[:, minor] / to[:, main]
        crossing = at[:, minor, None] + (np.arange(along) - at[:, main, None]) * slope[:, None]
        low = np.floor(crossing)
        share = crossing - low
        length = pixel * np.hypot(1, slope)[:, None]
        for side, weight in ((0, 1 - share), (1, share)):
            index = low + side
            inside = (index >= 0) & (index < across)
            index = np.where(inside, index, 0).astype(np.int32)
            samples = np.arange(along, dtype=np.int32)
            column[rays, :along, side] = (
                index * width + samples if flip else samples * width + index
            )
            value[rays, :along, side] = np.where(inside, length * weight, 0)
    return column, value


def filtered_backprojection(
    scan: Scan, sinogram: Tensor, height: int, width: int, window: str, cutoff: float
) -> Tensor:
    """[..., views, bins] line integrals -> [..., height, width] attenuation (Kak & Slaney 1988, chapter 3).

    window: `ramp`, or `hann`, which falls to 0 at `cutoff` times the Nyquist frequency; the ramp is cut off there.
    A flat fan detector is filtered as if it stood on the axis. Views over less than half a turn are not weighted.
    """
    spacing = scan.width / scan.bins * (1.0 if scan.radius is None else 0.5)  # at the axis
    cells = torch.from_numpy(scan.cells).to(sinogram) * (spacing * scan.bins / scan.width)
    if scan.radius is not None:
        sinogram = sinogram * scan.radius / (scan.radius**2 + cells**2).sqrt()
    filtered = torch.fft.irfft(
        torch.fft.rfft(sinogram, 2 * scan.bins)
        * _ramp(scan.bins, spacing, window, cutoff).to(sinogram),
        2 * scan.bins,
    )[..., : scan.bins]
    pixel = scan.pixel(height, width)
    x = ((torch.arange(width) - (width - 1) / 2) * pixel).to(sinogram)
    y = (((height - 1) / 2 - torch.arange(height)) * pixel).to(sinogram)[:, None]
    image = sinogram.new_zeros(*sinogram.shape[:-2], height, width)
    for view, angle in enumerate(scan.angles):
        offset, depth = (
            x * math.cos(angle) + y * math.sin(angle),
            y * math.cos(angle) - x * math.sin(angle),
        )
        magnified = (
            torch.ones_like(offset) if scan.radius is None else scan.radius / (scan.radius + depth)
        )
        at = (offset * magnified / spacing + (scan.bins - 1) / 2).clamp(0, scan.bins - 1)
        low = at.floor().long().clamp_max(scan.bins - 2)
        row, share = filtered[..., view, :], at - low
        image += magnified**2 * ((1 - share) * row[..., low] + share * row[..., low + 1])
    return image * min(scan.arc, math.pi) / scan.views


def _ramp(bins: int, spacing: float, window: str, cutoff: float) -> Tensor:
    """The band-limited ramp on the rfft frequencies of 2 * bins samples, from its spatial form (no bias at frequency 0)."""
    n = torch.arange(2 * bins, dtype=torch.float64)
    n = torch.minimum(n, 2 * bins - n)
    taps = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp_min(1)) ** 2, 0)
    taps[0] = 0.25
    return torch.fft.rfft(taps).real / spacing * apodised(bins + 1, window, cutoff)


def apodised(count: int, window: str, cutoff: float) -> Tensor:
    """A window on frequencies 0 to Nyquist's [count], which ends at `cutoff` times Nyquist's."""
    f = torch.linspace(0, 1, count, dtype=torch.float64) / cutoff
    shapes = {
        "ramp": torch.ones_like(f),
        "shepp-logan": torch.sinc(f / 2),
        "cosine": (math.pi * f / 2).cos(),
        "hamming": 0.54 + 0.46 * (math.pi * f).cos(),
        "hann": (1 + (math.pi * f).cos()) / 2,
    }
    return shapes[window] * (f <= 1)
