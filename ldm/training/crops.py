"""Patches of several sizes with their positions, as a patch denoiser is trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data.files import Refusal
from ldm import checks
from ldm.denoiser import Prior
from ldm.latent import LatentPatchPrior
from ldm.patch import PatchPrior, cut, cut_padded, positions
from ldm.preconditioning import Whole
from ldm.training.randomness import Draws


@dataclass(frozen=True)
class Crops:
    """PaDIS (Hu et al. 2024): sizes {16: 0.2, 32: 0.3, 56: 0.5} of a padded image. Patch-Diffusion (Wang et al. 2023):
    sizes R/4, R/2, R of an image of R pixels that is not padded; the probability of R is the paper's real_p.
    """

    sizes: Mapping[int, float]  # patch size -> probability; one size per step
    per_image: int = 4  # patches of the largest size out of one image; of smaller ones as many as make up its pixels

    def __post_init__(self) -> None:
        checks.counts(per_image=self.per_image, **{"a patch size": [*self.sizes]})
        checks.fraction(
            **{f"the probability of {size}": share for size, share in self.sizes.items()}
        )
        if abs(sum(self.sizes.values()) - 1) > 1e-6:
            raise Refusal(
                f"patch sizes {dict(self.sizes)} need probabilities that sum to 1; 0 leaves a size out"
            )
        object.__setattr__(
            self, "sizes", {size: share for size, share in self.sizes.items() if share}
        )

    @property
    def largest(self) -> int:
        return max(self.sizes)

    def size(self, draws: Draws) -> int:
        """This step's."""
        bounds = torch.tensor(list(self.sizes.values()), device=draws.device).cumsum(0)
        return list(self.sizes)[
            min(int(torch.searchsorted(bounds, draws.uniform((1,)))), len(bounds) - 1)
        ]

    def count(self, size: int) -> int:
        """Patches per image."""
        return (
            self.per_image
            if size == self.largest
            else int(self.per_image * (self.largest / size) ** 2)
        )

    def take(self, state: Tensor, size: int, margin: int, draws: Draws) -> tuple[Tensor, Tensor]:
        """state [B,C,N,N], padded by `margin` only in thought -> patches [B n,C,size,size], positions [B n,2,size,size].

        Corners are uniform over the padded square, both ends included.
        """
        padded = state.shape[-1] + 2 * margin
        rows, columns = (
            draws.below(padded - size + 1, (len(state), self.count(size))) for _ in range(2)
        )
        place = positions(padded, state.dtype, state.device).expand(len(state), -1, -1, -1)
        return cut_padded(state, rows, columns, size, margin), cut(place, rows, columns, size)


def patches_of(prior: Prior) -> PatchPrior | None:
    """The PaDIS prior that this one is, or that works on its latents."""
    found = prior.denoiser if isinstance(prior, LatentPatchPrior) else prior
    return found if isinstance(found, PatchPrior) else None


def geometry(prior: Prior, crops: Crops) -> int:
    """Margin M about the states that `crops` are cut from. Raises Refusal if their largest size is not the prior's."""
    patches = patches_of(prior)
    largest, margin = (patches.patch, patches.margin) if patches else (prior.shape[-1], 0)
    if crops.largest != largest:
        raise Refusal(f"crops: the largest size must be the prior's {largest}, not {crops.largest}")
    denoiser_of(prior)
    return margin


def denoiser_of(prior: Prior) -> nn.Module:
    """The network that takes positions."""
    if patches := patches_of(prior):
        return patches.denoiser
    if isinstance(prior.denoiser, Whole):
        return prior.denoiser.denoiser
    raise Refusal(
        "patch training needs an ldm.patch.PatchPrior or ldm.latent.LatentPatchPrior, or ldm.preconditioning.Whole "
        "around the prior's denoiser"
    )
