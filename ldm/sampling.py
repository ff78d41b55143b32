"""Draws from the prior itself: DDIM, EDM's Heun sampler with churn, and PaDIS's Langevin dynamics.

All in variance-exploding coordinates, where each is a few lines for any prior: D = prior.denoise(x, sigma) is the only
thing asked. One random stream per image, so a draw depends on its seed and on nothing else.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm import checks, schedule
from ldm.denoiser import Prior


@dataclass(frozen=True)
class State:
    """One step: x and its denoised x0, both [B,C,H,W] in the prior's state space; the last x0 is the draw."""

    t: int  # step counter from 0
    sigma: float  # noise level the step started from
    x: Tensor
    x0: Tensor


class Sampler:
    """`sampler(prior, noise, like)` yields States; noise: one stream per image; like: a tensor of the wanted dtype and device."""

    steps: int

    def __call__(self, prior: Prior, noise: Noise, like: Tensor) -> Iterator[State]:
        raise NotImplementedError

    def __post_init__(self) -> None:
        checks.counts(steps=self.steps)


@dataclass(frozen=True)
class DDIM(Sampler):
    """Song et al. 2021, eq. (12), divided by sqrt(alpha_bar); on a VP table its entries, on an EDM prior Karras levels."""

    steps: int = 50
    eta: float = 0.0  # 0: deterministic, 1: DDPM's ancestral noise

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fraction(eta=self.eta)

    def __call__(self, prior: Prior, noise: Noise, like: Tensor) -> Iterator[State]:
        levels = [*_levels(prior, self.steps), 0.0]
        offset, x = noise.of("offset"), _start(prior, noise, like, levels[0])
        for t, (sigma, sigma_next) in enumerate(zip(levels, levels[1:])):
            x0 = prior.denoise(x, _full(sigma, x), offset)
            up = self.eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
            down = math.sqrt(sigma_next**2 - up**2)
            yield State(t, sigma, x, x0)
            x = x0 + down * (x - x0) / sigma + (up * noise.like(x) if up > 0 else 0)


@dataclass(frozen=True)
class Heun(Sampler):
    """Karras et al. 2022, algorithm 2 (2 steps - 1 network calls)."""

    steps: int = 18
    rho: float = 7.0
    S_churn: float = 0.0  # total noise added back, spread over the steps
    S_min: float = 0.0  # churn only between these levels
    S_max: float = math.inf
    S_noise: float = 1.0  # inflation of the added noise

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(rho=self.rho)
        checks.natural(S_churn=self.S_churn, S_min=self.S_min, S_noise=self.S_noise)

    def __call__(self, prior: Prior, noise: Noise, like: Tensor) -> Iterator[State]:
        levels = [*schedule.karras(self.steps, prior.sigma_min, prior.sigma_max, self.rho).tolist(), 0.0]
        offset, x = noise.of("offset"), _start(prior, noise, like, levels[0])
        for t, (sigma, sigma_next) in enumerate(zip(levels, levels[1:])):
            gamma = min(self.S_churn / self.steps, math.sqrt(2) - 1) if self.S_min <= sigma <= self.S_max else 0.0
            sigma_hat = sigma * (1 + gamma)
            if gamma > 0:
                x = x + math.sqrt(sigma_hat**2 - sigma**2) * self.S_noise * noise.like(x)
            x0 = prior.denoise(x, _full(sigma_hat, x), offset)
            yield State(t, sigma, x, x0)
            slope = (x - x0) / sigma_hat
            ahead = x + (sigma_next - sigma_hat) * slope
            if sigma_next > 0:
                slope_next = (ahead - prior.denoise(ahead, _full(sigma_next, x), offset)) / sigma_next
                ahead = x + (sigma_next - sigma_hat) * (slope + slope_next) / 2
            x = ahead


@dataclass(frozen=True)
class Langevin(Sampler):
    """PaDIS (Hu et al. 2024): annealed Langevin dynamics on geometric levels, a fresh patch partition at every call.

    x <- x + (eps / 2) (D - x) + spread z. The paper's spread is sigma sqrt(eps), whose stationary variance at a fixed D is
    sigma^2 / (1 - eps / 4), more than the network is told; sigma sqrt(eps - eps^2 / 4) makes it sigma^2.
    """

    steps: int = 300  # noise levels
    inner: int = 1  # updates per level
    sigma_max: float = 20.0  # 10 in the paper's [0, 1] units; lowered to the prior's own
    sigma_min: float = 0.004
    eps: float = 1.0
    corrected: bool = True  # False: the paper's spread

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(inner=self.inner)
        checks.positive(sigma_max=self.sigma_max, sigma_min=self.sigma_min)
        if not self.sigma_min < self.sigma_max or not 0 < self.eps < 4:  # at 4 a step only mirrors x about D
            raise Refusal(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}, eps {self.eps} in (0, 4)")

    def __call__(self, prior: Prior, noise: Noise, like: Tensor) -> Iterator[State]:
        high, low = min(self.sigma_max, prior.sigma_max), max(self.sigma_min, prior.sigma_min)
        if not low < high:
            raise Refusal(
                f"levels {self.sigma_min}..{self.sigma_max} lie outside the prior's {prior.sigma_min:.4g}..{prior.sigma_max:.4g}"
            )
        offset, x = noise.of("offset"), _start(prior, noise, like, high)
        spread = math.sqrt(self.eps - self.eps**2 / 4 if self.corrected else self.eps)
        for t, sigma in enumerate(schedule.geometric(self.steps, low, high).tolist()):
            for _ in range(self.inner):
                x0 = prior.denoise(x, _full(sigma, x), offset)
                x = x + self.eps / 2 * (x0 - x) + spread * sigma * noise.like(x)
            yield State(t, sigma, x, x0)


def _start(prior: Prior, noise: Noise, like: Tensor, sigma: float) -> Tensor:
    return sigma * noise.normal((len(noise), *prior.shape), like.dtype, like.device)


def _full(sigma: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), sigma, dtype=like.dtype, device=like.device)


def _levels(prior: Prior, steps: int) -> list[float]:
    """`steps` levels from the noisiest down."""
    if prior.alpha_bar is None:
        return schedule.karras(steps, prior.sigma_min, prior.sigma_max).tolist()
    table = schedule.sigma_of(prior.alpha_bar.cpu())
    table = table[table <= prior.sigma_max * (1 + 1e-6)]
    return table[schedule.ddim_times(steps, len(table))].tolist()
