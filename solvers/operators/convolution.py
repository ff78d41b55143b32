"""Two-dimensional convolutions, with stride: the engines behind blurs and kernel super-resolution.

Kernels are [1,1,k,k], or [B,1,k,k] when each image has its own; the image of a point is the kernel (true convolution).
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache

import scipy.fft
import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import (
    LinearOperator,
    Operator,
    Scalar,
    Shape,
    divide,
    one_each,
    per_image,
)
from solvers.operators.grid import Grid
from solvers.operators.separable import Axis, Border, Separable, multiple, source


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


@dataclass(frozen=True, eq=False)
class Bordered(LinearOperator):
    """Convolution with any border but circular: pad, multiply in Fourier space, crop. A A^T has no closed form here."""

    kernel: Tensor
    border: Border = "reflect"

    def padding(self) -> tuple[int, int]:
        return (
            (0, 0)
            if self.border == "valid"
            else ((self.kernel.shape[-2] - 1) // 2, (self.kernel.shape[-1] - 1) // 2)
        )

    def shape_out(self, shape: Shape) -> Shape:
        c, h, w = shape
        k1, k2 = self.kernel.shape[-2:]
        if k1 > h or k2 > w:
            raise Refusal(f"kernel of {k1}x{k2} pixels is larger than the image of {h}x{w}")
        return (c, h - k1 + 1, w - k2 + 1) if self.border == "valid" else (c, h, w)

    @property
    def grid(self) -> Grid:
        rows, columns = ((k - 1) / 2 - p for k, p in zip(self.kernel.shape[-2:], self.padding()))
        return Grid((rows, columns))

    def measurable(self, shape: Shape) -> Shape:
        c, *sides = shape
        h, w = map(max, sides, self.kernel.shape[-2:])
        return (c, h, w)

    def frame(self, h: int, w: int, like: Tensor) -> tuple[tuple[int, int], Tensor]:
        """A size that is fast to transform and holds the padded image, and the kernel's transform there."""
        p1, p2 = self.padding()
        size = tuple(scipy.fft.next_fast_len(n, real=True) for n in (h + 2 * p1, w + 2 * p2))
        return size, transfer(self.kernel, *size, (0, 0), like.dtype, like.device)

    def forward(self, x: Tensor) -> Tensor:
        (c, h, w), (p1, p2) = x.shape[1:], self.padding()
        size, K = self.frame(h, w, x)
        m1, m2 = self.shape_out((c, h, w))[1:]
        for axis, n, p in ((-2, h, p1), (-1, w, p2)):
            index, inside = source(torch.arange(-p, n + p), n, self.border)
            x = x.index_select(axis, index.to(x.device))
            if not bool(inside.all()):
                x = x * inside.to(x).reshape(-1, *[1] * (-1 - axis))
        return torch.fft.irfft2(torch.fft.rfft2(x, s=size) * K, s=size)[..., :m1, :m2]

    def adjoint(self, y: Tensor) -> Tensor:
        k1, k2 = self.kernel.shape[-2:]
        valid = self.border == "valid"
        h, w = (y.shape[-2] + k1 - 1, y.shape[-1] + k2 - 1) if valid else y.shape[-2:]
        p1, p2 = self.padding()
        size, K = self.frame(h, w, y)
        x = torch.fft.irfft2(torch.fft.rfft2(y, s=size) * K.conj(), s=size)[
            ..., : h + 2 * p1, : w + 2 * p2
        ]
        for axis, n, p in ((-2, h, p1), (-1, w, p2)):
            index, inside = source(torch.arange(-p, n + p), n, self.border)
            x = x * inside.to(x).reshape(-1, *[1] * (-1 - axis))
            shape = list(x.shape)
            shape[axis] = n
            x = torch.zeros(shape, dtype=x.dtype, device=x.device).index_add(
                axis, index.to(x.device), x
            )
        return x


def engine(kernel: Tensor, border: Border) -> LinearOperator:
    """The cheapest exact form of a convolution: Fourier for circular borders, dense factors if the kernel is one outer
    product, else padded Fourier transforms."""
    if border == "circular":
        return Circulant(kernel)
    pair = outer_factors(kernel)
    if pair is None:
        return Bordered(kernel, border)
    rows, columns = (
        Axis(taps, border, 1, 0 if border == "valid" else (len(taps) - 1) // 2) for taps in pair
    )
    return Separable(rows, columns)


def outer_factors(kernel: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Column and row whose outer product is the kernel, if one kernel serves all images and is of rank one (to float32)."""
    if len(kernel) > 1:
        return None
    U, s, V = torch.linalg.svd(kernel[0, 0].double())
    if len(s) > 1 and s[1] > 1e-6 * s[0]:
        return None
    return tuple((U[:, 0] * s[0]).tolist()), tuple(V[0].tolist())


class Convolution(LinearOperator):
    """A linear operator that hands its work to an engine built once from its kernel."""

    @cached_property
    def engine(self) -> LinearOperator:
        found = self.make_engine()
        return found if self.shape is None else found.bind(self.shape)

    @abstractmethod
    def make_engine(self) -> LinearOperator: ...

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        for name, tensor in self.files().items():
            one_each(tensor, noise, f"{name}s")
        return super().draw(shape, noise)

    @property
    def exact(self) -> bool:
        return self.engine.exact

    @property
    def grid(self) -> Grid | None:
        return self.engine.grid

    def shape_out(self, shape: Shape) -> Shape:
        return self.engine.shape_out(shape)

    def measurable(self, shape: Shape) -> Shape:
        return self.engine.measurable(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.engine.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.engine.adjoint(y)

    def gram(self, r: Tensor) -> Tensor:
        return self.engine.gram(r)

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        return self.engine.solve(r, s2, v)

    def correct(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        return self.engine.correct(r, s2, v)

    def norm(self) -> float:
        return self.engine.norm()
