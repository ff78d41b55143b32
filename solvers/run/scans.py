"""What is to be restored: a row of the manifest, read, with what its file says about itself."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from data import dataset, sources
from data.contracts import Contracts, Window
from data.files import Refusal, first_line
from data.formats import Image, Meta, own_suffix, spacing, unpadded
from data.ranges import DEPTH_8, Intensity
from data.seeding import Noise
from data.series import Whole, checksum
from ldm.denoiser import Prior
from solvers import units
from solvers.operators.base import Operator, Shape
from solvers.problem import Problem, image_shape
from solvers.run.committed import stamp


@dataclass(frozen=True)
class Scan:
    """One row of the manifest, read; or the reason why it could not be."""

    image_id: str
    pixels: Tensor | None = (
        None  # [C,H,W] in the model range: the truth, or with --measurements what was measured
    )
    source: Image | None = (
        None  # the file as it was read, so that the result can be written like it
    )
    intensity: Intensity | None = None
    error: str = ""
    trace: str = ""  # if the error is a bug in the program
    checksum: str = ""  # of the file
    stamp: Sequence[int] = (0, 0)  # its size and time of change; of a volume, each file's
    row: Mapping[str, Any] = field(
        default_factory=dict
    )  # what the manifest says that decides pixels
    scale: float = 1.0  # what its y was multiplied by
    outside: Tensor | None = (
        None  # what of y lay beyond the window and was set aside (`outside.py`)
    )
    volume: str = ""  # the name of the volume that this is a slice of, or is; "" for a picture
    suffix: str = ""  # of its file's name
    slices: tuple[
        "Scan", ...
    ] = ()  # of a volume that is one scan: its slices in order, whose pixels are [C,D,H,W] here
    pose: Callable[[], Problem] | None = (
        None  # of a scanner's file: the problem, when its turn comes
    )
    kept: tuple[int, int] | None = (
        None  # rows and columns of its picture, in the middle of what is restored
    )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the image's pixels, beside the configuration: for its record."""
        contract = self.intensity and [self.intensity.low, self.intensity.high]
        origin = (
            {"contract_from": self.intensity.origin}
            if self.intensity and self.intensity.origin
            else {}
        )
        seen = {"input_sha256": self.checksum, "input_stamp": list(self.stamp)}
        return {**seen, "row": dict(self.row), "contract": contract, **origin}

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """mm along the three axes of a volume; None where nobody knows."""
        return (
            spacing([one.source.meta for one in self.slices if one.source]) if self.slices else None
        )

    @property
    def clamped(self) -> float:
        """The share of the file's values that its window cuts off."""
        if self.source is None or self.intensity is None:
            return 0.0
        if self.slices:
            return sum(replace(one, intensity=self.intensity).clamped for one in self.slices) / len(
                self.slices
            )
        stored = unpadded(self.source)
        beyond = (stored < self.intensity.low) | (stored > self.intensity.high)
        return float(beyond.float().mean()) if len(stored) else 0.0


DECISIVE = ("slice", "window")  # of a row, beside its file

Load = Callable[[Any], Scan]


class Source(NamedTuple):
    """Where pixels come from: files, or arrays in memory. Both functions return pixels, source and intensity of a row."""

    image: Callable[..., tuple]  # row, channels
    measurement: Callable[..., tuple]  # row, physical


def read(load: Callable[[Any], tuple], row: Any) -> Scan:
    """A row of the manifest as a Scan; what is wrong with it is told, not raised, for the other rows go on.

    load: row -> pixels, source, intensity, and further fields of the Scan, if any.
    """
    if isinstance(row, Whole):
        return whole(load, row)
    try:
        pixels, source, intensity, *more = load(row)
        decisive = {key: getattr(row, key) for key in DECISIVE}
        ending = own_suffix(row.path, source.meta) if row.volume else ""
        own = {
            "checksum": checksum(row),
            "stamp": stamp(row),
            "row": decisive,
            "volume": row.volume,
            "suffix": ending,
        }
        return Scan(row.image_id, pixels, source, intensity, **own, **dict(*more))
    except Refusal as error:
        return Scan(row.image_id, error=str(error))
    except MemoryError:
        raise
    except Exception as error:  # a bug, of which this row may be the only one to suffer
        return Scan(row.image_id, error=bug(error), trace=traceback.format_exc())


def whole(load: Callable[[Any], tuple], row: Whole) -> Scan:
    """All slices of a volume as one scan; what is wrong with one of them is wrong with it."""
    slices = []
    for one in row.rows:
        slices.append(scan := read(load, one))
        if scan.error:
            return Scan(row.image_id, error=f"{one.image_id}: {scan.error}", trace=scan.trace)
        if scan.pixels.shape != slices[0].pixels.shape:  # type: ignore[union-attr]
            return Scan(
                row.image_id,
                error=f"{one.image_id}: is {sides(shape_of(scan))}, the first {sides(shape_of(slices[0]))}",
            )
        if scan.intensity != slices[0].intensity:
            return Scan(
                row.image_id, error=f"{one.image_id}: has another window than the first slice"
            )
    meta = slices[0].source.meta  # type: ignore[union-attr]
    if len(meta.shape) > 3 and meta.shape[3] > 1 and meta.format in ("nifti", "nrrd"):
        return Scan(
            row.image_id,
            error=f"holds {meta.shape[3]} repetitions of a volume; one is allowed, or --slicewise",
        )
    first, pixels = slices[0], torch.stack([scan.pixels for scan in slices], 1)  # type: ignore[misc]
    held = tuple(replace(scan, pixels=None) for scan in slices)
    made = replace(first, image_id=row.image_id, pixels=pixels, volume=row.image_id, slices=held)
    try:
        spacing([scan.source.meta for scan in held if scan.source])
    except Refusal as error:
        return Scan(row.image_id, error=f"{error}; --slicewise restores them one by one")
    decisive = {key: getattr(row, key) for key in DECISIVE}
    return replace(made, checksum=checksum(row), stamp=stamp(row), row=decisive)


def bug(error: Exception) -> str:
    """One line about a bug in the program, whose traceback is kept."""
    return f"{type(error).__name__}: {first_line(error)} (a bug in the program; its traceback is in logs/)"


@contextmanager
def named(image_id: str) -> Iterator[None]:
    """Refusals inside say which image they are about."""
    try:
        yield
    except Refusal as error:
        raise Refusal(f"{image_id}: {str(error).removeprefix(f'{image_id}: ')}") from None


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


def remarks(scan: Scan, measured: bool) -> list[str]:
    """What the record must say of how a file was read. measured: it holds y, which no window clamps."""
    said: list[str] = []
    if scan.pixels is None or scan.source is None or scan.intensity is None:
        return said
    if len(scan.source.pixels) > len(scan.pixels):
        said.append(
            "a colour image: its luminance alone is restored, because the prior has one channel"
        )
    said += scan.source.meta.notes
    low, high, share = scan.intensity.low, scan.intensity.high, scan.clamped
    if share > 0.02 and not measured:
        said.append(
            f"{share:.0%} of the values lie outside the window {low:g} to {high:g} and are clamped to it"
        )
    if scan.outside is not None:
        share = float((scan.outside != 0).float().mean())
        said.append(
            f"{share:.1%} of y lie outside the window {low:g} to {high:g} and are carried through to the result"
        )
    return said


def seeded(channels: int, row: Any) -> Scan:
    """The place of a draw from the prior: an id, and an 8-bit picture to be written."""
    nothing = torch.zeros(channels, 1, 1)
    return Scan(row.image_id, nothing, Image(nothing, Meta("png")), DEPTH_8)


def first_readable(rows: Sequence[Any], load: Callable[[Any], Scan]) -> Scan:
    """The first scan that can be read; if there is none, Refusal says what ails the very first."""
    bad = []
    for row in rows:
        scan = load(row)
        if not scan.error:
            return scan
        bad.append(scan)
    raise RuntimeError(bad[0].trace) if bad[0].trace else Refusal(bad[0].error)


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
    source = source or Source(
        partial(dataset.load, contracts=ours), partial(sources.measurement, contracts=ours)
    )
    load: Load = partial(read, partial(source.image, channels=channels))
    if operators[0] is None:
        load = partial(seeded, channels)
    elif measurements:
        physical = any(operator and operator.unit_range for operator in operators)
        load = partial(read, partial(source.measurement, physical=physical))
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


def cut(images: Tensor, truth: Tensor) -> Tensor:
    """Images or volumes [...,H,W] without what they were continued by for their operator, below and to the right of the truth."""
    return images[..., : truth.shape[-2], : truth.shape[-1]]


def sides(shape: Shape) -> str:
    return "×".join(map(str, shape[1:]))


def shape_of(scan: Scan) -> Shape:
    return tuple(scan.pixels.shape) if scan.pixels is not None else ()


def together(scan: Scan) -> tuple[Shape, str]:
    """What scans that are restored in one batch share: their shape; a scanner's each have coils and noise of their own."""
    return shape_of(scan), scan.image_id if scan.pose else ""
