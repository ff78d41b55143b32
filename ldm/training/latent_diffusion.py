"""Training diffusion priors on the latents of a frozen first stage, whole or in patches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data.files import Refusal
from ldm import spectra
from ldm.latent import LatentPrior
from ldm.training.crops import Crops
from ldm.training.diffusion import PixelDiffusion
from ldm.training.latent_cache import Latents
from ldm.training.noise_levels import Mixture, UniformTime, Weighting
from ldm.training.optimisation import Optimiser
from ldm.training.randomness import Draws


class LatentDiffusion(PixelDiffusion):
    """On the latents of a frozen first stage; those of a KL autoencoder are drawn anew at every step.

    cache: keep their means and variances in memory. flip: both mirror images are cached. estimate_scale: set the prior's
    shift and scale from the first batch, so that its latents have mean 0 and variance 1.
    """

    prior: LatentPrior
    kind = "latent"

    def __init__(
        self,
        prior: LatentPrior,
        optimiser: Optimiser,
        levels: Mixture | UniformTime | None = None,
        weighting: Weighting | None = None,
        labels: bool = False,
        flip: bool = False,
        cache: bool = True,
        estimate_scale: bool = False,
        crops: Crops | None = None,
        seed: int = 0,
    ):
        super().__init__(prior, optimiser, levels, weighting, labels, flip, crops, seed)
        prior.first_stage.requires_grad_(False).eval()
        self.latents, self.cache, self.estimate_scale = (
            Latents(prior.first_stage, cache),
            cache,
            estimate_scale,
        )
        self.errors: list[Tensor] = []

    def train(self, mode: bool = True) -> "LatentDiffusion":
        super().train(mode)
        self.prior.first_stage.eval()
        return self

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for name in ("augment", "crop") if self.cache else ():
            if getattr(getattr(self.trainer, "datamodule", None), name, None):
                raise Refusal(
                    f"cached latents cannot follow data.params.{name}: turn it off, or model.params.cache"
                )

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        found = checkpoint["config"]["prior"]["params"]
        self.prior.scale, self.prior.shift = found["scale"], found["shift"]
        self.prior.error_variance, self.prior.image_variances = (
            found["error_variance"],
            found.get("image_variances", ()),
        )
        self.estimate_scale = False

    def measured(self) -> dict[str, Any]:
        names = "scale", "shift", "error_variance", "image_variances"
        return super().measured() | {name: getattr(self.prior, name) for name in names}

    def whole(self, batch: Mapping, draws: Draws) -> Tensor:
        image = self.fitting(batch["image"])
        z, logvar = self.latents.posterior(
            image, batch["image_id"], self.mirror(len(image), draws).tolist()
        )
        if logvar is not None and self.training:
            z = z + (0.5 * logvar).exp() * draws.normal(z.shape)
        if self.estimate_scale and self.training:
            self.standardise(z)
        return (z - self.prior.shift) * self.prior.scale

    def standardise(self, z: Tensor) -> None:
        """Shift and scale from this batch, the same on every rank."""
        moments = torch.as_tensor(self.all_gather(torch.stack([z.mean(), z.square().mean()])))
        mean, square = moments.reshape(-1, 2).mean(0).tolist()
        self.prior.shift, self.prior.scale = mean, (square - mean**2) ** -0.5
        self.estimate_scale = False

    def validation_step(self, batch: Mapping, index: int) -> None:
        super().validation_step(batch, index)
        if self.prior.error_variance == 0:
            image = batch["image"]
            self.errors.append(
                (self.prior.decode(self.prior.encode(image)) - image).square().mean([1, 2, 3])
            )

    def powers(self, image: Tensor, x0: Tensor, D: Tensor) -> dict[str, Tensor]:
        """Also of the images that half of the batch decodes to; decoding them lasts longer than all the rest."""
        half = (len(image) + 1) // 2
        decoded = self.prior.to_image(D[:half]).float()
        return super().powers(image, x0, D) | {
            "image_variances": spectra.power(decoded - image[:half])
        }

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.errors and not self.trainer.sanity_checking:
            self.prior.error_variance = float(
                torch.as_tensor(self.all_gather(torch.cat(self.errors).mean())).mean()
            )
        self.errors.clear()


class LatentPatchDiffusion(LatentDiffusion):
    """On patches of latents: an `ldm.latent.LatentPatchPrior` (PaDIS), or `ldm.preconditioning.Whole` under a
    LatentPrior (Patch-Diffusion).
    """

    patched = True
