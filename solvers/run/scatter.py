"""A plot of named points: PSNR against seconds, say."""

import html
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from solvers.run.plots import COLOURS, LETTER, Axis, alone, frame, key, margin


class Point(NamedTuple):
    """One of a scatter plot, with its name and whose kind it is."""

    x: float
    y: float
    name: str
    kind: str


def scatter(
    points: Sequence[Point],
    x: str,
    y: str,
    size: tuple[int, int],
    target: tuple[float, float] | None = None,
) -> str:
    """Named points as an SVG file of its own, x logarithmic. target: where they should be, marked by two lines."""
    here = [] if target is None else [target]
    up = Axis(_wider([p.y for p in points] + [b for _, b in here], False), False, size[1] - 34, 28)
    wide = _wider([p.x for p in points] + [a for a, _ in here], True)
    across = Axis(wide, True, margin(up), size[0] - 12)
    kinds, parts = list(dict.fromkeys(p.kind for p in points)), [frame(across, up, x, y, size)]
    for a, b in here:
        upright = f"M{across(a):.1f} 10V{size[1] - 34}"
        flat = f"M{across.start:g} {up(b):.1f}H{size[0] - 12}"
        parts.append(f"<path class='mark' fill='none' d='{upright}{flat}'/>")
    places = [(across(p.x), up(p.y)) for p in points]
    taken = [(a - 5, a + 5, b) for a, b in places]
    for point, (a, b) in sorted(zip(points, places), key=lambda one: one[1]):
        width, colour = LETTER * len(point.name), COLOURS[kinds.index(point.kind)]
        left = a + 8 if a + 8 + width < size[0] else a - 8 - width
        level = next(
            c
            for c in _nearby(b)
            if not any(left < e and s < left + width and abs(c - d) < 10 for s, e, d in taken)
        )
        taken.append((left, left + width, level))
        parts.append(f"<circle cx='{a:.1f}' cy='{b:.1f}' r='4' fill='{colour}'/>")
        if abs(level - b) > 8:
            near = left - 1 if left > a else left + width
            parts.append(
                f"<path class='lead' d='M{a:.1f} {b:.1f}L{near:.1f} {level:.1f}' stroke='{colour}'/>"
            )
        parts.append(
            f"<text x='{left:.1f}' y='{level + 4:.1f}' style='fill:{colour}'>{html.escape(point.name)}</text>"
        )
    parts += key(kinds)
    return alone(parts, size)


def _nearby(b: float) -> Iterator[float]:
    """Heights for a name, the nearest first."""
    yield b
    for step in range(1, 100):
        yield b - 3 * step
        yield b + 3 * step


def _wider(values: list[float], log: bool) -> list[float]:
    """The values, and a tenth of their range on both sides."""
    ends = [math.log10(v) for v in values] if log else values
    room = 0.1 * (max(ends) - min(ends) or 1)
    beyond = (min(ends) - room, max(ends) + room)
    return values + ([10**b for b in beyond] if log else list(beyond))
