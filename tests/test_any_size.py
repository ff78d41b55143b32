"""No image is refused for its size: every task's operator measures any of them, continued by its edge values where it must."""

from pathlib import Path

import pytest
import torch

from data.seeding import Noise
from ldm import config
from solvers.operators import (
    Composition,
    CompressedSensing,
    GaussianBlur,
    KernelSuperResolution,
    SuperResolution,
)
from solvers.problem import Clean, continued, measure
from tests.operator_list import skew

TASKS = Path(__file__).parents[1] / "configs" / "tasks"
OWN_FILES = (
    "aliases",
    "inpainting_mask",
    "nonlinear_deblur_bkse",
)  # not a task; tasks that need a file of the user's
OTHERS = (
    "operators.volume.",
    "solvers.measured.",
)  # of volumes, and of a scanner's files, whose sizes are what they are
OF_IMAGES = [
    path
    for path in sorted(TASKS.glob("*.yaml"))
    if not any(room in path.read_text() for room in OTHERS)
]
NAMES = [path.stem for path in OF_IMAGES if path.stem not in OWN_FILES]
SIZES = [(181, 217), (217, 181), (33, 47), (511, 513), (640, 368), (1, 1), (7, 300)]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("task", NAMES)
def test_every_task_measures_any_size(task, size):
    operator = config.build(config.load([TASKS / f"{task}.yaml"])["operator"])
    x = torch.linspace(-1, 1, size[0] * size[1]).reshape(1, 1, *size)
    whole = continued(x, operator)
    assert torch.equal(whole[..., : size[0], : size[1]], x)
    if min(size) > 30:  # physics of a single pixel is not worth an operator's time
        posed = measure(
            operator.draw(tuple(whole.shape[1:]), Noise(("a",), "mask")),
            whole,
            Clean(),
            Noise(("a",), "noise"),
        )
        assert bool(torch.isfinite(posed.y).all())
    assert all(
        m < 2 * n or m <= 64 for m, n in zip(whole.shape[-2:], size)
    )  # a kernel, or a power of two


@pytest.mark.parametrize(
    "operator, size, due",
    [
        (SuperResolution(4), (217, 181), (220, 184)),
        (SuperResolution(4), (220, 184), (220, 184)),
        (CompressedSensing(0.5), (33, 64), (64, 64)),
        (GaussianBlur(61, 3.0), (10, 30), (25, 30)),  # of 61 taps 25 are not zero
        (GaussianBlur(61, 3.0, "symmetric"), (10, 30), (10, 30)),
        (KernelSuperResolution(skew(5, 3), 2), (3, 7), (6, 8)),
        (Composition([GaussianBlur(5, 1.0, "valid"), SuperResolution(3)]), (20, 22), (22, 22)),
        (Composition([SuperResolution(2), SuperResolution(2)]), (5, 6), (8, 8)),
    ],
)
def test_the_least_size_that_will_do(operator, size, due):
    assert operator.measurable((1, *size)) == (1, *due)
    operator.shape_out((1, *due))


def test_edges_are_repeated_below_and_to_the_right():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    expected = torch.tensor([[1.0, 2, 2, 2], [3, 4, 4, 4], [5, 6, 6, 6], [5, 6, 6, 6]])
    assert torch.equal(continued(x, SuperResolution(4))[0, 0], expected)
