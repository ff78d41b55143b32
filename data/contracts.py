"""Which stored values become -1 and +1: one decision for a picture, a whole volume or a whole DICOM series, never for a slice.

In this order: the window that the user asks for; the `window` of the manifest's row; what the prior was trained on, if it
says so for the modality; else all that there is. All there is: the whole depth of 8- and 16-bit pictures, otherwise from the
least to the greatest value of the volume or series (CT: within -1024 to 3071 HU). Padding is never counted.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data import formats
from data.files import Refusal
from data.folder import is_dicom
from data.manifest import Row
from data.ranges import CT_HU, Intensity
from data.window import Window

BINS = 65536  # of the histogram that percentiles are read from: they are right to 1/131070 of the range
KEPT = 256  # volumes whose ends are remembered

Ends = tuple[float, float]


class Volume(NamedTuple):
    """The files of one picture, volume or series; `stamp` is another one when they have changed."""

    files: tuple[str, ...]
    axis: int
    stamp: int

    def images(self) -> Iterator[formats.Image]:
        """One after the other, so that the volume is held once; a file that cannot be read takes no part."""
        for file in self.files:
            try:
                count = formats.count(file, self.axis)
                for index in range(count):
                    yield formats.read(file, index, self.axis)
            except Refusal:
                continue

    def values(self) -> Iterator[Tensor]:
        """Of each image, without its padding."""
        return (shown for shown in map(formats.unpadded, self.images()) if len(shown))


@dataclass(frozen=True)
class Contracts:
    """How the images of a run are read.

    asked: the user's window, for all of them. trained: (low, high) of a modality ("CT", "MR") that the prior was trained on.
    """

    asked: Window | None = None
    trained: Mapping[str, Ends] = field(default_factory=dict)

    def of(self, row: Row, image: formats.Image) -> Intensity:
        """The contract of a row, whose file was read as `image`; its `origin` says who decided."""
        modality = image.meta.modality
        if self.asked:
            return _asked(self.asked, row, image)
        if row.window:
            return Intensity(*row.window, origin="manifest")
        if modality in self.trained:
            return Intensity(*self.trained[modality], origin="prior")
        return _full(row, image)


def _asked(asked: Window, row: Row, image: formats.Image) -> Intensity:
    if asked.how == "values":
        return Intensity(asked.low, asked.high, origin="asked")
    if asked.how == "full":
        return _full(row, image)
    volume = of_volume(row.path, image)
    if asked.how == "percentiles":
        ends = _percentiles(volume, asked.low, asked.high) or _own_ends(image)
        return _wide(ends, f"percentiles {asked.low:g} and {asked.high:g} of the volume")
    first = next((one.meta.window for one in volume.images() if one.meta.window), None)
    if first is None:
        raise Refusal(
            f"{row.path}: has no display window; --window LOW:HIGH, pLOW:pHIGH or full is allowed"
        )
    return Intensity(*first, origin="header")


def _full(row: Row, image: formats.Image) -> Intensity:
    if depth := formats.depth(image.meta):
        return Intensity(*depth, origin="depth")
    low, high = _ends(of_volume(row.path, image)) or _own_ends(image)
    if image.meta.modality == "CT" and min(high, CT_HU.high) > max(low, CT_HU.low):
        low, high = max(low, CT_HU.low), min(high, CT_HU.high)
    return _wide((low, high), "least and greatest value of the volume")


def _wide(ends: Ends, origin: str) -> Intensity:
    """A flat volume gets one unit of width."""
    low, high = ends
    return Intensity(low, high if high > low else low + 1, origin=origin)


def _own_ends(image: formats.Image) -> Ends:
    """Of an image that is nothing but padding."""
    return float(image.pixels.min()), float(image.pixels.max())


def of_volume(path: str | Path, image: formats.Image) -> Volume:
    """The file, or of a DICOM slice all files of its series that lie in its folder."""
    place, meta = os.path.abspath(path), image.meta
    if meta.format != "dicom" or meta.count > 1:
        status = os.stat(place)
        return Volume((place,), meta.axis, status.st_mtime_ns)
    folder = os.path.dirname(place)
    changed = os.stat(folder).st_mtime_ns
    series = _series(folder, changed)
    return Volume(series.get(place, (place,)), meta.axis, changed)


@lru_cache(maxsize=16)
def _series(folder: str, changed: int) -> Mapping[str, tuple[str, ...]]:
    """File -> the files of its series, sorted by name. changed: when a file last came or went."""
    found: dict[str, list[str]] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_file() and is_dicom(Path(entry.path)):
            found.setdefault(formats.series(entry.path), []).append(entry.path)
    return {file: tuple(files) for files in found.values() for file in files}


@lru_cache(maxsize=KEPT)
def _ends(volume: Volume) -> Ends | None:
    """The least and the greatest value; None if there is nothing but padding."""
    ends = [(float(values.min()), float(values.max())) for values in volume.values()]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


@lru_cache(maxsize=KEPT)
def _percentiles(volume: Volume, low: float, high: float) -> Ends | None:
    """Two percentiles (in %) from a histogram between the ends, in a second reading."""
    ends = _ends(volume)
    if ends is None or ends[0] == ends[1]:
        return ends
    step = (ends[1] - ends[0]) / (BINS - 1)
    counts = torch.zeros(BINS, dtype=torch.int64)
    for values in volume.values():
        place = ((values.double() - ends[0]) / step).round().long()
        counts += torch.bincount(place, minlength=BINS)
    below = counts.cumsum(0)
    ranks = [round((int(below[-1]) - 1) * percent / 100) for percent in (low, high)]
    bins = [int(torch.searchsorted(below, rank, right=True)) for rank in ranks]
    return ends[0] + bins[0] * step, ends[0] + bins[1] * step
