"""A Gaussian blur in three dimensions, each axis with a width of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from data.files import Refusal
from solvers.operators.base import LinearOperator, Scalar, Shape, divide, per_image
from solvers.operators.kernels import gaussian_taps
from solvers.operators.separable import Axis, Factor, Kept, factor
from solvers.operators.volume.axis import along, products
from solvers.operators.volume.through_plane import in_three

AXES = (-3, -2, -1)
WIDEST = 1000  # slices or pixels, that a deviation is below


@dataclass(frozen=True, eq=False)
class VolumeBlur(LinearOperator):
    """y = x blurred along D, H and W by Gaussians of these standard deviations, in slices and pixels; 0 leaves an axis alone.

    The taps reach four deviations. `solve` is exact for every border: three changes of basis around one division.
    """

    std: Sequence[float] = (1.0, 1.0, 1.0)
    border: Kept = "symmetric"
    volumetric = True
    gaps = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", tuple(float(s) for s in self.std))
        if len(self.std) != 3 or not all(0 <= s < WIDEST for s in self.std):
            due = f"three standard deviations >= 0 and < {WIDEST} (along D, H, W)"
            raise Refusal(f"a blur of volumes has {due}, not {list(self.std)}")
        if self.border not in get_args(Kept):
            raise Refusal(f"border {self.border!r} is not one of {', '.join(get_args(Kept))}")

    def shape_out(self, shape: Shape) -> Shape:
        for axis, n in zip(self.axes, in_three(shape, "a blur of volumes")[1:]):
            axis.length(n)
        return tuple(shape)

    def shape_in(self, measured: Shape) -> Shape:
        return measured

    @property
    def axes(self) -> list[Axis]:
        sizes = [2 * round(4 * s + 0.5) + 1 if s else 1 for s in self.std]
        taps = [gaussian_taps(k, s) if s else (1.0,) for k, s in zip(sizes, self.std)]
        return [Axis(t, self.border, 1, len(t) // 2) for t in taps]

    def factors(self, x: Tensor) -> list[Factor]:
        return [factor(axis, n, x.dtype, x.device) for axis, n in zip(self.axes, x.shape[-3:])]

    def forward(self, x: Tensor) -> Tensor:
        for axis, F in zip(AXES, self.factors(x)):
            x = along(F.A, x, axis)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for axis, F in zip(AXES, self.factors(y)):
            y = along(F.A.mT, y, axis)
        return y

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        factors = self.factors(r)
        s = products([F.s for F in factors])
        for axis, F in zip(AXES, factors):
            r = along(F.U.mT, r, axis)
        r = divide(r, per_image(s2, r) + per_image(v, r) * s.square())
        for axis, F in zip(AXES, factors):
            r = along(F.U, r, axis)
        return r

    def norm(self) -> float:
        if self.shape is None:
            raise Refusal("VolumeBlur.norm() needs the shape of the volume: call draw first")
        sizes = zip(self.axes, self.shape[1:])
        return float(products([factor(axis, n).s[:1] for axis, n in sizes]))

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """The blurred volume itself."""
        return y
