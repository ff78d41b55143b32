"""Operators one after another: y = A_n(...A_2(A_1 x)). `wrapper.Composed` is an operator after any differentiable map."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Shape
from solvers.operators.grid import Grid
from solvers.operators.wrapper import Wrapper

LONGER = 128  # pixels that both sides together may grow by for operators one after another


@dataclass(frozen=True, eq=False)
class Composition(Wrapper):
    """The operators in the order they act in; what y holds is the last one's. Drawing it makes it linear if all are."""

    operators: Sequence[Operator]

    def __post_init__(self) -> None:
        if not self.operators:
            raise Refusal("a composition needs at least one operator")
        if any(operator.blind for operator in self.operators):
            raise Refusal(
                "a blind blur stands alone: its kernel is found in what it leaves of images"
            )

    @property
    def random(self) -> bool:  # type: ignore[override]
        return any(operator.random for operator in self.operators)

    @property
    def gaps(self) -> bool:  # type: ignore[override]
        return any(operator.gaps for operator in self.operators)

    @property
    def leaves_coarse(self) -> bool:  # type: ignore[override]
        return any(operator.leaves_coarse for operator in self.operators)

    @property
    def outer(self) -> Operator:  # type: ignore[override]
        return self.operators[-1]

    @property
    def grid(self) -> Grid | None:
        found: Grid | None = Grid()
        for operator in self.operators:
            found = found.then(operator.grid) if found and operator.grid else None
        return found

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        drawn, inner = [], tuple(shape)
        for operator in self.operators:
            drawn.append(operator.draw(inner, noise))
            inner = drawn[-1].shape_out(inner)
        linear = [operator for operator in drawn if isinstance(operator, LinearOperator)]
        return (
            LinearComposition(linear) if len(linear) == len(drawn) else Composition(drawn)
        ).bind(shape)

    def select(self, indices: Sequence[int]) -> Operator:
        chosen = type(self)([operator.select(indices) for operator in self.operators])
        return chosen if self.shape is None else chosen.bind(self.shape)

    def measurable(self, shape: Shape) -> Shape:
        """Sides are lengthened one by one until every operator measures what the one before it gives."""
        c, h, w = self.operators[0].measurable(shape)
        for more in range(LONGER):
            for down in range(more + 1):
                grown = (c, h + down, w + more - down)
                if self.fits(grown):
                    return grown
        return tuple(shape)

    def fits(self, shape: Shape) -> bool:
        """Whether each operator measures what it is given."""
        for operator in self.operators:
            if operator.measurable(shape) != tuple(shape):
                return False
            shape = operator.shape_out(shape)
        return True

    def shape_out(self, shape: Shape) -> Shape:
        for operator in self.operators:
            shape = operator.shape_out(shape)
        return shape

    def forward(self, x: Tensor) -> Tensor:
        for operator in self.operators:
            x = operator.forward(x)
        return x

    def given(self, y: Tensor, sigma: float | Tensor) -> Operator:
        *before, last = self.operators
        known = type(self)([*before, last.given(y, sigma)])
        return known if self.shape is None else known.bind(self.shape)

    def files(self) -> dict[str, Tensor]:
        """Names that several operators use end in the operator's place, from 1."""
        each = [operator.files() for operator in self.operators]
        uses = Counter(name for files in each for name in files)
        return {
            name if uses[name] == 1 else f"{name}_{i}": tensor
            for i, files in enumerate(each, 1)
            for name, tensor in files.items()
        }


@dataclass(frozen=True, eq=False)
class LinearComposition(Composition, LinearOperator):
    """A composition of linear operators; `solve` is conjugate gradients."""

    operators: Sequence[LinearOperator]

    def adjoint(self, y: Tensor) -> Tensor:
        for operator in reversed(self.operators):
            y = operator.adjoint(y)
        return y
