"""Training diffusion priors on images, latents and patches.

One loss for all: weight(sigma) * |D(x0 + sigma n, sigma) - x0|^2 through the prior's own denoiser, so that training and
sampling share every scaling. Each kind only says what its states are.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from data.seeding import Noise
from ldm import schedule
from ldm.denoiser import Prior, column
from ldm.draws import Draws
from ldm.latent import LatentPrior
from ldm.levels import Mixture, UniformTime, Weighting, weight
from ldm.optimisation import AdamW
from ldm.patch import PatchPrior, cut, cut_padded, positions

LEVELS = 6  # noise levels at which the validation loss is reported
STEPS = 18  # of the sampler behind the pictures


class States(NamedTuple):
    """What a denoiser is trained on: clean states, class labels, and positions of patches."""

    x0: Tensor
    label: Tensor | None = None
    position: Tensor | None = None


class PixelDiffusion(pl.LightningModule):
    """prior: what is trained and, later, used. labels: feed the manifest's label column to a class-conditional network.

    flip: mirror half of the images left to right (where left and right mean nothing).
    """

    prior: Prior

    def __init__(
        self,
        prior: Prior,
        optimiser: AdamW,
        levels: Mixture | UniformTime | None = None,
        weighting: Weighting | None = None,
        labels: bool = False,
        flip: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.prior, self.optimiser, self.levels = prior, optimiser, levels or Mixture()
        self.weighting: Weighting = weighting or ("edm" if prior.alpha_bar is None else prior.denoiser.predicts)
        self.labels, self.flip, self.seed = labels, flip, seed

    def configure_optimizers(self):
        return self.optimiser.configure(
            (p for p in self.parameters() if p.requires_grad), self.trainer.estimated_stepping_batches
        )

    def training_step(self, batch: Mapping, index: int) -> Tensor:
        draws = Draws(self.seed, self.global_rank, self.current_epoch, index, self.device)
        states = self.states(batch, draws)
        n, prior = len(states.x0), self.prior
        sigma = self.levels.draw(n, prior.sigma_min, prior.sigma_max, prior.alpha_bar, draws)
        loss = self.loss(states, sigma, draws.normal(states.x0.shape)).mean()
        self.log("train/loss", loss.detach(), batch_size=n, prog_bar=True)
        return loss

    def loss(self, states: States, sigma: Tensor, n: Tensor) -> Tensor:
        """Per state [B], mean over its entries."""
        x0 = states.x0
        place = {} if states.position is None else {"position": states.position}
        d = self.prior.denoiser(x0 + column(sigma) * n, sigma, states.label, **place)
        scale = weight(self.weighting, sigma, getattr(self.prior.denoiser, "sigma_data", 0.5))
        return scale * (d.float() - x0).square().mean([1, 2, 3])

    def states(self, batch: Mapping, draws: Draws) -> States:
        """This batch's clean states; fresh random choices come from `draws`."""
        return States(self.mirrored(self.fitting(batch["image"], self.prior.image_shape), draws), self.label(batch))

    def label(self, batch: Mapping) -> Tensor | None:
        if not self.labels:
            return None
        if (batch["label"] < 0).any():
            raise ValueError("training with labels needs a label in every row of the manifest")
        return batch["label"]

    def mirrored(self, x: Tensor, draws: Draws) -> Tensor:
        if not self.flip:
            return x
        return torch.where(draws.uniform((len(x), 1, 1, 1)) < 0.5, x.flip(3), x)

    @staticmethod
    def fitting(image: Tensor, shape: tuple[int, int, int]) -> Tensor:
        if tuple(image.shape[1:]) != tuple(shape):
            raise ValueError(f"images of {list(image.shape[1:])} do not fit this prior, which takes {list(shape)}")
        return image

    def validation_step(self, batch: Mapping, index: int) -> None:
        draws = Draws(self.seed, self.global_rank, -1, index, self.device)  # the same at every validation
        states = self.states(batch, draws)
        n = draws.normal(states.x0.shape)
        total = torch.zeros((), device=self.device)
        for sigma in schedule.geometric(LEVELS, self.prior.sigma_min, self.prior.sigma_max).tolist():
            loss = self.loss(states, torch.full((len(n),), sigma, device=self.device), n).mean()
            total = total + loss / LEVELS
            self.log(f"val/loss at sigma {sigma:.3g}", loss, batch_size=len(n), sync_dist=True)
        self.log("val/loss", total, batch_size=len(n), sync_dist=True)

    @torch.no_grad()
    def pictures(self, image: Tensor) -> dict[str, Tensor]:
        """Samples from fixed seeds, and images | noisy | denoised at three levels; rows of [B,C,H,W] in [-1, 1]."""
        prior, count = self.prior, len(image)
        noise = Noise([f"picture {i}" for i in range(count)], "noise", self.seed)
        n = noise.normal((count, *prior.shape), device=self.device)
        x0 = prior.to_state(image)
        rows = [image]
        for sigma in schedule.geometric(5, prior.sigma_min, prior.sigma_max)[1:4].tolist():
            x = x0 + sigma * n
            rows += [prior.to_image(x), prior.to_image(prior.denoise(x, torch.full((count,), sigma, device=self.device)))]
        return {"samples": prior.to_image(self.sample(n)), "denoising": torch.cat(rows)}

    def sample(self, n: Tensor) -> Tensor:
        """States from unit noise by Euler steps of the probability-flow ODE; a picture, not the sampler of ldm.generate."""
        sigmas = schedule.karras(STEPS, self.prior.sigma_min, self.prior.sigma_max).tolist()
        x = sigmas[0] * n
        for sigma, following in zip(sigmas, [*sigmas[1:], 0.0]):
            d = self.prior.denoise(x, torch.full((len(x),), sigma, device=self.device))
            x = d + following / sigma * (x - d)
        return x


class LatentDiffusion(PixelDiffusion):
    """On the latents of a frozen first stage.

    cache: keep each image's latent (its mean, never a draw) in memory once it was encoded. flip: mirror half of the
    images before they are encoded; both sides are cached. estimate_scale: set the prior's shift and scale from the
    first batch, so that its latents have mean 0 and variance 1.
    """

    prior: LatentPrior

    def __init__(
        self,
        prior: LatentPrior,
        optimiser: AdamW,
        levels: Mixture | UniformTime | None = None,
        weighting: Weighting | None = None,
        labels: bool = False,
        flip: bool = False,
        cache: bool = True,
        estimate_scale: bool = False,
        seed: int = 0,
    ):
        super().__init__(prior, optimiser, levels, weighting, labels, flip, seed)
        prior.first_stage.requires_grad_(False).eval()
        self.estimate_scale = estimate_scale
        self.latents: dict[tuple[str, bool], Tensor] | None = {} if cache else None
        self.errors: list[Tensor] = []

    def train(self, mode: bool = True) -> "LatentDiffusion":
        super().train(mode)
        self.prior.first_stage.eval()
        return self

    def on_fit_start(self) -> None:
        if self.latents is not None and getattr(self.trainer.datamodule, "augment", False):
            raise ValueError("cached latents cannot follow data.params.augment: set it to false, or model.params.cache to false")

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        found = checkpoint["config"]["prior"]["params"]
        self.prior.scale, self.prior.shift = found["scale"], found["shift"]
        self.prior.error_variance = found["error_variance"]
        self.estimate_scale = False

    def measured(self) -> dict[str, float]:
        """Numbers that training found out; every checkpoint's configuration holds them as parameters of the prior."""
        return {"scale": self.prior.scale, "shift": self.prior.shift, "error_variance": self.prior.error_variance}

    def states(self, batch: Mapping, draws: Draws) -> States:
        image = self.fitting(batch["image"], self.prior.image_shape)
        mirror = draws.uniform((len(image),)) < (0.5 if self.flip and self.training else 0.0)
        z = self.encoded(image, batch["image_id"], mirror.tolist())
        if self.estimate_scale and self.training:
            self.standardise(z)
        return States((z - self.prior.shift) * self.prior.scale, self.label(batch))

    @torch.no_grad()
    def encoded(self, image: Tensor, ids: list[str], mirror: list[bool]) -> Tensor:
        """Unscaled float32 latents, each image on its own, so that they do not depend on the batch it came in."""
        cache = {} if self.latents is None else self.latents
        for x, key in zip(image, zip(ids, mirror)):
            if key not in cache:
                with torch.autocast(image.device.type, enabled=False):
                    cache[key] = self.prior.first_stage.encode((x.flip(2) if key[1] else x)[None])[0].cpu()
        return torch.stack([cache[key] for key in zip(ids, mirror)]).to(image.device)

    def standardise(self, z: Tensor) -> None:
        """Shift and scale from this batch, the same on every rank."""
        mean, square = self.all_gather(torch.stack([z.mean(), z.square().mean()])).reshape(-1, 2).mean(0).tolist()
        self.prior.shift, self.prior.scale = mean, (square - mean**2) ** -0.5
        self.estimate_scale = False

    def validation_step(self, batch: Mapping, index: int) -> None:
        super().validation_step(batch, index)
        if self.prior.error_variance == 0:
            image = batch["image"]
            self.errors.append((self.prior.decode(self.prior.encode(image)) - image).square().mean())

    def on_validation_epoch_end(self) -> None:
        if self.errors:
            self.prior.error_variance = float(self.all_gather(torch.stack(self.errors).mean()).mean())
            self.errors.clear()


class PatchDiffusion(PixelDiffusion):
    """Patches of several sizes with their positions: PaDIS (Hu et al. 2024), or Patch-Diffusion (Wang et al. 2023).

    sizes: patch size -> probability, one size per step; the largest is the prior's P (Patch-Diffusion: the whole image,
    its probability the paper's real_p). crops: patches of the largest size cut from each image; smaller ones are more,
    so that the work per step is the same. Padding is virtual: no padded image is built.
    """

    prior: PatchPrior

    def __init__(
        self,
        prior: PatchPrior,
        optimiser: AdamW,
        sizes: Mapping[int, float],
        crops: int = 4,
        levels: Mixture | UniformTime | None = None,
        weighting: Weighting | None = None,
        labels: bool = False,
        flip: bool = False,
        seed: int = 0,
    ):
        super().__init__(prior, optimiser, levels, weighting, labels, flip, seed)
        self.sizes, self.crops = dict(sizes), crops
        if max(self.sizes) != prior.patch or abs(sum(self.sizes.values()) - 1) > 1e-6:
            raise ValueError(f"sizes {self.sizes} must have P = {prior.patch} as the largest and probabilities that sum to 1")

    def states(self, batch: Mapping, draws: Draws) -> States:
        image = self.fitting(batch["image"], self.prior.image_shape)
        size = self.size(draws)
        shape = (len(image), self.crops * int((self.prior.patch / size) ** 2))
        rows, columns = (draws.below(self.prior.shape[-1] - size + 1, shape) for _ in range(2))
        place = positions(self.prior.shape[-1], image.dtype, image.device).expand(len(image), -1, -1, -1)
        both = torch.cat([cut_padded(image, rows, columns, size, self.prior.margin), cut(place, rows, columns, size)], 1)
        both = self.mirrored(both, draws)  # positions turn with their patch
        label = self.label(batch)
        label = None if label is None else label.repeat_interleave(shape[1])
        return States(both[:, :-2], label, both[:, -2:])

    def size(self, draws: Draws) -> int:
        """One size per step, the largest at validation."""
        if not self.training:
            return self.prior.patch
        shared = Draws(self.seed, -1, self.current_epoch, self.global_step)  # every rank takes the same
        bounds = torch.tensor(list(self.sizes.values())).cumsum(0)
        return list(self.sizes)[min(int(torch.searchsorted(bounds, shared.uniform((1,)))), len(bounds) - 1)]
