"""How a picture of a data set is made: which stored values become black and white, and the square that is cut."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from data import formats
from data.contracts import Contracts, Window
from data.dataset import LUMINANCE
from data.files import Refusal
from data.manifest import Row
from data.prepare.plan import Source
from data.ranges import Intensity

LARGEST = 16384  # pixels of a side


@dataclass(frozen=True)
class Recipe:
    """How a picture is made."""

    size: int = 256  # pixels of a side
    grayscale: bool = False  # colour -> luminance; gray images have one channel in any case
    window: tuple[float, float] | None = None  # stored values that become black and white
    percentiles: tuple[float, float] | None = None  # or these (in %) of the volume or series
    axis: int = 2  # slice axis of volumes
    min_foreground: float = 0.0  # least part of a slice's pixels above FOREGROUND, else passed over
    bits: int | None = None  # 8 or 16; None: 8 for 8-bit files, else 16
    keep: bool = False  # pictures that exist already are taken as they are

    def __post_init__(self) -> None:
        for right, what in (
            (1 <= self.size <= LARGEST, f"image size {self.size}: 1 to {LARGEST} is allowed"),
            (self.axis in (0, 1, 2), f"slice axis {self.axis}: 0, 1 or 2 is allowed"),
            (self.bits in (None, 8, 16), f"bit depth {self.bits}: 8 or 16 is allowed"),
            (
                0 <= self.min_foreground <= 1,
                f"min-foreground {self.min_foreground:g}: 0 to 1 is allowed",
            ),
            (not (self.window and self.percentiles), "give --window or --percentiles, not both"),
        ):
            if not right:
                raise Refusal(what)
        if self.window and not (
            self.window[0] < self.window[1] and math.isfinite(self.window[1] - self.window[0])
        ):
            raise Refusal(
                f"window {self.window[0]:g}:{self.window[1]:g} needs low < high, both finite"
            )
        if self.percentiles and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise Refusal(
                f"percentiles {self.percentiles[0]:g}:{self.percentiles[1]:g} need 0 <= low < high <= 100"
            )


def contract(source: Source, recipe: Recipe, image: formats.Image) -> Intensity:
    """Which stored values become black and white, for all slices of the file's volume or series. image: one of them.

    Without a window or percentiles pictures keep their depth, and what has no natural range (DICOM, NIfTI, floats) goes from
    the least to the greatest value of the volume or series.
    """
    asked = None
    if recipe.window:
        asked = Window("values", *recipe.window)
    elif recipe.percentiles:
        asked = Window("percentiles", *recipe.percentiles)
    return Contracts(asked).of(Row(str(source.path), source.image_id), image)


def picture(image: formats.Image, intensity: Intensity, recipe: Recipe) -> np.ndarray:
    """[C, size, size] in [0, 1]: scaled by Lanczos to cover the square, centre kept (as the published script does)."""
    pixels = image.pixels
    if recipe.grayscale and len(pixels) == 3:
        pixels = torch.einsum("c,chw->hw", pixels.new_tensor(LUMINANCE), pixels)[None]
    if len(pixels) not in (1, 3):
        raise Refusal(f"has {len(pixels)} channels; only gray and RGB can become PNG")
    unit = (pixels - intensity.low) / (intensity.high - intensity.low)
    if image.meta.padded is not None:
        unit = unit.masked_fill(~image.meta.padded.isnan(), 0.0)  # black, whatever stands for it
    stored = unit.numpy()
    square = (recipe.size, recipe.size)
    fitted = [
        np.asarray(ImageOps.fit(Image.fromarray(c), square, Image.Resampling.LANCZOS))
        for c in stored
    ]
    return np.stack(fitted).clip(0, 1)
