"""What is to be restored: a row of the manifest, read, with what its file says about itself."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from data.files import Refusal, first_line
from data.formats import Image, own_suffix, spacing, unpadded
from data.ranges import Intensity
from data.series import Whole, checksum
from ldm import plugins
from solvers.operators.base import Shape
from solvers.problem import Problem
from solvers.run.committed import stamp


@dataclass(frozen=True)
class Scan:
    """One row of the manifest, read; or the reason why it could not be."""

    image_id: str
    # [C,H,W] in the model range: the truth, or with --measurements what was measured.
    pixels: Tensor | None = None
    source: Image | None = None  # the file as read, so that the result can be written like it
    intensity: Intensity | None = None
    error: str = ""
    trace: str = ""  # if the error is a bug in the program
    checksum: str = ""  # of the file
    stamp: Sequence[int] = (0, 0)  # its size and time of change; of a volume, each file's
    # What the manifest says that decides pixels.
    row: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0  # what its y was multiplied by
    # What of y lay beyond the window and was set aside (`outside.py`).
    outside: Tensor | None = None
    volume: str = ""  # the name of the volume that this is a slice of, or is; "" for a picture
    suffix: str = ""  # of its file's name
    # Of a volume that is one scan: its slices in order; the pixels are [C,D,H,W] here.
    slices: tuple["Scan", ...] = ()
    # Of a scanner's file: the problem, when its turn comes.
    pose: Callable[[], Problem] | None = None
    # Rows and columns of its picture, in the middle of what is restored.
    kept: tuple[int, int] | None = None

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


def read(load: Callable[[Any], tuple], row: Any, alone: bool = True) -> Scan:
    """A row of the manifest as a Scan; what is wrong with it is told, not raised, for the other rows go on.

    load: row -> pixels, source, intensity, and further fields of the Scan, if any. alone: whether --slicewise is allowed.
    """
    if isinstance(row, Whole):
        return whole(load, row, alone)
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


def whole(load: Callable[[Any], tuple], row: Whole, alone: bool = True) -> Scan:
    """All slices of a volume as one scan; what is wrong with one of them is wrong with it. alone: as in `read`."""
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
        said = f"the file holds {meta.shape[3]} repetitions of a volume; one is allowed"
        return Scan(row.image_id, error=said + ", or --slicewise" * alone)
    first, pixels = slices[0], torch.stack([scan.pixels for scan in slices], 1)  # type: ignore[misc]
    held = tuple(replace(scan, pixels=None) for scan in slices)
    made = replace(first, image_id=row.image_id, pixels=pixels, volume=row.image_id, slices=held)
    try:
        spacing([scan.source.meta for scan in held if scan.source])
    except Refusal as error:
        other = (
            "--slicewise restores them one by one"
            if alone
            else "--slice-range takes a part of them"
        )
        return Scan(row.image_id, error=f"{error}; {other}")
    decisive = {key: getattr(row, key) for key in DECISIVE}
    return replace(made, checksum=checksum(row), stamp=stamp(row), row=decisive)


def bug(error: Exception) -> str:
    """One line about a bug in the program or in a plug-in, whose traceback is kept."""
    where = plugins.place(error) or "a bug in the program"
    return f"{type(error).__name__}: {first_line(error)} ({where})"


@contextmanager
def named(image_id: str) -> Iterator[None]:
    """Refusals inside say which image they are about."""
    try:
        yield
    except Refusal as error:
        raise Refusal(f"{image_id}: {str(error).removeprefix(f'{image_id}: ')}") from None


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
