"""Where an operator says its samples lie is where they lie: blobs, at places that no symmetry hides."""

import pytest
import torch
from torch.nn import functional

from data.seeding import Noise
from solvers import operators
from solvers.operators import (
    MRI,
    CartesianMRI,
    Composition,
    CompressedSensing,
    Denoising,
    GaussianBlur,
    GaussianSuperResolution,
    HighDynamicRange,
    KernelBlur,
    KernelSuperResolution,
    NonlinearBlur,
    PhaseRetrieval,
    Physics,
    RadialMRI,
    SuperResolution,
    TileCentre,
    UniformBlur,
)
from solvers.operators.grid import Grid
from solvers.operators.line_integrals import LineIntegrals
from tests.operator_list import LINEAR, NONLINEAR

H, W = 96, 72  # 3, 4, 6 and 8 divide both
ROUND = torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8] * 2)
ODD = torch.outer(*[torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4] * 2)
SAMPLING = {
    **{f"bicubic x{d}": lambda d=d: SuperResolution(d) for d in (2, 3, 4, 6)},
    "average x4": lambda: SuperResolution(4, "average"),
    **{f"gaussian x{d}": lambda d=d: GaussianSuperResolution(d) for d in (2, 3, 4)},
    "even kernel x2": lambda: KernelSuperResolution(ROUND, 2),
    "odd kernel x2": lambda: KernelSuperResolution(ODD, 2),
    "odd kernel x3": lambda: KernelSuperResolution(ODD, 3),
    "tiles of 3": lambda: TileCentre(3),
    "tiles of 4": lambda: TileCentre(4),
    **{
        f"blur {b}": lambda b=b: GaussianBlur(9, 1.5, b)
        for b in ("circular", "reflect", "symmetric", "zero", "valid")
    },
    "uniform valid": lambda: UniformBlur(5, "valid"),
    **{f"kernel {b}": lambda b=b: KernelBlur(ODD, b) for b in ("circular", "zero", "valid")},
    "valid blur, then x4": lambda: Composition([GaussianBlur(9, 1.5, "valid"), SuperResolution(4)]),
    "x2, then gaussian x2": lambda: Composition([SuperResolution(2), GaussianSuperResolution(2)]),
    "nothing": Denoising,
    "clipped": lambda: HighDynamicRange(1.0),
    "nonlinear": lambda: NonlinearBlur(9, 1.5),
}
NO_PICTURE = (LineIntegrals, MRI, CartesianMRI, RadialMRI, CompressedSensing, PhaseRetrieval)
ELSEWHERE = {"NetworkBlur", "Physics"}  # need a file of the user's, and deepinv (below)


def blob(
    at: tuple[float, float], height: int = H, width: int = W, radius: float = 7.0
) -> torch.Tensor:
    """A Gaussian hill, [1,1,H,W] in [0, 1]; borders of zeros go on with what is about it."""
    y, x = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    rows, columns = (
        torch.exp(-0.5 * ((line - c) / radius) ** 2) for line, c in ((y, at[0]), (x, at[1]))
    )
    return torch.outer(rows, columns)[None, None]


def centre(picture: torch.Tensor) -> tuple[float, float]:
    """The centre of what stands out, in samples."""
    weight = (picture - picture.flatten().median())[0, 0]
    lines = weight.sum(1), weight.sum(0)
    return tuple(float((line * torch.arange(len(line))).sum() / line.sum()) for line in lines)  # type: ignore[return-value]


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("at", [(45.3, 33.8), (49.0, 40.4)])
def test_a_blob_is_found_where_the_grid_puts_it(name, at):
    """To a twentieth of a pixel: a hill of deviation 7 is sampled at least every 6, and kernels are symmetric."""
    shape = (1, H + 8, W + 8) if "valid blur" in name else (1, H, W)
    operator = SAMPLING[name]().draw(shape, Noise(("a",), "mask"))
    grid, place = operator.grid, centre(operator.forward(blob(at, *shape[1:])))
    assert [o + s * c for o, s, c in zip(grid.offset, grid.spacing, place)] == pytest.approx(
        at, abs=0.05
    )


def test_the_blobs_miss_no_operator_that_changes_the_grid():
    """Of every operator there is, by the battery's list: y is no picture, or lies on the image's own grid, or has a blob."""
    tried = {
        type(part)
        for make in SAMPLING.values()
        for part in (make(), *getattr(make(), "operators", ()))
    }
    for case in LINEAR + NONLINEAR:
        if len(case.shape) == 4:  # volumes: tests/test_volume_operators.py places their slices
            continue
        operator = case.drawn()
        if operator.grid not in (None, Grid()):
            assert type(case.make()) in tried, case.name
        picture = (
            len(operator.shape_out(case.shape)) == 3
            and case.shape[0] == operator.shape_out(case.shape)[0]
        )
        if operator.grid is None:
            assert not picture or isinstance(case.make(), NO_PICTURE), case.name
    assert {
        name
        for name in operators.__all__
        if not any(type(c.make()).__name__ == name for c in LINEAR + NONLINEAR)
    } == ELSEWHERE


@pytest.mark.parametrize("name", [name for name in SAMPLING if " x" in name or "tiles" in name])
def test_the_cheap_answer_puts_the_blob_back(name):
    at = (45.3, 33.8)
    operator = SAMPLING[name]().draw((1, H, W), Noise(("a",), "mask"))
    if operator.baseline(operator.forward(blob(at)), (1, H, W)) is None:
        pytest.skip("has no cheap answer")
    assert centre(operator.baseline(operator.forward(blob(at)), (1, H, W))) == pytest.approx(
        at, abs=0.05
    )


def test_block_centres_are_what_interpolation_assumes():
    y = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    expected = functional.interpolate(y, size=(24, 36), mode="bicubic", align_corners=False)
    torch.testing.assert_close(Grid.square(1.5, 4).bicubic(y, 24, 36), expected, rtol=0, atol=1e-12)
    repeated = y.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(Grid.square(1.5, 4).nearest(y, 24, 36), repeated)


def test_nearest_leaves_black_what_no_sample_is_near():
    y = torch.ones(1, 1, 4, 4)
    seen = Grid.square(3, 1).nearest(y, 10, 10)
    assert torch.equal(seen[0, 0].any(1).nonzero().flatten(), torch.arange(3, 7))


def test_deepinv_is_asked_where_its_samples_lie():
    physics = pytest.importorskip("deepinv").physics
    theirs = physics.Downsampling(
        img_size=(1, 64, 64), filter="gaussian", factor=4, padding="circular"
    )
    operator = Physics(theirs).draw((1, 64, 64), Noise(("a",), "mask"))
    place = centre(operator.forward(blob((30.0, 33.0), 64, 64, 5.0).float()))
    grid = operator.grid
    assert grid.spacing == (4, 4)
    assert [o + s * c for o, s, c in zip(grid.offset, grid.spacing, place)] == pytest.approx(
        (30.0, 33.0), abs=0.05
    )
    mri = Physics(physics.MRI(mask=torch.ones(64, 64), img_size=(2, 64, 64))).draw(
        (2, 64, 64), Noise(("a",), "mask")
    )
    assert mri.grid is None
