"""PaDIS (Hu et al. 2024): annealed Langevin dynamics with a patch prior, a fresh partition at every evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from data.files import Refusal
from ldm.denoiser import Prior
from ldm.sampling import langevin_noise, ve_levels
from ldm.schedule import Spacing
from solvers.beliefs import Belief, spectral_state
from solvers.discrepancy import meet_noise_level
from solvers.operators.base import LinearOperator
from solvers.problem import Problem
from solvers.solver import Chain, Move, Solver, need_linear, positive


@dataclass(frozen=True)
class PaDIS(Solver):
    """VE coordinates, x = x0 + sigma n on the padded square; PaDIS's DDNM form, for any pixel prior: D is conditioned on y
    before each Langevin step, and no gradient goes through the network.

    The Langevin noise is such that the state has the deviation that the network is told next (`langevin_noise`); the paper's
    forms, noisier, are in `solvers.published.padis`.
    """

    volumes = True
    resumable = True

    steps: int = 100  # noise levels
    inner: int = 1  # Langevin steps at each; published 10
    sigma_max: float | None = (
        20.0  # first and last of them, on images in [-1, 1]; published 10 on [0, 1]. None: 20, but 1
    )
    # where the prior's errors are known by frequency
    sigma_min: float = 0.004
    spacing: Spacing = "geometric"
    eps: float = 1.0  # step of the Langevin term
    final: Literal["mean", "state"] = (
        "mean"  # return the last denoised, y-consistent image, or the state itself
    )

    def __post_init__(self) -> None:
        positive(self, "steps", "inner")
        if not 0 < self.eps <= 4:
            raise Refusal(f"eps must lie in (0, 4], not {self.eps}")

    def check(self, problem: Problem, prior: Prior) -> None:
        need_linear("PaDIS", problem.operator, prior)
        self.levels(problem, prior)

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """From sigma_max to sigma_min."""
        most = self.enough(problem, prior) if self.sigma_max is None else self.sigma_max
        return [*ve_levels(prior, self.steps, self.sigma_min, most, self.spacing), 0.0]

    def enough(self, problem: Problem, prior: Prior) -> float:
        """The noise level above which y, or the prior, has nothing to say."""
        return 1.0 if spectral_state(prior, problem.operator) else 20.0

    def sample(self, chain: Chain) -> Iterator[Move]:
        x = chain.begin(lambda: chain.levels[0] * chain.start())
        for sigma, sigma_next in pairwise(chain.levels):
            for k in range(self.inner):
                D = self.estimate(chain, x, sigma)
                then = sigma_next if k == self.inner - 1 and sigma_next > 0 else sigma
                keep, spread = self.langevin(sigma, then)
                x = x + (1 - keep) * (D - x)
                if sigma_next > 0:
                    x = x + spread * chain.fresh.like(x)
            yield sigma, x, D

    def estimate(self, chain: Chain, x: Tensor, sigma: float) -> Tensor:
        """The denoised state, conditioned on y."""
        D = chain.denoise(x, sigma)
        return chain.mean(Belief.of(chain.prior, D, sigma, chain.problem))

    def langevin(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        """The share of the noise that a step keeps, and the deviation of what it adds."""
        return langevin_noise(sigma, sigma_next, self.eps)

    def result(self, chain: Chain, move: Move) -> Tensor:
        sigma, x, D = move
        if self.final == "state":
            return chain.prior.to_image(x)
        if isinstance(chain.seen.operator, LinearOperator):
            D = meet_noise_level(chain.last_belief(D, sigma), chain.seen)
        return chain.prior.to_image(D)
