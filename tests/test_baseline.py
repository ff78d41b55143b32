"""Classical answers: least squares."""

from dataclasses import replace

import tiny
import torch

from data.seeding import Noise
from ldm.config import Node, build
from solvers.baseline import LeastSquares
from solvers.operators import SuperResolution
from solvers.problem import Clean, Varying, measure


def answered(problem):
    prior = build(Node(tiny.pixel()))
    return list(LeastSquares(3)(problem, prior, Noise(problem.ids, "solver")))[-1].x0


def test_least_squares_weigh_entries_alike_and_leave_out_what_says_nothing():
    """SENSE and CGLS as they are known: noise that is larger in some entries changes nothing, and infinite noise hides them."""
    noise = Noise(["a", "b"], "noise")
    image = noise.normal((2, 1, 16, 16)).tanh()
    clean = measure(SuperResolution(2), image, Clean(), noise)
    deviation = torch.full_like(clean.y, 0.1)
    deviation[..., :4] = 2.0
    louder = replace(clean, likelihood=Varying(deviation))
    torch.testing.assert_close(answered(louder), answered(clean), rtol=0, atol=1e-5)

    deviation[..., :4] = float("inf")
    wrong = torch.where(deviation.isinf(), 9.0, clean.y)
    x = answered(replace(clean, y=wrong, likelihood=Varying(deviation)))
    assert bool((x[..., :4] == -1).all()), "what nothing tells stays black"
    torch.testing.assert_close(x[..., 12:], answered(clean)[..., 12:], rtol=0, atol=0.05)
