"""A problem: what was measured, how, with what noise, and whose image it is. It holds no truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.operators.base import Composed, LinearOperator, Operator, Scalar, Seen, norm, per_image


@dataclass(frozen=True)
class Gaussian:
    """y = A x + sigma_y n. sigma_y in [-1, 1] units for image-like y; for CT and MRI in units of the stored y."""

    sigma_y: float | None  # None: estimate it from the measurement (and say so in the record)

    def __post_init__(self) -> None:
        if self.sigma_y is not None and not (math.isfinite(self.sigma_y) and self.sigma_y >= 0):
            raise ValueError(f"sigma_y must be a finite number >= 0, not {self.sigma_y}")


@dataclass(frozen=True)
class Poisson:
    """Photon counting: counts ~ Poisson(rate * A u), u in [0, 1]; y is stored as counts / rate."""

    rate: float  # expected counts of a measurement entry at u = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"Poisson rate must be a finite number > 0, not {self.rate}")


@dataclass(frozen=True)
class Clean:
    """y = A x."""


Likelihood = Gaussian | Poisson | Clean


@dataclass(frozen=True)
class Problem:
    """y [B,...], its operator and likelihood, and one image id per row."""

    y: Tensor
    operator: Operator
    likelihood: Likelihood
    ids: tuple[str, ...]

    @property
    def sigma_y(self) -> float:
        """Standard deviation of the noise in y's entries; 0 if clean. Poisson problems are whitened first."""
        if isinstance(self.likelihood, Gaussian) and self.likelihood.sigma_y is not None:
            return self.likelihood.sigma_y
        if isinstance(self.likelihood, Clean):
            return 0.0
        raise ValueError("this likelihood has no single sigma_y: whiten the problem (Poisson) or estimate it (Gaussian) first")

    def repeat(self, k: int) -> "Problem":
        """Each image k times in a row (k posterior samples in one batch)."""
        rows = [i for i in range(len(self.ids)) for _ in range(k)]
        return self.select(rows)

    def select(self, indices: Sequence[int]) -> "Problem":
        rows = list(indices)
        return Problem(self.y[rows], self.operator.select(rows), self.likelihood, tuple(self.ids[i] for i in rows))

    def residual(self, x: Tensor) -> Tensor:
        """|A x - y| / (sigma_y sqrt(m)) per image [B], m the number of measured entries; without noise |A x - y| / |y|."""
        distance = norm(self.operator.forward(x) - self.y)
        if self.sigma_y == 0:
            return distance / norm(self.y).clamp_min(torch.finfo(self.y.dtype).tiny)
        return distance / (self.sigma_y * self.operator.measured(self.y).sqrt())

    def seen_by(self, prior: Prior) -> "Problem":
        """The same measurement as a function of the prior's state: cropped, averaged over channels, or decoded."""
        return replace(self, operator=view_through(self.operator, prior))


def view_through(operator: Operator, prior: Prior) -> Operator:
    """operator(to_image(state)); linear operators stay linear for pixel and patch priors."""
    if prior.kind == "latent":
        return Composed(operator, prior.to_image)
    if tuple(prior.image_shape) == tuple(prior.shape):  # the state is the image
        return operator
    if isinstance(operator, LinearOperator):
        return Seen(operator, prior.to_image, prior.lift, prior.gain)
    return Composed(operator, prior.to_image)


def measure(operator: Operator, x0: Tensor, likelihood: Likelihood | float, noise: Noise) -> Problem:
    """Simulate y from the truth x0 [B,C,H,W] with each image's own noise. A plain float is a Gaussian's sigma_y."""
    likelihood = Gaussian(float(likelihood)) if isinstance(likelihood, (int, float)) else likelihood
    clean = operator.forward(x0)
    if isinstance(likelihood, Gaussian):
        if likelihood.sigma_y is None:
            raise ValueError("a simulated measurement needs a value for sigma_y")
        y = clean + likelihood.sigma_y * mask_noise(operator, noise.like(clean))
    elif isinstance(likelihood, Poisson):
        raise NotImplementedError
    else:
        y = clean
    return Problem(y, operator, likelihood, noise.ids)


def mask_noise(operator: Operator, n: Tensor) -> Tensor:
    """Noise only where something is measured: operators with unmeasured entries of y zero them in `restrict`."""
    restrict = getattr(operator, "restrict", None)
    return n if restrict is None else restrict(n)


__all__ = ["Clean", "Gaussian", "Likelihood", "Poisson", "Problem", "Scalar", "measure", "per_image", "view_through"]
