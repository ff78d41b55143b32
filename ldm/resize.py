"""Priors of one size on images of another: framed if the image is smaller, tiled if it is larger. Nothing is resampled.

Networks that take any size (`Prior.any_size`) need neither. A framed prior still thinks in its own size; the image is a
window of it, so operators see only what was really measured and the prior fills the frame in. A tiled prior denoises
overlapping pieces and blends them; a solver sees one whole image, hence one global data step and no seams. Patch priors,
which know where in the image a patch lies, are stretched: the same patches, their places counted over the larger square.
"""

from collections.abc import Sequence
from copy import copy
from math import sqrt
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from data.files import Refusal
from data.ranges import BLACK
from data.seeding import Noise
from ldm.denoiser import Prior
from ldm.volume import LENGTH, VolumePrior, fitting

Shape = tuple[int, ...]
OVERLAP = 0.25  # least share of a tile that its neighbour covers too


def fit(prior: Prior, shape: Shape, **of_volumes: Any) -> tuple[Prior, str]:
    """A prior of images [C,H,W], and what had to be done ("" if nothing). Raises Refusal for another number of channels.

    Of volumes [C,D,H,W], of which `of_volumes` tells `spacing` and settings of `VolumePrior`.
    """
    own, asked = tuple(prior.image_shape), tuple(shape)
    if own[0] != asked[0]:
        raise Refusal(f"the prior knows images of {own[0]} channels, not {asked[0]}")
    if len(asked) == 4:
        return solid(prior, asked, **of_volumes)
    if own == asked:
        return prior, ""
    if prior.any_size:
        return sized(prior, asked), ""
    image, square = (f"{size[1]}×{size[2]}" for size in (asked, own))
    if all(n <= m for n, m in zip(asked[1:], own[1:])):
        framed = Framed(prior, asked)
        return (
            framed,
            f"{image} image inside the prior's {square}, {framed.padding}-padded and cropped back",
        )
    if prior.patched:
        larger = prior.stretched(max(asked[1:]))  # type: ignore[operator]
        note = f"{image} image: the patches of a prior of {square}, their places stretched to {larger.image_shape[1]} pixels"
        return (larger, note) if larger.image_shape == asked else (Framed(larger, asked), note)
    f = own[1] // prior.shape[1]
    size = [max(-(-n // f) * f, m) for n, m in zip(asked[1:], own[1:])]
    tiled = Tiled(prior, (asked[0], *size))
    note = f"{image} image in {len(tiled.corners)} overlapping tiles of {square}"
    return (tiled, note) if tiled.image_shape == asked else (Framed(tiled, asked), note)


def solid(
    prior: Prior, shape: Shape, spacing: Sequence[float] | None = None, **settings: Any
) -> tuple[Prior, str]:
    """A prior of volumes that denoises all planes which the prior of slices knows, or those that settings name."""
    planes, note = fitting(prior, shape, spacing)
    if "planes" in settings:
        planes, note = tuple(settings["planes"]), ""
    sides = tuple(spacing or (1.0, 1.0, 1.0))
    if planes == ("axial",):  # even of oblong pixels, which count as square ones of their area
        sides = (sides[0], *[sqrt(sides[1] * sides[2])] * 2)
    # how far apart slices are decides how their errors go together
    settings = {"length": None if spacing else LENGTH, **settings, "planes": planes}
    state = (prior.shape[0], *shape[1:])
    return VolumePrior(prior, state, spacing=sides, **settings), note


def sized(prior: Prior, shape: Shape) -> Prior:
    """A prior whose network takes any size, of images [C,H,W]; the network is shared."""
    other = copy(prior)
    other.shape = (prior.shape[0], shape[1], shape[2])
    return other


class Adapted(Prior):
    """A prior that speaks through another one; what it does not change, it passes on."""

    def __init__(self, inner: Prior, shape: Shape, image_shape: Shape):
        super().__init__(
            inner.denoiser,
            cast(tuple[int, int, int], shape),
            inner.sigma_min,
            inner.sigma_max,
            inner.label,
            inner.variances,
            inner.coherence,
        )
        self.inner = inner
        self.kind, self.patched, self.gray = inner.kind, inner.patched, inner.gray
        self.image_variances, self.error_variance = inner.image_variances, inner.error_variance
        self.contracts, self.origin = inner.contracts, inner.origin
        self._image_shape = tuple(image_shape)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._image_shape  # type: ignore[return-value]

    def crop(self, state: Tensor) -> Tensor:
        return self.inner.crop(state)

    def pad(self, core: Tensor, value: float = BLACK) -> Tensor:
        return self.inner.pad(core, value)


class Framed(Adapted):
    """image_shape [C,H,W] is the central window of the inner prior's images."""

    def __init__(self, inner: Prior, image_shape: Shape):
        super().__init__(inner, inner.shape, image_shape)
        _, height, width = inner.image_shape
        top, left = (height - image_shape[1]) // 2, (width - image_shape[2]) // 2
        self.margins = (left, width - image_shape[2] - left, top, height - image_shape[1] - top)
        reflects = max(self.margins[:2]) < image_shape[2] and max(self.margins[2:]) < image_shape[1]
        self.padding = "reflect" if reflects else "black"

    def denoise(self, x: Tensor, sigma: Tensor, noise: Noise | None = None) -> Tensor:
        return self.inner.denoise(x, sigma, noise)

    def window(self, image: Tensor) -> Tensor:
        left, right, top, bottom = self.margins
        return image[..., top : image.shape[-2] - bottom, left : image.shape[-1] - right]

    def surround(self, image: Tensor) -> Tensor:
        if self.padding == "reflect":
            return functional.pad(image, self.margins, mode="reflect")
        return functional.pad(image, self.margins, value=BLACK)

    def to_image(self, state: Tensor) -> Tensor:
        return self.window(self.inner.to_image(state))

    def to_state(self, image: Tensor) -> Tensor:
        return self.inner.to_state(self.surround(image))

    def lift(self, image: Tensor) -> Tensor:
        return self.inner.lift(functional.pad(image, self.margins))

    def encode(self, image: Tensor) -> Tensor:
        return self.inner.encode(self.surround(image))

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        return self.window(self.inner.decode(z, quantize))


class Tiled(Adapted):
    """Images larger than the inner prior's: state tiles are denoised, decoded and encoded one by one and blended.

    Each piece is weighted by a window that falls to its borders (sin^2), so the whole is smooth where pieces meet.
    image_shape: [C,H,W], at least the inner prior's and whole latent pixels.
    """

    def __init__(self, inner: Prior, image_shape: Shape):
        factor = inner.image_shape[1] // inner.shape[1]
        super().__init__(
            inner, (inner.shape[0], image_shape[1] // factor, image_shape[2] // factor), image_shape
        )
        self.factor = factor
        rows, columns = (_starts(n, m) for n, m in zip(self.shape[1:], inner.shape[1:]))
        self.corners = [(r, c) for r in rows for c in columns]

    def denoise(self, x: Tensor, sigma: Tensor, noise: Noise | None = None) -> Tensor:
        return self._blend(
            x, lambda piece: self.inner.denoise(piece, sigma, noise), 1, 1, x.shape[1]
        )

    def to_image(self, state: Tensor) -> Tensor:
        return (
            self.decode(state, quantize=False)
            if self.kind == "latent"
            else self.inner.to_image(state)
        )

    def to_state(self, image: Tensor) -> Tensor:
        return self.encode(image) if self.kind == "latent" else self.inner.to_state(image)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        piece = lambda z: Sparing.apply(z, lambda z: self.inner.decode(z, quantize))  # noqa: E731
        return self._blend(z, piece, 1, self.factor, self.image_shape[0])

    def encode(self, image: Tensor) -> Tensor:
        return self._blend(image, self.inner.encode, self.factor, 1, self.shape[0])

    def _blend(self, x: Tensor, work: Any, scale_in: int, scale_out: int, channels: int) -> Tensor:
        """Sum of window · work(piece) over the sum of windows; scales: pixels of x and of the result per state pixel."""
        height, width = self.inner.shape[1:]
        total = x.new_zeros(len(x), channels, self.shape[1] * scale_out, self.shape[2] * scale_out)
        weight = x.new_zeros(total.shape[-2:])
        window = _falling(height * scale_out, x)[:, None] * _falling(width * scale_out, x)
        for r, c in self.corners:
            piece = work(
                x[
                    ...,
                    r * scale_in : (r + height) * scale_in,
                    c * scale_in : (c + width) * scale_in,
                ]
            )
            place = (r * scale_out, c * scale_out, height * scale_out, width * scale_out)
            total = total + _placed(piece * window, total.shape[-2:], place)
            weight = weight + _placed(window, total.shape[-2:], place)
        return total / weight


class Sparing(torch.autograd.Function):
    """function(x) that keeps nothing but x for its derivative and computes the rest again: memory of one piece, not of all."""

    @staticmethod
    def forward(x: Tensor, function: Any) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.function = inputs[1]
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            return torch.func.vjp(ctx.function, x)[1](gradient)[0], None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.func.jvp(ctx.function, (x,), (tangent,))[1]


def _starts(size: int, tile: int) -> list[int]:
    """First pixels of the fewest tiles that cover `size`, evenly spread with at least OVERLAP in common."""
    count = 1 + -(-(size - tile) // max(int(tile * (1 - OVERLAP)), 1))
    return [round(i * (size - tile) / max(count - 1, 1)) for i in range(count)]


def _falling(size: int, like: Tensor) -> Tensor:
    """sin^2 window, never zero: a tile at the image's border is alone there."""
    at = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) / size
    return (torch.pi * at).sin() ** 2 + 1e-3


def _placed(piece: Tensor, size: Any, place: tuple[int, int, int, int]) -> Tensor:
    top, left, height, width = place
    return functional.pad(piece, (left, size[1] - left - width, top, size[0] - top - height))
