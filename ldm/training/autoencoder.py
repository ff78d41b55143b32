"""Training autoencoders: VQ-f4 and KL-f8 style, with L1, perceptual and adversarial losses."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from taming.modules.discriminator.model import weights_init
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from data.files import Refusal
from ldm.patch import cut
from ldm.training.bottleneck import Codebook, Gaussian
from ldm.training.losses import adaptive_weight, hinge
from ldm.training.optimisation import Optimiser
from ldm.training.randomness import Draws, Parts


class Autoencoder(pl.LightningModule):
    """first_stage: ldm.latent.VQ or KL. bottleneck: its Codebook or Gaussian.

    crops: crop size by the step from which it is used (`{0: 64, 12000: 128}`; empty: whole images). per_image: crops of
    the first size that are cut from each image; of larger ones as many as make up their pixels, at least one.
    perceptual: called as perceptual(a, b), or None.
    discriminator: real and reconstructed images -> logits; trained from step `adversarial_start` on. Its loss and the
    autoencoder's share one backward pass and one optimiser: each sees the other's weights as constants. decoder_only:
    encoder and codebook stay as they are, so that diffusion priors of their latents stay valid.
    """

    first_stage: Any  # nn.Module in fact; diffusers' classes carry no types

    def __init__(
        self,
        first_stage: nn.Module,
        bottleneck: Codebook | Gaussian,
        optimiser: Optimiser,
        crops: Mapping[int, int] | None = None,
        per_image: int = 4,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        discriminator: nn.Module | None = None,
        adversarial_weight: float = 0.8,
        adversarial_start: int = 0,
        decoder_only: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.first_stage, self.bottleneck, self.optimiser = first_stage, bottleneck, optimiser
        bottleneck.check(self.first_stage.model)
        crops = crops or {}
        if not all(
            type(number) is int and number >= least
            for pair in crops.items()
            for number, least in zip(pair, (0, 1))
        ):
            raise Refusal(
                f"crops {dict(crops)} must be whole numbers: step from 0 on, size from 1 on"
            )
        self.crops, self.per_image = dict(sorted(crops.items())), per_image
        if self.crops and 0 not in self.crops:
            raise Refusal(f"crops {self.crops} must name a size from step 0 on")
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.discriminator = None if discriminator is None else discriminator.apply(weights_init)
        self.adversarial_weight, self.adversarial_start = adversarial_weight, adversarial_start
        self.seed, self.parts = seed, Parts()
        if decoder_only:
            first_stage.requires_grad_(False)
            self.first_stage.model.decoder.requires_grad_(True)
            self.first_stage.model.post_quant_conv.requires_grad_(True)

    def configure_optimizers(self):
        return self.optimiser.configure(
            (p for p in self.parameters() if p.requires_grad),
            self.trainer.estimated_stepping_batches,
        )

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            raise Refusal(
                "--strategy fsdp splits diffusion networks; an autoencoder trains with --strategy ddp"
            )

    def on_fit_start(self) -> None:
        if self.perceptual is None:
            rank_zero_info(
                "perceptual loss: off, since no weights are given (model.params.perceptual, ldm.training.perceptual.LPIPS)"
            )

    def compile_networks(self) -> None:
        self.first_stage.model.encoder.compile()
        self.first_stage.model.decoder.compile()

    def training_step(self, batch: Mapping, index: int) -> Tensor:
        draws = Draws(
            self.seed, self.global_rank, self.global_step, self.parts(self.global_step), self.device
        )
        draws.pin_dropout()
        image = self.crop(batch["image"], draws)
        z, loss, logs = self.bottleneck(self.first_stage.model, image, self.global_step, draws)
        output = self.reconstruct(z)
        difference = (output - image).abs().mean()
        if self.perceptual is not None:
            difference = difference + self.perceptual_weight * self.perceptual(output, image).mean()
        loss = loss + difference
        logs |= {
            "l1": (output - image).abs().mean().detach(),
            "bottleneck": (loss - difference).detach(),
        }
        if self.discriminator is not None:
            adversarial, extra = self.adversarial(self.discriminator, image, output, difference)
            loss, logs = loss + adversarial, logs | extra
        self.log_dict({f"train/{k}": v for k, v in logs.items()}, batch_size=len(image))
        self.log("train/loss", loss.detach(), batch_size=len(image), prog_bar=True)
        return loss

    def reconstruct(self, z: Tensor) -> Tensor:
        """The decoder on a latent that the bottleneck has already quantised or drawn."""
        return self.first_stage.decode(z, quantize=False).float()

    def crop(self, image: Tensor, draws: Draws) -> Tensor:
        """[B,C,H,W] -> this step's crops."""
        if not self.crops:
            return image
        size = [crop for step, crop in self.crops.items() if step <= self.global_step][-1]
        if size > min(image.shape[2:]):
            raise Refusal(
                f"crops of {size} pixels do not fit into images of {image.shape[2]}x{image.shape[3]}"
            )
        shape = (len(image), max(1, int(self.per_image * (self.crops[0] / size) ** 2)))
        rows, columns = (draws.below(side - size + 1, shape) for side in image.shape[2:])
        return cut(image, rows, columns, size)

    def adversarial(
        self, discriminator: nn.Module, image: Tensor, output: Tensor, difference: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss through a frozen copy of the discriminator, plus the discriminator's own."""
        if self.global_step < self.adversarial_start:
            return 0.0 * torch.stack(
                [p.sum() for p in discriminator.parameters()]
            ).sum(), {}  # every rank has every gradient
        frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
        generator = -functional_call(discriminator, frozen, (output,)).mean()
        weight = adaptive_weight(
            difference, generator, self.first_stage.model.decoder.conv_out.weight
        )
        loss = hinge(discriminator(image), discriminator(output.detach()))
        logs = {
            "generator": generator.detach(),
            "discriminator": loss.detach(),
            "adaptive weight": weight,
        }
        return self.adversarial_weight * weight * generator + loss, logs

    def validation_step(self, batch: Mapping, index: int) -> None:
        image = batch["image"]
        z = self.first_stage.encode(image)
        outputs = {
            "": self.first_stage.decode(z),
            " unquantised": self.first_stage.decode(z, quantize=False),
        }
        for name, output in outputs.items():
            error = functional.mse_loss(output.float().clamp(-1, 1), image, reduction="none").mean(
                [1, 2, 3]
            )
            self.log(
                f"val/psnr{name}",
                (10 * torch.log10(4 / error)).mean(),
                batch_size=len(image),
                sync_dist=True,
            )
            self.log(
                f"val/error variance{name}", error.mean(), batch_size=len(image), sync_dist=True
            )
            if not name:
                self.log(
                    "val/loss", (output - image).abs().mean(), batch_size=len(image), sync_dist=True
                )

    def pictures(self, batch: Mapping) -> dict[str, Tensor]:
        """What to look at: inputs beside reconstructions, each [B,C,H,W] in [-1, 1]."""
        image = batch["image"]
        return {
            "reconstruction": torch.cat(
                [image, self.first_stage.decode(self.first_stage.encode(image))]
            )
        }
