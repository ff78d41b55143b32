"""DDIM, the probability-flow ODE and Langevin dynamics along chains of noise levels, and draws from the prior.

Two coordinates occur. VE: x = x0 + sigma n. VP: x_t = sqrt(a) x0 + sqrt(1 - a) n with a = alpha_bar, that is
x_t = sqrt(a) x at sigma = sqrt((1 - a) / a). All that is ever asked of a prior is D = prior.denoise(x, sigma).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm import checks
from ldm.denoiser import Prior
from ldm.schedule import karras, ve_levels, vp_levels

# s, n of a state s x0 + n eps: 1, sigma in VE coordinates, sqrt(a), sqrt(1 - a) in VP
Scales = tuple[float, float]


def sigma_at(a: float) -> float:
    """The VE noise level at alpha_bar = a."""
    return math.sqrt((1 - a) / a)


def full(value: float | Tensor, like: Tensor) -> Tensor:
    """One number, or one of each image, as [B]."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(len(like))


def start(prior: Prior, noise: Noise, like: Tensor) -> Tensor:
    """N(0, I) in the prior's state space, one row per image, with the dtype and device of `like`."""
    return noise.normal((len(noise), *prior.shape), like.dtype, like.device)


def tweedie(prior: Prior, x_t: Tensor, a: float, offset: Noise) -> Tensor:
    """E[x0 | x_t] at alpha_bar = a, of an x_t in VP coordinates."""
    return prior.denoise(x_t / math.sqrt(a), full(sigma_at(a), x_t), offset)


def clipped(x0: Tensor) -> Tensor:
    """An estimate clamped to [-1, 1]. What a network made infinite becomes NaN: clamped, it would pass for an image."""
    return x0.clamp(-1, 1) + 0 * x0


def noise_in(x_t: Tensor, x0: Tensor, a: float) -> Tensor:
    """eps = (x_t - sqrt(a) x0) / sqrt(1 - a), VP coordinates."""
    return (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)


def vp(a: float) -> Scales:
    """The scales of signal and noise at alpha_bar = a."""
    return math.sqrt(a), math.sqrt(1 - a)


def ddim_noise(now: Scales, then: Scales, eta: float) -> Scales:
    """The deviation of the noise that a DDIM step keeps, and of what it adds; eta = 1 is DDPM's posterior deviation."""
    (s, n), (s_next, n_next) = now, then
    added = eta * n_next * math.sqrt(1 - (s * n_next / (s_next * n)) ** 2)
    return math.sqrt(max(n_next**2 - added**2, 0)), added


def ddim_step(
    x: Tensor, x0: Tensor, now: Scales, then: Scales, eta: float = 0.0, noise: Noise | None = None
) -> Tensor:
    """Song et al. 2021, eq. (12), in any coordinates. eta = 1 is DDPM's ancestral step."""
    kept, added = ddim_noise(now, then, eta)
    x = then[0] * x0 + kept * ((x - now[0] * x0) / now[1])
    return x + added * noise.like(x) if noise is not None and eta > 0 else x


def ddim_step_vp(
    x_t: Tensor, x0: Tensor, a: float, a_next: float, eta: float = 0.0, noise: Noise | None = None
) -> Tensor:
    """`ddim_step` from alpha_bar a to a_next."""
    return ddim_step(x_t, x0, vp(a), vp(a_next), eta, noise)


def ode_step(
    prior: Prior, x: Tensor, x0: Tensor, now: float, then: float, offset: Noise, heun: bool = False
) -> Tensor:
    """One step of the probability-flow ODE dx/dsigma = (x - D(x, sigma)) / sigma by Euler's or Heun's rule.

    From the level `now` to `then`; x0 = D(x, now).
    """
    slope = (x - x0) / now
    ahead = x + (then - now) * slope
    if not heun or then == 0:
        return ahead
    slope_then = (ahead - prior.denoise(ahead, full(then, x), offset)) / then
    return x + (then - now) * (slope + slope_then) / 2


def pf_ode(
    prior: Prior, x: Tensor, levels: Sequence[float], offset: Noise, heun: bool = False
) -> Tensor:
    """The probability-flow ODE along descending levels."""
    for sigma, sigma_next in pairwise(levels):
        x0 = prior.denoise(x, full(sigma, x), offset)
        x = ode_step(prior, x, x0, sigma, sigma_next, offset, heun)
    return x


def langevin_noise(
    sigma: float, sigma_next: float, eps: float, corrected: bool = True
) -> tuple[float, float]:
    """The share of a state's noise that a Langevin step x + (eps / 2) (D - x) + spread z keeps, and the spread.

    Published (PaDIS): spread = sigma sqrt(eps), whose stationary variance at a fixed D is sigma^2 / (1 - eps / 4), more than
    the network is told. Corrected: what the step leaves has the deviation sigma_next; where levels fall faster than
    1 - eps / 2, more of the noise is removed.
    """
    keep = 1 - eps / 2
    if not corrected:
        return keep, math.sqrt(eps) * sigma
    most = sigma_next / sigma
    keep = max(min(keep, most), -most)
    return keep, math.sqrt(most**2 - keep**2) * sigma


def unadjusted(x: Tensor, score: Tensor, h: float | Tensor, noise: Noise) -> Tensor:
    """One step of unadjusted Langevin dynamics on a density whose score is given: x + h score + sqrt(2 h) z."""
    return x + h * score + (2 * h) ** 0.5 * noise.like(x)


@dataclass(frozen=True)
class State:
    """One step of a draw from the prior itself, VE: x and its denoised x0, [B,C,H,W] states; the last x0 is the draw."""

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
    """Song et al. 2021, eq. (12); on a VP table along its entries, on an EDM prior along Karras levels."""

    steps: int = 50
    eta: float = 0.0  # 0: deterministic, 1: DDPM's ancestral noise

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.fraction(eta=self.eta)

    def __call__(self, prior: Prior, noise: Noise, like: Tensor) -> Iterator[State]:
        levels = [sigma_at(a) for a in vp_levels(prior, self.steps)]
        offset = noise.of("offset")
        x = levels[0] * start(prior, noise, like)
        for t, (sigma, sigma_next) in enumerate(pairwise(levels)):
            x0 = prior.denoise(x, full(sigma, x), offset)
            yield State(t, sigma, x, x0)
            x = ddim_step(x, x0, (1, sigma), (1, sigma_next), self.eta, noise)


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
        levels = karras(self.steps, prior.sigma_min, prior.sigma_max, self.rho).tolist()
        offset = noise.of("offset")
        x = levels[0] * start(prior, noise, like)
        for t, (sigma, sigma_next) in enumerate(pairwise([*levels, 0.0])):
            churned = self.S_min <= sigma <= self.S_max
            gamma = min(self.S_churn / self.steps, math.sqrt(2) - 1) if churned else 0.0
            sigma_hat = sigma * (1 + gamma)  # line 6
            if gamma > 0:
                x = x + math.sqrt(sigma_hat**2 - sigma**2) * self.S_noise * noise.like(x)
            x0 = prior.denoise(x, full(sigma_hat, x), offset)
            yield State(t, sigma, x, x0)
            x = ode_step(prior, x, x0, sigma_hat, sigma_next, offset, heun=True)  # lines 7 to 11


@dataclass(frozen=True)
class Langevin(Sampler):
    """PaDIS (Hu et al. 2024): annealed Langevin dynamics on geometric levels, a fresh patch partition at every call.

    x <- x + (eps / 2) (D - x) + spread z, the spread as `langevin_noise` has it.
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
        stable = 0 < self.eps < 4  # at 4 a step only mirrors x about D
        if not self.sigma_min < self.sigma_max or not stable:
            raise Refusal(
                f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}, eps {self.eps} in (0, 4)"
            )

    def __call__(self, prior: Prior, noise: Noise, like: Tensor) -> Iterator[State]:
        levels = ve_levels(prior, self.steps, self.sigma_min, self.sigma_max, "geometric")
        offset = noise.of("offset")
        x = levels[0] * start(prior, noise, like)
        for t, sigma in enumerate(levels):
            keep, spread = langevin_noise(sigma, sigma, self.eps, self.corrected)
            for _ in range(self.inner):
                x0 = prior.denoise(x, full(sigma, x), offset)
                x = x + (1 - keep) * (x0 - x) + spread * noise.like(x)
            yield State(t, sigma, x, x0)
