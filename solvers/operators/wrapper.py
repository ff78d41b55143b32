"""Operators made of another one: seen through a view of the state, or after any differentiable map."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from solvers.operators.base import LinearOperator, Operator, Scalar


class Wrapper(Operator):
    """A measurement whose y is that of another operator: what is known of y, it passes on."""

    outer: Operator  # the one whose y this has

    @property
    def unit_range(self) -> bool:  # type: ignore[override]
        return self.outer.unit_range

    @property
    def transmission(self) -> bool:  # type: ignore[override]
        return self.outer.transmission

    @property
    def amplitude(self) -> bool:  # type: ignore[override]
        return self.outer.amplitude

    @property
    def turns(self) -> bool:  # type: ignore[override]
        return self.outer.turns

    @property
    def gaps(self) -> bool:  # type: ignore[override]
        return self.outer.gaps

    @property
    def leaves_coarse(self) -> bool:  # type: ignore[override]
        return self.outer.leaves_coarse

    @property
    def neighbours(self) -> Literal["plane", "rows", "columns", "none"]:  # type: ignore[override]
        return self.outer.neighbours

    def measured(self, y: Tensor) -> Tensor:
        return self.outer.measured(y)

    def restrict(self, y: Tensor) -> Tensor:
        return self.outer.restrict(y)

    def noise_alone(self, y: Tensor) -> Tensor | None:
        return self.outer.noise_alone(y)

    def files(self) -> dict[str, Tensor]:
        return self.outer.files()


class Seen(Wrapper, LinearOperator):
    """A linear operator behind a linear view of the state: A B with B B^T = gain I.

    Cropping a padded patch state (gain 1) and averaging the channels of a 3-channel state on gray images (gain 1/3)
    are such views; `solve` is then the operator's own with v * gain.
    """

    outer: LinearOperator  # type: ignore[assignment]

    def __init__(
        self,
        outer: LinearOperator,
        view: Callable[[Tensor], Tensor],
        lift: Callable[[Tensor], Tensor],
        gain: float = 1.0,
    ):
        self.outer, self.view, self.lift, self.gain = outer, view, lift, gain

    @property
    def exact(self) -> bool:
        return self.outer.exact

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.view(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.lift(self.outer.adjoint(y))

    def gram(self, r: Tensor) -> Tensor:
        return self.gain * self.outer.gram(r)

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        return self.outer.solve(r, s2, v * self.gain)

    def correct(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        return self.lift(self.outer.correct(r, s2, v * self.gain))

    def inverse_under(self, density: Tensor, s2: Tensor) -> Callable[[Tensor], Tensor] | None:
        return self.outer.inverse_under(self.gain * density, s2)

    def norm(self) -> float:
        return self.gain**0.5 * self.outer.norm()

    def select(self, indices: Sequence[int]) -> "Seen":
        return Seen(self.outer.select(indices), self.view, self.lift, self.gain)  # type: ignore[arg-type]


class Composed(Wrapper):
    """y = outer(inner(x)) for any differentiable inner map, e.g. A after a decoder; linear at a point by `linearize`."""

    def __init__(self, outer: Operator, inner: Callable[[Tensor], Tensor]):
        self.outer, self.inner = outer, inner

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner(x))

    def given(self, y: Tensor, sigma: float | Tensor) -> "Composed":
        return Composed(self.outer.given(y, sigma), self.inner)

    def select(self, indices: Sequence[int]) -> "Composed":
        return Composed(self.outer.select(indices), self.inner)
