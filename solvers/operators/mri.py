"""Magnetic resonance imaging: Cartesian k-space of one or several coils, y = M F (S u)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.ranges import from_unit
from data.seeding import Noise
from solvers.operators.base import (
    COARSE,
    Axes,
    Operator,
    Scalar,
    Shape,
    one_each,
    per_image,
    settings,
)
from solvers.operators.inpainting import checked
from solvers.operators.kspace import (
    air,
    centred,
    fourier,
    gapless,
    inverse_fourier,
    mirrored,
    to_complex,
    to_real,
)
from solvers.operators.mri_coils import CoilImages, maps
from solvers.operators.sense import largest, solve_rows
from solvers.operators.separable import divide


@dataclass(frozen=True, eq=False)
class MRI(CoilImages):
    """y [B,2*coils,H,W], real and imaginary part of one coil after the other, frequency 0 at [H//2, W//2], F orthonormal.

    Images are real, [B,1,H,W], and seen as u = (x+1)/2; or with `complex_image` two channels, real and imaginary part of
    u itself. mask: 1 measured, 0 not; a file or a tensor [H,W], [1,1,H,W] or [B,1,H,W]. sensitivities: maps laid out like
    y, [1 or B,2*coils,H,W], or a file of them; none: one coil that sees everything alike.
    """

    mask: Tensor | str
    sensitivities: Tensor | str | None = None
    complex_image: bool = False
    open_phase: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", checked(self.mask))
        if self.sensitivities is not None:
            object.__setattr__(self, "sensitivities", maps(self.sensitivities))

    reading = Axes("vertical frequency", "horizontal frequency", spectral=True)

    @property
    def m(self) -> Tensor:
        assert isinstance(self.mask, Tensor)
        return self.mask

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        one_each(self.m, noise, "masks")
        return super().draw(shape, noise)

    def shape_out(self, shape: Shape) -> Shape:
        self.fits(shape, "mask", self.m)
        self.fits(shape, "sensitivities", self.sensitivities)
        return (self.channels, *shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        return self.m.to(x) * to_real(fourier(self.seen(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.seen_adjoint(self.combined(self.m.to(y) * y))

    def combined(self, y: Tensor) -> Tensor:
        """S^H F^H y, a complex image [B,1,H,W]"""
        return self.combination(inverse_fourier(to_complex(y)))

    def restrict(self, y: Tensor) -> Tensor:
        return self.m.to(y) * y

    def measured(self, y: Tensor) -> Tensor:
        return (self.m.to(y).sum((1, 2, 3)) * y.shape[1]).expand(len(y))

    def noise_alone(self, y: Tensor) -> Tensor | None:
        """Of real images from one coil: F u(-k) is the conjugate of F u(k), and what their measured values differ by, over
        root 2, is noise. Of several coils: what least squares leave. Of one coil and complex images: rows of air."""
        if self.sensitivities is not None:
            return self.unexplained(y)
        if self.complex_image and not self.columns:
            return None
        if self.complex_image:
            noise, sure = air(to_complex(y), self.m[:, 0, 0].to(y))
            return noise * per_image(sure.to(y), y)
        k, both = to_complex(y), self.m * mirrored(self.m)
        return both.to(y) * to_real(k - mirrored(k).conj()) / 2**0.5

    @property
    def columns(self) -> bool:
        """Whether the mask is made of whole columns."""
        return bool((self.m == self.m[..., :1, :]).all())

    @property
    def leaves_coarse(self) -> bool:  # type: ignore[override]
        """Of whole columns: waves that are faster than those of the middle are told in part, and of an open phase all are."""
        lines = gapless(self.m[:, 0, 0]).clamp_min(1)
        few = bool((self.m.shape[-1] > COARSE * lines).any())
        return self.columns and (self.open_phase or few)

    @property
    def neighbours(self) -> Literal["columns", "none"]:  # type: ignore[override]
        """Scattered points of k-space have hardly any, and those near the middle, where the image is strongest. Of complex
        images and several coils they are 1.6 to 4 times as rough as noise."""
        return (
            "columns"
            if self.columns and not self.complex_image and self.sensitivities is None
            else "none"
        )

    def select(self, indices: Sequence[int]) -> Operator:
        """Of masks of both kinds each goes on as all did: how an image is solved may not depend on the others."""
        chosen = super().select(indices)
        return (
            chosen
            if self.exact or chosen is self
            else ScatteredMRI(**settings(chosen)).bind(self.shape)
        )

    @property
    def exact(self) -> bool:
        return self.sensitivities is None or self.columns

    def correct(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """One coil: a weight for each frequency, as A^T drops what no real image can have. Several and a mask of whole
        columns: row by row in the image, from A^T r in double precision, as s2 divides what rounding puts where y is blind."""
        if not self.exact:
            return super().correct(r, s2, v)
        if (S := self.coils(r.double())) is None:
            m = self.m.to(r)
            power = m if self.complex_image else (m + mirrored(m)) / 2
            return self.adjoint(
                divide(r, per_image(s2, r) + per_image(v, r) * self.gain**2 * power)
            )
        s2, v = (torch.as_tensor(a, dtype=r.dtype, device=r.device).expand(len(r)) for a in (s2, v))
        back = self.adjoint(r.double())
        b = to_complex(back) if self.complex_image else back
        solved = solve_rows(b, self.m[:, 0, 0].to(r), S, s2, v * self.gain**2)
        return (to_real(solved) if self.complex_image else solved).to(r)

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """One coil: diagonal for complex images. For real ones A A^T couples k and -k: it halves what only one of them
        measures, and of two measured keeps the part that a real image can have."""
        if not self.exact:
            return super().solve(r, s2, v)
        if self.sensitivities is not None:
            return (r - per_image(v, r) * self.forward(self.correct(r, s2, v))) / per_image(s2, r)
        s2, power, m = per_image(s2, r), per_image(v, r) * self.gain**2, self.m.to(r)
        if self.complex_image:
            return divide(r, s2 + power * m)
        both = m * mirrored(m)
        k = to_complex(r)
        possible = to_real((k + mirrored(k).conj()) / 2)
        paired = divide(possible, s2 + power) + divide(r - possible, s2)
        return torch.where(both > 0, paired, divide(r, s2 + power / 2 * m))

    def inverse_under(self, density: Tensor, s2: Tensor) -> Callable[[Tensor], Tensor] | None:
        """One coil: `solve`, with the variance of each frequency."""
        if self.sensitivities is not None:
            return None
        v = centred(density, self.m.shape[-1])
        return lambda r: self.solve(r, s2, v)

    def norm(self) -> float:
        S = self.coils(torch.zeros((), dtype=torch.float64))
        if not self.exact:
            return super().norm()
        if S is not None:
            return self.gain * largest(self.m[:, 0, 0].double(), S, not self.complex_image) ** 0.5
        power = 1.0 if self.complex_image else float((self.m + mirrored(self.m)).max()) / 2
        return self.gain * power**0.5

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Zero-filled: the coils' images combined by their sensitivities, the magnitude if the image is real."""
        weight = self.power(y)
        if self.complex_image:
            return to_real(self.combined(y) / weight)
        ones = torch.ones(1, *shape, dtype=y.dtype, device=y.device)
        return from_unit((self.combined(y + self.forward(ones)) / weight).abs())

    def files(self) -> dict[str, Tensor]:
        return {"mask": self.m}


class ScatteredMRI(MRI):
    """Several coils and any mask, solved by conjugate gradients."""

    exact = False  # type: ignore[assignment]
