"""DPS, diffusion posterior sampling (Chung et al. 2023): the baseline that everybody compares with."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.operators.base import norm, per_image
from solvers.problem import Problem
from solvers.recompute import recomputing
from solvers.state import result, shown
from solvers.step import Step, fraction, positive
from solvers.steps import clipped, ddim_step, sigma_at, start, tweedie, vp_levels


@dataclass(frozen=True)
class DPS:
    """VP coordinates; DPS algorithm 1: an ancestral step, then x <- x - zeta grad_x |y - A x0_hat(x)|, norms per image.

    guidance: `norm` is the published step (zeta' / |r| in the paper, up to a factor 2). `likelihood` has nothing to tune:
    it adds the gradient of log N(y; A x0_hat, sigma_y^2) to the score. The variance of the ancestral step is DDPM's
    posterior variance (the published code takes the learned one).
    """

    steps: int = 1000
    zeta: float = 0.3  # step of `norm`
    guidance: Literal["norm", "likelihood"] = "norm"
    eta: float = 1.0  # 1: DDPM's ancestral step, 0: deterministic DDIM
    clip: bool = True  # clamp x0_hat of a pixel prior to [-1, 1]
    checkpoint: bool = False  # recompute the network's activations in the backward pass instead of keeping them
    polish: bool = True  # latent priors: one pixel-space update at the end

    def __post_init__(self) -> None:
        positive(self, "steps")
        fraction(self, "eta")

    def check(self, problem: Problem, prior: Prior) -> None:
        vp_levels(prior, self.steps)
        if self.guidance == "likelihood" and problem.whitened().sigma_y == 0:
            raise Refusal("guidance: likelihood needs a noisy measurement; use guidance: norm on a clean one")

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: Prior, noise: Noise) -> Iterator[Step]:
        problem = problem.whitened()
        seen, offset = problem.seen_by(prior), noise.of("offset")
        x = start(prior, noise, problem.y)
        for t, (a, a_next) in enumerate(pairwise(vp_levels(prior, self.steps))):
            with torch.enable_grad(), recomputing(prior, self.checkpoint):
                x_t = x.detach().requires_grad_()
                x0 = tweedie(prior, x_t, a, offset)
                if self.clip and prior.kind == "pixel":
                    x0 = clipped(x0)
                distance = norm(problem.y - seen.operator.forward(x0))
                (gradient,) = torch.autograd.grad(distance.sum(), x_t)
            x0, distance = x0.detach(), distance.detach()
            if self.guidance == "norm":
                x = ddim_step(x, x0, a, a_next, self.eta, noise) - self.zeta * gradient
            else:  # x0_hat moves by (1 - a) / sqrt(a) times the likelihood's score
                x0 = x0 - per_image((1 - a) / a**0.5 * distance / problem.sigma_y**2, x0) * gradient
                x = ddim_step(x, x0, a, a_next, self.eta, noise)
            if a_next < 1:
                yield Step(t, sigma_at(a), x, shown(prior, x0))
        yield Step(t, sigma_at(a), x, result(prior, x, problem, self.polish))
