"""deepinv as an oracle where definitions coincide, and the adapter that makes its physics objects operators of ours."""

import pytest
import torch

from data.seeding import Noise
from solvers.operators import CT, MRI, Inpainting, KernelBlur, Physics
from solvers.operators.base import LinearOperator, Operator
from solvers.operators.kspace import to_complex
from solvers.operators.mri_recipes import simulated

deepinv = pytest.importorskip("deepinv.physics")
IDS = ("first", "second")


def field(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(operator: Operator, *shape: int) -> Operator:
    return operator.draw(shape, Noise(IDS, "mask"))


def mask() -> torch.Tensor:
    return (field(9, 8, seed=3) > 0).double()


@pytest.mark.parametrize(
    "border, padding", [("circular",) * 2, ("reflect",) * 2, ("valid",) * 2, ("zero", "constant")]
)
def test_blur(border, padding):
    kernel, x = field(1, 1, 5, 3, seed=1).abs(), field(2, 1, 9, 8)
    kernel = kernel / kernel.sum()
    ours, theirs = (
        drawn(KernelBlur(kernel[0, 0], border), 1, 9, 8),
        deepinv.Blur(filter=kernel, padding=padding),
    )
    y = theirs.A(x)
    torch.testing.assert_close(ours.forward(x), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.adjoint(y), theirs.A_adjoint(y), rtol=0, atol=1e-12)


def test_inpainting():
    x = field(2, 1, 9, 8)
    theirs = deepinv.Inpainting(img_size=(1, 9, 8), mask=mask()[None])
    assert torch.equal(drawn(Inpainting(mask()), 1, 9, 8).forward(x), theirs.A(x))


def test_mri():
    x = field(2, 2, 9, 8)
    ours, theirs = (
        drawn(MRI(mask(), complex_image=True), 2, 9, 8),
        deepinv.MRI(mask=mask(), img_size=(9, 8)),
    )
    y = theirs.A(x)
    torch.testing.assert_close(ours.forward(x), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.adjoint(y), theirs.A_adjoint(y), rtol=0, atol=1e-12)


def test_mri_of_several_coils():
    """deepinv keeps real and imaginary part before the coils, [B,2,coils,H,W]."""
    x, S = field(2, 2, 9, 8), simulated(3, 9, 8)
    ours = drawn(MRI(mask(), S, True), 2, 9, 8)
    theirs = deepinv.MultiCoilMRI(mask=mask(), coil_maps=to_complex(S), img_size=(9, 8))
    y = theirs.A(x)
    flat = y.transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(ours.forward(x), flat, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.adjoint(flat), theirs.A_adjoint(y), rtol=0, atol=1e-12)


def test_tomography():
    """Sums over a rotated image against Joseph's rays: the same integrals, other interpolation. On bumps of 7 pixels and
    more the second-order errors of both are below 1 %. At 61 pixels deepinv's axis is the image's centre."""
    n = 61
    r, c = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64)] * 2, indexing="ij")
    x = torch.exp(-((c - 0.3) ** 2 + (r + 0.2) ** 2) / 0.1) + 0.5 * torch.exp(
        -((c + 0.2) ** 2 + (r - 0.35) ** 2) / 0.06
    )
    angles = (torch.arange(6, dtype=torch.float64) + 0.5) * 30
    theirs = deepinv.Tomography(
        angles=angles, img_width=n, circle=False, normalize=False, dtype=torch.float64
    )
    y = theirs.A(x[None, None])
    bins = y.shape[2]
    ours = CT(6, bins=bins, detector=float(bins), box=float(n), mu_max=2.0).bind((1, n, n))
    gap = ours.forward(x[None, None]).transpose(2, 3) - y
    assert float(gap.norm() / y.norm()) < 0.01


def test_the_adapter_is_linear_where_the_physics_is():
    kernel = field(1, 1, 3, 3, seed=1).abs()
    operator = drawn(Physics(deepinv.Blur(filter=kernel, padding="circular")), 1, 6, 7)
    assert isinstance(operator, LinearOperator) and not operator.exact
    x, y = field(2, 1, 6, 7), field(2, 1, 6, 7, seed=2)
    torch.testing.assert_close((operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum())
    square = drawn(Physics(deepinv.Physics(A=lambda x, **_: x**2)), 1, 4, 4)
    assert not isinstance(square, LinearOperator)
    torch.testing.assert_close(
        square.linearize(x[..., :4, :4]).adjoint(y[..., :4, :4]), (2 * x * y)[..., :4, :4]
    )


@pytest.mark.parametrize("kind", ["mri", "blur"])
def test_the_adapter_solves(kind):
    physics, shape = {
        "mri": (deepinv.MRI(mask=mask(), img_size=(9, 8)), (2, 9, 8)),
        "blur": (
            deepinv.Blur(filter=field(1, 1, 3, 3, seed=1).abs() / 8, padding="circular"),
            (1, 6, 7),
        ),
    }[kind]
    operator = drawn(Physics(physics), *shape)
    assert operator.exact == (kind == "mri")
    r = field(2, *operator.shape_out(shape), seed=5)
    s2, v = (torch.tensor(a, dtype=torch.float64) for a in ([0.1, 0.5], [1.0, 3.0]))
    found = operator.solve(r, s2, v)
    back = s2[:, None, None, None] * found + v[:, None, None, None] * operator.forward(
        operator.adjoint(found)
    )
    torch.testing.assert_close(back, r, rtol=0, atol=1e-9)


def test_the_adapter_refuses_in_one_line():
    with pytest.raises(ValueError, match="is not a deepinv physics"):
        Physics(torch.nn.Identity())
    with pytest.raises(ValueError, match="cannot measure images of shape"):
        drawn(Physics(deepinv.Tomography(angles=4, img_width=16, normalize=False)), 1, 9, 9)
    each = deepinv.Inpainting(
        img_size=(1, 4, 4), mask=torch.stack([torch.eye(4), torch.ones(4, 4)])[:, None]
    )
    with pytest.raises(ValueError, match="makes 2 measurements of one image"):
        drawn(Physics(each), 1, 4, 4)
