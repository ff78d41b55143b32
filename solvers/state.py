"""Between a prior's state and the image: how uncertain an estimate is, how it is shown, and how a run ends."""

from collections.abc import Callable

import torch
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.condition import Variance, condition, discrepancy
from solvers.covariance import ErrorCovariance, error_covariance
from solvers.operators.base import LinearOperator, Operator, norm, per_image
from solvers.problem import Problem

IMAGE_DEVIATION = 0.5  # of images in [-1, 1]: EDM's sigma_data
LATENT_DEVIATION = 1.0  # of latents after the prior's own scale
BLACK = -1.0  # what patch priors have around their images


def belief(prior: Prior, sigma: float, s0: float | None = None) -> float:
    """Var[x0 | x_t] per state entry: what the prior measured of itself, if it did and s0 is not given; else that of an
    isotropic Gaussian prior of deviation s0, s0^2 sigma^2 / (s0^2 + sigma^2).
    """
    known = prior.variance(sigma) if s0 is None else None
    if known is not None:
        return known
    s0 = s0 if s0 is not None else LATENT_DEVIATION if prior.kind == "latent" else IMAGE_DEVIATION
    return s0**2 * sigma**2 / (s0**2 + sigma**2)


def image_belief(prior: Prior, sigma: float) -> float:
    """The same of a decoded image: the share of the state's variance that is unknown, plus the autoencoder's error."""
    return (IMAGE_DEVIATION / LATENT_DEVIATION) ** 2 * belief(prior, sigma) + autoencoder_error(prior)


def by_frequency(prior: Prior, operator: Operator) -> bool:
    """Whether training found how D errs at each frequency of images (latents have none of their own to speak of), and y is
    linear in them, so that it can be used. operator: of images.
    """
    known = prior.variances if prior.kind == "pixel" else prior.image_variances
    return bool(known) and isinstance(operator, LinearOperator)


def covariance(prior: Prior, sigma: float, estimate: Tensor, problem: Problem, variance: float | None = None) -> Variance:
    """Cov[x0 | x] of an estimate: by frequency and place where training found it so, else one number. With a variance per
    entry, as wide as that.
    """
    if prior.kind == "pixel" and by_frequency(prior, problem.operator) and (density := prior.density(sigma)) is not None:
        return error_covariance(density, estimate, variance, prior)
    return belief(prior, sigma) if variance is None else variance


def image_covariance(prior: Prior, sigma: float, estimate: Tensor, problem: Problem, variance: float | None = None) -> Variance:
    """The same of the image that a latent prior decodes from D(x)."""
    if by_frequency(prior, problem.operator) and (density := prior.image_density(sigma)) is not None:
        return error_covariance(density, estimate, variance)
    return image_belief(prior, sigma) if variance is None else variance


def evident(m: Tensor, V: Variance, problem: Problem, noise: Noise) -> Variance:
    """A V by frequency, scaled to what y - A m speaks for, image by image: |y - A m|^2 is sigma_y^2 n + tr(A V A^T) on
    average, and V at least, which is what D errs by on a mean image. Other V as they are. noise draws the trace's probe.
    """
    if not isinstance(V, ErrorCovariance):
        return V
    operator: LinearOperator = problem.operator  # type: ignore[assignment]
    y = problem.y.to(m)
    probe = operator.restrict(noise.like(y).sign())
    expected = norm(V.half(operator.adjoint(probe))) ** 2  # tr(A V A^T) by Hutchinson's estimate
    found = norm(y - operator.forward(m)) ** 2 - problem.sigma_y**2 * operator.measured(y)
    return V.scaled((found / expected).clamp_min(1))


def inside(prior: Prior, state: Tensor, border: float) -> Tensor:
    """A patch state with its border, which belongs to no image, set to one value; other states as they are."""
    return prior.pad(prior.crop(state), border) if prior.kind == "pixel" else state


def shown(prior: Prior, state: Tensor) -> Tensor | Callable[[], Tensor]:
    """The image of a state for `Step`: at once where that is free, on demand behind a decoder."""
    return (lambda: prior.to_image(state)) if prior.kind == "latent" else prior.to_image(state)


def met(m: Tensor, V: Variance, problem: Problem, noise: Noise, u: Tensor | None = None) -> Tensor:
    """The mean of x | y for x ~ N(m, V), a V by frequency taken as wide as the residual speaks for; with u, spread about m,
    a draw.
    """
    V = evident(m, V, problem, noise)
    return condition(m, V, problem) if u is None else condition(u, V, problem.perturbed(noise))


def drawn(prior: Prior, image: Tensor, sigma: float, problem: Problem, noise: Noise) -> Tensor:
    """A draw of the image itself around what a latent prior decoded D(x) to, whose errors at this level count the
    autoencoder's too.
    """
    return condition(image, evident(image, image_covariance(prior, sigma, image, problem), problem, noise), problem, noise)


def settle(x: Tensor, V: Variance, problem: Problem) -> Tensor:
    """x moved just as far as it takes to explain y to the noise level, with a covariance up to V."""
    return condition(x, discrepancy(x, V, problem), problem)


def finish(prior: Prior, x: Tensor, sigma: float, problem: Problem) -> Tensor:
    """The last estimate, of this level, moved until it explains y to the noise level, whatever the prior says of itself."""
    return settle(x, covariance(prior, sigma, x, problem, belief(prior, prior.sigma_max)), problem)


def result(prior: Prior, state: Tensor, problem: Problem, polish: bool = True) -> Tensor:
    """The image a run ends with. A latent is decoded with its codebook, unless that loses data which the latent itself
    explains, and then, with polish, conditioned once in pixel space with a variance up to the autoencoder's error, so
    that the data are met to the noise level.
    """
    if prior.kind == "pixel":
        return prior.to_image(state)
    image, free = prior.decode(state, quantize=True), prior.decode(state, quantize=False)
    enough = problem.residual(free)
    enough = enough.clamp_min(1) + 0.1 if problem.sigma_y > 0 else enough  # a tenth is what the update leaves open as well
    image = torch.where(per_image(problem.residual(image) <= enough, image).bool(), image, free)
    error = autoencoder_error(prior)
    if not (polish and error > 0):
        return image
    return settle(image, image_covariance(prior, prior.sigma_min, image, problem, error), problem)


def autoencoder_error(prior: Prior) -> float:
    """Variance of decode(encode(image)) - image, stored with a latent prior."""
    return float(prior.error_variance)  # type: ignore[arg-type]
