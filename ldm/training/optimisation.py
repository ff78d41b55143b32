"""How weights are updated: AdamW with linear warm-up and cosine decay. The learning rate in the file is the one used."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ldm import checks


@dataclass(frozen=True)
class AdamW:
    """lr rises linearly over `warmup` steps, then falls as a half cosine to `floor` * lr at the last step."""

    lr: float
    warmup: int = 0  # optimiser steps
    floor: float = 0.0  # share of lr left at the last step; 1 keeps it constant
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        checks.positive(lr=self.lr)
        checks.natural(warmup=self.warmup, weight_decay=self.weight_decay)
        checks.fraction(floor=self.floor, beta1=self.beta1, beta2=self.beta2)

    def share(self, step: int, steps: float) -> float:
        """The share of lr used at this step of `steps` (infinite: no decay)."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        done = min(1.0, max(0, step - self.warmup) / max(1, steps - self.warmup))
        return rise * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)

    def configure(self, parameters: Iterable[nn.Parameter], steps: float) -> dict:
        """What Lightning's configure_optimizers returns."""
        optimiser = torch.optim.AdamW(
            parameters, lr=self.lr, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay, eps=1e-8
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(self.share, steps=steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
