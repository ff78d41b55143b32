"""PaDIS with predictor-corrector sampling (Song et al. 2021, algorithm 2; Hu et al. 2024, appendix)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

from torch import Tensor

from ldm.denoiser import Prior
from ldm.sampling import ve_levels
from ldm.schedule import Spacing
from solvers.discrepancy import meet_noise_level
from solvers.operators.base import norm, per_image
from solvers.problem import Problem
from solvers.published.padis import Variance, data_step, squared_norms, strength
from solvers.solver import Chain, Move, Solver, need_linear, positive


@dataclass(frozen=True)
class PaDISPC(Solver):
    """VE coordinates; between two levels a reverse-diffusion step, then a Langevin step at the lower one whose size is set
    by the signal-to-noise ratio r0, each followed by a step on the data.

    The corrector denoises at its own level with a fresh partition and its step is 2 (r0 |z| / |s|)^2 (the published code
    divides a score of the level above by this level's variance, and forgets the square). variance `corrected` scales the
    noise of both so that the state has the deviation that the network is told; published steps leave some over, the
    predictor's the more the fewer the levels.
    """

    steps: int = 100  # noise levels; one predictor and one corrector between neighbours
    sigma_max: float = 20.0  # first and last of them, on images in [-1, 1]; published 10 on [0, 1]
    sigma_min: float = 0.004
    spacing: Spacing = "geometric"
    normalisation: Literal["operator", "published"] = (
        "operator"  # zeta / |A|^2, or zeta / |r| (and min(40, 200 sigma))
    )
    zeta: float = 1.0  # step of the data term
    r0: float = 0.16  # signal-to-noise ratio of the corrector
    variance: Variance = "corrected"
    final: Literal["mean", "state"] = (
        "mean"  # return the last denoised, y-consistent image, or the state itself
    )

    def __post_init__(self) -> None:
        positive(self, "steps", "r0")

    def check(self, problem: Problem, prior: Prior) -> None:
        need_linear("PaDISPC", problem.operator, prior)
        self.levels(problem, prior)

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        return [*ve_levels(prior, self.steps, self.sigma_min, self.sigma_max, self.spacing), 0.0]

    def sample(self, chain: Chain) -> Iterator[Move]:
        gain = squared_norms(chain) if self.normalisation == "operator" else None
        x = chain.levels[0] * chain.start()
        for sigma, sigma_next in pairwise(chain.levels):
            D = chain.denoise(x, sigma)
            if sigma_next > 0:
                x = self.predict(x, D, sigma, sigma_next, chain)
                x = x + data_step(chain, x, self.zeta, gain, 1.0)
                x = self.correct(x, sigma_next, chain)
                x = x + data_step(chain, x, self.zeta, gain, strength(sigma))
            yield sigma, x, D

    def predict(
        self, x: Tensor, D: Tensor, sigma: float, sigma_next: float, chain: Chain
    ) -> Tensor:
        """A reverse-diffusion step from sigma to sigma_next."""
        drop = sigma**2 - sigma_next**2
        spread = sqrt(drop) * (sigma_next / sigma if self.variance == "corrected" else 1)
        return x + drop / sigma**2 * (D - x) + spread * chain.noise.like(x)

    def correct(self, x: Tensor, sigma: float, chain: Chain) -> Tensor:
        """A Langevin step at sigma, of size e = 2 (r0 |z| / |score|)^2 for each image."""
        score = (chain.denoise(x, sigma) - x) / sigma**2
        z = chain.noise.like(x)
        e = per_image(2 * (self.r0 * norm(z) / norm(score)) ** 2, x)
        added = 2 * e
        if self.variance == "corrected":
            e = e.clamp_max(sigma**2)  # all of the noise
            added = 2 * e - e**2 / sigma**2
        return x + e * score + added.sqrt() * z

    def result(self, chain: Chain, move: Move) -> Tensor:
        sigma, x, D = move
        if self.final == "mean":
            x = meet_noise_level(chain.last_belief(D, sigma), chain.seen)
        return chain.prior.to_image(x)
