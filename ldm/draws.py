"""Randomness of training: a pure function of (seed, rank, epoch, batch), so that a resumed run draws what it would have.

Device generators, because a training batch is drawn anew at every step and never compared across devices.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.seeding import digest


class Draws:
    """One stream per training batch."""

    def __init__(self, seed: int, rank: int, epoch: int, batch: int, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(digest(seed, f"rank {rank}, epoch {epoch}", batch, "noise"))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """N(0, 1), float32."""
        return torch.randn(tuple(shape), generator=self.generator, device=self.device)  # noqa: TID251 (own generator)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """U[0, 1), float32."""
        return torch.rand(tuple(shape), generator=self.generator, device=self.device)  # noqa: TID251 (own generator)

    def below(self, high: int, shape: Sequence[int]) -> Tensor:
        """Integers in 0..high-1, int64."""
        return torch.randint(high, tuple(shape), generator=self.generator, device=self.device)  # noqa: TID251 (own generator)
