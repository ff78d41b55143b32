"""Patches of several sizes with their positions, as a patch denoiser is trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.draws import Draws
from ldm.patch import cut, cut_padded, positions


@dataclass(frozen=True)
class Crops:
    """PaDIS (Hu et al. 2024): sizes {16: 0.2, 32: 0.3, 56: 0.5} of a padded image. Patch-Diffusion (Wang et al. 2023):
    sizes R/4, R/2, R of an image of R pixels that is not padded; the probability of R is the paper's real_p.
    """

    sizes: Mapping[int, float]  # patch size -> probability; one size per step
    per_image: int = 4  # patches of the largest size out of one image; of smaller ones as many as make up its pixels

    def __post_init__(self) -> None:
        if self.per_image < 1 or abs(sum(self.sizes.values()) - 1) > 1e-6:
            raise ValueError(f"patch sizes {dict(self.sizes)} need probabilities that sum to 1, and per_image >= 1")

    @property
    def largest(self) -> int:
        return max(self.sizes)

    def size(self, draws: Draws) -> int:
        """This step's."""
        bounds = torch.tensor(list(self.sizes.values()), device=draws.device).cumsum(0)
        return list(self.sizes)[min(int(torch.searchsorted(bounds, draws.uniform((1,)))), len(bounds) - 1)]

    def count(self, size: int) -> int:
        """Patches per image."""
        return self.per_image if size == self.largest else int(self.per_image * (self.largest / size) ** 2)

    def take(self, state: Tensor, size: int, margin: int, draws: Draws) -> tuple[Tensor, Tensor]:
        """state [B,C,N,N], padded by `margin` only in thought -> patches [B n,C,size,size], positions [B n,2,size,size].

        Corners are uniform over the padded square, both ends included.
        """
        padded = state.shape[-1] + 2 * margin
        rows, columns = (draws.below(padded - size + 1, (len(state), self.count(size))) for _ in range(2))
        place = positions(padded, state.dtype, state.device).expand(len(state), -1, -1, -1)
        return cut_padded(state, rows, columns, size, margin), cut(place, rows, columns, size)
