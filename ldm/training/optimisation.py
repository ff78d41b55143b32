"""How weights are updated: AdamW, or Muon for the matrices of a network. The learning rate in the file is the one used."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from data.files import Refusal
from ldm import checks
from ldm.training.muon import MuonAdamW


@dataclass(frozen=True)
class Optimiser:
    """lr rises linearly over `warmup` steps, then falls to `floor` * lr at the last step: as a half cosine, or if `decay` is
    given, stays constant until a last share of the steps, over which it falls linearly.

    A run of constant lr can be stopped and gone on with as long as one likes, and be ended at any time: by resuming it with
    `--max_steps` a little further and a `decay` that covers the rest (Hägele et al. 2024).
    """

    lr: float
    warmup: int = 0  # optimiser steps
    floor: float = 0.0  # share of lr left at the last step; 1 keeps it constant
    decay: float | None = (
        None  # share of all steps over which lr falls linearly; None: a half cosine over all
    )
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        checks.positive(lr=self.lr)
        checks.natural(warmup=self.warmup, weight_decay=self.weight_decay)
        checks.fraction(
            floor=self.floor, beta1=self.beta1, beta2=self.beta2, decay=self.decay or 0.0
        )

    def share(self, step: int, steps: float) -> float:
        """The share of lr used at this step of `steps` (infinite: no decay)."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        if self.decay is None:
            done = min(1.0, max(0, step - self.warmup) / max(1, steps - self.warmup))
            left = (1 + math.cos(math.pi * done)) / 2
        elif math.isinf(steps):
            left = 1.0
        else:
            left = min(1.0, max(0.0, steps - step) / max(1e-9, self.decay * steps))
        return rise * (self.floor + (1 - self.floor) * left)

    def configure(self, parameters: Iterable[nn.Parameter], steps: float) -> dict:
        """What Lightning's configure_optimizers returns."""
        optimiser = self.over(list(parameters))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(self.share, steps=steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def over(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of these parameters at the full learning rate."""
        raise NotImplementedError


@dataclass(frozen=True)
class AdamW(Optimiser):
    """Loshchilov & Hutter 2019."""

    def over(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters,
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            eps=1e-8,
        )


NARROW = 16  # channels; a network's own have at least so many, images folded by 2 x 2 at most 12


@dataclass(frozen=True)
class Muon(Optimiser):
    """Muon (Jordan et al. 2024) for convolutions within a network, as matrices out x rest; AdamW for all else.

    lr: of the matrices. Convolutions from or to few channels (images, latents, places), embeddings, codes and vectors have
    AdamW with `adamw` as learning rate.
    """

    lr: float = 0.01
    beta2: float = 0.99
    momentum: float = 0.95
    adamw: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(adamw=self.adamw)
        checks.fraction(momentum=self.momentum)

    def over(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if any(hasattr(p, "device_mesh") for p in parameters):
            raise Refusal(
                "Muon needs whole matrices, which --strategy fsdp splits; ddp and AdamW are allowed"
            )
        within = [p for p in parameters if p.ndim == 4 and min(p.shape[:2]) >= NARROW]
        chosen = {id(p) for p in within}
        rest = [p for p in parameters if id(p) not in chosen]
        groups = [
            {"params": within, "lr": self.lr, "matrices": True},
            {"params": rest, "lr": self.adamw, "matrices": False},
        ]
        return MuonAdamW(
            [group for group in groups if group["params"]],
            momentum=self.momentum,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
        )
