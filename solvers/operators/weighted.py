"""An operator whose entries of y are multiplied by weights, so that their noise has one standard deviation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from solvers.operators.base import LinearOperator, Operator, Scalar, Shape, divide, per_image
from solvers.operators.grid import Grid
from solvers.operators.wrapper import Wrapper


class Weighted(Wrapper):
    """y = w * A(x); w [B,...] shaped like y, or [B,1,...] with one number for each image. Where it is 0, y says nothing."""

    outer: Any  # linear in WeightedLinear

    def __init__(self, operator: Any, weights: Tensor):
        self.outer, self.weights, self.shape = operator, weights, operator.shape

    def forward(self, x: Tensor) -> Tensor:
        return self.weights.to(x) * self.outer.forward(x)

    def shape_out(self, shape: Shape) -> Shape:
        return self.outer.shape_out(shape)

    def select(self, indices: Sequence[int]) -> "Weighted":
        rows = list(indices)
        return type(self)(self.outer.select(rows), self.weights[rows])

    def unweighted(self, y: Tensor) -> Tensor:
        """y as A has it; 0 where it says nothing."""
        w = self.weights.to(y)
        return (y / w.where(w > 0, 1)).where(w > 0, 0)

    def measured(self, y: Tensor) -> Tensor:
        entries = self.outer.restrict(torch.ones_like(y))
        told = self.restrict(torch.ones_like(y)).flatten(1).sum(1) / entries.flatten(1).sum(1)
        return self.outer.measured(y) * told

    def restrict(self, y: Tensor) -> Tensor:
        return self.outer.restrict(y).where(self.weights.to(y) > 0, 0)

    def noise_alone(self, y: Tensor) -> Tensor | None:
        alone = self.outer.noise_alone(self.unweighted(y))
        return None if alone is None else self.weights.to(y) * alone

    def given(self, y: Tensor, sigma: float | Tensor) -> "Weighted":
        w = self.weights.to(y)
        known = self.outer.given(self.unweighted(y), sigma / w.where(w > 0, 1))
        return type(self)(known, self.weights)

    @property
    def grid(self) -> Grid | None:
        return self.outer.grid

    def baseline(self, y: Tensor, shape: Shape) -> Tensor | None:
        return self.outer.baseline(self.unweighted(y), shape)


class WeightedLinear(Weighted, LinearOperator):
    """The same for a linear A: `solve` is A's own for one weight per image and for masks, else conjugate gradients."""

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        return self.outer.elementwise

    @property
    def exact(self) -> bool:
        return self.outer.exact and (self.uniform or self.outer.elementwise)

    @property
    def uniform(self) -> bool:
        return self.weights[0].numel() == 1

    def adjoint(self, y: Tensor) -> Tensor:
        return self.outer.adjoint(self.weights.to(y) * y)

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        if not self.exact:
            return super().solve(r, s2, v)
        w2 = self.weights.to(r).square()
        if self.uniform:
            return self.outer.solve(r, s2, w2.flatten() * torch.as_tensor(v).to(r))
        return divide(
            r, per_image(s2, r) + per_image(v, r) * w2 * self.outer.gram(torch.ones_like(r))
        )

    def inverse_under(self, density: Tensor, s2: Tensor) -> Callable[[Tensor], Tensor] | None:
        if not self.uniform:
            return None
        w2 = self.weights.to(density).square().flatten()
        return self.outer.inverse_under(per_image(w2, density) * density, s2)


def weighted(operator: Operator, weights: Tensor) -> Weighted:
    """The operator times weights; linear if it is."""
    if isinstance(operator, Weighted):
        return weighted(operator.outer, operator.weights * weights)
    return (
        WeightedLinear(operator, weights)
        if isinstance(operator, LinearOperator)
        else Weighted(operator, weights)
    )
