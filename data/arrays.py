"""Images that are arrays in memory: taken in, and results given back in the range, shape and type of the caller's.

NumPy arrays, torch tensors, and what NumPy makes an array of: [H,W], [C,H,W] or [B,C,H,W], of any size.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import dataset, formats
from data.files import Refusal
from data.manifest import Row
from data.ranges import DEPTHS, NAMED, NARROW, Intensity

Range = (
    str | tuple[float, float] | None
)  # "unit", "model", (low, high); None: what the array itself tells
CHANNELS = (1, 2, 3)  # gray, complex (real and imaginary part), colour
ALLOWED = "[H,W], [C,H,W] with C = 1, 2 or 3, and [B,C,H,W], of gray ones [B,1,H,W], are allowed"
ROUNDING = 1e-6  # what float32 arithmetic leaves beyond the ends of a stated range


@dataclass(frozen=True)
class Form:
    """How the caller holds images: their axes and their type. `give` makes results alike."""

    batched: bool = False  # the first axis counts images
    channeled: bool = False  # an axis before H and W counts channels
    dtype: torch.dtype = torch.float32
    numpy: bool = True
    device: torch.device | str = "cpu"
    solid: bool = False  # D stands before H and W: volumes

    def give(self, values: Tensor, whole: bool = True) -> Any:
        """values [B,...,C,H,W] in the caller's units -> the caller's axes and type.

        Where that is one of integers, values are rounded to it; whole: False for a spread, which is then float32.
        """
        kept = values.detach() if self.batched else values.detach()[0]
        axis = -4 if self.solid else -3
        if not self.channeled and kept.shape[axis] == 1:
            kept = kept.squeeze(axis)
        if self.dtype.is_floating_point:
            kept = kept.to(self.dtype)
        elif whole:
            limits = torch.iinfo(self.dtype)
            kept = kept.double().round().clamp(limits.min, limits.max).to(self.dtype)
        return kept.cpu().numpy() if self.numpy else kept.to(self.device)


class Arrays:
    """The images of an array: `rows` name them as a manifest's do, `image` and `measurement` read one.

    range: which values become -1 and +1. Values beyond `(low, high)` are clamped, as the window of a file does; "unit" is
    [0, 1] and "model" [-1, 1], and nothing may lie beyond. None: 8- and 16-bit arrays have the range of their type; floats are
    "unit" if all of them lie there, else "model". ids: a name for each image, to which its randomness belongs.
    measured: the array holds y, with any number of channels; floats without a range are y itself.
    Raises Refusal for what is no image, and for a range that is not clear.
    """

    def __init__(
        self,
        array: Any,
        range: Range = None,
        ids: str | Sequence[str] | None = None,
        measured: bool = False,
    ):
        held, numpy = (array, False) if isinstance(array, Tensor) else (_tensor(array), True)
        shape = list(held.shape)
        if held.ndim not in (2, 3, 4) or 0 in shape:
            raise Refusal(f"an array of shape {shape} is no image; {ALLOWED}")
        if held.is_complex() or held.dtype == torch.bool:
            hint = (
                "masks as numbers"
                if held.dtype == torch.bool
                else "real and imaginary parts as channels"
            )
            raise Refusal(f"the array holds {_plain(held.dtype)}; real numbers are allowed, {hint}")
        self.form = Form(held.ndim == 4, held.ndim > 2, held.dtype, numpy, held.device)
        self.pixels = (
            held.detach().cpu().float().reshape(-1, 1 if held.ndim == 2 else shape[-3], *shape[-2:])
        )
        if not measured and self.pixels.shape[1] not in CHANNELS:
            hint = "; move the channels to the front" if shape[-1] in CHANNELS else ""
            raise Refusal(
                f"an array of shape {shape} has {self.pixels.shape[1]} channels; {ALLOWED}{hint}"
            )
        if not bool(torch.isfinite(self.pixels).all()):
            raise Refusal("the array holds NaN or infinite values; only finite values are allowed")
        self.raw = measured and range is None and held.is_floating_point()
        self.intensity = NAMED["model"] if self.raw else intensity(self.pixels, held.dtype, range)
        self.rows = [Row("", name) for name in _names(ids, len(self.pixels))]
        self._place = {row.image_id: i for i, row in enumerate(self.rows)}

    def image(
        self, row: Row, channels: int | None = None
    ) -> tuple[Tensor, formats.Image, Intensity]:
        """As `dataset.load`; without `channels` they are the array's own."""
        pixels = self.pixels[self._place[row.image_id]]
        if len(pixels) == 2 and channels not in (None, 2):
            hint = f"the prior has {channels}; two gray images are [2,1,H,W]"
            raise Refusal(f"2 channels are real and imaginary part, and {hint}")
        fitting = dataset.with_channels(pixels, channels or len(pixels), row.image_id)
        return self.intensity.to_model(fitting), _source(pixels), self.intensity

    def measurement(
        self, row: Row, physical: bool = False
    ) -> tuple[Tensor, formats.Image, Intensity]:
        """As `sources.measurement`."""
        pixels = self.pixels[self._place[row.image_id]]
        if self.raw:
            return pixels, _source(pixels), NAMED["unit" if physical else "model"]
        return self.intensity.to_model(pixels, clamp=False), _source(pixels), self.intensity


def intensity(values: Tensor, dtype: torch.dtype, range: Range) -> Intensity:
    """Which values become -1 and +1. Raises Refusal where nobody says so, or what is said cannot be."""
    low, high = float(values.min()), float(values.max())
    if range is None:
        word = "unit" if low >= -ROUNDING else "model"
        found = DEPTHS.get(_plain(dtype)) or (NAMED[word] if dtype.is_floating_point else None)
        if found is None or low < found.low - ROUNDING or high > found.high + ROUNDING:
            raise Refusal(
                f"{_plain(dtype)} values from {low:g} to {high:g} without a range; say range='unit', 'model' or (low, high)"
            )
        if dtype == torch.uint16 and low < high and (share := high / found.high) < NARROW:
            said = f"the array's values, {low:g} to {high:g}, end at {share:.1%} of uint16's"
            warnings.warn(f"{said}; range=(low, high) says what is black and white", stacklevel=5)
        return found
    if isinstance(range, str):
        if range not in NAMED:
            raise Refusal(f"range={range!r}: 'unit', 'model' or (low, high) is allowed")
        found = NAMED[range]
        if low < found.low - ROUNDING or high > found.high + ROUNDING:
            raise Refusal(
                f"range={range!r} is {found.low:g} to {found.high:g}, but values reach from {low:g} to {high:g}"
            )
        return found
    try:
        least, most = map(float, range)
    except (TypeError, ValueError):
        raise Refusal(f"range={range!r}: 'unit', 'model' or (low, high) is allowed") from None
    return Intensity(least, most)


def _plain(dtype: torch.dtype) -> str:
    """Its name, the same for NumPy and torch."""
    return str(dtype).removeprefix("torch.")


def _tensor(array: Any) -> Tensor:
    if np.ma.is_masked(array):
        raise Refusal(
            "the array is masked, and nothing restores by its mask; .filled(…) is allowed"
        )
    held = np.asarray(array)
    if held.dtype.kind not in "uifcb":
        raise Refusal(
            f"{type(array).__name__} is no image; a NumPy array, a tensor, a file or a folder is allowed"
        )
    kind = (
        held.dtype if hasattr(torch, held.dtype.name) else np.dtype("float64")
    )  # extended precision
    return torch.from_numpy(np.require(held, kind.newbyteorder("="), ("C", "W")))


def _source(pixels: Tensor) -> formats.Image:
    """The pixels as if they had been read from an NPY file."""
    return formats.Image(
        pixels, formats.Meta("npy", "float32", layout="hw" if len(pixels) == 1 else "chw")
    )


def _names(ids: str | Sequence[str] | None, count: int) -> list[str]:
    if ids is None:
        return ["image"] if count == 1 else [f"image-{i:03d}" for i in range(count)]
    names = [ids] if isinstance(ids, str) else list(ids)
    if (
        len(names) != count
        or len(set(names)) < count
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise Refusal(f"{count} images need as many names that differ, not {names}")
    return names
