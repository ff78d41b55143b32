"""A vessel of water with wedges of known HU, and its line integrals by formula: no projector has a hand in it."""

from collections.abc import Iterator

import numpy as np

from solvers.operators.ct_geometry import Geometry

WATER = 0.0192  # 1/mm
RADIUS, INNER, OUTER, ANGLE = 100.0, 35.0, 80.0, np.radians(40)  # mm
WEDGES = {-1000: 0, -100: 60, 50: 120, 120: 180, 350: 240, 800: 300}  # HU: degrees where it begins


def chord(point: np.ndarray, along: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Where rays point + t along (unit) enter and leave a disc; equal where they miss it."""
    middle = -(point * along).sum(-1)
    d2 = (point**2).sum(-1) - middle**2
    half = np.sqrt(np.maximum(radius**2 - d2, 0))
    return middle - half, middle + half


def sector(point: np.ndarray, along: np.ndarray, radius: float, begin: float) -> np.ndarray:
    """Length of rays within a disc and between two half lines that ANGLE separates."""
    low, high = chord(point, along, radius)
    for angle, side in ((begin, 1), (begin + ANGLE, -1)):
        normal = side * np.array([-np.sin(angle), np.cos(angle)])
        slope, start = along @ normal, point @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = -start / slope
        low = np.where(slope > 0, np.maximum(low, crossing), low)
        high = np.where(slope < 0, np.minimum(high, crossing), high)
    return np.maximum(high - low, 0)


def wedges(geometry: Geometry) -> np.ndarray:
    """Line integrals [views,bins] along the middle of each cell's ray."""
    views = []
    for angle in geometry.angles:
        point, along = geometry.rays(angle)
        point, along = (
            point + np.array(geometry.centre),
            along / np.linalg.norm(along, axis=1, keepdims=True),
        )
        low, high = chord(point, along, RADIUS)
        total = high - low
        for hu, degrees in WEDGES.items():
            begin = np.radians(degrees)
            total = total + hu / 1000 * (
                sector(point, along, OUTER, begin) - sector(point, along, INNER, begin)
            )
        views.append(WATER * total)
    return np.stack(views)


def mu_of(
    rows: int, columns: int, pixel: float, margin: float = 6.0
) -> Iterator[tuple[int, np.ndarray]]:
    """HU of each wedge and of the water in the middle, and the pixels that lie `margin` mm within."""
    x = (np.arange(columns) - (columns - 1) / 2) * pixel
    y = ((rows - 1) / 2 - np.arange(rows))[:, None] * pixel
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    for hu, degrees in WEDGES.items():
        turned = np.mod(angle - np.radians(degrees), 2 * np.pi)
        beside = radius * np.sin(np.minimum(turned, np.maximum(ANGLE - turned, 0)))
        yield (
            hu,
            (turned < ANGLE)
            & (beside > margin)
            & (radius > INNER + margin)
            & (radius < OUTER - margin),
        )
    yield 0, radius < INNER - margin
