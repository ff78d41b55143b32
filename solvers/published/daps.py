"""DAPS as published (Zhang et al. 2025): a probability-flow ODE to x0_hat, then a Markov chain around it, at every level."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import Prior
from ldm.sampling import pf_ode, unadjusted, ve_levels
from ldm.schedule import karras
from solvers.operators.base import dot, per_image
from solvers.problem import Problem
from solvers.published.descent import misfit
from solvers.solver import Chain, Move, Solver, fraction, positive


@dataclass(frozen=True)
class Target:
    """What the chains draw from: p(x0) ~ N(x0; x0_hat, sigma^2 I) exp(-|A x0 - y|^2 / 2 tau^2)."""

    problem: Problem  # y as a function of the state
    x0_hat: Tensor
    sigma: float
    tau: float
    clamp: float | None = None  # bound of the entries of grad |A x - y|^2

    def score(self, x: Tensor) -> Tensor:
        """grad log p, [B,C,H,W]"""
        gradient = 2 * misfit(self.problem, x)[1]
        if self.clamp is not None:
            gradient = gradient.clamp(-self.clamp, self.clamp)
        return -gradient / (2 * self.tau**2) - (x - self.x0_hat) / self.sigma**2

    def energy(self, x: Tensor) -> Tensor:
        """-log p, [B]"""
        r, d = self.problem.operator.forward(x) - self.problem.y, x - self.x0_hat
        return dot(r, r) / (2 * self.tau**2) + dot(d, d) / (2 * self.sigma**2)


@dataclass(frozen=True)
class DecoupledAnnealing(Solver):
    """VE coordinates, x = x0 + sigma n; DAPS algorithm 1. Subclasses say by which Markov chain x0 | x, y is drawn."""

    steps: int = 200  # annealing levels N
    sigma_max: float = 100.0  # the first, in the state's units (images: [-1, 1]); 10 for latents
    sigma_min: float = 0.1  # the last
    ode: Literal["euler", "heun"] = "euler"
    ode_steps: int = 5  # K
    ode_sigma_min: float = 0.01  # where the ODE ends
    M: int = 100  # steps of the chain
    lr: float = 1e-4  # eta_0, its step at the first level
    lr_min_ratio: float = 0.01  # of lr, reached linearly at the end of the annealing
    tau: float = (
        0.01 / 2**0.5
    )  # likelihood deviation of the chain; the published code's 0.01 lacks the factor 1/2
    final_denoise: bool = False  # end with D(x0, sigma_min)
    polish: bool = True  # latent priors: one pixel-space update at the end

    def __post_init__(self) -> None:
        positive(self, "steps", "ode_steps", "M", "ode_sigma_min", "lr", "lr_min_ratio", "tau")

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        return [*ve_levels(prior, self.steps, self.sigma_min, self.sigma_max), 0.0]

    def sample(self, chain: Chain) -> Iterator[Move]:
        x = chain.levels[0] * chain.start()  # line 1
        for i, (sigma, sigma_next) in enumerate(pairwise(chain.levels)):
            levels = self.ode_levels(sigma)
            x0_hat = pf_ode(chain.prior, x, levels, chain.offset, self.ode == "heun")  # line 3
            eta = self.lr * (1 + i / (self.steps + 1) * (self.lr_min_ratio - 1))
            x0 = self.draw(
                self.target(chain.own_seen, x0_hat, sigma), eta, chain.noise
            )  # lines 4 to 7
            x = x0 + sigma_next * chain.noise.like(x0)  # line 8
            if sigma_next == 0 and self.final_denoise:
                x = chain.denoise(x, sigma)
            yield sigma, x, x0

    def ode_levels(self, sigma: float) -> list[float]:
        """K + 1 levels from sigma to where the ODE ends; below that there is nothing left to integrate."""
        if sigma <= self.ode_sigma_min:
            return [sigma]
        return karras(self.ode_steps + 1, self.ode_sigma_min, sigma).tolist()

    def target(self, seen: Problem, x0_hat: Tensor, sigma: float) -> Target:
        return Target(seen, x0_hat, sigma, self.tau)

    def draw(self, target: Target, eta: float, noise: Noise) -> Tensor:
        """M steps of the chain, started at x0_hat."""
        raise NotImplementedError


@dataclass(frozen=True)
class DAPSLangevin(DecoupledAnnealing):
    """By unadjusted Langevin dynamics: x <- x + eta s(x) + sqrt(2 eta) z. The published form for pixels."""

    clamp: float | None = (
        None  # bound of the entries of grad |A x - y|^2 (1 in the published latent form)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "clamp")

    def target(self, seen: Problem, x0_hat: Tensor, sigma: float) -> Target:
        return Target(seen, x0_hat, sigma, self.tau, self.clamp)

    def draw(self, target: Target, eta: float, noise: Noise) -> Tensor:
        x = target.x0_hat
        for _ in range(self.M):
            x = unadjusted(x, target.score(x), eta, noise)
        return x


@dataclass(frozen=True)
class DAPSHMC(DAPSLangevin):
    """By the published "HMC", which is underdamped Langevin: no leapfrog, nothing rejected. momentum 0 is `DAPSLangevin`."""

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "momentum")

    def draw(self, target: Target, eta: float, noise: Noise) -> Tensor:
        x, h = target.x0_hat, math.sqrt(eta)
        velocity = noise.like(x)
        for _ in range(self.M):
            kick = h * target.score(x) + math.sqrt(2 * (1 - self.momentum)) * noise.like(x)
            velocity = self.momentum * velocity + kick
            x = x + h * velocity
        return x


@dataclass(frozen=True)
class DAPSMetropolis(DecoupledAnnealing):
    """By random-walk Metropolis-Hastings with proposals of deviation sqrt(eta); each image accepts for itself."""

    def draw(self, target: Target, eta: float, noise: Noise) -> Tensor:
        x = target.x0_hat
        now = target.energy(x)
        for _ in range(self.M):
            proposal = x + math.sqrt(eta) * noise.like(x)
            then = target.energy(proposal)
            accept = noise.uniform((len(x),), torch.float64, x.device).log() < now - then
            x = torch.where(per_image(accept, x).bool(), proposal, x)
            now = torch.where(accept, then, now)
        return x
