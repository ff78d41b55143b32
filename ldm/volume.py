"""Priors of volumes made of priors of slices: the state is [B,C,D,H,W], and a network of two dimensions denoises its planes.

The mean of several planes' estimates errs less than one of them (Lee et al. 2023, TPDM, which takes turns between two). What
the slices of a volume say of each other is left to the belief: errors of neighbouring slices go together, and the update
under it shares what one slice's data say with its neighbours.
"""

from collections.abc import Sequence
from math import exp, pi

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm import checks
from ldm.denoiser import Prior

PLANES = {"axial": -3, "coronal": -2, "sagittal": -1}  # the axis of [B,C,D,H,W] that counts the slices of a plane
LENGTH = 1.5  # slices over which errors of neighbours fall to 1/e, where nobody measured them
SPACING = 1.05  # by how much two spacings may differ and still count as one


class VolumePrior(Prior):
    """prior: a pixel prior of slices. shape: [C,D,H,W]. planes: which are denoised; their estimates are averaged.

    A plane other than axial needs a network that takes any size, and pixels that are square in it: spacing, in mm along D, H
    and W, says so. batch: slices a network call, which bounds the memory. length: of the correlation of errors along D, in
    slices (`along_slices`); 0 takes slices for independent, as restoring them one by one does.
    """

    def __init__(
        self,
        prior: Prior,
        shape: Sequence[int],
        planes: Sequence[str] = ("axial",),
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        batch: int = 16,
        length: float = LENGTH,
    ):
        checks.counts(shape=shape, batch=batch)
        checks.natural(length=length)
        if prior.kind != "pixel" or prior.patched:
            raise Refusal("a prior of volumes is made of a pixel prior: latents and patches of slices have no common grid")
        if unknown := [plane for plane in planes if plane not in PLANES] or not planes:
            raise Refusal(f"planes {unknown or planes}: one or more of {', '.join(PLANES)} are allowed")
        c, d, h, w = shape
        if not prior.any_size and (h, w) != tuple(prior.shape[1:]):
            raise Refusal(f"the prior knows slices of {prior.shape[1]}x{prior.shape[2]}, not {h}x{w}")
        if c != prior.shape[0]:
            raise Refusal(f"the prior knows slices of {prior.shape[0]} channels, not {c}")
        for plane in planes:
            square(plane, spacing, prior.any_size)
        super().__init__(prior.denoiser, prior.shape, prior.sigma_min, prior.sigma_max, prior.label, prior.variances)  # type: ignore[arg-type]
        self.shape = (c, d, h, w)  # type: ignore[assignment]
        self.prior, self.planes, self.batch, self.length = prior, tuple(planes), batch, length
        self.gray, self.origin = prior.gray, prior.origin

    @property
    def any_size(self) -> bool:
        return False  # of slices it may be, but a volume's depth and planes are settled

    @property
    def image_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (1, *self.shape[1:]) if self.gray else self.shape

    def denoise(self, x: Tensor, sigma: Tensor, noise: Noise | None = None) -> Tensor:
        """E[x0 | x], x [B,C,D,H,W], sigma [B]: the mean of the planes' estimates."""
        total = torch.zeros_like(x)
        for plane in self.planes:
            total = total + self.along(x, sigma, PLANES[plane]) / len(self.planes)
        return total

    def along(self, x: Tensor, sigma: Tensor, axis: int) -> Tensor:
        """Every slice of one plane denoised, `batch` at a time."""
        stack = x.movedim(axis, 1)
        b, d = stack.shape[:2]
        slices, levels = stack.flatten(0, 1), sigma.repeat_interleave(d)
        pieces = zip(slices.split(self.batch), levels.split(self.batch))
        clean = torch.cat([self.prior.denoise(one.contiguous(), s) for one, s in pieces])
        return clean.unflatten(0, (b, d)).movedim(1, axis)

    def density(self, sigma: float) -> Tensor | None:
        """[D,H,W] Var[x0 | x] at every frequency: a slice's own, times what it is along D."""
        if not self.variances:
            return None
        self.prior.shape, kept = (self.shape[0], *self.shape[2:]), self.prior.shape  # type: ignore[assignment]
        try:
            slices = self.prior.density(sigma)
        finally:
            self.prior.shape = kept
        assert slices is not None
        return along_slices(self.shape[1], self.length)[:, None, None] * slices


def along_slices(depth: int, length: float) -> Tensor:
    """[D] the spectrum of errors along the slices, of mean 1, at the frequencies of `torch.fft.fft`.

    Correlations fall as rho^distance (an autoregression of first order), rho = exp(-1 / length).
    """
    rho = exp(-1 / length) if length > 0 else 0.0
    frequency = torch.fft.fftfreq(depth, dtype=torch.float64)
    spectrum = (1 - rho**2) / (1 - 2 * rho * (2 * pi * frequency).cos() + rho**2)
    return spectrum / spectrum.mean()


def square(plane: str, spacing: Sequence[float], any_size: bool) -> None:
    """Raise Refusal unless the pixels of a plane are square, as those that a network was trained on are."""
    sides = [size for axis, size in zip((-3, -2, -1), spacing) if axis != PLANES[plane]]
    if max(sides) > SPACING * min(sides):
        raise Refusal(f"{plane} planes have pixels of {sides[0]:g} x {sides[1]:g} mm, and the prior knows square ones")
    if plane != "axial" and not any_size:
        raise Refusal(f"{plane} planes need a prior whose network takes any size")
