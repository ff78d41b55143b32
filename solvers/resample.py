"""ReSample, hard data consistency with stochastic resampling (Song et al. 2024), for latent and pixel priors."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import Prior
from ldm.sampling import ddim_step_vp, sigma_at, vp_levels
from solvers.beliefs import IMAGE_DEVIATION, Belief
from solvers.condition import conditioned
from solvers.discrepancy import discrepancy, meet_noise_level
from solvers.operators.base import LinearOperator
from solvers.problem import Problem
from solvers.solver import Chain, Move, Solver, final_image, fraction, positive


@dataclass(frozen=True)
class ReSample(Solver):
    """VP coordinates; ReSample algorithm 1: DDIM steps, at some of which x0 is made consistent with y (in pixels at high
    noise, in the latent at low noise) and put back at its noise level by stochastic resampling.

    The noise level decides which stage is due, so that any number of steps works. Consistency is one conditional update, under
    the errors of D by frequency where training measured them, else with the variance that the discrepancy principle asks for
    (Gauss-Newton where A, or A after the decoder, is not linear). The released code's is in `solvers.published.resample`.
    """

    volumes = True
    resumable = True

    steps: int = 500
    gamma: float = 40.0  # of the resampling variance
    skip: int | None = (
        None  # steps from one consistency to the next; default steps / 50, as 10 is to 500
    )
    sigma_pixel: float = 6.6  # consistency is on from this noise level down: in pixels ...
    sigma_latent: float = (
        1.39  # ... and from this one in the latent; 0 stays in pixels, the fast mode
    )
    newton: int = 2  # Gauss-Newton steps of a consistency in the latent ...
    cg: int = 5  # ... and conjugate gradients in each
    resampling: Literal["paper", "code", "encode"] = (
        "paper"  # denominator a_t; 1 - a_t; plain re-encoding of x0
    )
    eta: float = 0.0  # of the DDIM steps
    polish: bool = True  # latent priors: one pixel-space update at the end

    def __post_init__(self) -> None:
        positive(self, "steps", "skip", "newton", "cg", "gamma")
        fraction(self, "eta")

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        return vp_levels(prior, self.steps)

    def sample(self, chain: Chain) -> Iterator[Move]:
        z = chain.begin(chain.start)  # line 1
        for t, (a, a_next) in enumerate(pairwise(chain.levels)):
            x0 = chain.tweedie(z, a)  # line 4
            z = ddim_step_vp(z, x0, a, a_next, self.eta, chain.fresh)  # line 5
            if self.due(chain, t):
                x0 = self.consistent(chain, x0, sigma_at(a))  # line 7
                z = self.resample(x0, z, a, a_next, chain.fresh)  # line 8
            z = self.last(chain, z, t)
            yield sigma_at(a), z, x0

    def due(self, chain: Chain, t: int) -> bool:
        """Whether step t is one of those at which y is met."""
        skip, last = self.skip or max(1, round(self.steps / 50)), len(chain.levels) - 2
        return t < last and (last - t) % skip == 0 and sigma_at(chain.levels[t]) <= self.sigma_pixel

    def consistent(self, chain: Chain, x0: Tensor, sigma: float) -> Tensor:
        """The state x0 moved until it explains y, in pixels or in the latent. Under errors by frequency all of V is taken:
        what the noise level asks for alone would cost half a dB of deblurring.
        """
        pixels = sigma > self.sigma_latent
        belief = Belief.of(chain.prior, x0, sigma, chain.problem, pixels)
        if belief.measured:
            return chain.framed(chain.mean(belief))
        return chain.framed(chain.state(belief, self.meet(belief, chain.view(belief), pixels)))

    def meet(self, belief: Belief, seen: Problem, pixels: bool) -> Tensor:
        """The mean moved until it explains y to the noise level, or as far as V lets it."""
        if pixels or isinstance(seen.operator, LinearOperator):
            return meet_noise_level(belief, seen)
        needed = discrepancy(belief, seen, cap=self.cg)
        if not bool(torch.as_tensor(needed.variance).gt(0).any()):
            return belief.mean
        return conditioned(needed, seen, cap=self.cg, newton=self.newton).x

    def resample(self, z0: Tensor, z: Tensor, a: float, a_next: float, noise: Noise) -> Tensor:
        """Eq. (13): the product of N(sqrt(a_next) z0, 1 - a_next), DDPM's view of z0, and N(z, s2), where the chain was."""
        if self.resampling == "encode":
            return sqrt(a_next) * z0 + sqrt(1 - a_next) * noise.like(z)
        share = a if self.resampling == "paper" else 1 - a
        s2 = self.gamma * (1 - a_next) / share * (1 - a / a_next)
        mean = (s2 * sqrt(a_next) * z0 + (1 - a_next) * z) / (s2 + 1 - a_next)
        return mean + sqrt(s2 * (1 - a_next) / (s2 + 1 - a_next)) * noise.like(z)

    def last(self, chain: Chain, z: Tensor, t: int) -> Tensor:
        """Line 10: the last state is made consistent, so that y is met whatever the prior says of itself; others stay."""
        if t < len(chain.levels) - 2 or self.stays_in_pixels(chain.prior):
            return z
        belief = chain.last_belief(z, sigma_at(chain.levels[t]))
        return self.meet(belief, self.decoded(chain), pixels=False)

    def decoded(self, chain: Chain) -> Problem:
        """The measurement as a function of the state."""
        return chain.seen

    def stays_in_pixels(self, prior: Prior) -> bool:
        """Whether consistency never goes through a decoder."""
        return prior.kind == "latent" and self.sigma_latent <= 0

    def result(self, chain: Chain, move: Move) -> Tensor:
        sigma, z, _ = move
        prior, problem = chain.prior, chain.problem
        if not self.stays_in_pixels(prior):
            return final_image(prior, z, problem, self.polish)
        image = final_image(prior, z, problem, polish=False)
        most = IMAGE_DEVIATION**2 + prior.error_variance
        belief = Belief.of_image(prior, image, sigma, problem).with_variance(most)
        return self.meet(belief, chain.own, pixels=True)
