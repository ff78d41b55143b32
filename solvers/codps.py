"""CoDPS and CoDPS+, covariance-corrected diffusion posterior sampling (Yismaw et al. 2024): no gradient, one inverse."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.condition import Variance
from solvers.problem import Problem
from solvers.state import covariance, met
from solvers.step import Step, fraction, need_linear, positive
from solvers.steps import clipped, ddim_step, ddim_weight, sigma_at, start, tweedie, vp_levels


@dataclass(frozen=True)
class CoDPS:
    """VP coordinates; CoDPS's update of the ancestral sample x' with p(y | x') = N(A mu(x'), sigma_y^2 I + v_t A A^T).

    v_t = 1 / (a / (1 - a) + lam), lam the inverse prior variance. scale None is free of tuning: x' moves by what the
    DDPM step makes of the update that x0 is due. The published code mixes x' (level t - 1) with a of level t: kept; its
    DDPM noise has the network's learned variance, here the posterior's, and its DDIM times are 0, 10, ..., 990, here 0 to 999.
    """

    steps: int = 1000
    scale: float | None = None  # c; published 0.01 to 0.4
    t_div: int = 0  # below this (respaced) step c is divided ...
    div_ratio: float = 1.0  # ... by this
    inv_var: float | None = 4.0  # lam; 1 / 0.5^2 for images in [-1, 1]
    eta: float = 1.0  # 1: DDPM's ancestral step
    clip: bool = True  # clamp x0_hat to [-1, 1]
    plus = False

    def __post_init__(self) -> None:
        positive(self, "steps", "scale", "div_ratio")
        fraction(self, "eta")
        if not (self.plus if self.inv_var is None else self.inv_var >= 0):
            raise Refusal(f"inv_var must be at least 0, not {self.inv_var}")

    def check(self, problem: Problem, prior: Prior) -> None:
        need_linear(type(self).__name__, problem.operator, prior)
        vp_levels(prior, self.steps)

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: Prior, noise: Noise) -> Iterator[Step]:
        problem = problem.whitened()
        seen, offset = problem.seen_by(prior), noise.of("offset")
        x = start(prior, noise, problem.y)
        for t, (a, a_next) in enumerate(pairwise(vp_levels(prior, self.steps))):
            x0 = tweedie(prior, x, a, offset)
            x0 = clipped(x0) if self.clip else x0
            c = self.c(self.steps - 1 - t, a, a_next)
            x = ddim_step(x, x0, a, a_next, self.eta, noise)
            mu, V = self.belief(x, x0, a, prior, problem)
            if c > 0:
                x = x + c * sqrt(a) / (1 - a) * (met(mu, V, seen, noise) - mu)  # V A^T (sigma_y^2 I + A V A^T)^-1 (y - A mu)
            yield Step(t, sigma_at(a), x, prior.to_image(x if a_next == 1 else x0))

    def belief(self, x: Tensor, x0: Tensor, a: float, prior: Prior, problem: Problem) -> tuple[Tensor, Variance]:
        """Mean and covariance of x0 given the new x' and the estimate before it."""
        assert self.inv_var is not None
        v = 1 / (a / (1 - a) + self.inv_var)
        return v * (sqrt(a) / (1 - a) * x + self.inv_var * x0), v

    def c(self, step: int, a: float, a_next: float) -> float:
        """The multiplier of this (respaced) step; CoDPS+ in its published form leaves the last step alone."""
        if self.scale is None:
            return ddim_weight(a, a_next, self.eta) * (1 - a) / sqrt(a)
        if self.plus and step == 0:
            return 0.0
        return self.scale / (self.div_ratio if step < self.t_div else 1)


@dataclass(frozen=True)
class CoDPSPlus(CoDPS):
    """VP coordinates; CoDPS+ of the DDIM settings: the residual is taken at x0_hat itself, so that mu = x0_hat and the
    multiplier v_t sqrt(a) / (1 - a) is d mu / d x_t of a Gaussian prior of variance 1 / lam. With inv_var None v_t I is
    what training measured of D's errors, by frequency and place; where nobody looked that is lam = 4.
    """

    steps: int = 100
    inv_var: float | None = None
    plus = True

    def belief(self, x: Tensor, x0: Tensor, a: float, prior: Prior, problem: Problem) -> tuple[Tensor, Variance]:
        if self.inv_var is None:
            return x0, covariance(prior, sigma_at(a), x0, problem)
        return x0, 1 / (a / (1 - a) + self.inv_var)
