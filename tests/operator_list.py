"""The one list of operators that the battery runs over, each at the smallest legal, non-square and odd sizes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from data.seeding import Noise
from solvers.operators import (
    CT,
    MRI,
    BlindBlur,
    BoxInpainting,
    CartesianMRI,
    Composition,
    CompressedSensing,
    Denoising,
    GaussianBlur,
    GaussianSuperResolution,
    GeometryCT,
    HighDynamicRange,
    Inpainting,
    KernelBlur,
    KernelSuperResolution,
    MotionBlur,
    NonCartesianMRI,
    NonlinearBlur,
    Outpainting,
    PhaseRetrieval,
    RadialMRI,
    RandomInpainting,
    SpiralMRI,
    SpokesMRI,
    StripeInpainting,
    SuperResolution,
    TileCentre,
    UniformBlur,
)
from solvers.operators.base import Operator
from solvers.operators.ct_geometry import Geometry
from solvers.operators.volume import (
    CartesianVolumeMRI,
    MissingSlices,
    Slicewise,
    ThroughPlane,
    VolumeBlur,
    VolumeMRI,
)

IDS = ("first", "second", "third")


@dataclass(frozen=True)
class Case:
    """make() gives an undrawn operator for images of this shape [C,H,W], or volumes [C,D,H,W]."""

    name: str
    make: Callable[[], Operator]
    shape: tuple[int, ...]

    def drawn(self, ids: tuple[str, ...] = IDS) -> Operator:
        return self.make().draw(self.shape, Noise(ids, "mask"))


def skew(k1: int, k2: int) -> torch.Tensor:
    """A kernel without any symmetry, so that a flip or a shift shows."""
    line = torch.arange(1, k1 * k2 + 1, dtype=torch.float64)
    kernel = 1 + torch.sin(line**2)
    return (kernel / kernel.sum()).reshape(k1, k2)


def several(k: int) -> torch.Tensor:
    """One kernel for each image."""
    return torch.stack([torch.roll(skew(k, k), i, 0)[None] for i in range(len(IDS))])


def holes() -> torch.Tensor:
    return (torch.arange(35).reshape(5, 7) % 3 > 0).double()


def measured_ct(curved: bool, offset: float = 0.25, **settings) -> GeometryCT:
    """Unequal angles, a detector off the middle, its bins counted the other way, the image beside the axis."""
    geometry = Geometry(
        (0.1, -0.9, 2.0, 4.5), 9, 2.0, 1.1, 30.0, 50.0, curved, offset, curved, (0.5, -1.0)
    )
    return GeometryCT(geometry, mu_max=0.3, **settings)


def paths() -> torch.Tensor:
    """A trajectory for each image, of no symmetry."""
    t = torch.linspace(0, 1, 3 * 2 * 3 * 8).double().reshape(3, 2, 3, 8)
    return 2.4 * torch.sin(97 * t**2 + torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))


def one_in_five_bad() -> torch.Tensor:
    return (torch.arange(36) % 5 > 0).float().view(1, 1, 4, 9)


LINEAR = [
    Case("super_resolution x2", lambda: SuperResolution(2), (1, 4, 6)),
    Case("super_resolution x3", lambda: SuperResolution(3), (1, 9, 6)),
    Case("super_resolution x4", lambda: SuperResolution(4), (2, 4, 8)),
    Case("super_resolution x16", lambda: SuperResolution(16), (1, 16, 32)),
    Case("super_resolution average", lambda: SuperResolution(2, "average"), (3, 4, 6)),
    Case("super_resolution gaussian", lambda: GaussianSuperResolution(2, 5, 1.0), (1, 6, 10)),
    Case("super_resolution gaussian x3", lambda: GaussianSuperResolution(3, 9, 3.0), (2, 9, 15)),
    Case(
        "super_resolution kernel, centred on blocks",
        lambda: KernelSuperResolution(skew(4, 6), 2),
        (1, 8, 6),
    ),
    Case(
        "super_resolution kernel, centred on pixels",
        lambda: KernelSuperResolution(skew(5, 3), 2),
        (1, 6, 8),
    ),
    Case("super_resolution kernels", lambda: KernelSuperResolution(several(3), 3), (1, 9, 6)),
    *[
        Case(
            f"gaussian_blur {border}", lambda border=border: GaussianBlur(7, 1.0, border), (1, 7, 9)
        )
        for border in ("circular", "reflect", "symmetric", "zero", "valid")
    ],
    Case("gaussian_blur, several channels", lambda: GaussianBlur(61, 0.6), (3, 7, 5)),
    Case("uniform_blur", lambda: UniformBlur(3), (1, 5, 7)),
    Case("uniform_blur reflect", lambda: UniformBlur(5, "reflect"), (1, 5, 8)),
    *[
        Case(
            f"kernel_blur {border}", lambda border=border: KernelBlur(skew(5, 3), border), (2, 6, 7)
        )
        for border in ("circular", "reflect", "symmetric", "zero", "valid")
    ],
    Case(
        "kernel_blur of one outer product",
        lambda: KernelBlur(torch.outer(skew(1, 5)[0], skew(1, 3)[0])),
        (1, 7, 5),
    ),
    Case("kernel_blur, one per image", lambda: KernelBlur(several(5), "zero"), (1, 5, 8)),
    Case("motion_blur", lambda: MotionBlur(7, 0.5), (1, 7, 10)),
    Case("blind_blur", lambda: BlindBlur(5, 0.5), (1, 7, 10)),
    Case("motion_blur circular", lambda: MotionBlur(7, 0.5, "circular"), (2, 9, 7)),
    Case("inpainting", lambda: Inpainting(holes()), (3, 5, 7)),
    Case("inpainting random", lambda: RandomInpainting(0.3, 0.7), (2, 5, 7)),
    Case("inpainting box", lambda: BoxInpainting(3, 1), (1, 6, 7)),
    Case("outpainting", lambda: Outpainting(), (1, 8, 6)),
    Case("inpainting stripes", lambda: StripeInpainting(0.3, 1), (2, 5, 7)),
    Case("inpainting stripes, rows", lambda: StripeInpainting(0.4, 2, "rows"), (1, 10, 3)),
    Case("denoising", lambda: Denoising(), (2, 3, 5)),
    Case("center_tile odd", lambda: TileCentre(3), (1, 6, 9)),
    Case("center_tile even", lambda: TileCentre(4), (2, 4, 8)),
    Case("ct parallel", lambda: CT(3, bins=17), (2, 5, 4)),
    Case("ct fan", lambda: CT(4, "fan", bins=13), (1, 4, 5)),
    Case("ct limited angle", lambda: CT(5, arc=120.0, bins=9, mu_max=0.3), (1, 3, 5)),
    Case("ct measured, fan", lambda: measured_ct(False), (1, 5, 4)),
    Case("ct measured, curved", lambda: measured_ct(True, -1.5), (2, 4, 7)),
    Case(
        "ct measured, parallel",
        lambda: GeometryCT(Geometry((0.2, 1.0, 2.9), 8, 1.0, 0.9, offset=0.5)),
        (1, 6, 3),
    ),
    Case("ct measured, bad bins", lambda: measured_ct(False, good=one_in_five_bad()), (1, 4, 5)),
    *[
        Case(f"mri {pattern}", lambda pattern=pattern: CartesianMRI(pattern, 2.0, 0.2), (1, 6, 5))
        for pattern in ("equispaced", "random", "poisson_disc")
    ],
    Case(
        "mri, complex images",
        lambda: CartesianMRI("random", 3.0, 0.2, complex_image=True),
        (2, 5, 8),
    ),
    Case("mri, a mask of every kind of point", lambda: MRI(holes()[:4, :6]), (1, 4, 6)),
    Case("mri, several coils", lambda: CartesianMRI("random", 2.0, 0.2, coils=3), (1, 4, 5)),
    Case(
        "mri, several coils, complex images",
        lambda: CartesianMRI("equispaced", 2.0, 0.2, 2, True),
        (2, 4, 5),
    ),
    Case(
        "mri, several coils, points",
        lambda: CartesianMRI("poisson_disc", 2.0, 0.2, coils=2),
        (1, 5, 4),
    ),
    Case("mri radial", lambda: RadialMRI(3), (1, 7, 6)),
    Case("mri spokes", lambda: SpokesMRI(5, 12), (1, 7, 6)),
    Case("mri spokes, several coils", lambda: SpokesMRI(3, 9, coils=2), (1, 5, 6)),
    Case("mri spirals, complex images", lambda: SpiralMRI(3, 2.0, 1.5, 20, 2, True), (2, 6, 5)),
    Case("mri, a trajectory for each image", lambda: NonCartesianMRI(paths()), (1, 5, 6)),
    Case("compressed_sensing", lambda: CompressedSensing(0.4), (2, 4, 8)),
    Case("compressed_sensing cosine", lambda: CompressedSensing(0.5, "cosine"), (1, 5, 6)),
    Case("compressed_sensing fourier", lambda: CompressedSensing(0.5, "fourier"), (1, 3, 7)),
    Case("composition", lambda: Composition([GaussianBlur(3, 1.0), SuperResolution(2)]), (1, 4, 6)),
    Case("through_plane x3", lambda: ThroughPlane(3.0), (1, 6, 2, 3)),
    Case("through_plane, a gap", lambda: ThroughPlane(2.5, 1.5), (2, 7, 2, 2)),
    Case(
        "through_plane gaussian, overlapping",
        lambda: ThroughPlane(2.0, 3.0, "gaussian"),
        (1, 5, 2, 3),
    ),
    Case(
        "through_plane, given profile",
        lambda: ThroughPlane(1.7, profile=(0.2, 1.0, 0.5)),
        (1, 6, 2, 2),
    ),
    Case("through_plane x1", lambda: ThroughPlane(1.0), (1, 3, 2, 2)),
    Case("missing slices", lambda: MissingSlices([1, -1]), (2, 5, 2, 3)),
    Case("missing slices, one of three kept", lambda: MissingSlices(every=3), (1, 7, 3, 2)),
    Case("volume_blur", lambda: VolumeBlur((0.6, 0.5, 0.0)), (1, 4, 5, 3)),
    Case("volume_blur circular", lambda: VolumeBlur((0.3, 0.0, 0.5), "circular"), (2, 7, 2, 7)),
    Case("stack of blurs", lambda: Slicewise(GaussianBlur(3, 1.0)), (2, 3, 4, 5)),
    Case("stack of masks", lambda: Slicewise(RandomInpainting(0.3, 0.7)), (1, 3, 4, 5)),
    Case(
        "stack of equal masks",
        lambda: Slicewise(RandomInpainting(0.3, 0.7), same=True),
        (1, 3, 4, 5),
    ),
    Case("stack of ct", lambda: Slicewise(CT(3, bins=9)), (1, 3, 4, 3)),
    Case("stack of mri", lambda: Slicewise(CartesianMRI("random", 2.0, 0.2)), (1, 3, 4, 5)),
    Case(
        "stack of compressed_sensing",
        lambda: Slicewise(CompressedSensing(0.5, "cosine")),
        (1, 2, 3, 4),
    ),
    Case("volume_mri", lambda: CartesianVolumeMRI(2.0, 0.2), (1, 5, 3, 6)),
    Case("volume_mri, given mask", lambda: VolumeMRI(holes()[:4, :6]), (1, 4, 2, 6)),
    Case(
        "composition with a mask",
        lambda: Composition([UniformBlur(3), RandomInpainting(0.3, 0.5)]),
        (2, 5, 5),
    ),
]

NONLINEAR = [
    Case("hdr", lambda: HighDynamicRange(), (1, 5, 4)),
    Case("phase_retrieval", lambda: PhaseRetrieval(), (2, 8, 5)),
    Case("phase_retrieval without a frame", lambda: PhaseRetrieval(0.0), (1, 5, 7)),
    Case("stack of hdr", lambda: Slicewise(HighDynamicRange()), (1, 3, 4, 2)),
    Case("nonlinear_blur", lambda: NonlinearBlur(5, 1.0), (1, 7, 6)),
]
