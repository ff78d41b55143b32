"""PaDIS's own forms (Hu et al. 2024): DDNM, DPS and Langevin, with the published noise or the corrected one."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ldm.denoiser import Prior
from ldm.sampling import full, langevin_noise
from solvers.beliefs import Isotropic, state_variance
from solvers.operators.base import LinearOperator, norm, per_image
from solvers.padis import PaDIS
from solvers.problem import Problem
from solvers.solver import Chain, Move, need_pixels

Variance = Literal["corrected", "published"]


@dataclass(frozen=True)
class PaDISDDNM(PaDIS):
    """VE coordinates; PaDIS's DDNM form with the published noise, too large in variance by 1 / (1 - eps / 4) where levels are
    dense and without bound where they are few. It takes the errors of D for white.
    """

    def enough(self, problem: Problem, prior: Prior) -> float:
        return 20.0

    def estimate(self, chain: Chain, x: Tensor, sigma: float) -> Tensor:
        return chain.mean(Isotropic(chain.denoise(x, sigma), state_variance(chain.prior, sigma)))

    def langevin(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        return langevin_noise(sigma, sigma_next, self.eps, corrected=False)


@dataclass(frozen=True)
class Pushed(PaDIS):
    """VE coordinates; PaDIS algorithm 1: a step along the score and one on the data, each Langevin step."""

    zeta: float = 1.0  # step of the data term
    variance: Variance = "corrected"  # of the Langevin noise; published: noisier

    def enough(self, problem: Problem, prior: Prior) -> float:
        return 20.0

    def sample(self, chain: Chain) -> Iterator[Move]:
        gain = self.gain(chain)
        x = chain.levels[0] * chain.start()  # line 1
        for sigma, sigma_next in pairwise(chain.levels):
            for k in range(self.inner):
                D, push = self.data_term(chain, x, sigma, gain)  # lines 4 to 6
                then = sigma_next if k == self.inner - 1 and sigma_next > 0 else sigma
                keep, spread = self.langevin(sigma, then)
                x = x + push + (1 - keep) * (D - x)  # lines 7 and 8
                if sigma_next > 0:
                    x = x + spread * chain.noise.like(x)
            yield sigma, x, D

    def langevin(self, sigma: float, sigma_next: float) -> tuple[float, float]:
        return langevin_noise(sigma, sigma_next, self.eps, self.variance == "corrected")

    def gain(self, chain: Chain) -> Tensor | None:
        """|A|^2 of each image [B], where the step is divided by it."""
        raise NotImplementedError

    def data_term(
        self, chain: Chain, x: Tensor, sigma: float, gain: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """D(x, sigma), and what the data term adds to x."""
        raise NotImplementedError


@dataclass(frozen=True)
class PaDISDPS(Pushed):
    """VE coordinates; x descends |y - A D(x)| through the network.

    normalisation: `operator` divides the step by |A|^2, so that one zeta serves all geometries; `paper` and `code` divide the
    squared norm's gradient by |r| and 2 |r|.
    """

    normalisation: Literal["operator", "paper", "code"] = "operator"

    def check(self, problem: Problem, prior: Prior) -> None:
        need_pixels("PaDIS", prior, "its patches are of images, not of latents")
        self.levels(problem, prior)

    def gain(self, chain: Chain) -> Tensor | None:
        return squared_norms(chain) if self.normalisation == "operator" else None

    def data_term(
        self, chain: Chain, x: Tensor, sigma: float, gain: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        seen = chain.own_seen
        with torch.enable_grad():
            x_t = x.detach().requires_grad_()
            D = chain.denoise(x_t, sigma)
            distance = norm(seen.y - seen.operator.forward(D))
            (gradient,) = torch.autograd.grad(distance.sum(), x_t)
        twice = 2 if self.normalisation == "paper" else 1
        step = full(twice, x) if gain is None else distance.detach() / gain
        return D.detach(), -self.zeta * per_image(step, x) * gradient


@dataclass(frozen=True)
class PaDISLangevin(Pushed):
    """VE coordinates; x descends |y - A x|, without a gradient through the network.

    normalisation: `operator` divides the step by |A|^2; `paper` multiplies it by min(40, 200 sigma) of [0, 1] images and
    divides it by |r|.
    """

    normalisation: Literal["operator", "paper"] = "operator"

    def gain(self, chain: Chain) -> Tensor | None:
        return squared_norms(chain) if self.normalisation == "operator" else None

    def data_term(
        self, chain: Chain, x: Tensor, sigma: float, gain: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return chain.denoise(x, sigma), data_step(chain, x, self.zeta, gain, strength(sigma))


def strength(sigma: float) -> float:
    """The published factor of data steps on a noisy state: 200 sigma of [0, 1] images."""
    return min(40.0, 100.0 * sigma)


def data_step(chain: Chain, x: Tensor, zeta: float, gain: Tensor | None, factor: float) -> Tensor:
    """zeta / |A|^2 A^T r, or the published factor * zeta / |r| A^T r; r = y - A x."""
    seen = chain.own_seen
    A: LinearOperator = seen.operator  # type: ignore[assignment]
    r = seen.y - A.forward(x)
    if gain is not None:
        return per_image(zeta / gain, x) * A.adjoint(r)
    length = norm(r).clamp_min(torch.finfo(r.dtype).tiny)
    return factor * zeta * A.adjoint(r) / per_image(length, x)


def squared_norms(chain: Chain) -> Tensor:
    """|A|^2 as each image's own operator has it, at the mid-grey image where A is not linear. [B]"""
    y, A = chain.own.y, chain.own_seen.operator
    grey = torch.zeros(1, *chain.prior.shape, dtype=y.dtype, device=y.device)
    norms = [A.select([i]).linearize(grey).norm() for i in range(len(y))]
    return torch.tensor(norms, dtype=y.dtype, device=y.device) ** 2
