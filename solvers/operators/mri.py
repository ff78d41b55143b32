"""Magnetic resonance imaging: Cartesian k-space of one or several coils, y = M F (S u)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data import formats
from data.files import Refusal
from data.ranges import from_unit
from data.seeding import Noise
from solvers.operators.base import (
    Axes,
    LinearOperator,
    Operator,
    Scalar,
    Shape,
    dot,
    one_each,
    per_image,
    settings,
)
from solvers.operators.inpainting import checked
from solvers.operators.kspace import air, fourier, inverse_fourier, mirrored, to_complex, to_real
from solvers.operators.sense import largest, solve_rows
from solvers.operators.separable import divide

SMALL = 1e-3  # of the largest eigenvalue: noise below it is left to the image when noise is judged
LEAST_SHARE = 0.02  # of noise that no image explains, by which it can be judged


@dataclass(frozen=True, eq=False)
class MRI(LinearOperator):
    """y [B,2*coils,H,W], real and imaginary part of one coil after the other, frequency 0 at [H//2, W//2], F orthonormal.

    Images are real, [B,1,H,W], and seen as u = (x+1)/2; or with `complex_image` two channels, real and imaginary part of
    u itself. mask: 1 measured, 0 not; a file or a tensor [H,W], [1,1,H,W] or [B,1,H,W]. sensitivities: maps laid out like
    y, [1 or B,2*coils,H,W], or a file of them; none: one coil that sees everything alike.
    """

    mask: Tensor | str
    sensitivities: Tensor | str | None = None
    complex_image: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", checked(self.mask))
        if self.sensitivities is not None:
            object.__setattr__(self, "sensitivities", maps(self.sensitivities))

    @property
    def unit_range(self) -> bool:  # type: ignore[override]
        return not self.complex_image

    reading = Axes("vertical frequency", "horizontal frequency", spectral=True)

    @property
    def gain(self) -> float:
        """u is x/2 and a constant, or x itself."""
        return 1.0 if self.complex_image else 0.5

    @property
    def m(self) -> Tensor:
        assert isinstance(self.mask, Tensor)
        return self.mask

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        one_each(self.m, noise, "masks")
        if isinstance(self.sensitivities, Tensor):
            one_each(self.sensitivities, noise, "sets of sensitivities")
        return super().draw(shape, noise)

    def shape_out(self, shape: Shape) -> Shape:
        c, h, w = shape
        if c != (2 if self.complex_image else 1):
            raise Refusal(
                f"an image of {c} channels; MRI measures real images of 1, or with complex_image complex ones of 2"
            )
        for name, tensor in (("mask", self.m), ("sensitivities", self.sensitivities)):
            if isinstance(tensor, Tensor) and tuple(tensor.shape[-2:]) != (h, w):
                raise Refusal(
                    f"{name} of {tensor.shape[-2]}x{tensor.shape[-1]} do not fit the image of {h}x{w}"
                )
        return (2 if self.sensitivities is None else self.sensitivities.shape[1], h, w)  # type: ignore[union-attr]

    def coils(self, like: Tensor) -> Tensor | None:
        """Complex sensitivities [1 or B,coils,H,W] of like's precision."""
        return None if self.sensitivities is None else to_complex(self.sensitivities.to(like))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        u = self.gain * (to_complex(x) if self.complex_image else x)
        S = self.coils(x)
        return self.m.to(x) * to_real(fourier(u if S is None else S * u))

    def adjoint(self, y: Tensor) -> Tensor:
        u = self.gain * self.combined(self.m.to(y) * y)
        return to_real(u) if self.complex_image else u.real

    def combined(self, y: Tensor) -> Tensor:
        """S^H F^H y, a complex image [B,1,H,W]"""
        each, S = inverse_fourier(to_complex(y)), self.coils(y)
        return each if S is None else (S.conj() * each).sum(1, keepdim=True)

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

    def unexplained(self, y: Tensor) -> Tensor | None:
        """(I - H) y over the root of the share that it keeps of white noise, with H y what the best image measures as.

        None where it keeps too little: as many unknowns as measured numbers.
        """
        s2 = SMALL * self.gain**2
        probe = self.restrict(Noise([f"probe {i}" for i in range(len(y))], "noise").like(y))
        left, kept = (s2 * self.solve(r, s2, 1.0) for r in (y, probe))
        share = dot(kept, kept) / dot(probe, probe)
        return left / per_image(share.sqrt(), left) if bool((share > LEAST_SHARE).all()) else None

    @property
    def columns(self) -> bool:
        """Whether the mask is made of whole columns."""
        return bool((self.m == self.m[..., :1, :]).all())

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
        S = self.coils(y)
        weight = 1 if S is None else S.abs().square().sum(1, keepdim=True).clamp_min(1e-6)
        if self.complex_image:
            return to_real(self.combined(y) / weight)
        ones = torch.ones(1, *shape, dtype=y.dtype, device=y.device)
        return from_unit((self.combined(y + self.forward(ones)) / weight).abs())

    def files(self) -> dict[str, Tensor]:
        return {"mask": self.m}


class ScatteredMRI(MRI):
    """Several coils and any mask, solved by conjugate gradients."""

    exact = False  # type: ignore[assignment]


def maps(sensitivities: Tensor | str) -> Tensor:
    """Sensitivities [1 or B,2*coils,H,W], real and imaginary part of one coil after the other."""
    value = formats.read(sensitivities).pixels if isinstance(sensitivities, str) else sensitivities
    if value.is_complex():
        raise Refusal(
            "sensitivities are complex; give real and imaginary parts as channels, 2 for each coil"
        )
    value = value[None] if value.ndim == 3 else value
    if value.ndim != 4 or value.shape[1] % 2:
        raise Refusal(
            f"sensitivities have shape {list(value.shape)}; allowed: [2*coils,H,W], [1 or images,2*coils,H,W]"
        )
    if not bool(torch.isfinite(value).all()):
        raise Refusal("sensitivities hold values that are not finite")
    if not bool(value.flatten(1).any(1).all()):
        raise Refusal("sensitivities measure nothing: every one is 0")
    return value
