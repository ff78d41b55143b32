"""Cov[x0 | x] behind a denoiser: as it was measured, by frequency and place; or sigma^2 dD/dx (Tweedie's second moment),
as a number per image or as an operator."""

from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import avg_pool2d

from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.operators.base import LinearOperator, dot, norm, per_image
from solvers.steps import full

WINDOW = 9  # pixels across, in which local contrast is taken
TINY = 1e-12  # a variance that counts as none
CONTRAST = 0.25  # power of local contrast that the deviation of errors is taken to go with (docs/update.md)


class ErrorCovariance(LinearOperator):
    """The covariance of a denoiser's errors by frequency and place: V = H^2, H = T F^H diag(root) F T.

    density: [1 or B,1,H,W/2+1], root^2, of the frequencies of `torch.fft.rfft2`. place: T, [B,1,H,W]; 1: errors are as
    large anywhere. prior: of whose states the border is left out.
    """

    def __init__(self, density: Tensor, place: Tensor | float = 1.0, prior: Prior | None = None):
        self.density, self.place, self.prior = density, place, prior

    def scaled(self, factor: Tensor | float) -> "ErrorCovariance":
        """V times a number, or one for each image [B]."""
        return ErrorCovariance(per_image(factor, self.density) * self.density, self.place, self.prior)

    def forward(self, x: Tensor) -> Tensor:
        return self.half(self.half(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def half(self, z: Tensor) -> Tensor:
        """V^(1/2) z, itself symmetric."""
        core = self.place * (z if self.prior is None else self.prior.crop(z))
        filtered = self.place * torch.fft.irfft2(self.density.sqrt() * torch.fft.rfft2(core), core.shape[-2:])
        return filtered if self.prior is None else self.prior.pad(filtered, 0.0)


def error_covariance(
    density: Tensor, estimate: Tensor, variance: float | None = None, prior: Prior | None = None
) -> ErrorCovariance:
    """The covariance of this density [H,W] around an estimate; with a variance per entry, scaled to it."""
    density = density if variance is None else variance / density.mean() * density
    deviation = contrast(estimate if prior is None else prior.crop(estimate)) ** CONTRAST
    place = (deviation / deviation.square().mean((2, 3), keepdim=True).sqrt()).sqrt()  # T twice, and the mean variance as found
    return ErrorCovariance(density[None, None, :, : density.shape[1] // 2 + 1].to(estimate), place, prior)


def contrast(image: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,1,H,W]: the local deviation over the image's mean one; 1 where the image has none at all.

    Networks err at edges and in texture, hardly in air.
    """
    around = partial(avg_pool2d, kernel_size=WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)
    local = (around(image**2) - around(image) ** 2).clamp_min(0).mean(1, keepdim=True)
    mean = local.mean((2, 3), keepdim=True)
    return ((local + 1e-4 * mean + TINY) / (mean + TINY)).sqrt()


class Covariance(LinearOperator):
    """sigma^2 dD/dx at x, applied by vector-Jacobian products; `mean` is D(x). The Jacobian of an exact denoiser is
    symmetric, so that its transpose, which is cheaper, stands for it.
    """

    def __init__(self, prior: Prior, x: Tensor, sigma: float, offset: Noise):
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            mean, self.pull = torch.func.vjp(lambda state: prior.denoise(state, full(sigma, state), offset), x)  # type: ignore[misc]
        self.mean, self.sigma = mean.detach(), sigma

    def forward(self, x: Tensor) -> Tensor:
        return self.sigma**2 * self.pull(x)[0].detach()

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def trace(self, probe: Tensor) -> Tensor:
        """Hutchinson's estimate of the mean variance per entry, [B]; probe: random signs, 0 where nothing is asked."""
        per_entry = dot(probe, self.forward(probe)) / dot(probe, probe)
        return per_entry.clamp(1e-6 * self.sigma**2, self.sigma**2)  # a network's Jacobian may leave what variances can be

    def sample(self, z: Tensor, rank: int) -> Tensor:
        """mean + V^(1/2) z by `rank` Lanczos steps (Chow & Saad 2014), exact when rank reaches the dimension."""
        return self.mean + lanczos_root(self, z, rank)


def lanczos_root(V: LinearOperator, z: Tensor, rank: int) -> Tensor:
    """V^(1/2) z for symmetric V, per image: |z| Q f(T) e1, f the root of the positive part; fully reorthogonalised."""
    rank = min(rank, z[0].numel())
    length = norm(z)
    basis = [z / per_image(length, z)]
    T = torch.zeros(len(z), rank, rank, dtype=torch.float64, device=z.device)
    for k in range(rank):
        w = V.forward(basis[k])
        T[:, k, k] = dot(w, basis[k]).double()
        for q in basis * 2:  # twice is enough (Parlett)
            w = w - per_image(dot(w, q), w) * q
        beta = norm(w)
        if k + 1 == rank:
            break
        alive = beta > 1e-10 * T.diagonal(dim1=1, dim2=2).abs().amax(1)  # an exhausted space leaves the rest decoupled
        T[:, k, k + 1] = T[:, k + 1, k] = torch.where(alive, beta, 0).double()
        basis.append(torch.where(per_image(alive, w).bool(), w / per_image(beta, w), 0))
    finite = torch.isfinite(T).all(2).all(1)  # one image's broken network output must not stop the others' eigh
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], T, 0))
    weights = torch.einsum("bij,bj,bj->bi", vectors, values.clamp_min(0).sqrt(), vectors[:, 0])
    weights = torch.where(finite[:, None], weights, torch.nan) * length[:, None].double()
    return torch.einsum("bk,kb...->b...", weights.to(z), torch.stack(basis))
