"""ReSample, hard data consistency with stochastic resampling (Song et al. 2024), for latent and pixel priors."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.condition import Variance, conditioned, discrepancy
from solvers.covariance import ErrorCovariance
from solvers.descent import AdamW, misfit
from solvers.operators.base import LinearOperator, norm, per_image
from solvers.problem import Problem
from solvers.state import (
    BLACK,
    IMAGE_DEVIATION,
    autoencoder_error,
    belief,
    covariance,
    image_covariance,
    inside,
    met,
    result,
    settle,
    shown,
)
from solvers.step import Step, fraction, positive
from solvers.steps import ddim_step, noise_in, sigma_at, start, tweedie, vp_levels

Stage = Literal["pixel", "latent"]


@dataclass(frozen=True)
class ReSample:
    """VP coordinates; ReSample algorithm 1: DDIM steps, at some of which x0 is made consistent with y (in pixels at high
    noise, in the latent at low noise) and put back at its noise level by stochastic resampling.

    The noise level decides which stage is due, so that any number of steps works. inner `exact`: one conditional update
    with the variance that the discrepancy principle asks for (Gauss-Newton where A, or A after the decoder, is not
    linear), or with the errors of D by frequency where training measured them; `adamw`: the published descents. The
    published look-ahead feeds the network a time one step off its coefficients; that is not kept.
    """

    steps: int = 500
    gamma: float = 40.0  # of the resampling variance
    skip: int | None = None  # steps from one consistency to the next; default steps / 50, as 10 is to 500
    sigma_pixel: float = 6.6  # consistency is on from this noise level down: in pixels ...
    sigma_latent: float = 1.39  # ... and from this one in the latent; 0 stays in pixels, the fast mode
    inner: Literal["exact", "adamw"] = "exact"
    newton: int = 2  # Gauss-Newton steps of an exact consistency in the latent ...
    cg: int = 5  # ... and conjugate gradients in each
    adamw: AdamW = AdamW()  # the published descents
    resampling: Literal["paper", "code", "encode"] = "paper"  # denominator a_t; 1 - a_t; plain re-encoding of x0
    look_ahead: int = 0  # DDIM steps taken only to get a better x0; published 5
    tweedie: Literal["exact", "code"] = "exact"  # x0 from sqrt(1-a) eps, or from the published (1-a) eps
    dps: float = 0.0  # weight of a latent-DPS step with frozen eps at every level; published 0.5
    spacing: Literal["even", "leading"] = "even"  # of the times; `leading` is latent diffusion's own
    eta: float = 0.0  # of the DDIM steps
    polish: bool = True  # latent priors: one pixel-space update at the end

    def __post_init__(self) -> None:
        positive(self, "steps", "skip", "newton", "cg", "gamma")
        fraction(self, "eta")
        if self.look_ahead < 0:
            raise Refusal(f"look_ahead must be at least 0, not {self.look_ahead}")

    def check(self, problem: Problem, prior: Prior) -> None:
        vp_levels(prior, self.steps, self.spacing)

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: Prior, noise: Noise) -> Iterator[Step]:
        problem = problem.whitened()
        seen, offset = problem.seen_by(prior), noise.of("offset")
        levels = vp_levels(prior, self.steps, self.spacing)
        skip, last = self.skip or max(1, round(self.steps / 50)), len(levels) - 2
        z = start(prior, noise, problem.y)
        for t, (a, a_next) in enumerate(pairwise(levels)):
            x0 = tweedie(prior, z, a, offset)
            z, x0 = ddim_step(z, x0, a, a_next, self.eta, noise), self.estimate(z, x0, a)
            if self.dps > 0:
                r, gradient = misfit(seen, x0)
                z = z - self.dps * sqrt(a) * gradient / per_image(norm(r).clamp_min(torch.finfo(r.dtype).tiny), gradient)
            if t < last and (last - t) % skip == 0 and sigma_at(a) <= self.sigma_pixel:
                x0 = self.look(z, x0, levels[t + 1 : t + 2 + self.look_ahead], prior, offset)
                stage: Stage = "pixel" if sigma_at(a) > self.sigma_latent else "latent"
                if stage == "pixel" and prior.kind == "latent":
                    image = prior.to_image(x0)
                    V = image_covariance(prior, sigma_at(a), image, problem)
                    x0 = prior.to_state(self.meet(image, V, problem, stage, noise))
                else:
                    x0 = self.meet(x0, covariance(prior, sigma_at(a), x0, seen), seen, stage, noise)
                z = self.resample(inside(prior, x0, BLACK), z, a, a_next, noise)
            if t < last:
                yield Step(t, sigma_at(a), z, shown(prior, x0))
        if self.sigma_latent > 0 or prior.kind == "pixel":  # final consistency: y is met, whatever the prior says of itself
            most = covariance(prior, sigma_at(a), z, seen, belief(prior, prior.sigma_max))
            z = self.meet(z, most, seen, "latent")
            image = result(prior, z, problem, self.polish)
        else:
            image = result(prior, z, problem, False)
            most = image_covariance(prior, sigma_at(a), image, problem, IMAGE_DEVIATION**2 + autoencoder_error(prior))
            image = self.meet(image, most, problem, "pixel")
        yield Step(last, sigma_at(a), z, image)

    def estimate(self, z: Tensor, x0: Tensor, a: float) -> Tensor:
        """x0, or the published pseudo-Tweedie one, which leaves some noise in."""
        if self.tweedie == "exact":
            return x0
        return (z - (1 - a) * noise_in(z, x0, a)) / sqrt(a)

    def look(self, z: Tensor, x0: Tensor, levels: list[float], prior: Prior, offset: Noise) -> Tensor:
        """The estimate after plain DDIM steps along these levels; x0 itself if there are none."""
        for a, a_next in pairwise(levels):
            clean = tweedie(prior, z, a, offset)
            z, x0 = ddim_step(z, clean, a, a_next), self.estimate(z, clean, a)
        return x0

    def meet(self, x: Tensor, V: Variance, problem: Problem, stage: Stage, noise: Noise | None = None) -> Tensor:
        """x moved until it explains y to the noise level, or as far as V lets it.

        noise is given where x is resampled next. There a V by frequency is not cut down to what the noise level asks for, which
        would cost half a dB of deblurring.
        """
        if self.inner == "adamw":
            return self.adamw(x, problem, stage)
        if noise is not None and isinstance(V, ErrorCovariance):
            return met(x, V, problem, noise)
        if stage == "pixel" or isinstance(problem.operator, LinearOperator):
            return settle(x, V, problem)
        needed = torch.as_tensor(discrepancy(x, V, problem, cap=self.cg))
        return conditioned(x, needed, problem, cap=self.cg, steps=self.newton).x if bool((needed > 0).any()) else x

    def resample(self, z0: Tensor, z: Tensor, a: float, a_next: float, noise: Noise) -> Tensor:
        """Eq. (13): the product of N(sqrt(a_next) z0, 1 - a_next), DDPM's view of z0, and N(z, s2), where the chain was."""
        if self.resampling == "encode":
            return sqrt(a_next) * z0 + sqrt(1 - a_next) * noise.like(z)
        s2 = self.gamma * (1 - a_next) / (a if self.resampling == "paper" else 1 - a) * (1 - a / a_next)
        mean = (s2 * sqrt(a_next) * z0 + (1 - a_next) * z) / (s2 + 1 - a_next)
        return mean + sqrt(s2 * (1 - a_next) / (s2 + 1 - a_next)) * noise.like(z)
