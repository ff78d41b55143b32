"""The exponential moving average of the weights: float32, half-life in images, with EDM's warm-up."""

import torch
from torch import Tensor, nn

from data.files import Refusal


class EMA:
    """half_life: images after which a weight counts half; never more than `ramp` times the images seen so far."""

    def __init__(self, half_life: float, ramp: float = 0.05):
        if not half_life > 0:
            raise Refusal(f"EMA half-life must be > 0 images, not {half_life}")
        self.half_life, self.ramp = half_life, ramp
        self.seen = 0
        self.weights: dict[str, Tensor] = {}

    def start(self, module: nn.Module, names: set[str]) -> None:
        """Begin at the module's present weights; `names` are the floating-point entries to average."""
        self.weights = {
            k: v.detach().float().clone() for k, v in module.state_dict().items() if k in names
        }

    @torch.no_grad()
    def update(self, module: nn.Module, images: int) -> None:
        """One optimiser step on `images` images."""
        self.seen += images
        beta = 0.5 ** (images / max(min(self.half_life, self.ramp * self.seen), 1e-8))
        state = module.state_dict()
        torch._foreach_lerp_(
            list(self.weights.values()), [state[k].float() for k in self.weights], 1 - beta
        )

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange the average and the module's weights, in place; a second call undoes it exactly for float32 weights."""
        state = module.state_dict()
        for key, average in self.weights.items():
            raw = state[key].float().clone()
            state[key].copy_(average)
            average.copy_(raw)
