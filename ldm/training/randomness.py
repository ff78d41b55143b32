"""Randomness of training: a pure function of (seed, rank, step), so that a resumed run draws what it would have.

Device generators, because a training batch is drawn anew at every step and never compared across devices.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.seeding import digest


class Draws:
    """One stream per training batch. part: which of the batches of this optimiser step."""

    def __init__(
        self, seed: int, rank: int, step: int, part: int = 0, device: torch.device | str = "cpu"
    ):
        self.device, self.part = torch.device(device), part
        self.seed = digest(seed, f"rank {rank}, step {step}", part, "noise")
        self.generator = torch.Generator(self.device).manual_seed(self.seed)

    def pin_dropout(self) -> None:
        """Dropout layers can only draw from the global generator, so that is made a function of the step too."""
        torch.manual_seed(self.seed)  # noqa: TID251 (training only)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """N(0, 1), float32."""
        return torch.randn(tuple(shape), generator=self.generator, device=self.device)  # noqa: TID251 (own generator)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """U[0, 1), float32."""
        return torch.rand(tuple(shape), generator=self.generator, device=self.device)  # noqa: TID251 (own generator)

    def below(self, high: int, shape: Sequence[int]) -> Tensor:
        """Integers in 0..high-1, int64."""
        return torch.randint(high, tuple(shape), generator=self.generator, device=self.device)  # noqa: TID251 (own generator)


class Parts:
    """Counts the batches of one optimiser step: 0, 1, ... until `step` changes (gradient accumulation)."""

    step, part = -1, 0

    def __call__(self, step: int) -> int:
        self.part = self.part + 1 if step == self.step else 0
        self.step = step
        return self.part
