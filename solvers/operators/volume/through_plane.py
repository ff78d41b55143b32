"""Thick slices: each measured slice is a weighted mean of thin ones, along the third axis alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Scalar, Shape, divide, per_image
from solvers.operators.separable import Factor, source
from solvers.operators.volume.axis import along, decomposed, inverse_of_mixing, like

FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian, in its deviations
ROUNDING = 1e-9  # of a measured slice: so much beyond the last one is none


@dataclass(frozen=True, eq=False)
class ThroughPlane(LinearOperator):
    """y [B,C,m,H,W], m = ceil(D / factor): slice j is the mean of x under a profile centred at (j + 1/2) factor - 1/2.

    factor: distance between measured slices in thin ones, any real number >= 1. thickness: width of the profile in thin
    slices; less than the factor leaves gaps, more overlaps; default: the factor. profile: `box`, `gaussian` (thickness is
    its full width at half maximum), or weights at distances of one thin slice, centred. What stands outside the volume
    is mirrored with the edge slice repeated, so that any D is legal.
    """

    factor: float = 4.0
    thickness: float | None = None
    profile: Literal["box", "gaussian"] | tuple[float, ...] = "box"
    volumetric = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise Refusal(f"the factor between slices is a number >= 1, not {self.factor}")
        if self.thickness is not None and not (
            math.isfinite(self.thickness) and self.thickness > 0
        ):
            raise Refusal(f"the thickness of slices must be above 0, not {self.thickness}")
        if isinstance(self.profile, str):
            if self.profile not in ("box", "gaussian"):
                raise Refusal(f"profile {self.profile!r} is not box, gaussian or a list of weights")
            return
        object.__setattr__(self, "profile", tuple(self.profile))
        if self.thickness is not None:
            raise Refusal("a profile given as weights has its own thickness: leave `thickness` out")
        if not (
            self.profile and all(map(math.isfinite, self.profile)) and abs(sum(self.profile)) > 1e-9
        ):
            raise Refusal("the weights of a slice profile must be finite and must not sum to 0")

    def count(self, thin: int) -> int:
        """How many slices measure so many thin ones."""
        return counted(self.factor, thin)

    def most(self, measured: int) -> int:
        """The most thin slices that so many measure: none of them begins behind the last measured one's end."""
        return math.floor((measured + ROUNDING / 2) * self.factor)

    def shape_out(self, shape: Shape) -> Shape:
        c, d, h, w = in_three(shape, "through-plane super-resolution")
        return (c, self.count(d), h, w)

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        """Refuses what tells nothing of the third axis: one slice, or slices thicker than the volume."""
        _, left, *_ = self.shape_out(shape)
        thin, wide = shape[1], self.thickness or 0
        if left < 2:
            due = f"a factor below {thin} leaves two or more"
            raise Refusal(f"a factor of {self.factor:g} leaves 1 slice of {thin}; {due}")
        if wide > thin:
            raise Refusal(f"slices {wide:g} thick of a volume of {thin}; at most {thin} is allowed")
        return self.bind(shape)

    def shape_in(self, measured: Shape) -> Shape:
        c, m, h, w = in_three(measured, "through-plane super-resolution")
        return (c, self.most(m), h, w)

    @property
    def places(self) -> tuple[float, float]:
        return 0.5 / self.factor - 0.5, 1 / self.factor

    def matrix(self, x: Tensor, thin: int) -> Factor:
        """[m,D] with its decomposition, like x."""
        return like(weights(self.factor, self.thickness or self.factor, self.profile, thin), x)

    def bound(self, y: Tensor) -> Factor:
        """The matrix behind a measurement: of the volume that the operator is bound to, else of the largest that fits."""
        m = y.shape[-3]
        thin = self.shape[1] if self.shape else self.most(m)
        return self.matrix(y, thin)

    def forward(self, x: Tensor) -> Tensor:
        return along(self.matrix(x, x.shape[-3]).A, x, -3)

    def adjoint(self, y: Tensor) -> Tensor:
        return along(self.bound(y).A.mT, y, -3)

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        P = self.bound(r)
        by = per_image(s2, r) + per_image(v, r) * P.s.square()[:, None, None]
        inside = along(P.U.mT, r, -3)
        solved = along(P.U, divide(inside, by), -3)
        if len(P.s) == P.U.shape[0]:
            return solved
        return solved + divide(r - along(P.U, inside, -3), per_image(s2, r).expand_as(r))

    def inverse_under(self, density: Tensor, s2: Tensor) -> Callable[[Tensor], Tensor] | None:
        return inverse_of_mixing(self.matrix(density, density.shape[2]).A, density, s2)

    def norm(self) -> float:
        if self.shape is None:
            raise Refusal("ThroughPlane.norm() needs the shape of the volume: call draw first")
        return float(self.matrix(torch.zeros((), dtype=torch.float64), self.shape[1]).s[0])

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """A cubic spline through the measured slices at their centres; constant beyond the first and the last."""
        return along(spline(self.factor, y.shape[-3], shape[1]).to(y), y, -3)


def in_three(shape: Shape, what: str) -> Shape:
    """A volume's shape [C,D,H,W]; raises Refusal for an image's."""
    if len(shape) != 4:
        raise Refusal(f"{what} takes volumes [C,D,H,W], not images of shape {list(shape)}")
    return shape


def counted(factor: float, thin: int) -> int:
    """How many slices, `factor` thin ones apart, measure so many thin ones."""
    return max(1, math.ceil(thin / factor - ROUNDING))


def centres(factor: float, count: int) -> Tensor:
    """Where measured slices lie, in thin ones."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) * factor - 0.5


@lru_cache(maxsize=32)
def weights(factor: float, thickness: float, profile: str | tuple[float, ...], thin: int) -> Factor:
    """[m,D], rows summing to 1: the profile integrated over each thin slice."""
    count = counted(factor, thin)
    centre = centres(factor, count)[:, None]
    reach = (
        len(profile) / 2 + 1
        if not isinstance(profile, str)
        else thickness * (0.5 if profile == "box" else 1.5) + 1
    )
    offset = torch.arange(-math.ceil(reach), math.ceil(reach) + 1)
    position = centre.round().long() + offset  # [m,k]
    distance = position - centre
    if profile == "box":
        low, high = (
            (distance - 0.5).clamp_min(-thickness / 2),
            (distance + 0.5).clamp_max(thickness / 2),
        )
        weight = (high - low).clamp_min(0)
    elif profile == "gaussian":
        root = math.sqrt(2) * thickness / FWHM
        weight = torch.erf((distance + 0.5) / root) - torch.erf((distance - 0.5) / root)
        weight = weight * (distance.abs() <= reach)
    else:
        weight = interpolated(torch.tensor(profile, dtype=torch.float64), distance)
    column, _ = source(position, thin, "symmetric")
    matrix = torch.zeros(count, thin, dtype=torch.float64).scatter_add_(1, column, weight)
    return decomposed(matrix / matrix.sum(1, keepdim=True))


def interpolated(profile: Tensor, distance: Tensor) -> Tensor:
    """The piecewise linear function that has these values at whole distances around its middle, and 0 beyond."""
    at = distance + (len(profile) - 1) / 2
    below = at.floor().long()
    padded = torch.cat([profile.new_zeros(1), profile, profile.new_zeros(2)])
    legal = (at > -1) & (at < len(profile))
    index = (below + 1).clamp(0, len(profile) + 1)
    share = at - below
    return torch.where(legal, (1 - share) * padded[index] + share * padded[index + 1], 0)


@lru_cache(maxsize=32)
def spline(factor: float, count: int, thin: int) -> Tensor:
    """[D,m] from values at the centres to values at every thin slice."""
    if count == 1:
        return torch.ones(thin, 1, dtype=torch.float64)
    centre = centres(factor, count)
    at = torch.arange(thin, dtype=torch.float64).clamp(float(centre[0]), float(centre[-1]))
    return torch.from_numpy(
        CubicSpline(centre.numpy(), torch.eye(count, dtype=torch.float64).numpy())(at.numpy())
    )
