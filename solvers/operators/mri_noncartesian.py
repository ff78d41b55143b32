"""Non-Cartesian MRI: samples of k-space along spokes, spirals or any other path, y = F_k (S u)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from data.files import Refusal
from data.ranges import from_unit
from data.seeding import Noise
from solvers.operators import mri_trajectories as trajectories
from solvers.operators.base import Axes, Operator, Shape, conjugate_gradients, one_each
from solvers.operators.kspace import to_complex, to_real
from solvers.operators.mri_coils import CoilImages, maps
from solvers.operators.mri_density import areas
from solvers.operators.mri_recipes import simulated
from solvers.operators.nufft import NonuniformFourier, finufft

STEPS = 40  # of conjugate gradients, when noise is judged


@dataclass(frozen=True, eq=False)
class NonCartesianMRI(CoilImages):
    """y [B,2*coils,shots,samples], real and imaginary part of one coil after the other.

    trajectory: [2,shots,samples] or [1 or B,2,shots,samples], (k_y, k_x) in cycles per field of view, or a file of one (.npy,
    .npz, BART .cfl). Images and sensitivities are those of `MRI`. Solved by conjugate gradients.
    """

    trajectory: Tensor | str
    sensitivities: Tensor | str | None = None
    complex_image: bool = False
    open_phase: bool = False

    reading = Axes("shot", "sample", spectral=True)
    neighbours = "none"

    def __post_init__(self) -> None:
        finufft()
        object.__setattr__(self, "trajectory", trajectories.checked(self.trajectory))
        if self.sensitivities is not None:
            object.__setattr__(self, "sensitivities", maps(self.sensitivities))

    @property
    def k(self) -> Tensor:
        assert isinstance(self.trajectory, Tensor)
        return self.trajectory

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        one_each(self.k, noise, "trajectories")
        return super().draw(shape, noise)

    def shape_out(self, shape: Shape) -> Shape:
        self.fits(shape, "sensitivities", self.sensitivities)
        trajectories.within(self.k, (shape[1], shape[2]))
        return (self.channels, *self.k.shape[2:])

    def shape_in(self, measured: Shape) -> Shape | None:
        """That of the sensitivities; without any y does not tell it."""
        if not isinstance(self.sensitivities, Tensor):
            return None
        return (2 if self.complex_image else 1, *self.sensitivities.shape[-2:])

    @cached_property
    def transforms(self) -> list[NonuniformFourier]:
        """Of each trajectory."""
        if self.shape is None:
            raise Refusal("NonCartesianMRI needs an image shape: call draw first")
        return [NonuniformFourier(k.flatten(1), self.shape[-2:]) for k in self.k]  # type: ignore[arg-type]

    @cached_property
    def areas(self) -> Tensor:
        """[1 or B,1,shots,samples]: the area of k-space that each sample stands for, of all H W."""
        found = [areas(points) for points in self.transforms]
        return torch.stack(found).reshape(len(self.k), 1, *self.k.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        seen, shots = self.seen(x), self.k.shape[2:]
        seen = seen.to(torch.promote_types(seen.dtype, torch.complex64))
        rows = [self.of(i).forward(image).unflatten(-1, shots) for i, image in enumerate(seen)]
        return to_real(torch.stack(rows))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.seen_adjoint(self.combined(to_complex(y)))

    def combined(self, y: Tensor) -> Tensor:
        """S^H F_k^H y of complex samples [B,coils,shots,samples], a complex image [B,1,H,W]"""
        rows = [self.of(i).adjoint(samples.flatten(-2)) for i, samples in enumerate(y)]
        return self.combination(torch.stack(rows))

    def of(self, row: int) -> NonuniformFourier:
        return self.transforms[row % len(self.transforms)]

    def noise_alone(self, y: Tensor) -> Tensor | None:
        """What least squares leave."""
        return self.unexplained(y)

    def left(self, r: Tensor, s2: float) -> Tensor:
        """In the image, which has fewer numbers, and stopped early: images have little where that matters."""

        def normal(x: Tensor) -> Tensor:
            return self.adjoint(self.forward(x)) + s2 * x

        return r - self.forward(conjugate_gradients(normal, self.adjoint(r), cap=STEPS).x)

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Gridding: samples weighted by the area of k-space that they stand for, coils combined by their sensitivities; the
        magnitude if the image is real."""
        weighted = self.areas.to(y)
        if not self.complex_image:
            y = y + self.forward(torch.ones(1, *shape, dtype=y.dtype, device=y.device))
        image = self.combined(to_complex(weighted * y)) / self.power(y)
        return to_real(image) if self.complex_image else from_unit(image.abs())

    def files(self) -> dict[str, Tensor]:
        return {"trajectory": self.k}


class TrajectoryRecipe(Operator):
    """Draws a NonCartesianMRI of simulated coils. samples: of each shot; 0: twice as many as the image has pixels across."""

    samples: int
    coils: int
    complex_image: bool

    def trajectory(self, h: int, w: int, samples: int) -> Tensor:
        raise NotImplementedError

    def shape_out(self, shape: Shape) -> Shape:
        return self.made(shape).shape_out(shape)

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        return self.made(shape).draw(shape, noise)

    def made(self, shape: Shape) -> NonCartesianMRI:
        h, w = shape[-2:]
        k = self.trajectory(h, w, self.samples or 2 * max(h, w))
        sensitivities = simulated(self.coils, h, w) if self.coils > 1 else None
        return NonCartesianMRI(k, sensitivities, self.complex_image)


@dataclass(frozen=True, eq=False)
class SpokesMRI(TrajectoryRecipe):
    """Spokes at golden angles, sampled where they are; RadialMRI moves their samples to the nearest points of the grid."""

    spokes: int = 64
    samples: int = 0
    coils: int = 1
    complex_image: bool = False

    def __post_init__(self) -> None:
        if self.spokes < 1 or self.coils < 1 or self.samples < 0:
            raise Refusal(
                "SpokesMRI needs spokes >= 1, samples >= 0 and coils >= 1, "
                f"got {self.spokes}, {self.samples} and {self.coils}"
            )

    def trajectory(self, h: int, w: int, samples: int) -> Tensor:
        return trajectories.radial(h, w, self.spokes, samples)


@dataclass(frozen=True, eq=False)
class SpiralMRI(TrajectoryRecipe):
    """Spirals from the middle out, `shots` of them.

    density: 1 has all their turns equally far apart, more has them closer in the middle.
    """

    shots: int = 16
    revolutions: float = 4.0  # of each
    density: float = 1.0
    samples: int = 0
    coils: int = 1
    complex_image: bool = False

    def __post_init__(self) -> None:
        good = self.shots >= 1 and self.revolutions > 0 and self.density > 0
        if not (good and self.coils >= 1 and self.samples >= 0):
            raise Refusal(
                "SpiralMRI needs shots >= 1, revolutions > 0, density > 0, samples >= 0 and coils >= 1, "
                f"got {self.shots}, {self.revolutions}, {self.density}, {self.samples} and {self.coils}"
            )

    def trajectory(self, h: int, w: int, samples: int) -> Tensor:
        return trajectories.spiral(h, w, self.shots, self.revolutions, samples, self.density)
