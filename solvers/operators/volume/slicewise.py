"""An operator on images, applied to every slice of a volume: a stack of CT or MRI slices, each with a mask of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Scalar, Shape
from solvers.operators.volume.through_plane import in_three

SAME = {  # what is true of a slice is of the stack
    "unit_range", "transmission", "amplitude", "random", "turns", "gaps", "leaves_coarse",
    "neighbours", "identity", "grid",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slicewise(Operator):
    """y [B,C',D,...]: slice d of y is the operator's measurement of slice d.

    operator: of images [C,H,W]. same: whether all slices share one random mask or kernel; else each draws its own, from
    its own stream, so that a slab of a volume has the masks that its slices have in the whole. Drawn, a linear operator
    becomes a linear one.
    """

    operator: Operator
    same: bool = False
    volumetric = True

    def __getattribute__(self, name: str) -> Any:
        return getattr(self.operator, name) if name in SAME else super().__getattribute__(name)

    def shape_out(self, shape: Shape) -> Shape:
        c, d, h, w = in_three(shape, "a stack of slices")
        first, *rest = self.operator.shape_out((c, h, w))
        return (first, d, *rest)

    def measurable(self, shape: Shape) -> Shape:
        c, d, h, w = in_three(shape, "a stack of slices")
        _, height, width = self.operator.measurable((c, h, w))
        return (c, d, height, width)

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        c, d, h, w = in_three(shape, "a stack of slices")
        if self.operator.turns:
            raise Refusal(
                f"{type(self.operator).__name__} leaves each slice's turn open: restore slices one by one"
            )
        if self.operator.blind:
            raise Refusal("the kernel of a blind blur is found slice by slice")
        drawn = self.operator.draw((c, h, w), noise if self.same else slices_of(noise, d))
        kind = LinearStack if isinstance(drawn, LinearOperator) else Stack
        return kind(drawn, len(noise), d, self.same).bind(shape)


class Stack(Operator):
    """A drawn operator on the D slices of some volumes; it holds a row for each volume (`same`), or for each slice of each."""

    def __init__(self, operator: Operator, volumes: int, depth: int, same: bool):
        self.operator, self.volumes, self.depth, self.same = operator, volumes, depth, same

    def __getattribute__(self, name: str) -> Any:
        return getattr(self.operator, name) if name in SAME else super().__getattribute__(name)

    def rows(self, volume: Tensor) -> Tensor:
        """[B,C,D,...] -> [B D,C,...]"""
        return volume.movedim(2, 1).flatten(0, 1)

    def stacked(self, slices: Tensor) -> Tensor:
        """[B D,C,...] -> [B,C,D,...]"""
        return slices.unflatten(0, (-1, self.depth)).movedim(1, 2)

    def each(self, batch: int) -> Operator:
        """The operator of all slices of so many volumes; that of one volume serves any number."""
        if not self.same and batch == self.volumes:
            return self.operator
        own = range(batch) if batch == self.volumes else [0] * batch
        return self.operator.select(
            self.slices(own) if not self.same else [i for i in own for _ in range(self.depth)]
        )

    def slices(self, volumes: Sequence[int]) -> list[int]:
        """The rows of the slices of these volumes."""
        return [i * self.depth + d for i in volumes for d in range(self.depth)]

    def forward(self, x: Tensor) -> Tensor:
        return self.stacked(self.each(len(x)).forward(self.rows(x)))

    def shape_out(self, shape: Shape) -> Shape:
        c, d, h, w = in_three(shape, "a stack of slices")
        if d != self.depth:
            raise Refusal(f"an operator drawn for {self.depth} slices meets a volume of {d}")
        first, *rest = self.operator.shape_out((c, h, w))
        return (first, d, *rest)

    def restrict(self, y: Tensor) -> Tensor:
        return self.stacked(self.each(len(y)).restrict(self.rows(y)))

    def measured(self, y: Tensor) -> Tensor:
        return self.each(len(y)).measured(self.rows(y)).reshape(len(y), -1).sum(1)

    def noise_alone(self, y: Tensor) -> Tensor | None:
        found = self.each(len(y)).noise_alone(self.rows(y))
        return None if found is None else self.stacked(found)

    def select(self, indices: Sequence[int]) -> Operator:
        rows = list(indices) if self.same else self.slices(indices)
        return type(self)(self.operator.select(rows), len(indices), self.depth, self.same).bind(
            self.shape
        )

    def baseline(self, y: Tensor, shape: Shape) -> Tensor | None:
        c, _, h, w = shape
        found = self.each(len(y)).baseline(self.rows(y), (c, h, w))
        return None if found is None else self.stacked(found)

    def files(self) -> dict[str, Tensor]:
        """Each slice's own, [volumes,D,...]; what all slices share as it is."""
        found = self.operator.files()
        if self.same:
            return found
        rows = self.volumes * self.depth
        return {
            name: t.unflatten(0, (self.volumes, -1)) if len(t) == rows else t
            for name, t in found.items()
        }

    def given(self, y: Tensor, sigma: float | Tensor) -> Operator:
        sigma = self.rows(sigma) if isinstance(sigma, Tensor) and sigma.ndim == y.ndim else sigma
        known = self.each(len(y)).given(self.rows(y), sigma)
        return type(self)(known, len(y), self.depth, False).bind(self.shape)


class LinearStack(Stack, LinearOperator):
    """A stack of linear measurements: its inverse is each slice's own."""

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        return self.operator.elementwise  # type: ignore[attr-defined]

    @property
    def exact(self) -> bool:
        return self.operator.exact  # type: ignore[attr-defined]

    def linear(self, batch: int) -> LinearOperator:
        return self.each(batch)  # type: ignore[return-value]

    def per_slice(self, value: Scalar) -> Scalar:
        """A number for each volume as one for each of its slices."""
        return (
            value.repeat_interleave(self.depth)
            if isinstance(value, Tensor) and value.ndim == 1
            else value
        )

    def adjoint(self, y: Tensor) -> Tensor:
        return self.stacked(self.linear(len(y)).adjoint(self.rows(y)))

    def gram(self, r: Tensor) -> Tensor:
        return self.stacked(self.linear(len(r)).gram(self.rows(r)))

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        s2, v = self.per_slice(s2), self.per_slice(v)
        return self.stacked(self.linear(len(r)).solve(self.rows(r), s2, v))

    def correct(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        s2, v = self.per_slice(s2), self.per_slice(v)
        return self.stacked(self.linear(len(r)).correct(self.rows(r), s2, v))

    def inverse_under(self, density: Tensor, s2: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Each slice's own: what it has in common with its neighbours is left to conjugate gradients."""
        alone = density.mean(2)
        if self.operator.inverse_under(alone, s2) is None:  # type: ignore[attr-defined]
            return None
        rows = alone if len(alone) == 1 else alone.repeat_interleave(self.depth, 0)

        def solve(r: Tensor) -> Tensor:
            each = self.linear(len(r)).inverse_under(rows, self.per_slice(s2))  # type: ignore[arg-type]
            assert each is not None
            return self.stacked(each(self.rows(r)))

        return solve

    def norm(self) -> float:
        return self.operator.norm()  # type: ignore[attr-defined]


def slices_of(noise: Noise, depth: int) -> Noise:
    """A stream for each slice of each volume."""
    ids = [f"{image_id}#{d}" for image_id in noise.ids for d in range(depth)]
    samples = [sample for sample in noise.samples for _ in range(depth)]
    return Noise(ids, noise.purpose, noise.run_seed, samples)
