"""PaDIS (Hu et al. 2024): annealed Langevin dynamics with a patch prior, a fresh partition at every evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.operators.base import LinearOperator, norm, per_image
from solvers.problem import Problem
from solvers.state import belief, by_frequency, covariance, finish, met
from solvers.step import Step, need_linear, positive
from solvers.steps import full, start, ve_levels

Normalisation = Literal["operator", "paper", "code"]


@dataclass(frozen=True)
class PaDIS:
    """VE coordinates, x = x0 + sigma n on the padded square; PaDIS algorithm 1 and its variants, for any pixel prior.

    data: `ddnm` conditions D on y before the Langevin step (no gradient through the network); `dps` descends |y - A D(x)|
    through the network; `langevin` descends |y - A x|. normalisation of the last two: `operator` divides the step by
    |A|^2, so that one zeta serves all geometries; `paper` and `code` divide the squared norm's gradient by |r| and 2|r|.
    variance `corrected` scales the Langevin noise so that the state has the deviation that the network is told next; where
    the levels fall faster than the step removes noise, more of it is removed. The published update is noisier, in variance by
    1 / (1 - eps / 4) where levels are dense, and without bound where they are few. It also takes the errors of D for white.
    """

    steps: int = 100  # noise levels
    inner: int = 1  # Langevin steps at each; published 10
    sigma_max: float | None = 20.0  # first and last of them, on images in [-1, 1]; published 10 on [0, 1]. None: 20, but 1
    # where `ddnm` knows the prior's errors by frequency
    sigma_min: float = 0.004
    spacing: Literal["geometric", "karras"] = "geometric"
    data: Literal["ddnm", "dps", "langevin"] = "ddnm"
    normalisation: Normalisation = "operator"
    zeta: float = 1.0  # step of the data term
    eps: float = 1.0  # step of the Langevin term
    variance: Literal["corrected", "published"] = "corrected"
    final: Literal["mean", "state"] = "mean"  # return the last denoised, y-consistent image, or the state itself

    def __post_init__(self) -> None:
        positive(self, "steps", "inner")
        if not 0 < self.eps <= 4:
            raise Refusal(f"eps must lie in (0, 4], not {self.eps}")

    def check(self, problem: Problem, prior: Prior) -> None:
        if self.data != "dps":
            need_linear("PaDIS", problem.operator, prior)
        if prior.kind == "latent":
            raise Refusal("PaDIS needs a pixel or patch prior, not a latent one; use DAPS, ReSample or PSLD")
        self.levels(problem, prior)

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: Prior, noise: Noise) -> Iterator[Step]:
        problem = problem.whitened()
        seen, offset = problem.seen_by(prior), noise.of("offset")
        levels = self.levels(problem, prior)
        gain = squared_norms(seen, prior) if self.data != "ddnm" and self.normalisation == "operator" else torch.ones(())
        x = levels[0] * start(prior, noise, problem.y)
        for t, sigma in enumerate(levels):
            last = t == len(levels) - 1
            for k in range(self.inner):
                D, push = self.data_term(x, sigma, seen, prior, noise, offset, gain)
                keep, spread = self.langevin(sigma, levels[t + 1] if k == self.inner - 1 and not last else sigma)
                x = x + push + (1 - keep) * (D - x)
                x = x if last else x + spread * noise.like(x)
            if not last:
                yield Step(t, sigma, x, prior.to_image(D))
        if self.final == "mean" and isinstance(seen.operator, LinearOperator):
            D = finish(prior, D, sigma, seen)
        yield Step(t, sigma, x, prior.to_image(D if self.final == "mean" else x))

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """From sigma_max to sigma_min."""
        enough = 1.0 if self.data == "ddnm" and self.variance == "corrected" and by_frequency(prior, problem.operator) else 20.0
        most = enough if self.sigma_max is None else self.sigma_max
        return ve_levels(prior, self.steps, self.sigma_min, most, self.spacing)

    def langevin(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        """The share of the noise that a step keeps, and the deviation of what it adds."""
        keep = 1 - self.eps / 2
        if self.variance == "published":
            return keep, sqrt(self.eps) * sigma
        most = sigma_next / sigma
        keep = max(min(keep, most), -most)
        return keep, sqrt(most**2 - keep**2) * sigma

    def data_term(
        self, x: Tensor, sigma: float, seen: Problem, prior: Prior, noise: Noise, offset: Noise, gain: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The denoised state, conditioned on y in the DDNM form, and what the data term adds to x."""
        if self.data == "dps":
            with torch.enable_grad():
                x_t = x.detach().requires_grad_()
                D = prior.denoise(x_t, full(sigma, x_t), offset)
                distance = norm(seen.y - seen.operator.forward(D))
                (gradient,) = torch.autograd.grad(distance.sum(), x_t)
            return D.detach(), -self.step(distance.detach(), gain, x) * gradient
        D = prior.denoise(x, full(sigma, x), offset)
        if self.data == "ddnm":
            V = covariance(prior, sigma, D, seen) if self.variance == "corrected" else belief(prior, sigma)
            return met(D, V, seen, noise), torch.zeros(())
        operator: LinearOperator = seen.operator  # type: ignore[assignment]
        r = seen.y - operator.forward(x)
        strength = min(40.0, 100.0 * sigma) if self.normalisation != "operator" else 1.0  # 200 sigma of [0, 1] images
        distance = norm(r).clamp_min(torch.finfo(r.dtype).tiny)
        return D, strength * self.step(distance, gain, x) * operator.adjoint(r) / per_image(distance, x)

    def step(self, distance: Tensor, gain: Tensor, like: Tensor) -> Tensor:
        """What grad |r| is multiplied by, per image: zeta |r| / |A|^2 (`operator`), 2 zeta (`paper`, with `dps`), else zeta."""
        if self.normalisation == "operator":
            return per_image(self.zeta * distance / gain, like)
        twice = self.normalisation == "paper" and self.data == "dps"
        return torch.full_like(per_image(distance, like), (2 if twice else 1) * self.zeta)


def squared_norms(problem: Problem, prior: Prior) -> Tensor:
    """|A|^2 as each image's own operator has it, at the mid-grey image where A is not linear. [B]"""
    grey = torch.zeros(1, *prior.shape, dtype=problem.y.dtype, device=problem.y.device)
    norms = [problem.operator.select([i]).linearize(grey).norm() for i in range(len(problem.ids))]
    return torch.tensor(norms, dtype=problem.y.dtype, device=problem.y.device) ** 2
