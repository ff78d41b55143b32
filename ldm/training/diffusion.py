"""Training diffusion priors on images and on patches of them; `ldm.training.latent_diffusion` does so on latents.

One loss for all: weight(sigma) * |D(x0 + sigma n, sigma) - x0|^2 through the prior's own denoiser, so that training and
sampling share every scaling. Each kind only says what its states are.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm import schedule, spectra
from ldm.denoiser import Prior, column
from ldm.sampling import Heun
from ldm.training.crops import Crops, denoiser_of, geometry
from ldm.training.noise_levels import Mixture, UniformTime, Weighting, weight
from ldm.training.optimisation import Optimiser
from ldm.training.randomness import Draws, Parts
from ldm.training.sharding import shard

LEVELS = 12  # noise levels at which the validation loss is reported and the error measured
STEPS = 18  # of the sampler behind the pictures


class States(NamedTuple):
    """What a denoiser is trained on: clean states, class labels, and positions of patches."""

    x0: Tensor
    label: Tensor | None = None
    position: Tensor | None = None


class PixelDiffusion(pl.LightningModule):
    """prior: what is trained and, later, used. labels: feed the manifest's label column to a class-conditional network.

    flip: mirror half of the images left to right (where left and right mean nothing). turn: half of them upside down too, and
    half with rows and columns swapped if they are as many, as suits a prior that knows details and not which way is up. crops:
    of patch training, below. A network of any size is trained on whatever size the data have, `data.params.crop` for one.
    """

    prior: Prior
    kind = "pixel"  # of the priors it trains
    patched = False  # trained on patches, so that `crops` are needed

    def __init__(
        self,
        prior: Prior,
        optimiser: Optimiser,
        levels: Mixture | UniformTime | None = None,
        weighting: Weighting | None = None,
        labels: bool = False,
        flip: bool = False,
        crops: Crops | None = None,
        seed: int = 0,
        turn: bool = False,
    ):
        super().__init__()
        if prior.kind != self.kind:
            raise Refusal(
                f"{type(self).__name__} trains a {self.kind} prior, and this one is a {prior.kind} prior"
            )
        if self.patched != (crops is not None):
            raise Refusal(
                f"{type(self).__name__} {'needs' if self.patched else 'trains on whole images and takes no'} crops"
            )
        if labels and not prior.classes:
            raise Refusal(
                "labels: the network is unconditional; give it `classes`, or train without labels"
            )
        self.crops, self.margin = crops, geometry(prior, crops) if crops else 0
        self.prior, self.optimiser, self.levels = prior, optimiser, levels or Mixture()
        if weighting is None:
            weighting = "edm" if prior.alpha_bar is None else self.denoiser.predicts
        self.weighting: Weighting = weighting
        self.labels, self.flip, self.turn, self.seed, self.parts = labels, flip, turn, seed, Parts()
        # parameter of the prior -> [LEVELS,2,knots] of every batch of this validation
        self.found: dict[str, list[Tensor]] = {}

    def configure_optimizers(self):
        trained = (p for p in self.parameters() if p.requires_grad)
        return self.optimiser.configure(trained, self.trainer.estimated_stepping_batches)

    def on_fit_start(self) -> None:
        if self.prior.alpha_bar is not None and self.trainer.precision in ("bf16-true", "16-true"):
            raise Refusal(
                f"precision {self.trainer.precision} would round the prior's noise table; bf16-mixed does not"
            )

    def configure_model(self) -> None:
        """Under --strategy fsdp, split the network's weights over the processes, block by block."""
        if self.device_mesh is not None:
            shard(self.denoiser.network, self.device_mesh["data_parallel"])

    def compile_networks(self) -> None:
        self.denoiser.network.compile()

    def training_step(self, batch: Mapping, index: int) -> Tensor:
        step = self.global_step
        draws = Draws(self.seed, self.global_rank, step, self.parts(step), self.device)
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
        return denoiser_of(self.prior) if self.patched else self.prior.denoiser

    def loss(self, states: States, sigma: Tensor, n: Tensor) -> Tensor:
        """Per state [B], mean over its entries."""
        return self.weight(sigma) * self.error(states, sigma, n).square().mean([1, 2, 3])

    def weight(self, sigma: Tensor) -> Tensor:
        return weight(self.weighting, sigma, getattr(self.denoiser, "sigma_data", 0.5))

    def error(self, states: States, sigma: Tensor, n: Tensor) -> Tensor:
        """D(x0 + sigma n, sigma) - x0, shaped like x0."""
        x0 = states.x0
        place = {} if states.position is None else {"position": states.position}
        return self.denoiser(x0 + column(sigma) * n, sigma, states.label, **place).float() - x0

    def states(self, batch: Mapping, draws: Draws) -> States:
        """What the denoiser is trained on; fresh random choices come from `draws`.

        Of patches one size per step, the same on every rank; the largest at validation. Images are mirrored whole, so
        that positions stay true.
        """
        whole, label, crops = self.whole(batch, draws), self.label(batch), self.crops
        if crops is None:
            return States(whole, label)
        size = crops.largest
        if self.training:
            size = crops.size(Draws(self.seed, -1, self.global_step))
        x0, position = crops.take(whole, size, self.margin, draws)
        if label is not None:
            label = label.repeat_interleave(crops.count(size))
        return States(x0, label, position)

    def whole(self, batch: Mapping, draws: Draws) -> Tensor:
        """The clean states of whole images."""
        image = self.fitting(batch["image"])
        image = torch.where(column(self.mirror(len(image), draws)), image.flip(3), image)
        if not (self.turn and self.training):
            return image
        down, turned = draws.uniform((2, len(image))) < 0.5
        image = torch.where(column(down), image.flip(2), image)
        square = image.shape[2] == image.shape[3]
        return torch.where(column(turned), image.mT, image) if square else image

    def mirror(self, n: int, draws: Draws) -> Tensor:
        """Which images to mirror, [n] bool."""
        return draws.uniform((n,)) < (0.5 if self.flip and self.training else 0.0)

    def fitting(self, image: Tensor) -> Tensor:
        given, made = list(image.shape[1:]), list(self.prior.image_shape)
        if given != made and not (self.prior.any_size and given[0] == made[0]):
            raise Refusal(f"images of {given} do not fit this prior, made for {made}")
        return image

    def label(self, batch: Mapping) -> Tensor | None:
        if not self.labels:
            return None
        label, classes = batch["label"], self.prior.classes
        if not bool(((label >= 0) & (label < classes)).all()):
            raise Refusal(
                f"training with labels needs a label from 0 to {classes - 1} in every row of the manifest"
            )
        return label

    def validation_step(self, batch: Mapping, index: int) -> None:
        """The loss by noise level; and the power of D's errors on whole images; each validation has the same draws."""
        draws = Draws(self.seed, self.global_rank, -1, index, self.device)
        states = self.states(batch, draws)
        n, total = draws.normal(states.x0.shape), torch.zeros((), device=self.device)
        log = partial(self.log, batch_size=len(n), sync_dist=True)
        found: dict[str, list[Tensor]] = {}
        for sigma in self.levels_of_validation():
            level = torch.full((len(n),), sigma, device=self.device)
            error = self.error(states, level, n)
            square = error.square().mean([1, 2, 3])
            loss = (self.weight(level) * square).mean()
            total = total + loss / LEVELS
            if self.prior.kind == "pixel":
                log(f"val/psnr at sigma {sigma:.3g}", (10 * (4 / square).log10()).mean())
            log(f"val/loss at sigma {sigma:.3g}", loss)
            whole = states.x0, states.x0 + error
            if self.crops is not None:
                whole = self.denoised(batch, sigma, draws)
            for name, power in self.powers(batch["image"], *whole).items():
                found.setdefault(name, []).append(power)
        log("val/loss", total)
        for name, powers in found.items():
            self.found.setdefault(name, []).append(torch.stack(powers))

    def levels_of_validation(self) -> list[float]:
        return schedule.geometric(LEVELS, self.prior.sigma_min, self.prior.sigma_max).tolist()

    def denoised(self, batch: Mapping, sigma: float, draws: Draws) -> tuple[Tensor, Tensor]:
        """Whole states x0 and D(x0 + sigma n), by the prior as solvers use it."""
        x0 = self.prior.to_state(batch["image"])
        x = x0 + sigma * draws.normal(x0.shape)
        with self.prior.told(self.label(batch)):
            return x0, self.prior.denoise(x, torch.full((len(x),), sigma, device=x.device)).float()

    def powers(self, image: Tensor, x0: Tensor, D: Tensor) -> dict[str, Tensor]:
        """Parameter of the prior -> [2,knots] the power of D's errors, the border of states left out."""
        return {"variances": spectra.power(self.prior.crop(D - x0))}

    def on_validation_epoch_end(self) -> None:
        """The prior learns how wrong it is at each level, which solvers take as Cov[x0 | x]; not from the sanity check's few."""
        if self.trainer.sanity_checking:
            self.found.clear()
        for name, batches in self.found.items():
            ours = torch.stack(batches).sum(0)
            both = torch.as_tensor(self.all_gather(ours)).reshape(-1, *ours.shape).sum(0).tolist()
            levels = self.levels_of_validation()
            setattr(
                self.prior, name, [spectra.row(sigma, *one) for sigma, one in zip(levels, both)]
            )
        self.found.clear()

    def measured(self) -> dict[str, Any]:
        """Numbers that training found out; every checkpoint's configuration holds them as parameters of the prior."""
        return {"variances": self.prior.variances}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.prior.variances = checkpoint["config"]["prior"]["params"].get("variances", ())

    @torch.no_grad()
    def pictures(self, batch: Mapping) -> dict[str, Tensor]:
        """Samples from fixed seeds, and images | noisy | denoised at three levels; rows of [B,C,H,W] in [-1, 1]."""
        prior, image, count = self.prior, batch["image"], len(batch["image"])
        noise = Noise([f"picture {i}" for i in range(count)], "noise", self.seed)
        x0, rows = prior.to_state(image), [image]
        n = noise.like(x0)  # of their size, which need not be the prior's
        with prior.told(self.label(batch)):
            for sigma in schedule.geometric(5, prior.sigma_min, prior.sigma_max)[1:4].tolist():
                x = x0 + sigma * n
                rows += [prior.to_image(x), prior.to_image(prior(x, sigma))]
            *_, last = Heun(STEPS)(prior, noise, n)
        return {"samples": prior.to_image(last.x0), "denoising": torch.cat(rows)}


class PatchDiffusion(PixelDiffusion):
    """On patches with their positions, cut from images padded only in thought. crops: which, and how many of an image.

    prior: a PatchPrior (PaDIS), whose geometry N, P, M then is the checkpoint's; or one of whole images whose denoiser
    is `ldm.preconditioning.Whole` (Patch-Diffusion).
    """

    patched = True
