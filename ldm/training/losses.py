"""Training losses, pure functions of tensors."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def commitment(z: Tensor, z_q: Tensor, beta: float) -> Tensor:
    """VQ-VAE, van den Oord et al. 2017, eq. (3): codes move to the latents, latents (times beta) to their codes."""
    return (z_q - z.detach()).square().mean() + beta * (z - z_q.detach()).square().mean()


def kl_to_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) summed over a latent, averaged over the batch."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum([1, 2, 3]).mean()


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss (Lim & Ye 2017)."""
    return (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()) / 2


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter
) -> Tensor:
    """VQ-GAN, Esser et al. 2021, eq. (7): the ratio of both losses' gradient norms at the decoder's last layer."""
    of_reconstruction = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0].norm()
    of_adversary = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0].norm()
    return (of_reconstruction / (of_adversary + 1e-4)).clamp(0, 1e4).detach()
