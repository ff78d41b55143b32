"""What Cartesian and non-Cartesian MRI have in common: images seen through coils, and noise judged by what no image explains."""

import torch
from torch import Tensor

from data import formats
from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Shape, dot, one_each, per_image
from solvers.operators.kspace import to_complex, to_real

SMALL = 1e-3  # of the largest eigenvalue: noise below it is left to the image when noise is judged
LEAST_SHARE = 0.02  # of noise that no image explains, by which it can be judged
DARK = 1e-6  # sum of the squares of sensitivities, below which coils see nothing


class CoilImages(LinearOperator):
    """Images real, [B,1,H,W], and seen as u = (x+1)/2; or with `complex_image` two channels, real and imaginary part of u
    itself. Coils see S u; sensitivities [1 or B,2*coils,H,W]: real and imaginary part of one coil after the other; or None,
    one coil that sees everything alike. open_phase: that of the image, which real images have in the sensitivities, is an
    estimate, and may be corrected together with the image (`solvers/measured/joint_phase.py`).
    """

    sensitivities: Tensor | str | None
    complex_image: bool
    open_phase: bool

    @property
    def unit_range(self) -> bool:  # type: ignore[override]
        return not self.complex_image

    @property
    def gain(self) -> float:
        """u is x/2 and a constant, or x itself."""
        return 1.0 if self.complex_image else 0.5

    @property
    def channels(self) -> int:
        """Of y: two for each coil."""
        return 2 if self.sensitivities is None else self.sensitivities.shape[1]  # type: ignore[union-attr]

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        if self.open_phase and (self.complex_image or self.sensitivities is None):
            raise Refusal(
                "open_phase is that of real images, in their sensitivities: complex ones have it in themselves"
            )
        if isinstance(self.sensitivities, Tensor):
            one_each(self.sensitivities, noise, "sets of sensitivities")
        return super().draw(shape, noise)

    def fits(self, shape: Shape, name: str, tensor: Tensor | str | None) -> None:
        """Raises Refusal unless images have the channels that are due, and a tensor [...,H,W] their size."""
        c, h, w = shape
        if c != (2 if self.complex_image else 1):
            raise Refusal(
                f"an image of {c} channels; MRI measures real images of 1, or with complex_image complex ones of 2"
            )
        if isinstance(tensor, Tensor) and tuple(tensor.shape[-2:]) != (h, w):
            raise Refusal(
                f"{name} of {tensor.shape[-2]}x{tensor.shape[-1]} do not fit the image of {h}x{w}"
            )

    def coils(self, like: Tensor) -> Tensor | None:
        """Complex sensitivities [1 or B,coils,H,W] of like's precision."""
        return None if self.sensitivities is None else to_complex(self.sensitivities.to(like))  # type: ignore[union-attr]

    def seen(self, x: Tensor) -> Tensor:
        """S u of images x, complex [B,coils,H,W]."""
        u, S = self.gain * (to_complex(x) if self.complex_image else x), self.coils(x)
        return u if S is None else S * u

    def seen_adjoint(self, combined: Tensor) -> Tensor:
        """The transpose of `seen`, of what the coils' images were combined to by S^H, complex [B,1,H,W]."""
        u = self.gain * combined
        return to_real(u) if self.complex_image else u.real

    def combination(self, each: Tensor) -> Tensor:
        """S^H of the coils' images [B,coils,H,W]: [B,1,H,W]"""
        S = self.coils(each.real)
        return each if S is None else (S.conj() * each).sum(1, keepdim=True)

    def power(self, like: Tensor) -> Tensor | float:
        """The sum of the squares of the sensitivities, [1 or B,1,H,W]."""
        S = self.coils(like)
        return 1.0 if S is None else S.abs().square().sum(1, keepdim=True).clamp_min(DARK)

    @property
    def unseen(self) -> Tensor | None:
        """Where a real image is that no coil sees, [1 or B,1,H,W]; None if there is no such place to tell."""
        if self.complex_image or not isinstance(self.sensitivities, Tensor):
            return None
        return (self.sensitivities == 0).all(1, keepdim=True)

    def unexplained(self, y: Tensor) -> Tensor | None:
        """(I - H) y over the root of the share that it keeps of white noise, with H y what the best image measures as.

        None where it keeps too little: as many unknowns as measured numbers.
        """
        s2 = SMALL * self.gain**2
        probe = self.restrict(Noise([f"probe {i}" for i in range(len(y))], "noise").like(y))
        left, kept = (self.left(r, s2) for r in (y, probe))
        share = dot(kept, kept) / dot(probe, probe)
        return left / per_image(share.sqrt(), left) if bool((share > LEAST_SHARE).all()) else None

    def left(self, r: Tensor, s2: float) -> Tensor:
        """r less what the image measures as that is nearest to it under a weight s2 on its own square."""
        return s2 * self.solve(r, s2, 1.0)


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
