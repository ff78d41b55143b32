"""How the rows of a manifest are read for a prior and its operators, and in which scale measurements are restored."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from data import dataset, sources
from data.contracts import Contracts, Window
from data.files import Refusal
from data.formats import Image, Meta
from data.ranges import DEPTH_8, Intensity
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers import units
from solvers.operators.base import Operator, Shape
from solvers.problem import image_shape
from solvers.run.scans import Load, Scan, read
from solvers.run.whole import lifted, volumetric


class Source(NamedTuple):
    """Where pixels come from: files, or arrays in memory. Both functions return pixels, source and intensity of a row."""

    image: Callable[..., tuple]  # row, channels
    measurement: Callable[..., tuple]  # row, physical


def reader(
    prior: Prior,
    operators: Sequence[Operator | None],
    rows: Sequence[Any],
    measurements: bool,
    source: Source | None = None,
    window: Window | None = None,
) -> tuple[Load, list[str], Scan]:
    """How a row is read for this prior, what every record must say about it, and the first scan that can be read.

    operators: of the cells of the grid; None: draws from the prior itself. measurements: the files hold y. source: where the
    pixels come from, if not from files. window: what the user asks for instead of the files' own contracts.
    """
    channels = prior.image_shape[0]
    ours = Contracts(window, prior.contracts)
    image, measurement = source or Source(
        partial(dataset.load, contracts=ours),
        partial(sources.measurement, contracts=ours, channels=channels),
    )
    told = partial(read, alone=not volumetric(operators))
    load: Load = partial(told, partial(image, channels=channels))
    if operators[0] is None:
        load = partial(seeded, channels)
    elif measurements:
        physical = any(operator and operator.unit_range for operator in operators)
        load = partial(told, partial(measurement, physical=physical))
    first = first_readable(rows, load)
    if (
        operators[0] is None
        or channels != 3
        or first.source is None
        or len(first.source.pixels) != 1
    ):
        return load, [], first
    prior.gray = True  # from here on its images have one channel
    load, _, first = reader(prior, operators, rows, measurements, source, window)
    return (
        load,
        [
            "gray images under a prior of 3 channels: replicated on the way in, averaged on the way out"
        ],
        first,
    )


def first_readable(rows: Sequence[Any], load: Callable[[Any], Scan]) -> Scan:
    """The first scan that can be read; if there is none, Refusal says what ails the very first."""
    bad = []
    for row in rows:
        scan = load(row)
        if not scan.error:
            return scan
        bad.append(scan)
    raise RuntimeError(bad[0].trace) if bad[0].trace else Refusal(bad[0].error)


def seeded(channels: int, row: Any) -> Scan:
    """The place of a draw from the prior: an id, and an 8-bit picture to be written."""
    nothing = torch.zeros(channels, 1, 1)
    return Scan(row.image_id, nothing, Image(nothing, Meta("png")), DEPTH_8)


def rescaled(
    scans: Sequence[Scan], operator: Operator, scale: float | Literal["auto"], prior: Shape
) -> list[Scan]:
    """Measurements of one shape times a factor, which their results are divided by when they are written.

    scale: the factor, or auto: each scan's own (`solvers.units.scale`). prior: the shape of its images.
    """
    if scale == 1:
        return list(scans)
    factors = [scale] * len(scans)
    if scale == "auto":
        y = torch.stack([scan.pixels for scan in scans])  # type: ignore[misc]
        operator = lifted(operator, y.ndim == 5, scans[0].image_id)
        shape = image_shape(operator, tuple(y.shape[1:]), prior)
        noise = Noise([scan.image_id for scan in scans], "noise")
        factors = units.scale(operator.draw(shape, noise), y, shape).tolist()
    return [
        _times(scan, float(factor), operator.unit_range or operator.amplitude)
        for scan, factor in zip(scans, factors)
    ]


def _times(scan: Scan, factor: float, physical: bool) -> Scan:
    """physical: y is proportional to u in [0, 1], whose 0 is the contract's `low`; else to x in [-1, 1]."""
    assert scan.intensity is not None and scan.pixels is not None
    low, half = scan.intensity.low, scan.intensity.per_unit
    low += 0 if physical else half - half / factor
    return replace(
        scan,
        pixels=factor * scan.pixels,
        intensity=Intensity(low, low + 2 * half / factor),
        scale=factor,
    )
