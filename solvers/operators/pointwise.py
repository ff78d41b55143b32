"""Measurements that look at each pixel, or each small tile, by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from data.files import Refusal
from solvers.operators.base import LinearOperator, Operator, Scalar, Shape, divide, per_image
from solvers.operators.grid import Grid
from solvers.operators.separable import multiple


@dataclass(frozen=True, eq=False)
class Denoising(LinearOperator):
    """y = x."""

    identity = True
    elementwise = True
    gaps = False
    grid = Grid()

    def shape_out(self, shape: Shape) -> Shape:
        return tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        return divide(r, per_image(s2, r) + per_image(v, r))

    def norm(self) -> float:
        return 1.0

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        return y


@dataclass(frozen=True, eq=False)
class TileCentre(LinearOperator):
    """One value for each tile x tile block: its centre pixel, or the mean of the four around the centre of an even tile.

    A A^T = I for odd tiles and I/4 for even ones, so `solve` is a division by one number.
    """

    tile: int = 4

    def __post_init__(self) -> None:
        if self.tile < 2:
            raise Refusal(f"a tile has at least 2 pixels a side, not {self.tile}")

    @property
    def taps(self) -> int:
        """Pixels read along an axis: 1 or 2."""
        return 2 - self.tile % 2

    @property
    def grid(self) -> Grid:
        return Grid.square((self.tile - 1) / 2, self.tile)

    def shape_out(self, shape: Shape) -> Shape:
        c, h, w = shape
        if h % self.tile or w % self.tile:
            raise Refusal(f"image of {h}x{w} is not divisible by tiles of {self.tile}")
        return (c, h // self.tile, w // self.tile)

    def measurable(self, shape: Shape) -> Shape:
        c, h, w = shape
        return (c, multiple(h, self.tile), multiple(w, self.tile))

    def forward(self, x: Tensor) -> Tensor:
        first, k = (self.tile - 1) // 2, self.taps
        blocks = x.unflatten(-2, (-1, self.tile)).unflatten(-1, (-1, self.tile))  # [B,C,h,s,w,s]
        return blocks[..., first : first + k, :, first : first + k].mean((-3, -1))

    def adjoint(self, y: Tensor) -> Tensor:
        first, k = (self.tile - 1) // 2, self.taps
        after = self.tile - first - k
        pixels = (y / k**2)[..., :, None, :, None].expand(*y.shape[:-1], k, y.shape[-1], k)
        pixels = functional.pad(pixels, (first, after))  # along the last axis, then the row axis
        pixels = functional.pad(pixels.movedim(-3, -1), (first, after)).movedim(-1, -3)
        return pixels.flatten(-4, -3).flatten(-2, -1)

    def gram(self, r: Tensor) -> Tensor:
        return r / self.taps**2

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        return divide(r, per_image(s2, r) + per_image(v, r) / self.taps**2)

    def norm(self) -> float:
        return 1 / self.taps

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Bicubic interpolation."""
        return self.grid.bicubic(y, *shape[-2:])


@dataclass(frozen=True, eq=False)
class HighDynamicRange(Operator):
    """y = clip(gain * x, -1, 1): what a detector of too small a range records (DAPS: gain 2)."""

    gain: float = 2.0

    grid = Grid()

    def __post_init__(self) -> None:
        if not self.gain > 0:
            raise Refusal(f"gain must be > 0, not {self.gain}")

    def shape_out(self, shape: Shape) -> Shape:
        return tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(self.gain * x, -1, 1)

    def given(self, y: Tensor, sigma: float | Tensor) -> "Clipped":
        """Clipped only at the ends that y has reached: an image beyond an end that y is 3 sigma inside of is pulled back."""
        low = torch.where(y <= -1 + 3 * sigma, -1.0, -torch.inf)
        return Clipped(self.gain, low.to(y), torch.where(y >= 1 - 3 * sigma, 1.0, torch.inf).to(y))

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        return y / self.gain


@dataclass(frozen=True, eq=False)
class Clipped(Operator):
    """y = clip(gain * x) with each entry's own ends [B,C,H,W], infinite where it has none."""

    gain: float
    low: Tensor
    high: Tensor

    grid = Grid()

    def shape_out(self, shape: Shape) -> Shape:
        return tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(self.gain * x, self.low.to(x), self.high.to(x))
