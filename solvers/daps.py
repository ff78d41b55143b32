"""DAPS, decoupled annealing posterior sampling (Zhang et al. 2025), by one exact draw a level, for any prior."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from data.seeding import Noise, Tied
from ldm.denoiser import Prior
from ldm.sampling import ve_levels
from solvers.beliefs import (
    Belief,
    Isotropic,
    isotropic_variance,
    spectral_image,
    spectral_state,
    state_variance,
)
from solvers.condition import condition, conditioned
from solvers.jacobian import Jacobian
from solvers.operators.base import Operator
from solvers.problem import Problem
from solvers.solver import Chain, Move, Solver, final_image, need_linear, positive

COLOURED = 0.3  # up to this level a draw spreads as V says, at each frequency; above it by white noise of as much power
CLOSED = 0.05  # the same where y leaves nothing open (`Operator.gaps`)
HIDING = 3.0  # above this level as V says again: noise of the next level hides what would look like anatomy
AVERAGED = 4.0  # the level at which draws are averaged, in medians of their standard deviations


@dataclass(frozen=True)
class DAPS(Solver):
    """VE coordinates, x = x0 + sigma n; DAPS algorithm 1: draw x0 ~ p(x0 | x, y), put noise of the next level on it.

    The draw is one conditional update of N(D(x), V), V = Cov[x0 | x], by Gauss-Newton where A is not linear; it is exact as far
    as V is. The paper's, an ODE and a Markov chain, is in `solvers.published.daps`.
    """

    volumes = True
    resumable = True

    steps: int = 200  # annealing levels N
    sigma_max: float | None = (
        100.0  # the first, in the state's units (images: [-1, 1]); None: 1 or 10, by `enough`
    )
    sigma_min: float = 0.1  # the last
    covariance: Literal["measured", "heuristic", "trace", "operator"] = (
        "measured"  # V: of each frequency as training found it
    )
    # (a latent's as its image; a number where nobody looked), one number for each sigma, tr/n, or whole
    s0: float | None = (
        None  # of s0^2 sigma^2/(s0^2+sigma^2) for `heuristic`; default: the measured mean, else 0.5 (latents: 1)
    )
    newton: int = 2  # Gauss-Newton steps of a draw through a decoder ...
    cg: int = 10  # ... and conjugate gradients in each
    rank: int = 30  # Lanczos vectors for the square root of the whole covariance
    polish: bool = True  # latent priors: one pixel-space update at the end, a draw where V is known by frequency

    def __post_init__(self) -> None:
        positive(self, "steps", "newton", "cg", "rank", "s0")

    def check(self, problem: Problem, prior: Prior) -> None:
        if self.covariance == "operator":
            need_linear("covariance: operator", problem.operator, prior)
        self.levels(problem, prior)

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """From sigma_max to sigma_min."""
        most = self.enough(problem, prior) if self.sigma_max is None else self.sigma_max
        return [*ve_levels(prior, self.steps, self.sigma_min, most), 0.0]

    def enough(self, problem: Problem, prior: Prior) -> float:
        """The first level: 1 where y tells the coarse structure and V, by frequency, what that says of the rest; else 10."""
        operator = problem.operator
        told = self.measured and spectral_state(prior, operator) and not operator.leaves_coarse
        return 1.0 if told else 10.0

    def sample(self, chain: Chain) -> Iterator[Move]:
        x = chain.begin(lambda: chain.levels[0] * chain.start())
        for sigma, sigma_next in pairwise(chain.levels):
            if sigma_next == 0 and self.ends_in_pixels(chain.prior, chain.problem.operator):
                x = chain.denoise(x, sigma)
                yield sigma, x, x
                return
            x0 = chain.framed(self.draw(chain, x, sigma))
            x = x0 + sigma_next * chain.fresh.like(x0)
            yield sigma, x, x0

    def draw(self, chain: Chain, x: Tensor, sigma: float) -> Tensor:
        """A draw of x0 | x, y under the belief N(D(x), V)."""
        prior, noise = chain.prior, chain.noise
        if self.covariance == "operator":
            return condition(Jacobian(prior, x, sigma, chain.offset, self.rank), chain.seen, noise)
        if self.covariance == "trace":
            J = Jacobian(prior, x, sigma, chain.offset)
            signs = chain.framed(noise.like(x).sign(), 0.0)
            return self.isotropic(chain, Isotropic(J.mean, J.trace(signs)))
        x0_hat = chain.denoise(x, sigma)
        v = state_variance(prior, sigma) if self.s0 is None else isotropic_variance(sigma, self.s0)
        if not self.spectral(prior, chain.problem.operator):
            return self.isotropic(chain, Isotropic(x0_hat, v))
        belief = Belief.of(prior, x0_hat, sigma, chain.problem)
        seen = chain.view(belief)
        coloured = COLOURED if chain.problem.operator.gaps else CLOSED
        if not (coloured < sigma <= HIDING or belief.decoded):
            return condition(belief.scaled_to_residual(seen, noise), seen, noise)
        # white, as so much noise of V's colour would look like anatomy to the next D (1.6 dB of MRI x 4)
        u = x0_hat + sqrt(v) * noise.like(x0_hat)
        belief = belief.scaled_to_residual(seen, noise)
        drawn = belief.around(chain.place(belief, u))
        return chain.state(belief, condition(drawn, seen.perturbed(noise)))

    def isotropic(self, chain: Chain, belief: Isotropic) -> Tensor:
        """A draw under one variance for each image."""
        if chain.decodes:
            return conditioned(belief, chain.seen, chain.noise, cap=self.cg, newton=self.newton).x
        return condition(belief, chain.seen, chain.noise)

    def result(self, chain: Chain, move: Move) -> Tensor:
        sigma, x, _ = move
        if not self.ends_in_pixels(chain.prior, chain.problem.operator):
            return final_image(chain.prior, x, chain.problem, self.polish)
        belief = Belief.of(chain.prior, x, sigma, chain.problem, pixels=True)
        return condition(
            belief.scaled_to_residual(chain.problem, chain.noise), chain.problem, chain.noise
        )

    def mean(self, draws: Tensor, problem: Problem, prior: Prior, seed: int, rows: int) -> Tensor:
        """With less of the draws' variance than their average has, where V is known by frequency."""
        if self.measured and spectral_state(prior, problem.operator):
            return conditional_mean(draws, problem, prior, seed, rows)
        return super().mean(draws, problem, prior, seed, rows)

    @property
    def measured(self) -> bool:
        """Whether V is what training found, where it looked."""
        return self.covariance == "measured" and self.s0 is None

    def spectral(self, prior: Prior, operator: Operator) -> bool:
        """Whether V is known by frequency."""
        return self.measured and (
            spectral_state(prior, operator) or spectral_image(prior, operator)
        )

    def ends_in_pixels(self, prior: Prior, operator: Operator) -> bool:
        """Whether the last draw is of the image: a latent cannot hold what its autoencoder errs by."""
        return self.polish and self.measured and spectral_image(prior, operator)

    def posterior(self, prior: Prior, operator: Operator) -> bool:
        return prior.kind == "pixel" or self.ends_in_pixels(prior, operator)


def conditional_mean(draws: Tensor, problem: Problem, prior: Prior, seed: int, rows: int) -> Tensor:
    """E[x0 | y] of one image, [K,C,H,W] draws of its posterior -> [C,H,W] (Rao and Blackwell); `rows` go through D at once.

    An average of K draws keeps 1/K of their variance. But x_k + s n_k is a draw of x_s | y, so that

        E[x0 | y] = E[ E[x0 | x_s, y] ],

    and the inner mean is one network call and one update away. Of an entry whose posterior variance is p it keeps
    p^2 / (p + s^2): at s = 2 sqrt(p) a fifth of p, and a twenty-fifth once the n_k cancel, as they do here, where each is
    N(0, I) and their sum 0. A larger s asks more of D and V than they know. So s follows the median: a hole, whose draws
    differ most, must not blur what was measured about it.
    """
    k = len(draws)
    s = AVERAGED * float(draws.std(0).median())
    s = min(max(s, prior.sigma_min), prior.sigma_max)
    many = problem.repeat(k)
    noise = Noise(many.ids, "mean", seed, range(k))
    states = prior.to_state(draws)
    n = Tied(noise, prior.coupled).like(states)
    noisy = states + s * sqrt(k / (k - 1)) * (n - n.mean(0))
    means = []
    for first in range(0, k, rows):
        chosen = range(first, min(first + rows, k))
        fresh = Noise(problem.ids * len(chosen), "mean", seed, [k + i for i in chosen])
        chain = Chain(many.select(list(chosen)), prior, fresh, [s, 0.0])
        x0 = chain.denoise(noisy[first : first + rows], s)
        belief = Belief.of(prior, x0, s, chain.problem)
        means.append(prior.to_image(chain.mean(belief)))
    return torch.cat(means).mean(0)
