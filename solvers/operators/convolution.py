"""Two-dimensional convolutions, and which engine does their work: Fourier transforms, dense factors, or padding.

Kernels are [1,1,k,k], or [B,1,k,k] when each image has its own; the image of a point is the kernel (true convolution).
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import scipy.fft
import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Scalar, Shape, one_each
from solvers.operators.circulant import Circulant, transfer
from solvers.operators.grid import Grid
from solvers.operators.separable import Axis, Border, Separable, source


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
