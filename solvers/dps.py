"""DPS, diffusion posterior sampling (Chung et al. 2023): the baseline that everybody compares with."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from data.files import Refusal
from ldm.denoiser import Prior
from ldm.sampling import ddim_step_vp, sigma_at, vp_levels
from ldm.schedule import linear_alpha_bar
from solvers.operators.base import norm, per_image
from solvers.problem import Problem
from solvers.recompute import recomputing
from solvers.solver import Chain, Move, Solver, fraction, positive


@dataclass(frozen=True)
class DPSLikelihood(Solver):
    """VP coordinates; the gradient of log N(y; A x0_hat(x), sigma_y^2) is added to the score: DPS with nothing to tune."""

    steps: int = 1000
    eta: float = 1.0  # 1: DDPM's ancestral step, 0: deterministic DDIM
    clip: bool = True  # clamp x0_hat of a pixel prior to [-1, 1]
    checkpoint: bool = (
        False  # recompute the network's activations in the backward pass instead of keeping them
    )
    polish: bool = True  # latent priors: one pixel-space update at the end

    def __post_init__(self) -> None:
        positive(self, "steps")
        fraction(self, "eta")

    def check(self, problem: Problem, prior: Prior) -> None:
        self.levels(problem, prior)
        if problem.whitened().sigma_y == 0:
            raise Refusal("DPSLikelihood needs a noisy measurement; use DPS on a clean one")

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        return vp_levels(prior, self.steps)

    def sample(self, chain: Chain) -> Iterator[Move]:
        x = chain.start()
        for a, a_next in pairwise(chain.levels):
            x0, distance, gradient = self.guidance(chain, x, a)
            weight = (1 - a) / a**0.5 * distance / chain.own.deviations**2
            x0 = (
                x0 - per_image(weight, x0) * gradient
            )  # (1 - a) / sqrt(a) times the likelihood's score
            x = ddim_step_vp(x, x0, a, a_next, self.eta, chain.noise)
            yield sigma_at(a), x, x0

    def guidance(self, chain: Chain, x: Tensor, a: float) -> tuple[Tensor, Tensor, Tensor]:
        """x0_hat(x), |y - A x0_hat| for each image [B], and its gradient with respect to x."""
        with torch.enable_grad(), recomputing(chain.prior, self.checkpoint):
            x_t = x.detach().requires_grad_()
            x0 = chain.tweedie(x_t, a, self.clip)
            distance = norm(chain.own.y - chain.own_seen.operator.forward(x0))
            (gradient,) = torch.autograd.grad(distance.sum(), x_t)
        return x0.detach(), distance.detach(), gradient


@dataclass(frozen=True)
class DPS(DPSLikelihood):
    """VP coordinates; DPS algorithm 1: an ancestral step, then x <- x - zeta grad_x |y - A x0_hat(x)|, norms per image.

    It is the paper's zeta' / |r|, up to a factor 2. The variance of the ancestral step is DDPM's posterior variance (the
    published code takes the learned one).
    """

    zeta: float = 0.3

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """Of the prior's table, or of DDPM's own where it has none: zeta is a length in x_t, for so many steps."""
        return vp_levels(prior, self.steps, table=linear_alpha_bar())

    def check(self, problem: Problem, prior: Prior) -> None:
        self.levels(problem, prior)

    def sample(self, chain: Chain) -> Iterator[Move]:
        x = chain.start()  # line 1
        for a, a_next in pairwise(chain.levels):
            x0, _, gradient = self.guidance(chain, x, a)  # lines 3 and 4
            x = ddim_step_vp(x, x0, a, a_next, self.eta, chain.noise)  # lines 5 and 6
            x = x - self.zeta * gradient  # line 7
            yield sigma_at(a), x, x0
