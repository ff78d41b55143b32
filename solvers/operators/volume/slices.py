"""Slices that were not measured, or are too damaged to be used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Scalar, Shape, divide, per_image
from solvers.operators.volume.axis import along, inverse_of_mixing
from solvers.operators.volume.through_plane import in_three


@dataclass(frozen=True, eq=False)
class MissingSlices(LinearOperator):
    """y = x, without some slices; those are 0 in y and carry no noise.

    missing: their indices from 0, negative ones counting from the end. every: instead, all but every so-manieth slice, the
    first kept.
    """

    missing: Sequence[int] = ()
    every: int = 0
    elementwise = True
    volumetric = True

    def __post_init__(self) -> None:
        if bool(self.missing) == bool(self.every):
            raise Refusal(
                "missing slices: give either `missing`, a list of indices, or `every`, how many slices apart the kept are"
            )
        if self.every and self.every < 2:
            raise Refusal(f"every must be at least 2, or nothing is missing; not {self.every}")

    def mask(self, x: Tensor) -> Tensor:
        """[D,1,1], 1 where measured."""
        d = x.shape[-3]
        kept = torch.ones(d, dtype=x.dtype, device=x.device)
        if self.every:
            kept = (torch.arange(d, device=x.device) % self.every == 0).to(x)
        else:
            kept[list(self.missing)] = 0
        return kept[:, None, None]

    def shape_out(self, shape: Shape) -> Shape:
        c, d, h, w = in_three(shape, "a measurement with missing slices")
        bad = [i for i in self.missing if not -d <= i < d]
        if bad:
            raise Refusal(f"missing slices {bad} do not exist in a volume of {d} slices")
        if not self.every and len({i % d for i in self.missing}) == d:
            raise Refusal(f"all {d} slices are missing")
        return (c, d, h, w)

    def shape_in(self, measured: Shape) -> Shape:
        return measured

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        _, d, *_ = self.shape_out(shape)
        kept = -(-d // self.every) if self.every else d - len({i % d for i in self.missing})
        if kept < 2:
            raise Refusal(f"1 of {d} slices is left; two or more are needed")
        return self.bind(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.mask(x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def gram(self, r: Tensor) -> Tensor:
        return self.forward(r)

    def restrict(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def measured(self, y: Tensor) -> Tensor:
        return self.mask(y).expand_as(y).flatten(1).sum(1)

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        return divide(r, per_image(s2, r) + per_image(v, r) * self.mask(r))

    def inverse_under(self, density: Tensor, s2: Tensor) -> Callable[[Tensor], Tensor] | None:
        kept = self.mask(density[:1, 0, :, :1, :1])
        return inverse_of_mixing(kept.flatten().diag(), density, s2)

    def norm(self) -> float:
        return 1.0

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Linear interpolation between the nearest measured slices; the nearest one at the ends."""
        d = y.shape[-3]
        kept = self.mask(y).flatten().nonzero()[:, 0]
        at = torch.arange(d, device=y.device)
        after = torch.searchsorted(kept, at).clamp_max(len(kept) - 1)
        before = (torch.searchsorted(kept, at, right=True) - 1).clamp_min(0)
        low, high = kept[before], kept[after]
        share = ((at - low) / (high - low).clamp_min(1)).clamp(0, 1).to(y)
        matrix = torch.zeros(d, d, dtype=y.dtype, device=y.device)
        matrix.scatter_add_(1, low[:, None], (1 - share)[:, None])
        matrix.scatter_add_(1, high[:, None], share[:, None])
        return along(matrix, y, -3)
