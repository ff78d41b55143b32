"""Latent priors: a denoiser on the latents of a frozen autoencoder. Scale and shift live here and nowhere else."""

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data.ranges import BLACK
from data.seeding import Noise
from ldm import checks, spectra
from ldm.denoiser import Prior
from ldm.patch import PatchPrior


class FirstStage(Protocol):
    """An autoencoder in [-1, 1] image units: encode gives the (mean, unquantised) latent, decode an image.

    posterior: the latent's mean and log-variance; None if it is certain.
    """

    factor: int  # image pixels per latent pixel and axis

    def encode(self, image: Tensor) -> Tensor: ...

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor | None]: ...

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor: ...


class Wrapped(nn.Module):
    """An autoencoder of diffusers; every block but its last halves rows and columns."""

    model: Any

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.factor = 2 ** (len(self.model.config["block_out_channels"]) - 1)


class VQ(Wrapped):
    """diffusers' VQModel: latents before quantisation; decode snaps them to the codebook when asked (straight-through)."""

    def encode(self, image: Tensor) -> Tensor:
        return self.model.encode(image).latents

    def posterior(self, image: Tensor) -> tuple[Tensor, None]:
        return self.encode(image), None

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        return self.model.decode(z, force_not_quantize=not quantize).sample


class KL(Wrapped):
    """diffusers' AutoencoderKL: the latent is the posterior's mean; there is nothing to quantise."""

    def encode(self, image: Tensor) -> Tensor:
        return self.model.encode(image).latent_dist.mode()

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        belief = self.model.encode(image).latent_dist
        return belief.mean, belief.logvar

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        return self.model.decode(z).sample


class LatentPrior(Prior):
    """z = (E(image) - shift) * scale, image = D(z / scale + shift).

    error_variance: mean squared error of decode(encode(image)) on held-out images, in [-1,1]^2 units; lets a latent
    solver end with one `condition` in pixel space.
    """

    kind = "latent"

    def __init__(
        self,
        denoiser: nn.Module,
        shape: tuple[int, int, int],
        first_stage: nn.Module,
        scale: float = 1.0,
        shift: float = 0.0,
        error_variance: float = 0.0,
        image_channels: int = 1,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        label: int | None = None,
        variances: Sequence[Sequence[float]] = (),
        image_variances: Sequence[Sequence[float]] = (),
    ):
        super().__init__(denoiser, shape, sigma_min, sigma_max, label, variances)
        self.first_stage, self.image_channels, self.image_variances = (
            first_stage,
            image_channels,
            image_variances,
        )
        self.scale, self.shift, self.error_variance = (
            float(scale),
            float(shift),
            float(error_variance),
        )
        checks.counts(image_channels=image_channels)
        checks.positive(scale=self.scale)
        checks.natural(error_variance=self.error_variance, **{"the size of shift": abs(self.shift)})
        spectra.check(image_variances)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        f: int = self.first_stage.factor  # type: ignore[assignment]
        return (1 if self.gray else self.image_channels, self.shape[1] * f, self.shape[2] * f)

    def encode(self, image: Tensor) -> Tensor:
        image = image.expand(-1, self.image_channels, -1, -1) if self.gray else image
        stage: FirstStage = self.first_stage  # type: ignore[assignment]
        return (one_by_one(stage.encode, image) - self.shift) * self.scale

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        stage: FirstStage = self.first_stage  # type: ignore[assignment]
        image = one_by_one(partial(stage.decode, quantize=quantize), z / self.scale + self.shift)
        return image.mean(1, keepdim=True) if self.gray else image

    def to_image(self, state: Tensor) -> Tensor:
        return self.decode(state, quantize=False)

    def to_state(self, image: Tensor) -> Tensor:
        return self.encode(image)


def one_by_one(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), on a CPU image after image: whole images of many channels are larger than its caches."""
    return (
        torch.cat([function(row) for row in x.split(1)])
        if x.device.type == "cpu" and len(x) > 1
        else function(x)
    )


class LatentPatchPrior(LatentPrior):
    """A patch network on latents (PaDIS on the latents of an autoencoder): both a latent prior and a patched one.

    denoiser: a PatchPrior whose images are the scaled latents; the state is its padded square [C, n+2M, n+2M].

    Encoding pads and decoding crops, so that the autoencoder sees nothing of the border.
    """

    patched = True
    denoiser: PatchPrior

    def __init__(
        self,
        denoiser: PatchPrior,
        first_stage: nn.Module,
        scale: float = 1.0,
        shift: float = 0.0,
        error_variance: float = 0.0,
        image_channels: int = 1,
        variances: Sequence[Sequence[float]] = (),
        image_variances: Sequence[Sequence[float]] = (),
    ):
        super().__init__(
            denoiser,
            denoiser.shape,
            first_stage,
            scale,
            shift,
            error_variance,
            image_channels,
            denoiser.sigma_min,
            denoiser.sigma_max,
            label=denoiser.label,  # type: ignore[arg-type]
            variances=variances,
            image_variances=image_variances,
        )

    def stretched(self, size: int) -> "LatentPatchPrior":
        """The same patches of the latents of images of `size` pixels or a little more; networks are shared."""
        factor: int = self.first_stage.factor  # type: ignore[assignment]
        other = copy(self)
        other._modules = dict(self._modules)  # or the copy's denoiser would become this one's too
        other.denoiser = self.denoiser.stretched(-(-size // factor))
        other.shape = other.denoiser.shape
        return other

    @property
    def image_shape(self) -> tuple[int, int, int]:
        side: int = self.denoiser.size * self.first_stage.factor  # type: ignore[operator, assignment]
        return (super().image_shape[0], side, side)

    @property
    def label(self) -> int | Tensor | None:
        return self.denoiser.label

    @label.setter
    def label(self, value: int | Tensor | None) -> None:
        self.denoiser.label = value

    def encode(self, image: Tensor) -> Tensor:
        return self.pad(super().encode(image))

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        return super().decode(self.crop(z), quantize)

    def crop(self, state: Tensor) -> Tensor:
        return self.denoiser.crop(state)

    def pad(self, core: Tensor, value: float = BLACK) -> Tensor:
        return self.denoiser.pad(core, value)

    def denoise(self, x: Tensor, sigma: Tensor, noise: Noise | None = None) -> Tensor:
        return self.denoiser.denoise(x, sigma, noise)
