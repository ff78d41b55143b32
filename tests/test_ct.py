"""CT against geometry: chords of a disc, the published operator norm, filtered backprojection, counts, autograd, bad input."""

import math

import pytest
import torch

from data.seeding import Noise
from solvers.operators import CT
from solvers.operators.base import Linearization
from solvers.operators.projection import joseph
from solvers.problem import Poisson, measure

CENTRE, RADIUS = (5.0, 3.0), 8.0  # of a disc with u = 1, in the box's units


def disc(n: int) -> torch.Tensor:
    """The disc as an image in [-1, 1], pixels on the edge weighted by 8 x 8 samples."""
    line = (torch.arange(8 * n, dtype=torch.float64) + 0.5) * 40 / (8 * n) - 20
    inside = ((line - CENTRE[0]) ** 2 + (-line[:, None] - CENTRE[1]) ** 2 <= RADIUS**2).double()
    return 2 * torch.nn.functional.avg_pool2d(inside[None, None], 8) - 1


def physical(operator: CT, x: torch.Tensor) -> torch.Tensor:
    return operator.forward(x) + operator.forward(torch.ones_like(x))


@pytest.mark.parametrize("beam", ["parallel", "fan"])
def test_a_disc_casts_its_chords(beam):
    """Position, orientation, spacing and scale at once: each ray's integral is the chord 2 sqrt(R^2 - d^2).

    Away from the edge Joseph's interpolation is off by less than the pixel, 0.3125, on either side of the chord.
    """
    n = 128
    operator = CT(7, beam, bins=256).bind((1, n, n))
    y = physical(operator, disc(n))[0, 0]
    for k, angle in enumerate(operator.scan.angles):
        point, direction = (torch.from_numpy(a.copy()) for a in operator.scan.rays(float(angle)))
        direction = direction / direction.norm(dim=1, keepdim=True)
        to = torch.tensor(CENTRE, dtype=torch.float64) - point
        distance = (to[:, 0] * direction[:, 1] - to[:, 1] * direction[:, 0]).abs()
        chord = 2 * (RADIUS**2 - distance**2).clamp_min(0).sqrt()
        sure = (distance - RADIUS).abs() > 0.7
        assert float((y[k] - chord).abs()[sure].max()) < 2 * 0.3125
        assert float((y[k] - chord)[sure].mean().abs()) < 0.02


def test_the_published_norm():
    """|A|^2 of PaDIS's geometry at 256 pixels and 20 views is 121 with Joseph's model; in x it is a quarter."""
    assert 4 * CT(20).bind((1, 256, 256)).norm() ** 2 == pytest.approx(121, abs=0.5)


@pytest.mark.parametrize("beam, least", [("parallel", 27.0), ("fan", 20.0)])
def test_filtered_backprojection_finds_the_disc(beam, least):
    """Enough views for a smooth picture; the fan's half turn is not weighted, so it is worse."""
    operator = CT(90, beam).bind((1, 64, 64))
    x = disc(64)
    found = operator.baseline(operator.forward(x), (1, 64, 64))
    assert -10 * math.log10(float((found - x).square().mean()) / 4) > least
    assert float(((found + 1) / 2)[x > 0.99].mean()) == pytest.approx(1, abs=0.06)


def test_full_turns_are_not_counted_twice():
    x = disc(32)
    half, full = (CT(60, arc=arc, cutoff=0.5).bind((1, 32, 32)) for arc in (180.0, 360.0))
    a, b = (op.baseline(op.forward(x), (1, 32, 32)) for op in (half, full))
    assert float((a - b).abs().mean()) < 0.02


def test_the_matrix_is_small_and_built_once():
    A = joseph(CT(6, bins=32).scan, 16, 16)
    assert A.indices.dtype == A.indptr.dtype == "int32" and A.data.dtype == "float32"
    assert joseph(CT(6, bins=32).scan, 16, 16) is A


def test_derivatives_are_the_operator_and_its_adjoint():
    operator = CT(4, bins=11).bind((2, 5, 6))
    x, y = (
        torch.randn(3, 2, 5, 6, dtype=torch.float64),
        torch.randn(3, 2, 4, 11, dtype=torch.float64),
    )
    J = Linearization(operator.forward, x)
    torch.testing.assert_close(J.forward(x), operator.forward(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(J.adjoint(y), operator.adjoint(y), rtol=0, atol=1e-12)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((operator.forward(x) * y).sum(), x)
    torch.testing.assert_close(gradient, operator.adjoint(y), rtol=0, atol=1e-12)


def test_batches_are_their_images():
    operator = CT(5, bins=16).bind((1, 12, 12))
    x = torch.randn(5, 1, 12, 12, dtype=torch.float64)
    together = operator.forward(x)
    assert all(torch.equal(together[i : i + 1], operator.forward(x[i : i + 1])) for i in range(5))


def test_photons_make_noise_of_their_number():
    """-log(counts / I0) has variance exp(p) / I0; 3 x about 5000 rays give its mean to 1 %: 4 sigma is 5 %."""
    operator, x = CT(40, mu_max=0.05, bins=128).bind((1, 64, 64)), disc(64).expand(3, -1, -1, -1)
    problem = measure(operator, x, Poisson(1e5), Noise(("a", "b", "c"), "noise"))
    hit = operator.hit(problem.y).bool()
    z = (problem.y - operator.forward(x)) / (physical(operator, x).exp() / 1e5).sqrt()
    assert float(z[..., hit].var()) == pytest.approx(1, abs=0.05)
    assert not problem.y[..., ~hit].any()
    white = problem.whitened()
    residual = (white.y - white.operator.forward(x)) / white.sigma_y
    assert float(residual[..., hit].var()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {"views": 0},
            {"bins": 1},
            {"beam": "cone"},
            {"arc": 0.0},
            {"mu_max": -1.0},
            {"beam": "fan", "radius": 20.0},
        ),
        *(
            {"mu_max": math.nan},
            {"box": math.inf},
            {"cutoff": math.nan},
            {"beam": "fan", "radius": math.nan},
        ),
    ],
)
def test_bad_settings_are_one_line(settings):
    with pytest.raises(ValueError) as error:
        CT(**settings)
    assert "\n" not in str(error.value)


def test_the_norm_of_a_single_pixel_is_its_columns():
    operator = CT(views=3, bins=41).bind((1, 1, 1))
    column = operator.forward(torch.ones(1, 1, 1, 1, dtype=torch.float64))
    assert operator.norm() == pytest.approx(float(column.norm()), rel=1e-6) and operator.norm() > 0


def test_an_adjoint_needs_a_size():
    with pytest.raises(ValueError, match="call draw first"):
        CT(3).adjoint(torch.zeros(1, 1, 3, 512))
