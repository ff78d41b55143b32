"""What the noise of a measurement is: its likelihood, or a number, which is a Gaussian's sigma_y."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from data.files import Refusal, printable


def number(value: Any) -> float:
    """A number, also one that NumPy or torch holds; NaN for what is none, as True and "0.1" are."""
    held = value.item() if getattr(value, "ndim", None) == 0 else value
    return float(held) if isinstance(held, Real) and not isinstance(held, bool) else math.nan


@dataclass(frozen=True)
class Gaussian:
    """y = A x + sigma_y n. sigma_y in [-1, 1] units for image-like y; for CT and MRI in units of the stored y."""

    sigma_y: float | None  # None: estimate it from the measurement (and say so in the record)

    def __post_init__(self) -> None:
        if self.sigma_y is None:
            return
        sigma_y = number(self.sigma_y)
        if not (math.isfinite(sigma_y) and sigma_y >= 0):
            raise Refusal(
                f"sigma_y must be a finite number >= 0, not {printable(repr(self.sigma_y)):.60}"
            )
        object.__setattr__(self, "sigma_y", sigma_y)


@dataclass(frozen=True)
class Poisson:
    """Photon counting: counts ~ Poisson(rate * A u), u in [0, 1], or Poisson(rate * exp(-A u)) where photons are
    transmitted (CT), or Poisson(rate * A(u)^2) where A is an amplitude (phase retrieval). y is stored as A x: counts / rate
    (its negative logarithm, its root) less the constant part."""

    rate: float  # expected counts of a measurement entry at u = 1 (emitted), or unattenuated (transmitted)

    def __post_init__(self) -> None:
        rate = number(self.rate)
        if not (math.isfinite(rate) and rate > 0):
            raise Refusal(
                f"Poisson rate must be a finite number > 0, not {printable(repr(self.rate)):.60}"
            )
        object.__setattr__(self, "rate", rate)


@dataclass(frozen=True)
class Clean:
    """y = A x."""


@dataclass(frozen=True, eq=False)
class Varying:
    """y = A x + deviation n: a known standard deviation > 0 for each entry, [1,...] or [B,...]; infinite: it says nothing."""

    deviation: Tensor


Likelihood = Gaussian | Poisson | Clean | Varying


def likelihood_of(noise: Any) -> Likelihood:
    """What a caller says of the noise. Raises Refusal for what says nothing: it would else be no noise at all."""
    if isinstance(noise, Likelihood):
        return noise
    if math.isnan(sigma_y := number(noise)):
        allowed = "a number, P.Gaussian(sigma_y), P.Poisson(rate) or P.Clean() is allowed"
        raise Refusal(f"sigma_y={printable(repr(noise)):.60}: {allowed}")
    return Gaussian(sigma_y)
