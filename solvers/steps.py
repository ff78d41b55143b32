"""The formulas that papers share: noise levels of a run, one DDIM step, the probability-flow ODE. Levels are floats."""

import math

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm import schedule
from ldm.denoiser import Prior


def ve_levels(prior: Prior, steps: int, sigma_min: float, sigma_max: float, spacing: str = "karras") -> list[float]:
    """`steps` noise levels from sigma_max down to sigma_min, both moved inside what the prior was trained on.

    Raises ValueError if nothing of the range is left.
    """
    if not 0 < sigma_min <= sigma_max:
        raise Refusal(f"sigma_min must be above 0 and at most sigma_max, not {sigma_min} with sigma_max {sigma_max}")
    low, high = max(sigma_min, prior.sigma_min), min(sigma_max, prior.sigma_max)
    if not low <= high:
        known = f"{prior.sigma_min:.4g}..{prior.sigma_max:.4g}"
        raise Refusal(f"sigma range {sigma_min}..{sigma_max} lies outside the prior's {known}")
    return (schedule.karras if spacing == "karras" else schedule.geometric)(steps, low, high).tolist()


def vp_levels(prior: Prior, steps: int, spacing: str = "even") -> list[float]:
    """alpha_bar of `steps` levels from the noisiest up, and of where the last step ends.

    `even`: evenly spread entries of the prior's own table, up to sigma_max, then 1; any number of them. `leading`: latent
    diffusion's published times 1, 1 + c, 1 + 2c, ... with c = T // steps, and at the end the table's first entry; their
    number may differ from `steps`. EDM priors have no table: Karras levels, converted.
    """
    if prior.alpha_bar is None:
        sigma = schedule.karras(steps, prior.sigma_min, prior.sigma_max)
        return [*schedule.alpha_bar_of(sigma).tolist(), 1.0]
    table = prior.alpha_bar.cpu()
    usable = int((schedule.sigma_of(table) <= prior.sigma_max * (1 + 1e-6)).sum())
    if steps > usable:
        raise Refusal(f"steps must be between 1 and {usable}, the levels of the prior's table, not {steps}")
    if spacing == "even":
        return [*table[schedule.ddim_times(steps, usable)].tolist(), 1.0]
    times = torch.arange(0, usable, usable // steps).add(1).clamp_max(usable - 1).unique()
    return [*table[times].flip(0).tolist(), float(table[0])]


def sigma_at(a: float) -> float:
    """VE noise level at alpha_bar = a."""
    return math.sqrt((1 - a) / a)


def full(value: float, like: Tensor) -> Tensor:
    """One number as [B]."""
    return torch.full((len(like),), value, dtype=like.dtype, device=like.device)


def start(prior: Prior, noise: Noise, like: Tensor) -> Tensor:
    """N(0, I) in the prior's state space, one row per image, with the dtype and device of `like`."""
    return noise.normal((len(noise), *prior.shape), like.dtype, like.device)


def tweedie(prior: Prior, x_t: Tensor, a: float, offset: Noise) -> Tensor:
    """E[x0 | x_t] at alpha_bar = a, in VP coordinates."""
    return prior.denoise(x_t / math.sqrt(a), full(sigma_at(a), x_t), offset)


def clipped(x0: Tensor) -> Tensor:
    """An estimate clamped to [-1, 1]. What a network made infinite becomes NaN: clamped, it would pass for an image."""
    return x0.clamp(-1, 1) + 0 * x0


def noise_in(x_t: Tensor, x0: Tensor, a: float) -> Tensor:
    """eps = (x_t - sqrt(a) x0) / sqrt(1 - a)"""
    return (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)


def ddim_spread(a: float, a_next: float, eta: float) -> float:
    """Standard deviation of the noise a DDIM step adds; eta = 1 is DDPM's posterior deviation."""
    return eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))


def ddim_weight(a: float, a_next: float, eta: float) -> float:
    """How much of x0 a DDIM step puts into its result: d x_next / d x0 at fixed x_t."""
    left = max(1 - a_next - ddim_spread(a, a_next, eta) ** 2, 0)
    return math.sqrt(a_next) - math.sqrt(left * a / (1 - a))


def ddim_step(x_t: Tensor, x0: Tensor, a: float, a_next: float, eta: float = 0.0, noise: Noise | None = None) -> Tensor:
    """Song et al. 2021, eq. (12): from alpha_bar a to a_next. eta = 1 is DDPM's ancestral step."""
    spread = ddim_spread(a, a_next, eta)
    x = math.sqrt(a_next) * x0 + math.sqrt(max(1 - a_next - spread**2, 0)) * noise_in(x_t, x0, a)
    return x + spread * noise.like(x) if noise is not None and eta > 0 else x


def pf_ode(prior: Prior, x: Tensor, levels: list[float], offset: Noise, heun: bool = False) -> Tensor:
    """The probability-flow ODE dx/dsigma = (x - D(x, sigma)) / sigma along descending levels, by Euler or Heun steps."""
    for sigma, sigma_next in zip(levels, levels[1:]):
        slope = (x - prior.denoise(x, full(sigma, x), offset)) / sigma
        ahead = x + (sigma_next - sigma) * slope
        if heun:
            slope_next = (ahead - prior.denoise(ahead, full(sigma_next, x), offset)) / sigma_next
            ahead = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = ahead
    return x
