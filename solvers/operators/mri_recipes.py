"""Recipes for k-space measurements: masks drawn for each image, and coils simulated."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators import kspace
from solvers.operators.base import Operator, Shape
from solvers.operators.kspace import to_real
from solvers.operators.mri import MRI

PATTERNS = {
    "equispaced": kspace.equispaced,
    "random": kspace.random_columns,
    "poisson_disc": kspace.poisson_disc,
}


class Recipe(Operator):
    """Draws an MRI of simulated coils. coils: how many, if more than 1."""

    coils: int
    complex_image: bool

    def masks(self, h: int, w: int, noise: Noise) -> Tensor:
        """[images,H,W] what is measured of k-space; one for all images where nothing is random."""
        raise NotImplementedError

    def shape_out(self, shape: Shape) -> Shape:
        return (2 * self.coils, *shape[1:])

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        h, w = shape[-2:]
        sensitivities = simulated(self.coils, h, w) if self.coils > 1 else None
        return MRI(
            self.masks(h, w, noise.of("mask"))[:, None], sensitivities, self.complex_image
        ).draw(shape, noise)


@dataclass(frozen=True, eq=False)
class CartesianMRI(Recipe):
    """Each image's own mask, 1/acceleration of k-space, the middle of width `centre` among it.

    pattern: columns `equispaced` or `random`, or points of a `poisson_disc`.
    """

    pattern: Literal["equispaced", "random", "poisson_disc"] = "equispaced"
    acceleration: float = 4.0
    centre: float = 0.08  # fraction of the columns; fastMRI: 0.08 at 4, 0.04 at 8
    coils: int = 1
    complex_image: bool = False

    random = True

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise Refusal(f"MRI pattern {self.pattern!r} is not one of {', '.join(PATTERNS)}")
        if not (self.acceleration >= 1 and 0 <= self.centre <= 1 and self.coils >= 1):
            raise Refusal(
                "MRI needs acceleration >= 1, 0 <= centre <= 1 and coils >= 1, "
                f"got {self.acceleration}, {self.centre} and {self.coils}"
            )

    def masks(self, h: int, w: int, noise: Noise) -> Tensor:
        return PATTERNS[self.pattern](h, w, self.acceleration, self.centre, noise)


@dataclass(frozen=True, eq=False)
class RadialMRI(Recipe):
    """Spokes at golden angles, or the positions of a table (.npy or text: ky and kx in cycles per field of view),
    on the nearest points of the Cartesian grid."""

    spokes: int = 32
    table: str | None = None
    coils: int = 1
    complex_image: bool = False

    def __post_init__(self) -> None:
        if self.spokes < 1 or self.coils < 1:
            raise Refusal(
                f"radial MRI needs spokes >= 1 and coils >= 1, got {self.spokes} and {self.coils}"
            )

    def masks(self, h: int, w: int, noise: Noise) -> Tensor:
        return (
            kspace.positions(h, w, kspace.table(self.table))
            if self.table
            else kspace.spokes(h, w, self.spokes)
        )


def simulated(coils: int, h: int, w: int) -> Tensor:
    """Smooth sensitivities [1,2*coils,H,W] of coils on a ring around the image, their squares adding up to 1."""
    angle = torch.arange(coils, dtype=torch.float64)[:, None, None] * 2 * torch.pi / coils
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, h).double(), torch.linspace(-1, 1, w).double(), indexing="ij"
    )
    away = torch.complex(x - 1.2 * angle.cos(), y - 1.2 * angle.sin())
    S = torch.exp(-away.abs().square() / 2 + 1j * away.angle())
    return to_real((S / S.abs().square().sum(0).sqrt())[None])
