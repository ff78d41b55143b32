"""Latents of training images from a frozen first stage, kept in memory: as means and variances, never as draws."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Latents:
    """posterior(image [B,C,H,W], ids, mirror [B]) -> unscaled float32 mean and log-variance of the latents of the images or
    their mirror images; the log-variance is None for an autoencoder whose latents are certain (VQ).

    cache: keep each in memory (float32, on the CPU) once it was encoded. Every image is encoded on its own, so that its
    latent does not depend on the batch it came in, and a resumed run finds the same.
    """

    def __init__(self, first_stage: nn.Module, cache: bool):
        self.first_stage = first_stage
        self.found: dict[tuple[str, bool], tuple[Tensor, ...]] | None = {} if cache else None

    def posterior(
        self, image: Tensor, ids: Sequence[str], mirror: Sequence[bool]
    ) -> tuple[Tensor, Tensor | None]:
        found = {} if self.found is None else self.found
        keys = list(zip(ids, mirror))
        for x, key in zip(image, keys):
            if key not in found:
                found[key] = self.encode(x.flip(2) if key[1] else x)
        mean, *logvar = (
            torch.stack(parts).to(image.device) for parts in zip(*(found[key] for key in keys))
        )
        return mean, logvar[0] if logvar else None

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """One image [C,H,W] -> mean, or mean and log-variance [c,h,w]."""
        with torch.autocast(x.device.type, enabled=False):
            parts = self.first_stage.posterior(x[None])  # type: ignore[operator]
        return tuple(part[0].cpu() for part in parts if part is not None)
