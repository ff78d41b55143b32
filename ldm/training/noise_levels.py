"""At which noise levels a denoiser is trained, and how much each counts."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.files import Refusal
from ldm import checks, schedule
from ldm.training.randomness import Draws

Weighting = Literal["eps", "v", "x0", "edm", "min_snr"]


@dataclass(frozen=True)
class Mixture:
    """ln sigma uniform over the prior's levels for a share of the draws, N(mean, std^2) clipped to them for the rest.

    EDM's lognormal alone leaves 0.2 % of the draws below sigma = 0.01 and above 10, where solvers spend a fifth of
    their steps; the uniform share covers whatever a solver asks for.
    """

    uniform: float = 0.5
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        checks.fraction(uniform=self.uniform)
        checks.natural(std=self.std, **{"the size of mean": abs(self.mean)})

    def draw(
        self, n: int, low: float, high: float, alpha_bar: Tensor | None, draws: Draws
    ) -> Tensor:
        """[n] noise levels; the uniform draws are stratified over the batch, so that every batch covers the range."""
        a, b = math.log(low), math.log(high)
        even = (torch.arange(n, device=draws.device) + draws.uniform((n,))) / n
        spread = a + (b - a) * even
        around = (self.mean + self.std * draws.normal((n,))).clamp(a, b)
        return torch.where(draws.uniform((n,)) < self.uniform, spread, around).exp()


@dataclass(frozen=True)
class UniformTime:
    """Every entry of the network's own table equally often: how latent diffusion's published networks were trained."""

    def draw(
        self, n: int, low: float, high: float, alpha_bar: Tensor | None, draws: Draws
    ) -> Tensor:
        """[n] noise levels."""
        if alpha_bar is None:
            raise Refusal(
                "levels UniformTime need a VP network with a table; use ldm.training.noise_levels.Mixture for EDM networks"
            )
        table = schedule.sigma_of(alpha_bar).float().to(draws.device)
        return table[draws.below(len(table), (n,))]


def weight(kind: Weighting, sigma: Tensor, sigma_data: float = 0.5, gamma: float = 5.0) -> Tensor:
    """What (D - x0)^2 is multiplied by so that it becomes the usual loss on the network's output.

    eps: |eps_hat - n|^2. v: |v_hat - v|^2. x0: 1. edm: Karras et al. 2022, table 1. min_snr: Hang et al. 2023, the
    x0-loss weight min(SNR, gamma).
    """
    if kind == "edm":
        return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    snr = sigma**-2
    return {
        "eps": snr,
        "v": 1 + snr,
        "x0": torch.ones_like(sigma),
        "min_snr": snr.clamp(max=gamma),
    }[kind]
