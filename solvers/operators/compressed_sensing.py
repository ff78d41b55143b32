"""Compressed sensing by structured random projections: signs, a fast orthonormal transform, a random subset of it."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Scalar, Shape, divide, per_image

Transform = Literal["hadamard", "cosine", "fourier"]


@dataclass(frozen=True, eq=False)
class Projections(LinearOperator):
    """y = P T D x, [B,C,m]: signs D, an orthonormal T along rows and columns, and m of its entries; A A^T = I.

    signs [1 or B,H,W] of -1 and 1; kept [1 or B,m], indices into the flattened transform. The same for every channel.
    """

    signs: Tensor
    kept: Tensor
    transform: Transform = "hadamard"

    def shape_out(self, shape: Shape) -> Shape:
        return (*shape[:-2], self.kept.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (basis(self.transform, n, x.dtype, x.device) for n in x.shape[-2:])
        spectrum = rows @ (self.signs[:, None].to(x) * x) @ columns.T
        return spectrum.flatten(2).gather(2, self.index(spectrum))

    def adjoint(self, y: Tensor) -> Tensor:
        h, w = self.signs.shape[-2:]
        rows, columns = (basis(self.transform, n, y.dtype, y.device) for n in (h, w))
        spectrum = torch.zeros(*y.shape[:2], h * w, dtype=y.dtype, device=y.device).scatter(
            2, self.index(y), y
        )
        return self.signs[:, None].to(y) * (rows.T @ spectrum.unflatten(2, (h, w)) @ columns)

    def index(self, like: Tensor) -> Tensor:
        return self.kept[:, None].to(like.device).expand(*like.shape[:2], -1)

    def gram(self, r: Tensor) -> Tensor:
        return r

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        return divide(r, (per_image(s2, r) + per_image(v, r)).expand_as(r))

    def norm(self) -> float:
        return 1.0

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        return self.adjoint(y)

    def files(self) -> dict[str, Tensor]:
        return {"signs": self.signs, "kept": self.kept}


@dataclass(frozen=True, eq=False)
class CompressedSensing(Operator):
    """A recipe: each image's own signs and its own subset, of a fraction `ratio` of the entries.

    transform: `hadamard` (sides a power of 2), `cosine` (DCT-II), or `fourier` in its real form (Hartley).
    """

    ratio: float = 0.25
    transform: Transform = "hadamard"

    random = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise Refusal(f"compressed sensing keeps a ratio in (0, 1], not {self.ratio}")
        if self.transform not in ("hadamard", "cosine", "fourier"):
            raise Refusal(f"transform {self.transform!r} is not one of hadamard, cosine, fourier")

    def shape_out(self, shape: Shape) -> Shape:
        c, h, w = shape
        if self.transform == "hadamard" and (h & (h - 1) or w & (w - 1)):
            raise Refusal(
                f"a Hadamard transform needs sides that are powers of 2, not {h}x{w}; cosine and fourier take any"
            )
        return (c, max(1, round(self.ratio * h * w)))

    def measurable(self, shape: Shape) -> Shape:
        if self.transform != "hadamard":
            return tuple(shape)
        c, h, w = shape
        return (c, 1 << (h - 1).bit_length(), 1 << (w - 1).bit_length())

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        count, (h, w), stream = self.shape_out(shape)[1], shape[-2:], noise.of("mask")
        signs = 1 - 2 * (stream.uniform((len(noise), h, w), torch.float64) < 0.5).double()
        kept = stream.uniform((len(noise), h * w), torch.float64).argsort(1)[:, :count]
        return Projections(signs, kept, self.transform).draw(shape, noise)


@lru_cache(maxsize=16)
def basis(transform: Transform, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal n x n matrix of a transform; dense, as a product with it is faster than its fast form up to some 1000."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    if transform == "hadamard":
        matrix = torch.ones(1, 1, dtype=torch.float64)
        while len(matrix) < n:
            matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
        matrix = matrix / math.sqrt(n)
    elif transform == "cosine":
        matrix = (math.pi * k * (2 * i + 1) / (2 * n)).cos() * math.sqrt(2 / n)
        matrix[0] = math.sqrt(1 / n)
    else:
        phase = 2 * math.pi * k * i / n
        matrix = (phase.cos() + phase.sin()) / math.sqrt(n)
    return matrix.to(device, dtype)
