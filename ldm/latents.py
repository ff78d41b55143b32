"""Latents of training images from a frozen first stage, kept in memory: as means, never as draws."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Latents:
    """encode(image [B,C,H,W], ids, mirror [B]) -> unscaled float32 latents of the images or their mirror images.

    cache: keep each in memory (float32, on the CPU) once it was encoded. Every image is encoded on its own, so that its
    latent does not depend on the batch it came in, and a resumed run finds the same.
    """

    def __init__(self, first_stage: nn.Module, cache: bool):
        self.first_stage = first_stage
        self.found: dict[tuple[str, bool], Tensor] | None = {} if cache else None

    @torch.no_grad()
    def encode(self, image: Tensor, ids: Sequence[str], mirror: Sequence[bool]) -> Tensor:
        found = {} if self.found is None else self.found
        keys = list(zip(ids, mirror))
        for x, key in zip(image, keys):
            if key not in found:
                with torch.autocast(image.device.type, enabled=False):
                    found[key] = self.first_stage.encode((x.flip(2) if key[1] else x)[None])[0].cpu()  # type: ignore[operator]
        return torch.stack([found[key] for key in keys]).to(image.device)
