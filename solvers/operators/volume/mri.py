"""Magnetic resonance imaging in three dimensions: two directions are phase-encoded, so that both may be undersampled."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data.files import Refusal
from data.ranges import from_unit
from data.seeding import Noise
from solvers.operators import kspace
from solvers.operators.base import (
    LinearOperator,
    Operator,
    Scalar,
    Shape,
    divide,
    one_each,
    per_image,
)
from solvers.operators.kspace import to_complex, to_real
from solvers.operators.volume.through_plane import in_three

AXES = (-3, -2, -1)


def fourier(z: Tensor) -> Tensor:
    """Centred orthonormal transform of the last three axes."""
    return torch.fft.fftshift(
        torch.fft.fftn(torch.fft.ifftshift(z, dim=AXES), dim=AXES, norm="ortho"), dim=AXES
    )


def inverse_fourier(z: Tensor) -> Tensor:
    return torch.fft.fftshift(
        torch.fft.ifftn(torch.fft.ifftshift(z, dim=AXES), dim=AXES, norm="ortho"), dim=AXES
    )


def mirrored(z: Tensor) -> Tensor:
    """z(-k) for a centred z(k)"""
    flipped = torch.fft.ifftshift(z, dim=AXES).flip(AXES).roll((1, 1, 1), AXES)
    return torch.fft.fftshift(flipped, dim=AXES)


@dataclass(frozen=True, eq=False)
class VolumeMRI(LinearOperator):
    """y [B,2,D,H,W], real and imaginary part of the k-space of a real volume u = (x+1)/2, y = M F u, F orthonormal.

    mask: [1 or B,1,D,1,W] or [D,W], 1 where measured; D and W are phase-encoded, H is the readout.
    """

    mask: Tensor
    unit_range = True
    volumetric = True
    neighbours = "rows"
    gain = 0.5  # u is x/2 and a constant

    def __post_init__(self) -> None:
        mask = self.mask.double()
        mask = mask[None, None, :, None, :] if mask.ndim == 2 else mask
        if (
            mask.ndim != 5
            or mask.shape[1] != 1
            or mask.shape[3] != 1
            or not bool(((mask == 0) | (mask == 1)).all())
        ):
            raise Refusal(
                f"a mask of 3D k-space is [D,W] or [images,1,D,1,W] of 0 and 1, not {list(self.mask.shape)}"
            )
        object.__setattr__(self, "mask", mask)

    def shape_out(self, shape: Shape) -> Shape:
        c, d, h, w = in_three(shape, "MRI of volumes")
        if c != 1:
            raise Refusal(f"a volume of {c} channels; MRI of volumes measures real ones of 1")
        if (d, w) != (self.mask.shape[2], self.mask.shape[4]):
            raise Refusal(
                f"mask of {self.mask.shape[2]}x{self.mask.shape[4]} does not fit D = {d} and W = {w}"
            )
        return (2, d, h, w)

    def shape_in(self, measured: Shape) -> Shape:
        return (1, *measured[1:])

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        one_each(self.mask, noise, "masks")
        return super().draw(shape, noise)

    def forward(self, x: Tensor) -> Tensor:
        return self.mask.to(x) * to_real(fourier(self.gain * x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.gain * inverse_fourier(to_complex(self.mask.to(y) * y)).real

    def restrict(self, y: Tensor) -> Tensor:
        return self.mask.to(y) * y

    def measured(self, y: Tensor) -> Tensor:
        return (self.mask.to(y).flatten(1).sum(1) * 2 * y.shape[-2]).expand(len(y))

    def noise_alone(self, y: Tensor) -> Tensor:
        """F u(-k) is the conjugate of F u(k): what their measured values differ by, over root 2."""
        k, both = to_complex(y), self.mask * mirrored(self.mask)
        return both.to(y) * to_real(k - mirrored(k).conj()) / 2**0.5

    def correct(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """A weight for each frequency, as A^T drops what no real volume can have."""
        m = self.mask.to(r)
        power = (m + mirrored(m)) / 2
        return self.adjoint(divide(r, per_image(s2, r) + per_image(v, r) * self.gain**2 * power))

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """A A^T couples k and -k: of two measured frequencies it keeps the part that a real volume can have."""
        s2, power, m = per_image(s2, r), per_image(v, r) * self.gain**2, self.mask.to(r)
        both = m * mirrored(m)
        k = to_complex(r)
        possible = to_real((k + mirrored(k).conj()) / 2)
        paired = divide(possible, s2 + power) + divide(r - possible, s2)
        return torch.where(both > 0, paired, divide(r, s2 + power / 2 * m))

    def inverse_under(self, density: Tensor, s2: Tensor) -> Callable[[Tensor], Tensor]:
        v = kspace.centred(density, self.mask.shape[-1])
        return lambda r: self.solve(r, s2, v)

    def norm(self) -> float:
        return self.gain * float((self.mask + mirrored(self.mask)).max() / 2) ** 0.5

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Zero-filled, the magnitude."""
        ones = torch.ones(1, *shape, dtype=y.dtype, device=y.device)
        return from_unit(inverse_fourier(to_complex(y + self.forward(ones))).abs())

    def files(self) -> dict[str, Tensor]:
        return {"mask": self.mask}


@dataclass(frozen=True, eq=False)
class CartesianVolumeMRI(Operator):
    """Each volume's own Poisson-disc mask over the two phase-encoded directions, 1/acceleration of them measured.

    centre: side of the fully sampled middle, as a fraction of each direction.
    """

    acceleration: float = 4.0
    centre: float = 0.08
    random = True
    unit_range = True
    volumetric = True

    def __post_init__(self) -> None:
        if not (self.acceleration >= 1 and 0 <= self.centre <= 1):
            raise Refusal(
                f"MRI needs acceleration >= 1 and 0 <= centre <= 1, got {self.acceleration} and {self.centre}"
            )

    def shape_out(self, shape: Shape) -> Shape:
        _, d, h, w = in_three(shape, "MRI of volumes")
        return (2, d, h, w)

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        _, d, _, w = in_three(shape, "MRI of volumes")
        masks = kspace.poisson_disc(d, w, self.acceleration, self.centre, noise.of("mask"))
        return VolumeMRI(masks[:, None, :, None, :]).draw(shape, noise)
