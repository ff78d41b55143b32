"""An independent implementation says the same where its definition coincides: deepinv's blur, inpainting and downsampling."""

import pytest
import torch

from solvers.operators import (
    GaussianBlur,
    GaussianSuperResolution,
    Inpainting,
    KernelBlur,
    KernelSuperResolution,
)
from solvers.operators.kernels import gaussian_taps, product
from tests.operator_list import holes, skew
from tests.test_operators import field

physics = pytest.importorskip("deepinv").physics

BORDERS = {"circular": "circular", "reflect": "reflect", "zero": "constant", "valid": "valid"}


@pytest.mark.parametrize("border", BORDERS)
def test_blur(border):
    """deepinv's blur convolves truly as ours does; float32 rounding inside its padding allows 1e-6 at most."""
    x = field((2, 1, 12, 10))
    theirs = physics.Blur(filter=skew(5, 3)[None, None], padding=BORDERS[border])
    ours = KernelBlur(skew(5, 3), border)
    y = ours.forward(x)
    torch.testing.assert_close(theirs.A(x), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(theirs.A_adjoint(y), ours.adjoint(y), rtol=0, atol=1e-12)


def test_gaussian_blur():
    x, kernel = field((1, 3, 16, 20)), product(gaussian_taps(9, 1.5))
    theirs = physics.Blur(filter=kernel, padding="reflect")
    torch.testing.assert_close(theirs.A(x), GaussianBlur(9, 1.5).forward(x), rtol=0, atol=1e-12)


def test_inpainting():
    x = field((2, 3, 5, 7))
    theirs = physics.Inpainting(img_size=(3, 5, 7), mask=holes()[None])
    ours = Inpainting(holes())
    torch.testing.assert_close(theirs.A(x), ours.forward(x), rtol=0, atol=0)
    torch.testing.assert_close(theirs.A_dagger(x), ours.adjoint(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "kernel, ours",
    [
        (product(gaussian_taps(5, 1.0)), GaussianSuperResolution(2, 5, 1.0)),
        (skew(5, 5)[None, None], KernelSuperResolution(skew(5, 5), 2)),
    ],
)
def test_downsampling(kernel, ours):
    x = field((1, 1, 12, 16))
    theirs = physics.Downsampling(img_size=(1, 12, 16), filter=kernel, factor=2, padding="circular")
    y = ours.forward(x)
    torch.testing.assert_close(theirs.A(x), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(theirs.A_adjoint(y), ours.adjoint(y), rtol=0, atol=1e-12)
