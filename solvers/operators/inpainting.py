"""Inpainting: some pixels are measured, the others are not, and carry no noise. Masks are 1 where measured."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from data import formats
from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import (
    COARSE,
    LinearOperator,
    Operator,
    Scalar,
    Shape,
    conjugate_gradients,
    divide,
    norm,
    one_each,
    per_image,
)
from solvers.operators.grid import Grid


@dataclass(frozen=True, eq=False)
class Inpainting(LinearOperator):
    """y = mask * x, the same mask for every channel.

    mask: 1 measured, 0 not; a file, or a tensor [H,W], [1,1,H,W] or [B,1,H,W]. A file may hold 0 and 255 instead.
    """

    mask: Tensor | str
    elementwise = True
    grid = Grid()

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", checked(self.mask))

    @property
    def m(self) -> Tensor:
        assert isinstance(self.mask, Tensor)
        return self.mask

    @property
    def leaves_coarse(self) -> bool:  # type: ignore[override]
        if min(self.m.shape[-2:]) <= COARSE:
            return False
        return bool((functional.max_pool2d(self.m.float(), COARSE + 1, stride=1) == 0).any())

    def shape_out(self, shape: Shape) -> Shape:
        if tuple(shape[-2:]) != tuple(self.m.shape[-2:]):
            (h, w), (mh, mw) = shape[-2:], self.m.shape[-2:]
            raise Refusal(f"mask of {mh}x{mw} pixels does not fit the image of {h}x{w}")
        return tuple(shape)

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        one_each(self.m, noise, "masks")
        return super().draw(shape, noise)

    def forward(self, x: Tensor) -> Tensor:
        return self.m.to(x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def gram(self, r: Tensor) -> Tensor:
        return self.forward(r)

    def restrict(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def measured(self, y: Tensor) -> Tensor:
        return (self.m.to(y).sum((1, 2, 3)) * y.shape[1]).expand(len(y))

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """Diagonal; v may also be a diagonal shaped like r. 0 where s2 = 0 and nothing is measured."""
        return divide(r, per_image(s2, r) + per_image(v, r) * self.m.to(r))

    def correct(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        m = self.m.to(r)
        return r * divide(m, per_image(s2, r) + per_image(v, r) * m)

    def norm(self) -> float:
        return 1.0

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        return harmonic_fill(y, self.m.to(y))

    def files(self) -> dict[str, Tensor]:
        return {"mask": self.m}


class DrawnMask(Operator):
    """A recipe for masks; `draw` gives the Inpainting of a batch, one mask per image."""

    random = True

    @abstractmethod
    def masks(self, h: int, w: int, noise: Noise) -> Tensor:
        """[B,H,W] or [1,H,W], 1 where measured."""

    def shape_out(self, shape: Shape) -> Shape:
        return tuple(shape)

    def draw(self, shape: Shape, noise: Noise) -> Inpainting:
        c, h, w = shape
        return Inpainting(self.masks(h, w, noise.of("mask"))[:, None]).bind(shape)


@dataclass(frozen=True, eq=False)
class RandomInpainting(DrawnMask):
    """A fraction of the pixels, drawn from U(low, high) for each image, is removed at random.

    0.70 to 0.71 in ReSample and DAPS, 0.3 to 0.7 in PSLD and DPS, 0.7 to 0.8 in CoDPS.
    """

    low: float = 0.70
    high: float = 0.71

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < 1:
            raise Refusal(
                f"removed fractions need 0 <= low <= high < 1, got low={self.low}, high={self.high}"
            )

    def masks(self, h: int, w: int, noise: Noise) -> Tensor:
        fraction = self.low + (self.high - self.low) * noise.uniform((len(noise), 1), torch.float64)
        removed = (fraction * h * w).floor().long()  # [B,1]
        rank = noise.uniform((len(noise), h * w), torch.float64).argsort(1).argsort(1)
        return (rank >= removed).float().reshape(-1, h, w)


@dataclass(frozen=True, eq=False)
class BoxInpainting(DrawnMask):
    """A box at a random place is removed.

    size, margin: pixels if >= 1, else a fraction of the image's sides; margin is the box's smallest distance from the
    border. The default is DAPS's 128 pixels and 32 at 256; ReSample's relatives and PSLD use a margin of 16 pixels.
    """

    size: float = 0.5
    margin: float = 0.125

    def __post_init__(self) -> None:
        if not (self.size > 0 and self.margin >= 0):
            raise Refusal(
                f"a box needs size > 0 and margin >= 0, got size={self.size}, margin={self.margin}"
            )

    def masks(self, h: int, w: int, noise: Noise) -> Tensor:
        bh, bw, mh, mw = (pixels(a, n) for a in (self.size, self.margin) for n in (h, w))
        if bh + 2 * mh > h or bw + 2 * mw > w:
            raise Refusal(
                f"a box of {bh}x{bw} pixels with margins {mh}, {mw} does not fit the image of {h}x{w}"
            )
        place = noise.uniform((len(noise), 2), torch.float64)
        room = torch.tensor([h - bh - 2 * mh + 1, w - bw - 2 * mw + 1])
        top, left = ((place * room).long() + torch.tensor([mh, mw])).T[..., None]  # [B,1] each
        row, column = torch.arange(h), torch.arange(w)
        inside = ((row >= top) & (row < top + bh))[:, :, None] & (
            (column >= left) & (column < left + bw)
        )[:, None, :]
        return 1 - inside.float()


@dataclass(frozen=True, eq=False)
class Outpainting(BoxInpainting):
    """Only the box is measured, everything around it is not ("extreme" inpainting)."""

    def masks(self, h: int, w: int, noise: Noise) -> Tensor:
        return 1 - super().masks(h, w, noise)


@dataclass(frozen=True, eq=False)
class StripeInpainting(DrawnMask):
    """Destriping: whole columns (or rows) are dead, in stripes at random places that never touch.

    fraction: share of lines lost. width: lines per stripe. along: "columns" or "rows".
    """

    fraction: float = 0.2
    width: int = 2
    along: Literal["columns", "rows"] = "columns"

    def __post_init__(self) -> None:
        if self.along not in ("columns", "rows"):
            raise Refusal(f"stripes run along columns or rows, not {self.along!r}")
        if not (0 < self.fraction <= 0.5 and self.width >= 1):
            raise Refusal(
                f"stripes need 0 < fraction <= 0.5 and width >= 1, got {self.fraction} and {self.width}"
            )

    def masks(self, h: int, w: int, noise: Noise) -> Tensor:
        n = w if self.along == "columns" else h
        count = round(self.fraction * n / self.width)
        free = n - count * (self.width + 1) + 2  # places of stripes with a live line between two
        if count < 1 or free < 1:
            raise Refusal(
                f"stripes of {self.width} that make {self.fraction:.0%} do not fit {n} {self.along}"
            )
        gaps = (noise.uniform((len(noise), count), torch.float64) * free).long().sort(1).values
        start = gaps + torch.arange(count) * (self.width + 1)
        dead = (start[..., None] + torch.arange(self.width)).flatten(1)
        lines = torch.ones(len(noise), n).scatter_(1, dead, 0.0)
        lines = lines[:, None, :] if self.along == "columns" else lines[:, :, None]
        return lines.expand(-1, h, w).contiguous()


def pixels(amount: float, side: int) -> int:
    """A length in pixels: fractions below 1 are of the side."""
    return round(amount * side) if amount < 1 else int(amount)


def checked(mask: Tensor | str) -> Tensor:
    """A mask as [1,1,H,W] or [B,1,H,W] of zeros and ones; one line if it is not one, or if it measures nothing."""
    name = f"mask {mask}" if isinstance(mask, str) else "mask"
    value = formats.read(mask).pixels if isinstance(mask, str) else mask
    value = value[None, None] if value.ndim == 2 else value[None] if value.ndim == 3 else value
    if value.ndim != 4 or value.shape[1] != 1:
        raise Refusal(
            f"{name} has shape {list(value.shape)}; allowed: [H,W], [1,1,H,W] or [images,1,H,W]"
        )
    if isinstance(mask, str) and value.max() == 255:
        value = value / 255
    strange = value[(value != 0) & (value != 1)]
    if strange.numel():
        raise Refusal(
            f"{name} holds {float(strange[0]):.4g} besides 0 (not measured) and 1 (measured)"
        )
    if not bool(value.any(-1).any(-1).all()):
        raise Refusal(f"{name} measures nothing: every pixel is 0")
    return value.float()


def harmonic_fill(y: Tensor, mask: Tensor, cap: int = 400) -> Tensor:
    """The smoothest filling: each missing pixel is the mean of its neighbours (Laplace), by conjugate gradients."""
    hole = (1 - mask).expand_as(y)

    def laplacian(x: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        around = (
            padded[..., 2:, 1:-1]
            + padded[..., :-2, 1:-1]
            + padded[..., 1:-1, 2:]
            + padded[..., 1:-1, :-2]
        )
        return 4 * x - around

    b = -hole * laplacian(y * mask)
    filled = conjugate_gradients(
        lambda x: hole * laplacian(hole * x), b, tolerance=1e-4 * norm(b), cap=cap
    ).x
    return y * mask + filled * hole
