"""Tiny priors with exact denoisers, and a dense operator: small enough that everything about them is known."""

import torch
from torch import Tensor, nn

from ldm import schedule
from ldm.analytic import Mixture, gaussian
from ldm.denoiser import Prior
from ldm.latent import LatentPrior
from ldm.patch import PatchPrior
from solvers.operators.base import LinearOperator, Operator

BEND = 0.2  # of the smooth decoder


class Dense(LinearOperator):
    """y = A x on flattened images."""

    def __init__(self, A: Tensor, shape: tuple[int, ...]):
        self.A, self.shape = A, shape

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.A.T.to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.A.to(y)).reshape(len(y), *self.shape)

    def solve(self, r: Tensor, s2, v) -> Tensor:
        s2, v = (torch.as_tensor(value, dtype=r.dtype).expand(len(r)) for value in (s2, v))
        identity = torch.eye(len(self.A), dtype=r.dtype)
        total = s2[:, None, None] * identity + v[:, None, None] * (self.A @ self.A.T).to(r)
        return torch.linalg.solve(total, r)

    def shape_out(self, shape):
        return (len(self.A),)

    def select(self, indices):
        return self

    def norm(self) -> float:
        return float(torch.linalg.matrix_norm(self.A, 2))


class Squares(Operator):
    """y = x + x^2 / 4 on half of the entries: smooth and not linear."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, ::2]
        return x + x**2 / 4

    def shape_out(self, shape):
        c, h, w = shape
        return (c * h * w // 2,)

    def select(self, indices):
        return self


class Shuffle(nn.Module):
    """A first stage of factor 2 without loss: pixels are regrouped and bent, x = s + BEND sin(s)."""

    factor = 2

    def __init__(self, bend: float = BEND):
        super().__init__()
        self.bend = bend

    def encode(self, image: Tensor) -> Tensor:
        s = image
        for _ in range(40):  # a contraction by BEND: 40 of them are beyond rounding
            s = image - self.bend * s.sin()
        return nn.functional.pixel_unshuffle(s, 2)

    def posterior(self, image: Tensor) -> tuple[Tensor, None]:
        return self.encode(image), None

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        s = nn.functional.pixel_shuffle(z, 2)
        return s + self.bend * s.sin()


class Table(nn.Module):
    """A denoiser that also carries a VP table, as VP networks do."""

    def __init__(self, denoiser: nn.Module, alpha_bar: Tensor):
        super().__init__()
        self.denoiser = denoiser
        self.register_buffer("alpha_bar", alpha_bar)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return self.denoiser(x, sigma, label)


class Shrink(nn.Module):
    """Patch denoiser of the isotropic Gaussian N(mean, s0^2)."""

    def __init__(self, s0: float = 0.5, mean: float = 0.0):
        super().__init__()
        self.s0, self.mean = s0, mean

    def forward(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        k = (self.s0**2 / (self.s0**2 + sigma**2)).reshape(-1, 1, 1, 1).to(x)
        return self.mean + k * (x - self.mean)


def smooth_covariance(d: int, s0: float = 0.5, length: float = 2.0) -> Tensor:
    """Exponentially correlated, variance s0^2, on d entries in a row."""
    index = torch.arange(d, dtype=torch.float64)
    return s0**2 * torch.exp(-(index[:, None] - index).abs() / length)


def isotropic(
    shape: tuple[int, int, int], s0: float = 0.5, sigma_min: float = 0.002, sigma_max: float = 10.0
) -> Prior:
    """N(0, s0^2) pixels, cheap at any size."""
    return Prior(Shrink(s0), shape, sigma_min, sigma_max)


def correlated(
    shape: tuple[int, int, int], vp: bool = False, sigma_min: float = 0.002, sigma_max: float = 10.0
) -> Prior:
    """A correlated Gaussian on few pixels; vp: with the latent diffusion table instead of a sigma range."""
    d = shape[0] * shape[1] * shape[2]
    denoiser = gaussian(smooth_covariance(d), 0.1 * torch.arange(d, dtype=torch.float64).cos())
    if vp:
        return Prior(Table(denoiser, schedule.scaled_linear_alpha_bar()), shape)
    return Prior(denoiser, shape, sigma_min, sigma_max)


def two_modes(shape: tuple[int, int, int]) -> Prior:
    """Two Gaussians a few deviations apart."""
    d = shape[0] * shape[1] * shape[2]
    mean = 0.4 * torch.ones(1, d, dtype=torch.float64)
    covariance = smooth_covariance(d, 0.2)
    mixture = Mixture(
        torch.tensor([0.4, 0.6]), torch.cat([mean, -mean]), torch.stack([covariance, covariance])
    )
    return Prior(mixture, shape, 0.002, 10.0)


def latent(
    shape: tuple[int, int, int], bend: float = BEND, error_variance: float = 0.0
) -> LatentPrior:
    """A unit Gaussian on the latents [4, H/2, W/2] of images [1, H, W], with the latent diffusion table."""
    _, h, w = shape
    denoiser = Table(Shrink(1.0), schedule.scaled_linear_alpha_bar())
    return LatentPrior(denoiser, (4, h // 2, w // 2), Shuffle(bend), error_variance=error_variance)


def patched(size: int, patch: int) -> PatchPrior:
    """A patch prior of N(0, 0.5^2) pixels."""
    return PatchPrior(Shrink(), 1, size, patch, sigma_max=20.0)
