"""PaDIS with predictor-corrector sampling (Song et al. 2021, algorithm 2; Hu et al. 2024, appendix)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.operators.base import LinearOperator, norm, per_image
from solvers.padis import squared_norms
from solvers.problem import Problem
from solvers.state import finish
from solvers.step import Step, need_linear, positive
from solvers.steps import full, start, ve_levels


@dataclass(frozen=True)
class PaDISPC:
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
    spacing: Literal["geometric", "karras"] = "geometric"
    normalisation: Literal["operator", "published"] = "operator"  # zeta / |A|^2, or zeta / |r| (and min(40, 200 sigma))
    zeta: float = 1.0  # step of the data term
    r0: float = 0.16  # signal-to-noise ratio of the corrector
    variance: Literal["corrected", "published"] = "corrected"
    final: Literal["mean", "state"] = "mean"  # return the last denoised, y-consistent image, or the state itself

    def __post_init__(self) -> None:
        positive(self, "steps", "r0")

    def check(self, problem: Problem, prior: Prior) -> None:
        need_linear("PaDISPC", problem.operator, prior)
        ve_levels(prior, self.steps, self.sigma_min, self.sigma_max, self.spacing)

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: Prior, noise: Noise) -> Iterator[Step]:
        problem = problem.whitened()
        seen, offset = problem.seen_by(prior), noise.of("offset")
        levels = ve_levels(prior, self.steps, self.sigma_min, self.sigma_max, self.spacing)
        gain = squared_norms(seen, prior) if self.normalisation == "operator" else None
        x = levels[0] * start(prior, noise, problem.y)
        for t, (sigma, sigma_next) in enumerate(pairwise(levels)):
            D = prior.denoise(x, full(sigma, x), offset)
            drop = sigma**2 - sigma_next**2
            spread = sqrt(drop) * (sigma_next / sigma if self.variance == "corrected" else 1)
            x = x + drop / sigma**2 * (D - x) + spread * noise.like(x)
            x = x + self.data_step(x, seen, gain, 1.0)
            D = prior.denoise(x, full(sigma_next, x), offset)
            score, z = (D - x) / sigma_next**2, noise.like(x)
            e = per_image(2 * (self.r0 * norm(z) / norm(score)) ** 2, x)
            added = 2 * e
            if self.variance == "corrected":
                e = e.clamp_max(sigma_next**2)  # all of the noise
                added = 2 * e - e**2 / sigma_next**2
            x = x + e * score + added.sqrt() * z
            x = x + self.data_step(x, seen, gain, min(40.0, 100.0 * sigma))  # 200 sigma of [0, 1] images
            if t < len(levels) - 2:
                yield Step(t, sigma, x, prior.to_image(D))
        D = prior.denoise(x, full(levels[-1], x), offset)
        x = x if self.final == "state" else finish(prior, D, levels[-1], seen)
        yield Step(max(len(levels) - 2, 0), levels[-1], x, prior.to_image(x))

    def data_step(self, x: Tensor, seen: Problem, gain: Tensor | None, strength: float) -> Tensor:
        """zeta / |A|^2 A^T r, or the published strength * zeta / |r| A^T r."""
        operator: LinearOperator = seen.operator  # type: ignore[assignment]
        r = seen.y - operator.forward(x)
        if gain is not None:
            return per_image(self.zeta / gain, x) * operator.adjoint(r)
        return strength * self.zeta * operator.adjoint(r) / per_image(norm(r).clamp_min(torch.finfo(r.dtype).tiny), x)
