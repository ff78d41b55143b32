"""Operators that act on rows and columns apart: y = R x C^T per channel.

Each factor is a small dense matrix, built once per size from its taps, stride and border, with its singular value
decomposition; `solve` is then exact for every border: two changes of basis around one division.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from data.files import Refusal
from solvers.operators.base import LinearOperator, Scalar, Shape, divide, per_image
from solvers.operators.grid import Grid

Kept = Literal["reflect", "symmetric", "circular", "zero"]  # y is as large as the image
Border = Literal["reflect", "symmetric", "circular", "zero", "valid"]
BORDERS = ("reflect", "symmetric", "circular", "zero", "valid")


@dataclass(frozen=True)
class Axis:
    """A strided convolution along one axis: y[i] = sum_t taps[k-1-t] x[stride*i + t - before].

    border: what stands outside the image: reflect (edge pixel not repeated), symmetric (edge pixel repeated), circular,
    zero, or valid (nothing: only outputs whose taps all fall inside; before is then 0).
    """

    taps: tuple[float, ...]
    border: Border = "reflect"
    stride: int = 1
    before: int = 0

    def length(self, n: int) -> int:
        """Entries of y for n entries of x; raises Refusal if n is not legal."""
        if (
            len(self.taps) > n and self.border != "symmetric"
        ):  # mirrors may be repeated, so that one takes any size
            raise Refusal(f"kernel of {len(self.taps)} pixels is larger than the image's {n}")
        if self.border == "valid":
            return (n - len(self.taps)) // self.stride + 1
        if n % self.stride:
            raise Refusal(f"image size {n} is not divisible by the factor {self.stride}")
        return n // self.stride

    def width(self, m: int) -> int:
        """The inverse of `length`."""
        return (m - 1) * self.stride + len(self.taps) if self.border == "valid" else m * self.stride

    def least(self, n: int) -> int:
        """The smallest legal number of entries that is at least n."""
        n = n if self.border == "symmetric" else max(n, len(self.taps))
        return n if self.border == "valid" else multiple(n, self.stride)

    @property
    def centre(self) -> float:
        """Of the taps that give the first entry of y, in pixels of x."""
        return (len(self.taps) - 1) / 2 - self.before


def multiple(n: int, of: int) -> int:
    """The smallest multiple of a number that is at least n."""
    return -(-n // of) * of


class Factor(NamedTuple):
    """A = U diag(s) V^T, A [m,n], thin."""

    A: Tensor
    U: Tensor
    s: Tensor
    V: Tensor


def source(position: Tensor, n: int, border: Border) -> tuple[Tensor, Tensor]:
    """Which of n pixels stands at integer positions that may lie outside, and whether anything (1 or 0) does."""
    if border == "circular":
        return position % n, torch.ones_like(position)
    if border == "symmetric":
        p = position % (2 * n)
        return torch.where(p < n, p, 2 * n - 1 - p), torch.ones_like(position)
    if border == "reflect":
        p = position % max(2 * n - 2, 1)
        return torch.where(p < n, p, 2 * n - 2 - p), torch.ones_like(position)
    inside = (position >= 0) & (position < n)  # zero and valid
    return position.clamp(0, n - 1), inside.long()


@lru_cache(maxsize=64)
def factor(
    axis: Axis, n: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Factor:
    """The dense matrix of an axis on n pixels and its decomposition, computed in float64 on the CPU once."""
    if dtype != torch.float64 or torch.device(device).type != "cpu":
        return Factor(*(part.to(device=device, dtype=dtype) for part in factor(axis, n)))
    m, taps = axis.length(n), torch.tensor(axis.taps, dtype=torch.float64).flip(0)
    position = (
        torch.arange(m)[:, None] * axis.stride + torch.arange(len(taps)) - axis.before
    )  # [m,k]
    column, weight = source(position, n, axis.border)
    A = torch.zeros(m, n, dtype=torch.float64).scatter_add_(1, column, weight * taps)
    U, s, Vt = torch.linalg.svd(A, full_matrices=False)
    s = torch.where(s > 1e-15 * len(s) * s[0], s, 0)  # exactly zero where rounding is all there is
    return Factor(A, U, s, Vt.T.contiguous())


@lru_cache(maxsize=64)
def singular_values(
    rows: Axis, columns: Axis, h: int, w: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Of the whole operator, in the bases of its two factors: all products of one of each."""
    return torch.outer(factor(rows, h, dtype, device).s, factor(columns, w, dtype, device).s)


@dataclass(frozen=True, eq=False)
class Separable(LinearOperator):
    """y = R x C^T for every channel, R and C given by their axes."""

    rows: Axis
    columns: Axis

    def shape_out(self, shape: Shape) -> Shape:
        c, h, w = shape
        return (c, self.rows.length(h), self.columns.length(w))

    def measurable(self, shape: Shape) -> Shape:
        c, h, w = shape
        return (c, self.rows.least(h), self.columns.least(w))

    @property
    def grid(self) -> Grid:
        return Grid(
            (self.rows.centre, self.columns.centre), (self.rows.stride, self.columns.stride)
        )

    def factors(self, h: int, w: int, like: Tensor) -> tuple[Factor, Factor]:
        return factor(self.rows, h, like.dtype, like.device), factor(
            self.columns, w, like.dtype, like.device
        )

    def of_measurement(self, y: Tensor) -> tuple[Factor, Factor, Tensor]:
        """Both factors for a measurement like y, and the singular values of their product."""
        h, w = self.rows.width(y.shape[-2]), self.columns.width(y.shape[-1])
        return *self.factors(h, w, y), singular_values(
            self.rows, self.columns, h, w, y.dtype, y.device
        )

    def forward(self, x: Tensor) -> Tensor:
        R, C = self.factors(x.shape[-2], x.shape[-1], x)
        return R.A @ (x @ C.A.T)

    def adjoint(self, y: Tensor) -> Tensor:
        R, C, _ = self.of_measurement(y)
        return R.A.T @ y @ C.A

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        R, C, s = self.of_measurement(r)
        by = per_image(s2, r) + per_image(v, r) * s.square()
        return R.U @ divide(R.U.T @ r @ C.U, by) @ C.U.T

    def correct(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        R, C, s = self.of_measurement(r)
        by = per_image(s2, r) + per_image(v, r) * s.square()
        gain = s / by.clamp_min(torch.finfo(r.dtype).tiny)  # 0 / 0 = 0
        return R.V @ (gain * (R.U.T @ r @ C.U)) @ C.V.T

    def norm(self) -> float:
        if self.shape is None:
            raise Refusal("Separable.norm() needs an image shape: call draw first")
        return float(
            factor(self.rows, self.shape[-2]).s[0] * factor(self.columns, self.shape[-1]).s[0]
        )
