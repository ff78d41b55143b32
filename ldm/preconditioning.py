"""Denoisers of the EDM family beside ldm.denoiser.EDM: its VP and VE forms, [0, 1] networks, whole images with positions.

Karras et al. 2022, table 1. All are called as denoiser(x, sigma, label, position).
"""

import torch
from torch import Tensor, nn

from data.ranges import from_unit, to_unit
from ldm.denoiser import EDM
from ldm.patch import positions


class VE(EDM):
    """NCSN++ as Song et al. trained it: D = x + sigma F(x, ln(sigma/2))."""

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(sigma), sigma, torch.ones_like(sigma)

    def time(self, sigma: Tensor) -> Tensor:
        return (sigma / 2).log()


class ContinuousVP(EDM):
    """DDPM++ as Song et al. trained it, in continuous time: sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t) - 1, t in [0, 1].

    The network is fed (steps - 1) t. Its exact inverse is closed, so there is no table.
    """

    def __init__(
        self, network: nn.Module, beta_d: float = 19.9, beta_min: float = 0.1, steps: int = 1000
    ):
        super().__init__(network)
        self.beta_d, self.beta_min, self.steps = beta_d, beta_min, steps

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ones_like(sigma), -sigma, 1 / (1 + sigma**2).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        log = (
            sigma**2
        ).log1p()  # t = (sqrt(beta_min^2 + 2 beta_d log) - beta_min) / beta_d without cancellation
        t = 2 * log / ((self.beta_min**2 + 2 * self.beta_d * log).sqrt() + self.beta_min)
        return (self.steps - 1) * t


class UnitRange(nn.Module):
    """A denoiser of images in [0, 1] (PaDIS, MONAI) as one of images in [-1, 1]: D(x, s) = 2 D01((x+1)/2, s/2) - 1."""

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        place = () if position is None else (position,)  # only patch networks take one
        return from_unit(self.denoiser(to_unit(x), sigma / 2, label, *place))


class Whole(nn.Module):
    """A patch-trained denoiser that has also seen whole images (Patch-Diffusion), fed a whole image and its full grid."""

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        grid = positions(x.shape[-1], x.dtype, x.device)
        return self.denoiser(x, sigma, label, grid.expand(len(x), -1, -1, -1))
