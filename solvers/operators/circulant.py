"""Circular convolutions with stride, solved exactly by Fourier transforms.

Kernels are [1,1,k,k], or [B,1,k,k] when each image has its own; the image of a point is the kernel (true convolution).
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from data.files import Refusal
from solvers.operators.base import LinearOperator, Scalar, Shape, divide, per_image
from solvers.operators.grid import Grid
from solvers.operators.separable import multiple


@lru_cache(maxsize=8)  # kernels of a batch differ, and so do their transforms: few are kept
def transfer(
    kernel: Tensor,
    h: int,
    w: int,
    before: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    whole: bool = False,
) -> Tensor:
    """The Fourier transform [.,1,h,w//2+1] of the circular convolution y[p] = sum_t kernel[k-1-t] x[p + t - before].

    whole: all h*w frequencies instead of the half that a real image needs.
    """
    taps = kernel.to(torch.float64).flip(-2, -1)
    rows = (before[0] - torch.arange(taps.shape[-2])) % h
    columns = (before[1] - torch.arange(taps.shape[-1])) % w
    grid = torch.zeros(*taps.shape[:-2], h * w, dtype=torch.float64)
    grid = grid.index_add(-1, (rows[:, None] * w + columns).flatten(), taps.flatten(-2)).unflatten(
        -1, (h, w)
    )
    spectrum = torch.fft.fft2(grid) if whole else torch.fft.rfft2(grid)
    return spectrum.to(
        device=device, dtype=torch.complex128 if dtype == torch.float64 else torch.complex64
    )


@dataclass(frozen=True, eq=False)
class Circulant(LinearOperator):
    """Circular convolution, then every stride-th pixel. before: taps left of (above) the pixel they give; default centred."""

    kernel: Tensor
    stride: int = 1
    before: tuple[int, int] | None = None

    @property
    def origin(self) -> tuple[int, int]:
        k1, k2 = self.kernel.shape[-2:]
        return ((k1 - 1) // 2, (k2 - 1) // 2) if self.before is None else self.before

    @property
    def grid(self) -> Grid:
        rows, columns = (
            (k - 1) / 2 - before for k, before in zip(self.kernel.shape[-2:], self.origin)
        )
        return Grid((rows, columns), (self.stride, self.stride))

    def shape_out(self, shape: Shape) -> Shape:
        c, h, w = shape
        k1, k2 = self.kernel.shape[-2:]
        if k1 > h or k2 > w:
            raise Refusal(f"kernel of {k1}x{k2} pixels is larger than the image of {h}x{w}")
        if h % self.stride or w % self.stride:
            raise Refusal(f"image of {h}x{w} is not divisible by the factor {self.stride}")
        return (c, h // self.stride, w // self.stride)

    def measurable(self, shape: Shape) -> Shape:
        c, *sides = shape
        h, w = (multiple(max(n, k), self.stride) for n, k in zip(sides, self.kernel.shape[-2:]))
        return (c, h, w)

    def spectrum(self, h: int, w: int, like: Tensor) -> Tensor:
        return transfer(self.kernel, h, w, self.origin, like.dtype, like.device)

    def eigenvalues(self, m1: int, m2: int, like: Tensor) -> Tensor:
        """Of A A^T, on the half spectrum of the m1 x m2 measurement: the mean over aliases of |K|^2 (CoDPS)."""
        return power(self.kernel, m1, m2, self.stride, self.origin, like.dtype, like.device)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        y = torch.fft.irfft2(torch.fft.rfft2(x) * self.spectrum(h, w, x), s=(h, w))
        return y[..., :: self.stride, :: self.stride] if self.stride > 1 else y

    def adjoint(self, y: Tensor) -> Tensor:
        return self.back(torch.fft.rfft2(y), y)

    def back(self, frequencies: Tensor, like: Tensor) -> Tensor:
        """The adjoint of a measurement given by its half spectrum: zeros between samples repeat the spectrum d x d times."""
        d, (m1, m2) = self.stride, like.shape[-2:]
        h, w = m1 * d, m2 * d
        if d > 1:
            y = torch.zeros(*like.shape[:-2], h, w, dtype=like.dtype, device=like.device)
            y[..., ::d, ::d] = torch.fft.irfft2(frequencies, s=(m1, m2))
            frequencies = torch.fft.rfft2(y)
        return torch.fft.irfft2(frequencies * self.spectrum(h, w, like).conj(), s=(h, w))

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        m1, m2 = r.shape[-2:]
        by = per_image(s2, r) + per_image(v, r) * self.eigenvalues(m1, m2, r)
        return torch.fft.irfft2(divide(torch.fft.rfft2(r), by), s=(m1, m2))

    def correct(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        m1, m2 = r.shape[-2:]
        by = per_image(s2, r) + per_image(v, r) * self.eigenvalues(m1, m2, r)
        return self.back(divide(torch.fft.rfft2(r), by), r)

    def norm(self) -> float:
        if self.shape is None:
            raise Refusal("norm() needs an image shape: call draw first")
        m1, m2 = self.shape_out(self.shape)[-2:]
        return float(self.eigenvalues(m1, m2, torch.zeros(1, dtype=torch.float64)).max().sqrt())


@lru_cache(maxsize=8)  # kernels of a batch differ, and so do their transforms: few are kept
def power(
    kernel: Tensor,
    m1: int,
    m2: int,
    d: int,
    before: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Gamma = (1/d^2) sum over the d^2 aliases of |K|^2, on the half spectrum of the decimated grid."""
    K = transfer(kernel, m1 * d, m2 * d, before, torch.float64, torch.device("cpu"), True)
    power = (K.real.square() + K.imag.square()).unflatten(-2, (d, m1)).unflatten(-1, (d, m2))
    return power.mean((-4, -2))[..., : m2 // 2 + 1].to(device=device, dtype=dtype)
