"""A clipped measurement has no slope where an image is beyond its range: the update must find back all the same."""

import pytest
import torch
from analytic import latent

from data.seeding import Noise
from solvers.beliefs import Isotropic
from solvers.condition import condition
from solvers.discrepancy import discrepancy
from solvers.operators import Composition, Denoising, HighDynamicRange, NonlinearBlur
from solvers.operators.weighted import weighted
from solvers.problem import Gaussian, Problem, view_through

GAIN, SIGMA_Y, V = 2.0, 0.05, 0.25
#            inside, beyond the top, beyond the bottom, at the top (m beyond it), across the range
Y = torch.tensor([0.3, 0.5, -0.5, 1.02, -1.02], dtype=torch.float64).reshape(1, 1, 1, 5)
M = torch.tensor([0.1, 0.9, -1.2, 0.8, 0.9], dtype=torch.float64).reshape(1, 1, 1, 5)


def posed(operator) -> Problem:
    return Problem(Y, operator.draw((1, 1, 5), Noise(["a"], "noise")), Gaussian(SIGMA_Y), ("a",))


@pytest.mark.parametrize(
    "operator", [HighDynamicRange(GAIN), Composition([Denoising(), HighDynamicRange(GAIN)])]
)
def test_saturated_entries_are_pulled_back(operator):
    """Entries whose y lies in the range obey y = gain x; one whose y is at the end that m is beyond stays at m."""
    x = condition(M, V, posed(operator))
    linear = M + V * GAIN * (Y - GAIN * M) / (SIGMA_Y**2 + V * GAIN**2)
    torch.testing.assert_close(
        x[..., :3], linear[..., :3], rtol=0, atol=0.1 * SIGMA_Y
    )  # what iterations may leave
    torch.testing.assert_close(x[..., 3], M[..., 3])
    assert float((operator.forward(x) - Y).abs().max()) < 3 * SIGMA_Y


def test_weights_keep_what_is_known():
    """Entries weighted by w with y weighted alike have noise w sigma_y: the same ends are open."""
    w = torch.tensor([0.5], dtype=torch.float64).reshape(1, 1, 1, 1)
    known = weighted(HighDynamicRange(GAIN), w).given(w * Y, w * SIGMA_Y)
    beyond = torch.full_like(Y, 3.0)
    expected = w * torch.tensor([6.0, 6.0, 6.0, 1.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(known.forward(beyond).flatten(), expected.flatten())


def test_a_clean_measurement_keeps_its_ends():
    known = HighDynamicRange(GAIN).given(torch.tensor([1.0, -1.0, 0.999]).reshape(1, 1, 1, 3), 0.0)
    found = known.forward(torch.tensor([2.0, -2.0, 2.0]).reshape(1, 1, 1, 3))
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, -1.0, 4.0]))


def test_a_saturated_blur_is_left_where_y_is_dark():
    """From white, where light is clipped, back to a gray that y shows; white stays where y is white."""
    operator, noise = (
        NonlinearBlur(5, 1.0).draw((1, 8, 8), Noise(["a"], "noise")),
        Noise(["a"], "noise"),
    )
    white = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    for truth in (-0.2, 0.3):
        y = operator.forward(truth * white) + SIGMA_Y * noise.like(white)
        problem = Problem(y, operator, Gaussian(SIGMA_Y), ("a",))
        assert problem.residual(white) > 5 and problem.residual(condition(white, V, problem)) < 1.5
    problem = Problem(operator.forward(white), operator, Gaussian(SIGMA_Y), ("a",))
    torch.testing.assert_close(condition(white, V, problem), white)


def test_behind_a_decoder_too():
    """Images of twice the range, measured through a bent decoder: before, the residual here was 12 to 20."""
    prior, ids, noise = latent((1, 8, 8)), ("a", "b"), Noise(("a", "b"), "noise")
    truth = 0.4 * noise.normal((2, 1, 8, 8), torch.float64)
    operator = HighDynamicRange(GAIN).draw((1, 8, 8), noise)
    y = operator.forward(truth) + SIGMA_Y * noise.like(truth)
    problem, z = (
        Problem(y, operator, Gaussian(SIGMA_Y), ids),
        noise.normal((2, 4, 4, 4), torch.float64),
    )
    seen = Problem(y, view_through(operator, prior), Gaussian(SIGMA_Y), ids)
    assert (problem.residual(prior.decode(z)) > 5).all()
    assert (
        problem.residual(prior.decode(condition(discrepancy(Isotropic(z, 1.0), seen), seen))) < 1.5
    ).all()
