"""Training diffusion priors on images, latents and patches.

One loss for all: weight(sigma) * |D(x0 + sigma n, sigma) - x0|^2 through the prior's own denoiser, so that training and
sampling share every scaling. Each kind only says what its states are.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from data.seeding import Noise
from ldm import schedule
from ldm.crops import Crops
from ldm.denoiser import Prior, column
from ldm.draws import Draws, Parts
from ldm.generate import Heun
from ldm.latent import LatentPrior
from ldm.latents import Latents
from ldm.levels import Mixture, UniformTime, Weighting, weight
from ldm.optimisation import AdamW
from ldm.patch import PatchPrior
from ldm.preconditioning import Whole

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
        self.weighting: Weighting = weighting or ("edm" if prior.alpha_bar is None else self.denoiser.predicts)
        self.labels, self.flip, self.seed, self.parts = labels, flip, seed, Parts()

    def configure_optimizers(self):
        return self.optimiser.configure(
            (p for p in self.parameters() if p.requires_grad), self.trainer.estimated_stepping_batches
        )

    def compile_networks(self) -> None:
        self.denoiser.network.compile()

    def training_step(self, batch: Mapping, index: int) -> Tensor:
        draws = Draws(self.seed, self.global_rank, self.global_step, self.parts(self.global_step), self.device)
        draws.pin_dropout()
        states = self.states(batch, draws)
        n, prior = len(states.x0), self.prior
        sigma = self.levels.draw(n, prior.sigma_min, prior.sigma_max, prior.alpha_bar, draws)
        loss = self.loss(states, sigma, draws.normal(states.x0.shape)).mean()
        self.log("train/loss", loss.detach(), batch_size=n, prog_bar=True)
        return loss

    @property
    def denoiser(self) -> Any:
        """Called as denoiser(x, sigma, label), with a position too if it sees patches."""
        return self.prior.denoiser

    def loss(self, states: States, sigma: Tensor, n: Tensor) -> Tensor:
        """Per state [B], mean over its entries."""
        x0 = states.x0
        place = {} if states.position is None else {"position": states.position}
        d = self.denoiser(x0 + column(sigma) * n, sigma, states.label, **place)
        scale = weight(self.weighting, sigma, getattr(self.denoiser, "sigma_data", 0.5))
        return scale * (d.float() - x0).square().mean([1, 2, 3])

    def states(self, batch: Mapping, draws: Draws) -> States:
        """What the denoiser is trained on; fresh random choices come from `draws`."""
        return States(self.whole(batch, draws), self.label(batch))

    def whole(self, batch: Mapping, draws: Draws) -> Tensor:
        """The clean states of whole images."""
        image = self.fitting(batch["image"])
        return torch.where(self.mirror(len(image), draws)[:, None, None, None], image.flip(3), image)

    def mirror(self, n: int, draws: Draws) -> Tensor:
        """Which images to mirror, [n] bool."""
        return draws.uniform((n,)) < (0.5 if self.flip and self.training else 0.0)

    def fitting(self, image: Tensor) -> Tensor:
        if tuple(image.shape[1:]) != tuple(self.prior.image_shape):
            raise ValueError(f"images of {list(image.shape[1:])} do not fit this prior, made for {list(self.prior.image_shape)}")
        return image

    def label(self, batch: Mapping) -> Tensor | None:
        if not self.labels:
            return None
        if (batch["label"] < 0).any():
            raise ValueError("training with labels needs a label in every row of the manifest")
        return batch["label"]

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
        *_, last = Heun(STEPS)(prior, noise, n)
        return {"samples": prior.to_image(last.x0), "denoising": torch.cat(rows)}


class LatentDiffusion(PixelDiffusion):
    """On the latents of a frozen first stage.

    cache: keep latents in memory. flip: both mirror images are cached. estimate_scale: set the prior's shift and scale
    from the first batch, so that its latents have mean 0 and variance 1.
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
        self.latents, self.cache, self.estimate_scale = Latents(prior.first_stage, cache), cache, estimate_scale
        self.errors: list[Tensor] = []

    def train(self, mode: bool = True) -> "LatentDiffusion":
        super().train(mode)
        self.prior.first_stage.eval()
        return self

    def on_fit_start(self) -> None:
        if self.cache and getattr(getattr(self.trainer, "datamodule", None), "augment", False):
            raise ValueError("cached latents cannot follow data.params.augment: turn it off, or model.params.cache")

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        found = checkpoint["config"]["prior"]["params"]
        self.prior.scale, self.prior.shift = found["scale"], found["shift"]
        self.prior.error_variance = found["error_variance"]
        self.estimate_scale = False

    def measured(self) -> dict[str, float]:
        """Numbers that training found out; every checkpoint's configuration holds them as parameters of the prior."""
        return {"scale": self.prior.scale, "shift": self.prior.shift, "error_variance": self.prior.error_variance}

    def whole(self, batch: Mapping, draws: Draws) -> Tensor:
        image = self.fitting(batch["image"])
        z = self.latents.encode(image, batch["image_id"], self.mirror(len(image), draws).tolist())
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
            self.errors.append((self.prior.decode(self.prior.encode(image)) - image).square().mean())

    def on_validation_epoch_end(self) -> None:
        if self.errors:
            self.prior.error_variance = float(torch.as_tensor(self.all_gather(torch.stack(self.errors).mean())).mean())
            self.errors.clear()


class PatchDiffusion(PixelDiffusion):
    """On patches with their positions, cut from images padded only in thought. crops: which, and how many of an image.

    prior: a PatchPrior (PaDIS), whose geometry N, P, M then is the checkpoint's; or one of whole images whose denoiser
    is `ldm.preconditioning.Whole` (Patch-Diffusion).
    """

    def __init__(
        self,
        prior: Prior,
        optimiser: AdamW,
        crops: Crops,
        levels: Mixture | UniformTime | None = None,
        weighting: Weighting | None = None,
        labels: bool = False,
        flip: bool = False,
        seed: int = 0,
    ):
        super().__init__(prior, optimiser, levels, weighting, labels, flip, seed)
        self.crops = fitting_crops(prior, crops)

    @property
    def denoiser(self) -> Any:
        return patch_denoiser(self.prior)

    def states(self, batch: Mapping, draws: Draws) -> States:
        return patches(self, batch, draws)


class LatentPatchDiffusion(LatentDiffusion):
    """Patch-Diffusion on latents: `ldm.preconditioning.Whole` under a LatentPrior."""

    def __init__(
        self,
        prior: LatentPrior,
        optimiser: AdamW,
        crops: Crops,
        levels: Mixture | UniformTime | None = None,
        weighting: Weighting | None = None,
        labels: bool = False,
        flip: bool = False,
        cache: bool = True,
        estimate_scale: bool = False,
        seed: int = 0,
    ):
        super().__init__(prior, optimiser, levels, weighting, labels, flip, cache, estimate_scale, seed)
        self.crops = fitting_crops(prior, crops)

    @property
    def denoiser(self) -> Any:
        return patch_denoiser(self.prior)

    def states(self, batch: Mapping, draws: Draws) -> States:
        return patches(self, batch, draws)


def fitting_crops(prior: Prior, crops: Crops) -> Crops:
    largest = prior.patch if isinstance(prior, PatchPrior) else prior.shape[-1]
    if crops.largest != largest:
        raise ValueError(f"crops: the largest size must be the prior's {largest}, not {crops.largest}")
    return crops


def patch_denoiser(prior: Prior) -> nn.Module:
    """The network that takes positions."""
    if isinstance(prior, PatchPrior):
        return prior.denoiser
    if isinstance(prior.denoiser, Whole):
        return prior.denoiser.denoiser
    raise ValueError("patch training needs an ldm.patch.PatchPrior, or ldm.preconditioning.Whole around the prior's denoiser")


def patches(module: PatchDiffusion | LatentPatchDiffusion, batch: Mapping, draws: Draws) -> States:
    """One size per step, the same on every rank; the largest at validation. Images are mirrored whole, so positions stay true."""
    whole, crops = module.whole(batch, draws), module.crops
    size = crops.largest
    if module.training:
        size = crops.size(Draws(module.seed, -1, module.global_step))
    margin = module.prior.margin if isinstance(module.prior, PatchPrior) else 0
    x0, position = crops.take(whole, size, margin, draws)
    label = module.label(batch)
    return States(x0, None if label is None else label.repeat_interleave(crops.count(size)), position)
