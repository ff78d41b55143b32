"""Curves and histograms as SVG, their axes and their legend. Text is `currentColor`, as in figures.py."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

PLOT = """
.plot { font: 11px system-ui, sans-serif; max-width: 100%; height: auto; color: inherit }
.plot text { fill: currentColor } .plot .axis { stroke: currentColor; opacity: .5; fill: none }
.plot .grid { stroke: currentColor; opacity: .13 } .plot .curve { fill: none; stroke-width: 1.6 }
.plot .lead { opacity: .5; fill: none }
.plot .band { opacity: .25; stroke: none } .plot .mark { stroke: #d1495b; stroke-dasharray: 4 3 }
"""


LETTER = 6.1  # width of one in a plot, about
COLOURS = (
    "#1f77b4", "#e07b00", "#2a9d5c", "#d1495b", "#8a63b8",
    "#8c6d46", "#d277b3", "#7f8790", "#a5a50e", "#17a2b8",
)  # fmt: skip


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str = "",
    y: str = "",
    band: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None,
    log: str = "",
    size: tuple[int, int] = (460, 220),
) -> str:
    """Named curves (xs, ys) as SVG, with a legend. The arguments are those of `drawing`."""
    return _svg(drawing(lines, x, y, band, log, size), size) + legend(lines)


def drawing(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    band: tuple[Sequence[float], Sequence[float], Sequence[float]] | None,
    log: str,
    size: tuple[int, int],
) -> list[str]:
    """Named curves (xs, ys) between their axes: the parts of an SVG.

    band: xs, lows and highs behind the first curve. log: axes with logarithms, "x", "y" or "xy".
    """
    ends = list(lines.values()) + ([(band[0], band[1]), (band[0], band[2])] if band else [])
    up = Axis([v for _, ys in ends for v in ys], "y" in log, size[1] - 34, 10)
    across = Axis([v for xs, _ in ends for v in xs], "x" in log, margin(up), size[0] - 12)
    parts = [frame(across, up, x, y, size)]
    if band:
        there = [f"{across(a):.1f},{up(b):.1f}" for a, b in zip(band[0], band[2])]
        back = [
            f"{across(a):.1f},{up(b):.1f}" for a, b in zip(reversed(band[0]), reversed(band[1]))
        ]
        parts.append(
            f"<polygon class='band' fill='{COLOURS[0]}' points='{' '.join(there + back)}'/>"
        )
    for i, (name, (xs, ys)) in enumerate(lines.items()):
        points = [
            (across(a), up(b)) for a, b in zip(xs, ys) if math.isfinite(a) and math.isfinite(b)
        ]
        colour, title = colours(len(lines))[i], html.escape(name)
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        if len(points) == 1:
            parts.append(
                f"<circle cx='{points[0][0]:.1f}' cy='{points[0][1]:.1f}' r='3' fill='{colour}'/>"
            )
        parts.append(
            f"<polyline class='curve' stroke='{colour}' points='{joined}'><title>{title}</title></polyline>"
        )
    return parts


def bars(
    values: Sequence[float],
    x: str,
    mark: float | None = None,
    bins: int = 24,
    size: tuple[int, int] = (320, 180),
) -> str:
    """A histogram as SVG, with a broken line at `mark`."""
    held = np.asarray(values, float)
    held = held[np.isfinite(held)]
    if not len(held):
        return ""
    ends = held if mark is None else np.append(held, mark)
    low, high = float(ends.min()), float(ends.max())
    least = 1e-3 * max(1.0, abs(low))  # residuals that all meet the noise level differ by rounding
    counts, edges = np.histogram(held, bins, (low, max(high, low + least)))
    up = Axis([0, int(counts.max())], False, size[1] - 34, 10)
    across = Axis(edges.tolist(), False, margin(up), size[0] - 12)
    parts = [frame(across, up, x, "images", size)]
    for count, left, right in zip(counts.tolist(), edges.tolist(), edges.tolist()[1:]):
        box = f"x={across(left):.1f} width={max(across(right) - across(left) - 1, 1):.1f}"
        parts.append(
            f"<rect {box} y='{up(count):.1f}' height='{up(0) - up(count):.1f}' fill='{COLOURS[0]}'/>"
            if count
            else ""
        )
    if mark is not None:
        parts.append(
            f"<line class='mark' x1='{across(mark):.1f}' x2='{across(mark):.1f}' y1='10' y2='{size[1] - 34}' />"
        )
    return _svg(parts, size)


def legend(names: Iterable[str]) -> str:
    """Which colour is whose; nothing for a single curve."""
    known = list(names)
    shown = [
        f"<span><b style='color:{colour}'>●</b> {html.escape(name)}</span>"
        for colour, name in zip(colours(len(known)), known)
    ]
    return f"<div class=legend>{' &ensp; '.join(shown)}</div>" if len(shown) > 1 else ""


def colours(count: int) -> Sequence[str]:
    """A colour for each of so many curves: of many, which are levels of one thing, hues in their order."""
    if count <= len(COLOURS):
        return COLOURS[:count]
    return [f"hsl({280 * (1 - i / (count - 1)):.0f} 70% 45%)" for i in range(count)]


def key(names: Iterable[str]) -> list[str]:
    """The same within an SVG, along its top."""
    parts, place = [], 60.0
    for colour, name in zip(COLOURS, names):
        parts.append(f"<circle cx='{place:.1f}' cy='12' r='4' fill='{colour}'/>")
        parts.append(f"<text x='{place + 8:.1f}' y='16'>{html.escape(name)}</text>")
        place += LETTER * len(name) + 34
    return parts


class Axis:
    """Values -> places between two ends, with round numbers along it."""

    def __init__(self, values: Sequence[float], log: bool, start: float, end: float):
        held = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(held), max(held)
        if log:
            self.low, self.high = math.log10(low), math.log10(high)
        else:
            self.low, self.high = low, high
        if self.high - self.low < 1e-9 * max(1, abs(self.low)):
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.log, self.start, self.end = log, start, end

    def __call__(self, value: float) -> float:
        place = math.log10(value) if self.log and value > 0 else self.low if self.log else value
        return self.start + (place - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log and self.high - self.low >= 1:
            return [10.0**k for k in range(math.ceil(self.low), math.floor(self.high) + 1)]
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        rough = (high - low) / 4
        unit = 10 ** math.floor(math.log10(rough))
        step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= rough)
        return [
            k * step
            for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        ]


def margin(up: Axis) -> float:
    """Where the axis to the right begins, so that the other one's numbers do not run into its name."""
    return max(46.0, 20 + LETTER * max(len(f"{value:g}") for value in up.ticks() or [0.0]))


def frame(across: Axis, up: Axis, x: str, y: str, size: tuple[int, int]) -> str:
    """Both axes with their numbers and names."""
    bottom, left, parts = size[1] - 34, across.start, []
    for value in across.ticks():
        at, told = across(value), f"{value:g}"
        parts.append(f"<line class='grid' x1='{at:.1f}' x2='{at:.1f}' y1='10' y2='{bottom}' />")
        middle = min(at, size[0] - LETTER * len(told) / 2)  # or the last one would be cut
        parts.append(f"<text x='{middle:.1f}' y='{bottom + 14}' text-anchor='middle'>{told}</text>")
    for value in up.ticks():
        at = up(value)
        parts.append(
            f"<line class='grid' x1='{left:g}' x2='{size[0] - 12}' y1='{at:.1f}' y2='{at:.1f}' />"
        )
        parts.append(f"<text x='{left - 4:g}' y='{at + 4:.1f}' text-anchor='end'>{value:g}</text>")
    parts.append(f"<path class='axis' d='M{left:g} 10V{bottom}H{size[0] - 12}'/>")
    parts.append(
        f"<text x='{(left + size[0] - 12) / 2:.1f}' y='{size[1] - 5}' text-anchor='middle'>{html.escape(x)}</text>"
    )
    parts.append(
        f"<text transform='translate(11 {bottom / 2}) rotate(-90)' text-anchor='middle'>{html.escape(y)}</text>"
    )
    return "".join(parts)


def _svg(parts: Sequence[str], size: tuple[int, int]) -> str:
    return f"<svg class='plot' viewBox='0 0 {size[0]} {size[1]}' width='{size[0]}' role='img'>{''.join(parts)}</svg>"


def alone(parts: Sequence[str], size: tuple[int, int]) -> str:
    """The content of an SVG file of its own, on white."""
    look = f"<style>svg {{ background: #fff; color: #1c2024 }} {PLOT}</style>"
    box = f"viewBox='0 0 {size[0]} {size[1]}' width='{size[0]}' height='{size[1]}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' class='plot' {box}>"
    return f"{head}{look}{''.join(parts)}</svg>\n"
