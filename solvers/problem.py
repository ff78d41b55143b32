"""A problem: what was measured, how, with what noise, and whose image it is. It holds no truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.measured.likelihoods import (
    Clean,
    Gaussian,
    Likelihood,
    Poisson,
    Varying,
    likelihood_of,
)
from solvers.measured.noise_level import estimated_sigma_y, typical
from solvers.operators.base import LinearOperator, Operator, Scalar, Shape, norm, per_image
from solvers.operators.weighted import weighted
from solvers.operators.wrapper import Composed, Seen
from solvers.photons import constant, count_deviation, counted, level, unit_scale


@dataclass(frozen=True)
class Problem:
    """y [B,...], its operator and likelihood, and one image id per row."""

    y: Tensor
    operator: Operator
    likelihood: Likelihood
    ids: tuple[str, ...]

    @property
    def sigma_y(self) -> float:
        """Standard deviation of the noise in y's entries; 0 if clean. Other problems are `whitened` first."""
        if isinstance(self.likelihood, Gaussian) and self.likelihood.sigma_y is not None:
            return self.likelihood.sigma_y
        if isinstance(self.likelihood, Clean):
            return 0.0
        raise Refusal("this likelihood has no single sigma_y: take the problem's whitened() form")

    @property
    def deviations(self) -> Scalar:
        """sigma_y of a problem `in_own_units`: a number, or one of each image [B]."""
        own = self.likelihood
        return own.deviation.flatten() if isinstance(own, Varying) else self.sigma_y

    def noise_of_state(self, prior: Prior) -> Tensor | None:
        """sigma_y of each image [B], in the prior's range, where y is a state of it: the image with white noise. Else None."""
        if (
            not self.operator.identity
            or prior.kind == "latent"
            or not isinstance(self.likelihood, Gaussian)
        ):
            return None
        own = torch.as_tensor(self.in_own_units().deviations).to(self.y)
        return own.expand(len(self.ids)).clamp(prior.sigma_min, prior.sigma_max)

    def whitened(self) -> "Problem":
        """The same problem with noise of one known standard deviation, entries of y and A weighted alike.

        Images `in_own_units` that differ in theirs are scaled to their median. Bayes' rule does not see the scale; what weighs
        y against something else does, like a step along a gradient, and takes that form instead.
        """
        own = self.in_own_units()
        if not isinstance(own.likelihood, Varying):
            return own
        sigma_y = float(own.likelihood.deviation.median())
        return own.weighted(sigma_y / own.likelihood.deviation, Gaussian(sigma_y))

    def in_own_units(self) -> "Problem":
        """The same problem with one deviation in each image, entries of its y and A weighted alike whatever the batch holds.

        Poisson becomes Gaussian with the counts themselves as variances (at least one count), `Varying` gets the image's
        median, an unknown sigma_y is estimated (y stays as it is), a known one kept. Where images differ, one number for each.
        """
        if isinstance(self.likelihood, Poisson):
            sigma_y = unit_scale(self.operator) / math.sqrt(self.likelihood.rate)
            deviation = count_deviation(self.operator, self.y, self.likelihood.rate)
            return self.weighted(sigma_y / deviation, Gaussian(sigma_y))
        if isinstance(self.likelihood, Varying):
            deviation = self.likelihood.deviation.to(self.y)
            own = per_image(typical(deviation, self.ids), self.y)
        elif self.likelihood == Gaussian(None):
            deviation = own = per_image(estimated_sigma_y(self), self.y)
        else:
            return self
        likelihood = Gaussian(float(own[0])) if bool((own == own[0]).all()) else Varying(own)
        if deviation[0].numel() == 1:
            return replace(self, likelihood=likelihood)
        return self.weighted(own / deviation, likelihood)

    def weighted(self, weights: Tensor, likelihood: Likelihood) -> "Problem":
        """y and A times weights, [1,...] or [B,...], and the likelihood of that."""
        w = weights.expand(len(self.ids), *weights.shape[1:])
        return Problem(w * self.y, weighted(self.operator, w), likelihood, self.ids)

    def perturbed(self, noise: Noise) -> "Problem":
        """y with noise of the same deviation once more, where it is measured: what perturb-and-solve draws are met with."""
        return replace(self, y=self.y + self.sigma_y * self.operator.restrict(noise.like(self.y)))

    def repeat(self, k: int) -> "Problem":
        """Each image k times in a row (k posterior samples in one batch)."""
        rows = [i for i in range(len(self.ids)) for _ in range(k)]
        return self.select(rows)

    def select(self, indices: Sequence[int]) -> "Problem":
        rows, likelihood = list(indices), self.likelihood
        if isinstance(likelihood, Varying) and len(likelihood.deviation) > 1:
            likelihood = Varying(likelihood.deviation[rows])
        return Problem(
            self.y[rows], self.operator.select(rows), likelihood, tuple(self.ids[i] for i in rows)
        )

    def stored(self) -> Tensor:
        """y as files hold it, with the constant part of CT and MRI: what `from_measurement` takes."""
        return self.y + constant(self.operator, self.y) if self.operator.unit_range else self.y

    def residual(self, x: Tensor) -> Tensor:
        """|A x - y| / (sigma_y sqrt(m)) per image [B], m the number of measured entries; without noise |A x - y| / |y|."""
        problem = self.whitened()
        distance = norm(problem.operator.forward(x) - problem.y)
        if problem.sigma_y == 0:
            return distance / norm(problem.y).clamp_min(torch.finfo(problem.y.dtype).tiny)
        return distance / (problem.sigma_y * problem.operator.measured(problem.y).sqrt())

    def seen_by(self, prior: Prior) -> "Problem":
        """The measurement as a function of the prior's state: cropped, averaged over channels, or decoded."""
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


def continued(x: Tensor, operator: Operator) -> Tensor:
    """Images [B,C,H,W] continued below and to the right by their edge values, to the next size that the operator measures."""
    *_, height, width = operator.measurable(tuple(x.shape[1:]))
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    x = x.index_select(-2, rows.clamp_max(x.shape[-2] - 1))
    return x.index_select(-1, columns.clamp_max(x.shape[-1] - 1))


def measure(
    operator: Operator, x0: Tensor, likelihood: Likelihood | float, noise: Noise
) -> Problem:
    """Simulate y from the truth x0 [B,C,H,W] with each image's own noise, and its own mask or kernel where the operator draws
    one. A plain number is a Gaussian's sigma_y."""
    likelihood = likelihood_of(likelihood)
    if x0.is_complex():
        raise Refusal("the image is complex; give real and imaginary part as two channels")
    if operator.shape is None or operator.random:
        operator = operator.draw(tuple(x0.shape[1:]), noise)
    clean = operator.forward(x0)
    if isinstance(likelihood, Gaussian):
        if likelihood.sigma_y is None:
            raise Refusal("a simulated measurement needs a value for sigma_y")
        y = clean + likelihood.sigma_y * operator.restrict(noise.like(clean))
    elif isinstance(likelihood, Varying):
        deviation = likelihood.deviation.to(clean)
        y = clean + operator.restrict(deviation.where(deviation.isfinite(), 0) * noise.like(clean))
    elif isinstance(likelihood, Poisson):
        y = operator.restrict(counted(operator, clean, likelihood.rate, noise))
    else:
        y = clean
    return Problem(y, operator, likelihood, noise.ids)


def from_measurement(
    operator: Operator, y: Tensor, likelihood: Likelihood, noise: Noise, shape: Shape
) -> Problem:
    """The problem of real measurements y [B,...] of images that will have shape [C,H,W].

    y is what files hold: image-like data in the model range, CT and MRI data in physical units (their constant part is
    removed here). Raises Refusal in one line if y does not fit the operator.
    """
    if operator.random:
        raise Refusal(
            f"{type(operator).__name__} is drawn at random; a real measurement needs the mask or kernel it had"
        )
    if y.is_complex():
        raise Refusal("y is complex; give real and imaginary parts as channels, 2 for each coil")
    operator = operator.draw(shape, noise)
    expected = tuple(operator.shape_out(shape))
    if tuple(y.shape[1:]) != expected:
        raise Refusal(
            f"a measurement of shape {list(y.shape[1:])} does not fit images of {list(shape)}: {list(expected)} is due"
        )
    if not bool(torch.isfinite(y).all()):
        raise Refusal("the measurement holds values that are not finite")
    y = operator.restrict(y - constant(operator, y) if operator.unit_range else y)
    if isinstance(likelihood, Poisson):
        level(operator, y)
    return Problem(y, operator, likelihood, noise.ids)


def image_shape(operator: Operator, measured: Shape, prior: Shape) -> Shape:
    """The shape of the images whose measurement has shape `measured`: the prior's, else y's times a whole number, with y's
    channels or, as several coils measure one image, the prior's. A stack has as many slices as y: `prior` is of one of them."""
    if known := operator.shape_in(measured):
        return tuple(known)
    channels, *size = measured
    depth, size = (size[:1], size[1:]) if operator.volumetric else ([], size)
    candidates = [
        (prior[0], *depth, *prior[1:]),
        *((c, *depth, *(n * f for n in size)) for f in range(1, 17) for c in (channels, prior[0])),
    ]
    for shape in candidates:
        try:
            if tuple(operator.shape_out(shape)) == measured:
                return tuple(shape)
        except ValueError:
            continue
    raise Refusal(
        f"a measurement of shape {measured} does not fit {type(operator).__name__} on images of {prior} or its own size"
    )
