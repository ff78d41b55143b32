"""A patch network on latents (PaDIS on the latents of an autoencoder): both a latent prior and a patched one."""

from collections.abc import Sequence

from torch import Tensor, nn

from data.seeding import Noise
from ldm.latent import LatentPrior
from ldm.patch import BLACK, PatchPrior


class LatentPatchPrior(LatentPrior):
    """denoiser: a PatchPrior whose images are the scaled latents; the state is its padded square [C, n+2M, n+2M].

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
