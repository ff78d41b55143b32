"""Gaussian beliefs N(mean, V): what is thought of an image, or of a prior's state, before y is looked at.

`Isotropic` has one variance per image, `Diagonal` one per entry, `Spectral` what training measured of a denoiser's errors: so
much at each frequency, and more at edges than in air. `Belief.of` chooses for a prior; nothing else asks what kind it is.
"""

import copy
from typing import Any, Self

import torch
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.contrast import unevenness
from solvers.operators.base import LinearOperator, Operator, Scalar, norm, per_image
from solvers.problem import Problem

IMAGE_DEVIATION = 0.5  # of images in [-1, 1]: EDM's sigma_data
LATENT_DEVIATION = 1.0  # of latents after the prior's own scale
COARSE, FINE = 0.1, 0.01  # of the noise level: how well conjugate gradients are to know A x
AXES = (2, 3, 4)  # of an image's pixels, or a volume's


class Belief:
    """x ~ N(mean, V), mean [B,C,H,W]; V is symmetric, and no image's depends on another's.

    variance: V as a number, or one per image [B], where it is that times the identity. diagonal: V as what multiplies entries.
    """

    mean: Tensor
    variance: Scalar | None = None
    diagonal: Tensor | None = None
    rooted: bool = True  # `root` is cheap enough to iterate with
    accuracy: float = COARSE  # conjugate gradients know A x to this share of the noise
    decoded: bool = False  # of the image that a latent prior decodes its state to
    measured: bool = False  # V is what training found of the errors at each frequency

    def apply(self, x: Tensor) -> Tensor:
        """V x"""
        raise NotImplementedError

    def root(self, z: Tensor) -> Tensor:
        """V^(1/2) z, the symmetric root."""
        raise NotImplementedError

    def scaled(self, factor: Scalar) -> Self:
        """The belief with `factor` times V; a number, or one for each image [B]."""
        raise NotImplementedError

    def with_variance(self, variance: Scalar) -> Self:
        """The belief with V scaled until the mean variance of an entry is this."""
        raise NotImplementedError

    def isotropic(self, variance: Scalar) -> "Isotropic":
        """About the same mean, with V = variance I."""
        return Isotropic(self.mean, variance).changed(decoded=self.decoded)

    def changed(self, **values: Any) -> Self:
        """A copy with other values of these attributes."""
        other = copy.copy(self)
        vars(other).update(values)
        return other

    def draw(self, noise: Noise) -> Tensor:
        """mean + V^(1/2) z"""
        return self.mean + self.root(noise.like(self.mean))

    @property
    def rounding(self) -> Scalar:
        """The rounding error of V: a noise whose variance is below it is none. A number, or [B]."""
        return torch.finfo(self.mean.dtype).eps

    def around(self, mean: Tensor) -> Self:
        """The same V about another mean."""
        return self.changed(mean=mean)

    def scaled_to_residual(self, problem: Problem, noise: Noise) -> Self:
        """The belief with V scaled, image by image, to the residual that the mean has; a V that nobody measured stays."""
        return self

    @staticmethod
    def of(
        prior: Prior, x0: Tensor, sigma: float, problem: Problem, pixels: bool | None = None
    ) -> "Belief":
        """What a prior believes after its estimate x0 = D(x, sigma), a state [B,C,H,W].

        V is by frequency and place where training measured that and y is linear in the image; else one number. pixels: whether
        a latent prior's belief is of the image that x0 decodes to, so that y is met without the decoder's derivative; by
        default it is where the errors of such images were measured. problem: as it is measured of images.
        """
        operator = problem.operator
        pixels = spectral_image(prior, operator) if pixels is None else pixels
        if prior.kind == "latent" and pixels:
            return Belief.of_image(prior, prior.to_image(x0), sigma, problem)
        if spectral_state(prior, operator):
            return Spectral.about(x0, prior.density(sigma), prior)
        return Isotropic(x0, state_variance(prior, sigma))

    @staticmethod
    def of_image(prior: Prior, image: Tensor, sigma: float, problem: Problem) -> "Belief":
        """The same of an image that a latent prior has decoded; its V counts the autoencoder's errors too."""
        belief: Belief = Isotropic(image, image_variance(prior, sigma))
        if spectral_image(prior, problem.operator):
            belief = Spectral.about(image, prior.image_density(sigma))
        return belief.changed(decoded=True)


class Entrywise(Belief):
    """V multiplies images entry by entry."""

    diagonal: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return self.diagonal * x

    def root(self, z: Tensor) -> Tensor:
        return self.diagonal.sqrt() * z

    @property
    def rounding(self) -> Scalar:
        v = self.diagonal
        largest = v.to(self.mean).flatten(1).amax(1) if v.ndim > 1 else v
        return torch.finfo(largest.dtype).eps * torch.where(largest > 0, largest, 1)


class Isotropic(Entrywise):
    """V = v I; v a number, or one for each image [B]."""

    variance: Scalar

    def __init__(self, mean: Tensor, variance: Scalar):
        self.mean, self.variance = mean, variance

    @property
    def diagonal(self) -> Tensor:  # type: ignore[override]
        return per_image(self.variance, self.mean)

    def scaled(self, factor: Scalar) -> "Isotropic":
        return self.with_variance(factor * self.variance)

    def with_variance(self, variance: Scalar) -> "Isotropic":
        return self.changed(variance=variance)


class Diagonal(Entrywise):
    """V = diag(d), d shaped like the mean."""

    def __init__(self, mean: Tensor, d: Tensor):
        self.mean, self.diagonal = mean, d

    def scaled(self, factor: Scalar) -> "Diagonal":
        return Diagonal(self.mean, per_image(factor, self.mean) * self.diagonal)

    def with_variance(self, variance: Scalar) -> "Diagonal":
        return self.scaled(variance / self.diagonal.flatten(1).mean(1))


class Spectral(Belief):
    """V = H^2 with H = T F^H diag(sqrt(density)) F T, F the Fourier transform: errors by frequency (density) and place (T).

    density: [1 or B,1,H,W/2+1] variance at the frequencies of `torch.fft.rfft2`, whose mean over all frequencies is that of an
    entry; of volumes [1 or B,1,D,H,W/2+1]. place: T, [B,1,H,W], of mean square 1; 1: errors are as large anywhere. prior: of
    whose states V leaves the border out.
    """

    accuracy = FINE  # the scales of V differ by orders of magnitude, and a few slow ones hide behind the average
    measured = True

    def __init__(
        self, mean: Tensor, density: Tensor, place: Tensor | float = 1.0, prior: Prior | None = None
    ):
        self.mean, self.density, self.place, self.prior = mean, density, place, prior

    @classmethod
    def about(cls, mean: Tensor, density: Tensor | None, prior: Prior | None = None) -> "Spectral":
        """From a density of all frequencies [H,W] or [D,H,W]; the errors' places are read from the local contrast of the mean."""
        assert density is not None
        half = density[None, None, ..., : density.shape[-1] // 2 + 1].to(mean)
        uneven = unevenness(mean if prior is None else prior.crop(mean))
        return cls(mean, half, uneven.sqrt(), prior)  # T acts twice

    @property
    def entry(self) -> Tensor:
        """The mean variance of an entry, [1 or B]."""
        width = self._inside(self.mean).shape[-1]
        column = torch.arange(self.density.shape[-1], device=self.density.device)
        twice = 2 - (2 * column % width == 0).to(self.density)  # with their conjugates
        rows = self.density.shape[2:-1].numel()
        return (twice * self.density).flatten(1).sum(1) / (rows * width)

    @property
    def rounding(self) -> Scalar:
        return super().rounding * self.entry.where(self.entry > 0, 1)

    def apply(self, x: Tensor) -> Tensor:
        return self.root(self.root(x))

    def root(self, z: Tensor) -> Tensor:
        core = self.place * self._inside(z)
        axes = AXES[: core.ndim - 2]
        spectrum = self.density.sqrt() * torch.fft.rfftn(core, dim=axes)
        filtered = self.place * torch.fft.irfftn(spectrum, core.shape[2:], axes)
        return filtered if self.prior is None else self.prior.pad(filtered, 0.0)

    def _inside(self, x: Tensor) -> Tensor:
        return x if self.prior is None else self.prior.crop(x)

    def scaled(self, factor: Scalar) -> "Spectral":
        return self.changed(density=per_image(factor, self.density) * self.density)

    def with_variance(self, variance: Scalar) -> "Spectral":
        return self.scaled(variance / self.entry)

    def scaled_to_residual(self, problem: Problem, noise: Noise) -> "Spectral":
        """On average |y - A mean|^2 = sigma_y^2 m + tr(A V A^T), which gives the factor of each image's V.

        It is never below 1, since V itself is what D errs by on an average image. The trace is Hutchinson's estimate
        |V^(1/2) A^T s|^2 with random signs s, which `noise` draws.
        """
        A: LinearOperator = problem.operator  # type: ignore[assignment]
        y = problem.y.to(self.mean)
        signs = A.restrict(noise.like(y).sign())
        expected = norm(self.root(A.adjoint(signs))) ** 2
        found = norm(y - A.forward(self.mean)) ** 2 - problem.sigma_y**2 * A.measured(y)
        return self.scaled((found / expected).clamp_min(1))


def isotropic_variance(sigma: float, s0: float) -> float:
    """Var[x0 | x] of an isotropic Gaussian prior of deviation s0: s0^2 sigma^2 / (s0^2 + sigma^2)."""
    return s0**2 * sigma**2 / (s0**2 + sigma**2)


def deviation(prior: Prior) -> float:
    """The standard deviation that an entry of a clean state is taken to have, where nobody measured anything."""
    return LATENT_DEVIATION if prior.kind == "latent" else IMAGE_DEVIATION


def state_variance(prior: Prior, sigma: float) -> float:
    """Var[x0 | x] per entry of the state, one number: as training measured it, else the isotropic Gaussian's."""
    known = prior.variance(sigma)
    return isotropic_variance(sigma, deviation(prior)) if known is None else known


def image_variance(prior: Prior, sigma: float) -> float:
    """The same of a decoded image: the share of the state's variance that is unknown, plus the autoencoder's error."""
    share = (IMAGE_DEVIATION / LATENT_DEVIATION) ** 2
    return share * state_variance(prior, sigma) + prior.error_variance


def spectral_state(prior: Prior, operator: Operator) -> bool:
    """Whether V is known by frequency in the state itself: measured in training, and y, of images, is linear."""
    known = prior.kind == "pixel" and prior.variances
    return bool(known) and isinstance(operator, LinearOperator)


def spectral_image(prior: Prior, operator: Operator) -> bool:
    """The same of the image that a latent prior decodes its state to."""
    known = prior.kind == "latent" and prior.image_variances
    return bool(known) and isinstance(operator, LinearOperator)
