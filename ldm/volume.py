"""Priors of volumes made of priors of slices: the state is [B,C,D,H,W], and a network of two dimensions denoises its planes.

The mean of several planes' estimates errs less than one of them (Lee et al. 2023, TPDM, which takes turns between two). What
the slices of a volume say of each other is left to the belief: errors of neighbouring slices go together, and the update
under it shares what one slice's data say with its neighbours.
"""

from collections.abc import Callable, Sequence
from math import exp, prod, sqrt

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm import checks, neighbours
from ldm.denoiser import Prior

PLANES = {
    "axial": -3,
    "coronal": -2,
    "sagittal": -1,
}  # the axis of [B,C,D,H,W] that counts the slices of a plane
LENGTH = 1.5  # slices over which errors of neighbours fall to 1/e, where nobody measured them
NARROW = 16  # pixels that a plane has at least along both sides
SPACING = 1.6  # by how much the sides of a pixel may differ: planes of 2 x 3 mm give a head of 2 x 2 x 3 mm 0.7 dB


class VolumePrior(Prior):
    """prior: a pixel prior of slices. shape: [C,D,H,W]. planes: which are denoised; their estimates are averaged.

    A plane other than axial needs a network that takes any size, and pixels that are square in it: spacing, in mm along D, H
    and W, says so. batch: slices a network call, which bounds the memory. length: slices over which the correlation of their
    errors falls to 1/e (an autoregression of first order); 0 takes slices for independent, as restoring them one by one does;
    None: as their coherence was measured of the prior, else LENGTH. turns: the planes take turns from level to level, and are
    averaged at the last one alone, for the calls of a single plane. coupling: mm along D over which the noise that solvers
    add to a state falls to 1/e of being the same (`coupled`); 0: it is white. spread: denoises slices in place of `prior`,
    called as (slices [N,C,H,W], sigma [N], batch): several processes together.
    """

    def __init__(
        self,
        prior: Prior,
        shape: Sequence[int],
        planes: Sequence[str] = ("axial",),
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        batch: int = 16,
        length: float | None = None,
        turns: bool = False,
        coupling: float = 0.0,
        spread: Callable[[Tensor, Tensor, int], Tensor] | None = None,
    ):
        checks.counts(shape=shape, batch=batch)
        checks.natural(length=length or 0.0, coupling=coupling)
        if prior.kind != "pixel" or prior.patched:
            raise Refusal(
                "a prior of volumes is made of a pixel prior: latents and patches of slices have no common grid"
            )
        if unknown := [plane for plane in planes if plane not in PLANES] or not planes:
            raise Refusal(
                f"planes {unknown or planes}: one or more of {', '.join(PLANES)} are allowed"
            )
        c, d, h, w = shape
        if not prior.any_size and (h, w) != tuple(prior.shape[1:]):
            raise Refusal(
                f"the prior knows slices of {prior.shape[1]}x{prior.shape[2]}, not {h}x{w}"
            )
        if c != prior.shape[0]:
            raise Refusal(f"the prior knows slices of {prior.shape[0]} channels, not {c}")
        for plane in planes:
            square(plane, spacing, prior.any_size)
        super().__init__(
            prior.denoiser,
            prior.shape,
            prior.sigma_min,
            prior.sigma_max,
            prior.label,
            prior.variances,
            prior.coherence,
        )
        self.shape = (c, d, h, w)  # type: ignore[assignment]
        self.prior, self.planes, self.batch, self.length = prior, tuple(planes), batch, length
        self.spacing, self.turns = tuple(spacing), turns
        self.rho = exp(-spacing[0] / coupling) if coupling else 0.0
        self.spread = spread
        self.levels: list[float] = []
        self.gray, self.contracts, self.origin = prior.gray, prior.contracts, prior.origin

    @property
    def any_size(self) -> bool:
        return False  # of slices it may be, but a volume's depth and planes are settled

    @property
    def image_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (1, *self.shape[1:]) if self.gray else self.shape

    def denoise(self, x: Tensor, sigma: Tensor, noise: Noise | None = None) -> Tensor:
        """E[x0 | x], x [B,C,D,H,W], sigma [B]: the mean of the planes' estimates."""
        planes = self.turn(float(sigma[0])) if self.turns and self.levels else self.planes
        total = torch.zeros_like(x)
        for plane in planes:
            total += self.along(x, sigma, PLANES[plane]) / len(planes)
        return total

    def begin(self, levels: Sequence[float]) -> None:
        """levels: sigma down to 0, or alpha_bar up to 1."""
        falling = levels[0] > levels[-1]
        self.levels = [
            level if falling else sqrt(max(1 / level - 1, 0.0))
            for level in levels
            if falling or level > 0
        ][:-1]

    def turn(self, sigma: float) -> tuple[str, ...]:
        """The planes at a noise level: one after the other, all at the last."""
        nearest = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - sigma))
        return (
            self.planes
            if nearest == len(self.levels) - 1
            else (self.planes[nearest % len(self.planes)],)
        )

    def coupled(self, z: Tensor) -> Tensor:
        """White noise [B,C,D,H,W] as an autoregression of first order along D: every slice's own stays white and N(0, 1)."""
        if not self.rho:
            return z
        fresh, slices = sqrt(1 - self.rho**2), [z[:, :, 0]]
        for d in range(1, z.shape[2]):
            slices.append(self.rho * slices[-1] + fresh * z[:, :, d])
        return torch.stack(slices, 2)

    def along(self, x: Tensor, sigma: Tensor, axis: int) -> Tensor:
        """Every slice of one plane denoised, `batch` at a time."""
        stack = x.movedim(axis, 1)
        b, d = stack.shape[:2]
        slices, levels = stack.flatten(0, 1), sigma.repeat_interleave(d)
        clean = (self.spread or self.in_batches)(slices, levels, self.batch)
        return clean.unflatten(0, (b, d)).movedim(1, axis)

    def in_batches(self, slices: Tensor, sigma: Tensor, batch: int) -> Tensor:
        """D of slices [N,C,H,W] at their levels [N], so many at a time."""
        pieces = zip(slices.split(batch), sigma.split(batch))
        return torch.cat([self.prior.denoise(one.contiguous(), s) for one, s in pieces])

    def density(self, sigma: float) -> Tensor | None:
        """[D,H,W] Var[x0 | x] at every frequency: that of a plane, times what it is across, in the mean of the planes."""
        if not self.variances:
            return None
        total = torch.zeros(self.shape[1:], dtype=torch.float64)
        for plane in self.planes:
            total += self.density_of(sigma, PLANES[plane]) / len(self.planes)
        return total

    def density_of(self, sigma: float, axis: int) -> Tensor:
        """[D,H,W] of the slices that are counted along one axis."""
        sides = [n for i, n in zip((-3, -2, -1), self.shape[1:]) if i != axis]
        self.prior.shape, kept = (self.shape[0], *sides), self.prior.shape  # type: ignore[assignment]
        try:
            plane = self.prior.density(sigma)
        finally:
            self.prior.shape = kept
        assert plane is not None
        return (self.across(sigma, axis, *sides) * plane).movedim(0, axis)

    def across(self, sigma: float, axis: int, height: int, width: int) -> Tensor:
        """[D,H,W] or [D,1,1] of mean 1: how the power of errors lies along the axis, in slices of H x W."""
        depth = self.shape[axis]
        if self.length is None and self.coherence:
            side = sqrt(prod(self.spacing) / self.spacing[axis])  # of a pixel
            distance = self.spacing[axis] / side
            return neighbours.along(self.coherence, sigma, depth, distance, height, width)
        length = LENGTH if self.length is None else self.length
        rho = torch.tensor(exp(-1 / length) if length else 0.0, dtype=torch.float64)
        return torch.stack([*neighbours.autoregression(depth, rho)])[:, None, None]


def fitting(
    prior: Prior, shape: Sequence[int], spacing: Sequence[float] | None
) -> tuple[tuple[str, ...], str]:
    """The planes of a volume [C,D,H,W] that a prior of slices knows, and what to say of those that it does not.

    spacing: mm along D, H and W; None where nobody knows, so that nothing but the slices as they are is sure to be square.
    """
    if not prior.any_size:
        return ("axial",), "slices alone are denoised: the prior knows one size"
    if spacing is None:
        return ("axial",), "slices alone are denoised: the file says no spacing"
    known: list[str] = []
    left: list[str] = []
    for plane in PLANES:
        least = min(n for axis, n in zip((-3, -2, -1), shape[1:]) if axis != PLANES[plane])
        try:
            square(plane, spacing, prior.any_size)
            (known if least >= NARROW else left).append(plane)
        except Refusal:
            left.append(plane)
    if not known:
        return (
            "axial",
        ), f"pixels of {spacing[1]:.3g} x {spacing[2]:.3g} mm, where the prior knows square ones"
    sides = " x ".join(f"{side:.3g}" for side in spacing)
    return (
        tuple(known),
        f"{', '.join(known)} planes are denoised; {', '.join(left)} not, at {sides} mm"
        if left
        else "",
    )


def square(plane: str, spacing: Sequence[float], any_size: bool) -> None:
    """Raise Refusal unless the pixels of a plane are square, as those that a network was trained on are."""
    sides = [size for axis, size in zip((-3, -2, -1), spacing) if axis != PLANES[plane]]
    if max(sides) > SPACING * min(sides):
        raise Refusal(
            f"{plane} planes have pixels of {sides[0]:g} x {sides[1]:g} mm, and the prior knows square ones"
        )
    if plane != "axial" and not any_size:
        raise Refusal(f"{plane} planes need a prior whose network takes any size")
