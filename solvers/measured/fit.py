"""How well any image at all explains a sinogram in a geometry: what a wrong direction, order or centre shows itself by."""

import math
from dataclasses import replace

import numpy as np

from data.files import Refusal
from solvers.operators.ct_geometry import Geometry
from solvers.operators.projection import rows_of

COARSE = 64  # pixels across
ITERATIONS = 12
VIEWS = 60  # at most, evenly taken
BINS = 256  # at most, by averaging
WALK = 16  # steps to either side that a centre is looked for
CUT = 0.15  # of the largest integral, at the ends of a view that is cut off
ENOUGH = math.radians(120)  # of views, that a sinusoid is told from a shift by


def reduced(
    geometry: Geometry, p: np.ndarray, weights: np.ndarray, side: float
) -> tuple[Geometry, np.ndarray, np.ndarray, int]:
    """Fewer views and bins, and a coarser image that covers `side` mm: geometry, p, weights, pixels across."""
    some = np.linspace(0, geometry.views - 1, min(VIEWS, geometry.views)).round().astype(int)
    g = geometry.with_angles(np.array(geometry.angles)[some])
    p, weights = p[some], weights[some]
    by = -(-geometry.bins // BINS)
    if by > 1:
        kept = geometry.bins // by * by
        cut = geometry.bins - kept  # bins at the end that are left out move the middle
        w = weights[:, :kept].reshape(len(p), -1, by)
        p = (p[:, :kept].reshape(w.shape) * w).sum(2) / np.maximum(w.sum(2), 1e-30)
        weights = w.sum(2)
        g = replace(g, bins=kept // by, pitch=g.pitch * by, offset=(g.offset + cut / 2) / by)
    return replace(g, pixel_size=side / COARSE), p, weights, COARSE


def misfit(geometry: Geometry, p: np.ndarray, weights: np.ndarray, across: int) -> float:
    """Root of the weighted mean square of what ITERATIONS steps of CGLS leave of p, over that of p itself."""
    A = rows_of(geometry, geometry.angles, across, across)
    w = np.sqrt(weights.ravel() / weights.max()).astype(np.float32)
    b = w * p.ravel().astype(np.float32)
    reach = np.asarray(A.sum(0)).ravel()  # how much all rays see of a pixel, whose root scales it
    scale = (1 / np.sqrt(np.maximum(reach, 1e-3 * reach.max()))).astype(np.float32)

    def back(r: np.ndarray) -> np.ndarray:
        return scale * (A.T @ (w * r))

    r, d = b.copy(), back(b)
    g = float(d @ d)
    for _ in range(ITERATIONS):
        q = w * (A @ (scale * d))
        if g <= 0 or not (curved := float(q @ q)) > 0:
            break
        r -= np.float32(g / curved) * q
        s = back(r)
        g, before = float(s @ s), g
        d = s + np.float32(g / before) * d
    return float(np.linalg.norm(r)) / max(float(np.linalg.norm(b)), 1e-30)


def extent(geometry: Geometry, height: int, width: int) -> float:
    """Side in mm of a square around the axis that the image and the views' field have in common at least."""
    own = max(height, width) * geometry.pixel_size + 2 * math.hypot(*geometry.centre)
    return max(own, geometry.field_of_view)


def centred(
    geometry: Geometry, p: np.ndarray, weights: np.ndarray, side: float, where: str
) -> float:
    """The offset in bins that explains the views best: where the axis of rotation really is.

    Parallel beams: the centre of mass of each view moves as a sinusoid around the axis (Helgason-Ludwig, first moment). Fan
    beams: the offset at which an image leaves the least, by a parabola through the misfits at whole bins.
    """
    if not geometry.fan:
        return _by_moments(geometry, p, where)
    found: dict[float, float] = {}

    def at(offset: float) -> float:
        if offset not in found:
            g, few, w, across = reduced(replace(geometry, offset=offset), p, weights, side)
            found[offset] = misfit(g, few, w, across) ** 2
        return found[offset]

    best, step = geometry.offset, max(4.0, geometry.bins / 64)
    while step >= 1:
        for _ in range(WALK):
            nearest = min((best - step, best, best + step), key=at)
            if nearest == best:
                break
            best = nearest
        else:
            raise Refusal(
                f"{where}: no centre of rotation within {WALK * step:.0f} bins explains its views; say offset yourself"
            )
        step = step / 4 if step > 4 else 1.0 if step > 1 else 0
    low, middle, high = at(best - 1), at(best), at(best + 1)
    return best + 0.5 * (low - high) / max(low - 2 * middle + high, 1e-30)


def _by_moments(geometry: Geometry, p: np.ndarray, where: str) -> float:
    mass = p.sum(1)
    edge = np.maximum(np.abs(p[:, :2]).max(1), np.abs(p[:, -2:]).max(1)) / np.abs(p).max()
    whole = (mass > 0.2 * np.median(mass)) & (edge < CUT)
    angles = np.array(geometry.angles)[whole]
    if len(angles) < 6 or geometry.arc < ENOUGH:
        raise Refusal(
            f"{where}: its centre of rotation cannot be found: views that are not cut off over 120 degrees are due"
        )
    place = (p * (np.arange(geometry.bins) - (geometry.bins - 1) / 2)).sum(1)[whole] / mass[whole]
    basis = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], 1)
    return float(np.linalg.lstsq(basis, place, rcond=None)[0][0])
