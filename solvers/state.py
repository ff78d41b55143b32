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
    """Var[x0 | x_t] per entry of the state, one number.

    Without s0 it is what training measured of the prior's own errors; where nothing was measured, or s0 is given, it is that
    of an isotropic Gaussian prior of deviation s0: s0^2 sigma^2 / (s0^2 + sigma^2).
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
    """Whether V can be a covariance by frequency: training measured the errors of D at each frequency of the image (for
    latent priors: of the decoded image), and y is linear in the image. operator: of images, not of states.
    """
    known = prior.variances if prior.kind == "pixel" else prior.image_variances
    return bool(known) and isinstance(operator, LinearOperator)


def covariance(prior: Prior, sigma: float, estimate: Tensor, problem: Problem, variance: float | None = None) -> Variance:
    """Cov[x0 | x] about an estimate D(x): by frequency and place if that was measured (`by_frequency`), else one number.

    variance: if given, V is scaled to this mean variance per entry.
    """
    if prior.kind == "pixel" and by_frequency(prior, problem.operator) and (density := prior.density(sigma)) is not None:
        return error_covariance(density, estimate, variance, prior)
    return belief(prior, sigma) if variance is None else variance


def image_covariance(prior: Prior, sigma: float, estimate: Tensor, problem: Problem, variance: float | None = None) -> Variance:
    """`covariance` of the image that a latent prior decodes from D(x)."""
    if by_frequency(prior, problem.operator) and (density := prior.image_density(sigma)) is not None:
        return error_covariance(density, estimate, variance)
    return image_belief(prior, sigma) if variance is None else variance


def evident(m: Tensor, V: Variance, problem: Problem, noise: Noise) -> Variance:
    """A V by frequency, scaled for each image to the residual that it has; other V as they are.

    On average |y - A m|^2 = sigma_y^2 n + tr(A V A^T), which gives the factor. It is never below 1: V itself is what D errs by
    on an average image. noise: draws the random signs that the trace is estimated with.
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
    """The mean of x | y for x ~ N(m, V), V scaled to the residual (`evident`). With u, a draw about m before y, a draw."""
    V = evident(m, V, problem, noise)
    return condition(m, V, problem) if u is None else condition(u, V, problem.perturbed(noise))


def drawn(prior: Prior, image: Tensor, sigma: float, problem: Problem, noise: Noise) -> Tensor:
    """A draw of the image given y, around the decoded D(x) of a latent prior; its V counts the autoencoder's errors too."""
    return condition(image, evident(image, image_covariance(prior, sigma, image, problem), problem, noise), problem, noise)


def settle(x: Tensor, V: Variance, problem: Problem) -> Tensor:
    """The mean of N(x, share of V) given y, with the smallest share that explains y to the noise level (Morozov)."""
    return condition(x, discrepancy(x, V, problem), problem)


def finish(prior: Prior, x: Tensor, sigma: float, problem: Problem) -> Tensor:
    """The estimate at the last level, moved until it explains y to the noise level. V may grow to what the prior does not know
    at its largest sigma, so that an overconfident prior cannot keep x away from y.
    """
    return settle(x, covariance(prior, sigma, x, problem, belief(prior, prior.sigma_max)), problem)


def result(prior: Prior, state: Tensor, problem: Problem, polish: bool = True) -> Tensor:
    """The image a run ends with.

    A latent is decoded with its codebook, or without where the codebook spoils the fit to y. With polish that image is then
    moved (`settle`) by at most the autoencoder's error, so that y is met to the noise level.
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
