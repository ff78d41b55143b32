"""The only file with range constants: stored (file) -> model [-1, 1] -> report [0, 1].

Three ranges occur in the program and nowhere else are they converted:

* stored: what the file holds (uint8, uint16, HU, float);
* model:  [-1, 1], what networks, operators and solvers see;
* report: [0, 1], what metrics and pictures see; also the `u` of CT, MRI and photon counts.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from data.files import Refusal


@dataclass(frozen=True)
class Intensity:
    """The intensity contract of an image: stored value `low` is -1 in the model, `high` is +1.

    It travels with the image and with the model, and is inverted on the way out.
    """

    low: float
    high: float
    origin: str = field(default="", compare=False, kw_only=True)  # who decided it, for the record

    def __post_init__(self) -> None:
        if not self.high > self.low:
            raise Refusal(
                f"intensity window needs low < high, got low={self.low}, high={self.high}"
            )

    def to_model(self, stored: Tensor, clamp: bool = True) -> Tensor:
        """stored units -> model range; values outside the window are clamped to it, as a display window does.

        clamp: False for measurements, whose noise may leave the window.
        """
        model = 2 * (stored - self.low) / (self.high - self.low) - 1
        return model.clamp(-1, 1) if clamp else model

    def to_stored(self, model: Tensor) -> Tensor:
        """model range -> stored units; not clamped, so that a solver's overshoot is visible."""
        return (model + 1) / 2 * (self.high - self.low) + self.low

    @property
    def per_unit(self) -> float:
        """Stored units per model unit: a standard deviation in the model range times this is one in the file."""
        return (self.high - self.low) / 2


BLACK = -1.0  # the least value of the model range: air, and what lies beyond an image's border
DEPTH_8 = Intensity(0, 255)
DEPTH_16 = Intensity(0, 65535)
DEPTHS = {"uint8": DEPTH_8, "uint16": DEPTH_16}  # of arrays, by their type
NARROW = (
    1 / 8
)  # of a window: what less takes up is dark, and its noise small beside what the prior knows
CT_HU = Intensity(-1024, 3071)  # Hounsfield units: what 12 bits hold, air to dense metal
NAMED = {"unit": Intensity(0, 1), "model": Intensity(-1, 1)}  # of arrays, as callers say it


def percentiles(stored: Tensor, low: float = 0.5, high: float = 99.5) -> Intensity:
    """The window between two percentiles (in %) of the finite stored values; a flat image gets one unit of width."""
    values = stored[torch.isfinite(stored)].double().flatten()
    if values.numel() == 0:
        raise Refusal("no finite value to take percentiles of")
    ordered = values.sort().values
    a, b = (float(ordered[round((values.numel() - 1) * p / 100)]) for p in (low, high))
    return Intensity(a, b if b > a else a + 1)


def to_unit(model: Tensor) -> Tensor:
    """model [-1, 1] -> [0, 1], not clamped: the `u` that physics sees."""
    return (model + 1) / 2


def from_unit(unit: Tensor) -> Tensor:
    """[0, 1] -> model [-1, 1]."""
    return 2 * unit - 1


def to_report(model: Tensor) -> Tensor:
    """model [-1, 1] -> report [0, 1], clamped: what metrics and pictures see."""
    return to_unit(model).clamp(0, 1)
