"""What an autoencoder's latent goes through while it is trained: a codebook (VQ) or a Gaussian (KL)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from data.files import Refusal
from ldm import checks
from ldm.training.losses import commitment, kl_to_normal
from ldm.training.randomness import Draws

Logs = dict[str, Tensor]
Model = Any  # ldm.networks.unet.VQModel or KLModel: diffusers' classes carry no types


class Codebook(nn.Module):
    """Nearest code with a straight-through gradient; dead codes are revived from the current latents.

    codes: size of the codebook. weight: of the codebook loss. beta: commitment. from_data: step at which the codebook is
    whitened latents of the batch and quantisation begins; 0: from the start, with the codes as they are.
    revive: steps over which a code may go unused before it is moved onto a latent; 0: for ever.
    """

    uses: Tensor

    def __init__(
        self,
        codes: int,
        weight: float = 1.0,
        beta: float = 0.25,
        from_data: int = 0,
        revive: int = 0,
    ):
        super().__init__()
        checks.counts(codes=codes)
        checks.natural(weight=weight, beta=beta, from_data=from_data, revive=revive)
        self.weight, self.beta, self.from_data, self.revive = weight, beta, from_data, revive
        self.register_buffer(
            "uses", torch.zeros(codes, dtype=torch.int64)
        )  # since the last revival

    def check(self, model: Model) -> None:
        """Raise Refusal unless the model has a codebook of this size."""
        if not hasattr(model, "quantize"):
            raise Refusal(
                "a Codebook needs a VQ model, which has codes; a KL model takes ldm.training.bottleneck.Gaussian"
            )
        if (codes := len(model.quantize.embedding.weight)) != len(self.uses):
            raise Refusal(f"bottleneck: codes must be the model's {codes}, not {len(self.uses)}")

    def forward(
        self, model: Model, image: Tensor, step: int, draws: Draws
    ) -> tuple[Tensor, Tensor, Logs]:
        """image -> latent for the decoder, loss, what to log."""
        z = model.encode(image).latents.float()
        if step < self.from_data:
            return z, 0 * model.quantize.embedding.weight.sum(), {}
        codes: Tensor = model.quantize.embedding.weight
        first = (
            draws.part == 0
        )  # of the batches of this optimiser step; the others keep its coordinates and codes
        with torch.autocast(
            image.device.type, enabled=False
        ):  # distances between nearby codes need float32
            if first and step == self.from_data > 0:
                whiten(model, z.detach())
                z = model.encode(image).latents.float()
            points = z.detach().permute(0, 2, 3, 1).flatten(0, 2)
            if first:
                self.renew(codes, points, step, draws)
            index = torch.cdist(points, codes.detach()).argmin(1)
            z_q = codes[index].unflatten(0, (len(z), *z.shape[2:])).permute(0, 3, 1, 2)
            loss = self.weight * commitment(z, z_q, self.beta)
        counts = shared(torch.bincount(index, minlength=len(codes)))
        self.uses += counts
        share = counts / counts.sum()
        used = (self.uses > 0).sum().float()
        logs = {
            "perplexity": torch.exp(-(share * share.clamp_min(1e-10).log()).sum()),
            "codes used": used,
            "codes dead": len(codes) - used,
        }
        return z + (z_q - z).detach(), loss, logs

    @torch.no_grad()
    def renew(self, codes: Tensor, points: Tensor, step: int, draws: Draws) -> None:
        """Set all codes from data, or the unused ones; every rank takes rank 0's choice."""
        whole = self.from_data > 0 and step == self.from_data
        if not whole and not (
            self.revive > 0 and step > self.from_data and step % self.revive == 0
        ):
            return
        dead = torch.ones_like(self.uses, dtype=torch.bool) if whole else self.uses == 0
        chosen = points[draws.below(len(points), (len(codes),))]
        spread = 0.01 * points.std(0)  # more codes than latents in a batch: keep the copies apart
        codes[dead] = (chosen + spread * draws.normal(chosen.shape))[dead]
        if dist.is_initialized():
            dist.broadcast(codes, 0)
        self.uses.zero_()


@torch.no_grad()
def whiten(model: Model, z: Tensor) -> None:
    """Change coordinates of the latent space so that z [B,C,h,w] has mean 0 and covariance 1, without changing decoded images.

    A young encoder puts brightness into every channel (correlations of 0.9998 were seen), and a codebook made of such
    latents has no room for anything else. The change is folded into the 1x1 convolutions on both sides of the codebook.
    """
    points = z.permute(1, 0, 2, 3).flatten(1).double()
    mean = points.mean(1)
    variances, axes = torch.linalg.eigh(torch.cov(points))
    root = variances.clamp_min(1e-8 * variances[-1]).sqrt()
    enter, leave = (axes / root).T, axes * root  # leave @ enter = 1
    into, out = model.quant_conv, model.post_quant_conv
    into.weight.copy_((enter @ into.weight.double().flatten(1))[..., None, None])
    into.bias.copy_(enter @ (into.bias.double() - mean))
    out.bias.add_(out.weight.double().flatten(1) @ mean)
    out.weight.copy_((out.weight.double().flatten(1) @ leave)[..., None, None])
    if dist.is_initialized():
        for parameter in (*into.parameters(), *out.parameters()):
            dist.broadcast(parameter, 0)


class Gaussian(nn.Module):
    """The latent is drawn from N(mean, exp(logvar)); weight: of its KL divergence from N(0, 1)."""

    def __init__(self, weight: float = 1e-6):
        super().__init__()
        checks.natural(weight=weight)
        self.weight = weight

    def check(self, model: Model) -> None:
        """Raise Refusal unless the model's latents have a mean and a variance."""
        if hasattr(model, "quantize"):
            raise Refusal(
                "a Gaussian needs a KL model; a VQ model takes ldm.training.bottleneck.Codebook"
            )

    def forward(
        self, model: Model, image: Tensor, step: int, draws: Draws
    ) -> tuple[Tensor, Tensor, Logs]:
        """image -> latent for the decoder, loss, what to log."""
        belief = model.encode(image).latent_dist
        mean, logvar = belief.mean.float(), belief.logvar.float()
        z = mean + (0.5 * logvar).exp() * draws.normal(mean.shape)
        kl = kl_to_normal(mean, logvar)
        return z, self.weight * kl, {"kl": kl.detach()}


def shared(counts: Tensor) -> Tensor:
    """Summed over ranks."""
    if dist.is_initialized():
        dist.all_reduce(counts)
    return counts
