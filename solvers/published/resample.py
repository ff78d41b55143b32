"""ReSample as released (Song et al. 2024): AdamW descents, a look-ahead, an extra latent-DPS step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from data.files import Refusal
from ldm.denoiser import Prior
from ldm.sampling import ddim_step_vp, noise_in, sigma_at, vp_levels
from ldm.schedule import scaled_linear_alpha_bar
from solvers.beliefs import Belief
from solvers.operators.base import norm, per_image
from solvers.operators.wrapper import Composed
from solvers.problem import Problem
from solvers.published.descent import AdamW, misfit
from solvers.resample import ReSample
from solvers.solver import Chain, Move


@dataclass(frozen=True)
class PublishedReSample(ReSample):
    """VP coordinates; the released loop, which adds to algorithm 1 what the paper does not have.

    The published look-ahead feeds the network a time one step off its coefficients; that is not kept.
    """

    adamw: AdamW | None = AdamW()  # the published descents; None: exact updates
    look_ahead: int = 0  # DDIM steps taken only to get a better x0; published 5
    tweedie: Literal["exact", "code"] = (
        "exact"  # x0 from sqrt(1-a) eps, or from the published (1-a) eps
    )
    dps: float = 0.0  # weight of a latent-DPS step with frozen eps at every level; published 0.5
    spacing: Literal["even", "leading"] = (
        "even"  # of the times; `leading` is latent diffusion's own
    )
    codebook: bool = False  # y is met decoded with the codebook, as in the released code, its gradient passed straight on

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.look_ahead < 0:
            raise Refusal(f"look_ahead must be at least 0, not {self.look_ahead}")

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        return vp_levels(prior, self.steps, self.spacing, scaled_linear_alpha_bar())

    def sample(self, chain: Chain) -> Iterator[Move]:
        z = chain.start()
        for t, (a, a_next) in enumerate(pairwise(chain.levels)):
            clean = chain.tweedie(z, a)
            x0 = self.estimate(z, clean, a)
            z = ddim_step_vp(z, clean, a, a_next, self.eta, chain.noise)
            if self.dps > 0:
                r, gradient = misfit(self.decoded(chain), x0)
                length = norm(r).clamp_min(torch.finfo(r.dtype).tiny)
                z = z - self.dps * sqrt(a) * gradient / per_image(length, gradient)
            if self.due(chain, t):
                x0 = self.look(chain, z, x0, chain.levels[t + 1 : t + 2 + self.look_ahead])
                x0 = self.consistent(chain, x0, sigma_at(a))
                z = self.resample(x0, z, a, a_next, chain.noise)
            z = self.last(chain, z, t)
            yield sigma_at(a), z, x0

    def decoded(self, chain: Chain) -> Problem:
        """The measurement as a function of the state."""
        if not (self.codebook and chain.decodes):
            return chain.own_seen
        through = Composed(chain.own.operator, partial(chain.prior.decode, quantize=True))
        return replace(chain.own, operator=through)

    def estimate(self, z: Tensor, x0: Tensor, a: float) -> Tensor:
        """x0, or the published pseudo-Tweedie one, which leaves some noise in."""
        if self.tweedie == "exact":
            return x0
        return (z - (1 - a) * noise_in(z, x0, a)) / sqrt(a)

    def look(self, chain: Chain, z: Tensor, x0: Tensor, levels: list[float]) -> Tensor:
        """The estimate after plain DDIM steps along these levels; x0 itself if there are none."""
        for a, a_next in pairwise(levels):
            clean = chain.tweedie(z, a)
            x0 = self.estimate(z, clean, a)
            z = ddim_step_vp(z, clean, a, a_next)
        return x0

    def consistent(self, chain: Chain, x0: Tensor, sigma: float) -> Tensor:
        if self.adamw is None:
            return super().consistent(chain, x0, sigma)
        pixels = sigma > self.sigma_latent
        belief = Belief.of(chain.prior, x0, sigma, chain.problem, pixels)
        seen = chain.own if belief.decoded else self.decoded(chain)
        return chain.framed(chain.state(belief, self.meet(belief, seen, pixels)))

    def meet(self, belief: Belief, seen: Problem, pixels: bool) -> Tensor:
        if self.adamw is None:
            return super().meet(belief, seen, pixels)
        return self.adamw(belief.mean, seen, "pixel" if pixels else "latent")
