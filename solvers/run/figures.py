"""Figures for pages that need nothing else: pictures as data, a slider between two, curves and histograms as SVG.

Colours follow the page's: text is `currentColor`, so the same figure is read on light, on dark and on paper.
"""

import base64
import html
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from data.pictures import MISSING

PLOT = """
.plot { font: 11px system-ui, sans-serif; max-width: 100%; height: auto; color: inherit }
.plot text { fill: currentColor } .plot .axis { stroke: currentColor; opacity: .5; fill: none }
.plot .grid { stroke: currentColor; opacity: .13 } .plot .curve { fill: none; stroke-width: 1.6 }
.plot .lead { opacity: .5; fill: none }
.plot .band { opacity: .25; stroke: none } .plot .mark { stroke: #d1495b; stroke-dasharray: 4 3 }
"""
STYLE = (
    PLOT
    + """
.compare { position: relative; display: inline-block; max-width: 100%; line-height: 0 }
.compare img { display: block; width: 100%; margin: 0; border: 0 } .draws img[hidden] { display: none }
.compare .over { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--at)) 0 0) }
.compare i { position: absolute; top: 0; bottom: 0; left: calc(var(--at) - 1px); width: 2px; background: #f59a23 }
.compare input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize }
.compare:has(input:focus-visible) { outline: 2px solid #f59a23; outline-offset: 2px }
.compare span { position: absolute; top: 6px; font: 12px/1.3 system-ui, sans-serif; padding: 1px 6px; pointer-events: none }
.compare span { color: #fff; background: #000a; border-radius: 3px } .compare .l { left: 6px } .compare .r { right: 6px }
.pic { width: 384px; max-width: 100%; display: block } .figures .compare { width: 512px }
.figures { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start } .figures figure { margin: 0; max-width: 100% }
.legend { font-size: 12px }
@media print { * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""
)
LETTER = 6.1  # width of one in a plot, about
COLOURS = (
    "#1f77b4",
    "#e07b00",
    "#2a9d5c",
    "#d1495b",
    "#8a63b8",
    "#8c6d46",
    "#d277b3",
    "#7f8790",
    "#a5a50e",
    "#17a2b8",
)


def picture(values: np.ndarray, low: float, high: float) -> PIL.Image.Image:
    """An image [1,H,W] or [3,H,W] with `low` as black and `high` as white; NaN has a colour of its own."""
    planes = np.broadcast_to(values, (3, *values.shape[-2:]))
    unit = np.clip((planes - low) / (high - low), 0, 1)
    missing = np.isnan(planes).any(0)
    pixels = (np.nan_to_num(unit) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    pixels[missing] = MISSING
    return PIL.Image.fromarray(
        pixels if len(values) == 3 or missing.any() else np.ascontiguousarray(pixels[..., 0])
    )


def uri(image: PIL.Image.Image) -> str:
    """A picture as the address of itself."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def compare(left: str, right: str, words: tuple[str, str]) -> str:
    """Two pictures in one place (addresses), the left one seen up to a line that a pointer or the arrow keys move."""
    a, b = map(html.escape, words)
    return sliding(
        f"<img class=over src='{left}' alt='{a}'>", f"<img src='{right}' alt='{b}'>", words
    )


def sliding(left: str, right: str, words: tuple[str, str]) -> str:
    """`compare` of two elements of one size; the left one has the class "over"."""
    move = "this.parentNode.style.setProperty('--at',this.value+'%')"
    a, b = map(html.escape, words)
    line = f"<i></i><span class=l>{a}</span><span class=r>{b}</span>"
    slider = f'<input type=range min=0 max=100 value=50 aria-label="{a} to {b}" oninput="{move}">'
    return f"<div class=compare style='--at:50%'>{right}{left}{line}{slider}</div>"


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str = "",
    y: str = "",
    band: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None,
    log: str = "",
    size: tuple[int, int] = (460, 220),
) -> str:
    """Named curves (xs, ys) as SVG. band: xs, lows and highs behind the first. log: axes with logarithms, "x", "y" or "xy"."""
    ends = list(lines.values()) + ([(band[0], band[1]), (band[0], band[2])] if band else [])
    across = Axis([v for xs, _ in ends for v in xs], "x" in log, 46, size[0] - 12)
    up = Axis([v for _, ys in ends for v in ys], "y" in log, size[1] - 34, 10)
    parts = [_frame(across, up, x, y, size)]
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
        colour, title = COLOURS[i % len(COLOURS)], html.escape(name)
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        if len(points) == 1:
            parts.append(
                f"<circle cx='{points[0][0]:.1f}' cy='{points[0][1]:.1f}' r='3' fill='{colour}'/>"
            )
        parts.append(
            f"<polyline class='curve' stroke='{colour}' points='{joined}'><title>{title}</title></polyline>"
        )
    return _svg(parts, size) + legend(lines)


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
    across = Axis(
        _wider([p.x for p in points] + [a for a, _ in here], True), True, 46, size[0] - 12
    )
    up = Axis(_wider([p.y for p in points] + [b for _, b in here], False), False, size[1] - 34, 28)
    kinds, parts = list(dict.fromkeys(p.kind for p in points)), [_frame(across, up, x, y, size)]
    for a, b in here:
        parts.append(
            f"<path class='mark' fill='none' d='M{across(a):.1f} 10V{size[1] - 34}M46 {up(b):.1f}H{size[0] - 12}'/>"
        )
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
    for i, kind in enumerate(kinds):
        place = 60 + 130 * i
        parts.append(f"<circle cx='{place}' cy='12' r='4' fill='{COLOURS[i]}'/>")
        parts.append(f"<text x='{place + 8}' y='16'>{html.escape(kind)}</text>")
    look = f"<style>svg {{ background: #fff; color: #1c2024 }} {PLOT}</style>"
    box = f"viewBox='0 0 {size[0]} {size[1]}' width='{size[0]}' height='{size[1]}'"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' class='plot' {box}>{look}{''.join(parts)}</svg>\n"
    )


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


def bars(
    values: Iterable[float],
    x: str,
    mark: float | None = None,
    bins: int = 24,
    size: tuple[int, int] = (320, 180),
) -> str:
    """A histogram as SVG, with a broken line at `mark`."""
    held = [v for v in values if math.isfinite(v)]
    if not held:
        return ""
    ends = held if mark is None else [*held, mark]
    low, high = min(ends), max(ends)
    least = 1e-3 * max(1.0, abs(low))  # residuals that all meet the noise level differ by rounding
    counts, edges = np.histogram(held, bins, (low, max(high, low + least)))
    across, up = (
        Axis(edges.tolist(), False, 46, size[0] - 12),
        Axis([0, int(counts.max())], False, size[1] - 34, 10),
    )
    parts = [_frame(across, up, x, "images", size)]
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
    shown = [
        f"<span><b style='color:{COLOURS[i % len(COLOURS)]}'>●</b> {html.escape(n)}</span>"
        for i, n in enumerate(names)
    ]
    return f"<div class=legend>{' &ensp; '.join(shown)}</div>" if len(shown) > 1 else ""


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


def _frame(across: Axis, up: Axis, x: str, y: str, size: tuple[int, int]) -> str:
    """Both axes with their numbers and names."""
    bottom, parts = size[1] - 34, []
    for value in across.ticks():
        at = across(value)
        parts.append(f"<line class='grid' x1='{at:.1f}' x2='{at:.1f}' y1='10' y2='{bottom}' />")
        parts.append(f"<text x='{at:.1f}' y='{bottom + 14}' text-anchor='middle'>{value:g}</text>")
    for value in up.ticks():
        at = up(value)
        parts.append(
            f"<line class='grid' x1='46' x2='{size[0] - 12}' y1='{at:.1f}' y2='{at:.1f}' />"
        )
        parts.append(f"<text x='42' y='{at + 4:.1f}' text-anchor='end'>{value:g}</text>")
    parts.append(f"<path class='axis' d='M46 10V{bottom}H{size[0] - 12}'/>")
    parts.append(
        f"<text x='{(46 + size[0] - 12) / 2}' y='{size[1] - 5}' text-anchor='middle'>{html.escape(x)}</text>"
    )
    parts.append(
        f"<text transform='translate(11 {bottom / 2}) rotate(-90)' text-anchor='middle'>{html.escape(y)}</text>"
    )
    return "".join(parts)


def _svg(parts: Sequence[str], size: tuple[int, int]) -> str:
    return f"<svg class='plot' viewBox='0 0 {size[0]} {size[1]}' width='{size[0]}' role='img'>{''.join(parts)}</svg>"
