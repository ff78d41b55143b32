"""What simulate_mri.py makes an image pass through: receiver coils, a smooth phase, and the coils' correlated noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.seeding import Noise

RADIUS = 1.35  # of the ring of coils, in halves of the field of view
WAVES = 1.5  # cycles of the phase over the field of view, at most
CORRELATION = 0.3  # of the noise of neighbouring coils
NOISE_SAMPLES = 4096  # of the noise scan


@dataclass(frozen=True)
class Coils:
    """S [coils,H,W] complex over the field of view, and the lower triangle L of their noise, n = L z."""

    S: Tensor
    L: Tensor


def ring(count: int, shape: tuple[int, int], extent: float, noise: Noise) -> Coils:
    """Loops around the body whose field falls off with the distance and turns with the angle, each of its own gain.

    extent: how many fields of view the rows span.
    """
    h, w = shape
    y, x = torch.meshgrid(centred(h) * extent, centred(w), indexing="ij")
    draw = noise.normal((1, 3, count), torch.float64)[0]
    angle = torch.arange(count).double() * 2 * torch.pi / count + 0.1 * draw[0]
    dx, dy = (x - RADIUS * angle.cos()[:, None, None], y - RADIUS * angle.sin()[:, None, None])
    S = (1 + (dx.square() + dy.square()) / 0.8) ** -1.2 * torch.exp(1j * torch.atan2(dy, dx))
    S = S * torch.exp(0.2 * draw[1] + 1j * torch.pi * draw[2])[:, None, None]
    inside = (x.abs() < 1) & (y.abs() < 1)
    S = S / S.abs().square().sum(0).sqrt()[inside].mean()
    apart = (torch.arange(count)[:, None] - torch.arange(count)).abs()
    apart = torch.minimum(apart, count - apart)
    gains = torch.exp(0.2 * draw[1])
    psi = torch.where(apart > 0, CORRELATION ** apart.double(), 1.0) * gains[:, None] * gains
    return Coils(
        S, torch.linalg.cholesky(psi.to(torch.complex128)) / (psi.diagonal().mean()) ** 0.5
    )


def smooth_phase(shape: Sequence[int], noise: Noise) -> Tensor:
    """Radians [H,W]: a constant, a slope, and the slow waves of an inhomogeneous field."""
    y, x = torch.meshgrid(centred(shape[0]), centred(shape[1]), indexing="ij")
    a = noise.normal((1, 12), torch.float64)[0]
    slopes = torch.pi * a[0] + a[1] * y + a[2] * x + 0.8 * a[3] * (y.square() + x.square())
    waves = [
        a[4 + i]
        * torch.cos(torch.pi * WAVES * (y * a[6 + i].tanh() + x * a[8 + i].tanh()) + a[10 + i])
        for i in range(2)
    ]
    return slopes + 0.5 * (waves[0] + waves[1])


def noise_scan(coils: Coils, sigma: float, noise: Noise) -> Tensor:
    return sigma * correlated(coils.L, (NOISE_SAMPLES,), noise)


def correlated(L: Tensor, shape: tuple[int, ...], noise: Noise) -> Tensor:
    """n = L z with real and imaginary parts of z of deviation 1."""
    z = noise.normal((1, 2, len(L), *shape), torch.float64)[0]
    return (L @ torch.complex(z[0], z[1]).flatten(1)).unflatten(1, shape)


def centred(n: int) -> Tensor:
    """-1 to 1 over n pixels, 0 at n//2."""
    return (torch.arange(n, dtype=torch.float64) - n // 2) / (n / 2)


def middle(image: Tensor, shape: Sequence[int]) -> Tensor:
    """A view of the middle of [...,H,W]."""
    top, left = (n // 2 - m // 2 for n, m in zip(image.shape[-2:], shape))
    return image[..., top : top + shape[0], left : left + shape[1]]
