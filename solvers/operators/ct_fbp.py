"""Filtered backprojection of real scans: parallel and fan beams, flat and curved detectors, full turns and short scans.

Kak & Slaney (1988), chapter 3, for the filters; rays that are measured twice share their weight after Noo et al. (2002).
"""

import math

import numpy as np
import torch
from torch import Tensor

from solvers.operators.ct_geometry import FULL, Geometry
from solvers.operators.projection import apodised

WINDOWS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")
GAP = 1.5  # greatest step between views, in their own, that still counts as a closed turn
FEATHER = math.radians(5)  # least width over which views at the ends of a short scan fade out
ASIDE = 0.02  # of the bins: offsets beyond it make a displaced detector
EDGE = (
    0.02  # of the largest integral: what is left at the detector's ends if projections are cut off
)


def angular_weights(angles: np.ndarray, period: float) -> np.ndarray:
    """How much of the turn each view stands for, radians: half the way to both neighbours. period: of the angles.

    Where the circle is not closed, the first and the last view stand for as much as their own step.
    """
    folded = np.mod(angles, period)
    places, back = np.unique(folded.round(9), return_inverse=True)
    if len(places) == 1:
        return np.full(len(angles), period / len(angles))
    steps = np.append(
        np.diff(places), places[0] + period - places[-1]
    )  # from each place to the next
    widest = int(steps.argmax())
    rest = np.delete(steps, widest)
    if steps[widest] > GAP * rest.max() + 1e-9:
        beside = (widest - 1) % len(steps), (widest + 1) % len(steps)
        before, after = steps[beside[0]], steps[beside[1]]
        share = (steps + np.roll(steps, 1)) / 2
        share[widest] = (before + before) / 2  # the view before the gap
        share[(widest + 1) % len(steps)] = (after + after) / 2  # the one after it
    else:
        share = (steps + np.roll(steps, 1)) / 2
    return (share / np.bincount(back))[back]


def redundancy(geometry: Geometry) -> np.ndarray:
    """Share of each ray [views,bins] in the line it measures, so that a line's shares sum to 1.

    The ray (beta, gamma) is measured again as (beta - 2 gamma + pi, -gamma), if the scan has that. Shares fall to 0 toward
    the ends of a short scan, and toward the short side of a detector that stands to one side (Wang 2002).
    """
    angles, u = np.array(geometry.angles), geometry.cells
    tilt = geometry.fan_angles if geometry.fan else 0 * u
    step = geometry.arc / geometry.views
    low, high = angles.min() - step / 2, angles.max() + step / 2
    width = min(max(FEATHER, (high - low - math.pi) / 2), math.pi / 4)
    closed = turns(geometry)

    def present(beta: np.ndarray) -> np.ndarray:
        if closed:
            return np.ones_like(beta)
        into = np.mod(beta - low, FULL)
        return _rise(np.minimum(into, high - low - into) / width)

    own = present(angles)[:, None] * _upon(u, geometry)
    again = present(angles[:, None] - 2 * tilt + math.pi) * _upon(-u, geometry)
    return own / np.maximum(own + again, 1e-12)


def turns(geometry: Geometry) -> bool:
    """Whether the views close a full turn."""
    return FULL - float(np.ptp(geometry.angles)) < GAP * geometry.arc / geometry.views + 1e-9


def displaced(geometry: Geometry) -> bool:
    """Whether one side of the detector is so short that its rays are hardly measured twice."""
    return abs(geometry.offset) > ASIDE * geometry.bins


def _upon(u: np.ndarray, geometry: Geometry) -> np.ndarray:
    """1 for places on the detector, 0 beyond; rising over what both sides see where it is displaced."""
    low, high = geometry.cells.min() - geometry.pitch / 2, geometry.cells.max() + geometry.pitch / 2
    width = 2 * min(-low, high) if displaced(geometry) else geometry.pitch / 2
    return _rise(np.minimum(u - low, high - u) / max(width, geometry.pitch / 2))


def _rise(share: np.ndarray) -> np.ndarray:
    return np.sin(np.clip(share, 0, 1) * math.pi / 2) ** 2


def filtered_backprojection(
    geometry: Geometry,
    sinogram: Tensor,
    height: int,
    width: int,
    window: str = "ramp",
    cutoff: float = 1.0,
) -> Tensor:
    """[...,views,bins] line integrals -> [...,height,width] attenuation in 1/mm, not clipped."""
    g, spacing = geometry, geometry.pitch / geometry.magnification
    if g.flip:
        sinogram = sinogram.flip(-1)
    reversed_offset = -g.offset if g.flip else g.offset
    extra = g.bins // 2  # bins beyond either end, where filtered views are not 0
    middle = (
        extra + (g.bins - 1) / 2 + reversed_offset
    )  # the bin that sees the axis, u now growing with the bin
    whole = g.fan or (
        displaced(g) and turns(g)
    )  # parallel views of half a turn say all, and are never weighted
    if whole:
        weights = redundancy(g) * (np.cos(g.fan_angles) if g.fan else 1)
        weights = weights[:, ::-1].copy() if g.flip else weights
        sinogram = sinogram * torch.from_numpy(weights).to(sinogram)
    turn = angular_weights(np.array(g.angles), FULL if whole else math.pi)
    filtered = _filtered(g, sinogram, extra, spacing, window, cutoff)
    x = ((torch.arange(width) - (width - 1) / 2) * g.pixel_size + g.centre[0]).to(sinogram)
    y = (((height - 1) / 2 - torch.arange(height)) * g.pixel_size + g.centre[1]).to(sinogram)[
        :, None
    ]
    image = sinogram.new_zeros(*sinogram.shape[:-2], height, width)
    for view, (angle, weight) in enumerate(zip(g.angles, turn)):
        across, depth = (
            x * math.cos(angle) + y * math.sin(angle),
            y * math.cos(angle) - x * math.sin(angle),
        )
        at, scale = _place(g, across, depth, spacing)
        at = at + middle
        last = filtered.shape[-1] - 1
        at = at.clamp(0, last)
        low = at.floor().long().clamp_max(last - 1)
        row, share = filtered[..., view, :], at - low
        image += float(weight) * scale * ((1 - share) * row[..., low] + share * row[..., low + 1])
    return image


def _place(
    g: Geometry, across: Tensor, depth: Tensor, spacing: float
) -> tuple[Tensor, Tensor | float]:
    """In which bin, from the axis's, each pixel is seen, and the weight of its distance from the source."""
    if not g.fan:
        return across / spacing, 1.0
    near, far = g.distances
    away = near + depth  # from the source along the central ray
    if not g.curved:
        return across * near / away / spacing, (near / away) ** 2
    return torch.atan2(across, away) * far / g.pitch, near**2 / (away**2 + across**2)


def _filtered(
    g: Geometry, sinogram: Tensor, extra: int, spacing: float, window: str, cutoff: float
) -> Tensor:
    """Views convolved with the band-limited ramp; what is cut off at the detector's ends is continued, falling to 0."""
    ends = sinogram[..., :2].mean(-1, keepdim=True), sinogram[..., -2:].mean(-1, keepdim=True)
    most = sinogram.abs().amax((-1, -2), keepdim=True)
    left, right = (torch.where(end.abs() > EDGE * most, end, 0) for end in ends)
    fall = (torch.arange(1, extra + 1) / extra * math.pi / 2).cos().square().to(sinogram)
    padded = torch.cat([left * fall.flip(0), sinogram, right * fall], -1)
    size = 1 << (2 * padded.shape[-1] - 1).bit_length()
    n = torch.arange(size, dtype=torch.float64)
    n = torch.minimum(n, size - n)
    taps = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp_min(1)) ** 2, 0)
    taps[0] = 0.25
    if g.curved:  # g(gamma) = h(gamma) (gamma / sin gamma)^2 / 2 of equal angles
        step = g.pitch / g.distances[1]
        angle = n * step
        taps = (
            taps * torch.where((angle > 0) & (angle < math.pi / 2), angle / angle.sin(), 1).square()
        )
    ramp = torch.fft.rfft(taps).real / spacing * apodised(size // 2 + 1, window, cutoff)
    return torch.fft.irfft(torch.fft.rfft(padded, size) * ramp.to(sinogram), size)[
        ..., : padded.shape[-1]
    ]
