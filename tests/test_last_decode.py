"""The codebook cleans the last decode, but must not throw away what the data say."""

import torch
from analytic import Dense, Shuffle, latent

from data.seeding import Noise
from solvers.problem import Gaussian, Problem
from solvers.published.descent import misfit
from solvers.published.resample import PublishedReSample
from solvers.resample import ReSample
from solvers.solver import Chain, final_image

SHAPE, IDS, SIGMA_Y, GRID = (1, 8, 8), ("a", "b", "c"), 0.05, 0.5
DENSE = Dense(
    torch.randn(20, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 8, SHAPE
)


class Coded(Shuffle):
    """A codebook of multiples of GRID for every entry."""

    def decode(self, z, quantize=True):
        codes = z + ((z / GRID).round() * GRID - z).detach()  # straight through
        return super().decode(codes if quantize else z)


def prior():
    made = latent(SHAPE)
    made.first_stage = Coded()
    return made


def posed(z):
    noise = Noise(IDS, "noise")
    clean = DENSE.forward(prior().decode(z, quantize=False))
    return Problem(clean + SIGMA_Y * noise.like(clean), DENSE, Gaussian(SIGMA_Y), IDS)


def test_each_image_takes_the_codes_where_they_explain_the_data():
    """The first latent lies near codes, the others between them: rounding costs 0.04, 4 and 7 of residual."""
    z = (
        GRID
        * torch.randint(-3, 4, (3, 4, 4, 4), generator=torch.Generator().manual_seed(2)).double()
    )
    z = (
        z
        + torch.tensor([0.01, 0.24, 0.24]).reshape(3, 1, 1, 1)
        * torch.randn(z.shape, generator=torch.Generator().manual_seed(3)).sign()
    )
    image = final_image(prior(), z, posed(z))
    torch.testing.assert_close(image[:1], prior().decode(z)[:1], rtol=0, atol=0)
    torch.testing.assert_close(image[1:], prior().decode(z, quantize=False)[1:], rtol=0, atol=0)


def test_released_resample_meets_the_codes():
    """Its descents see what the codebook makes of the latent, and go by the gradient of what it is made of."""
    z = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    problem = posed(z)
    chain = Chain(problem, prior(), Noise(IDS, "solver"), [])
    coded, plain = (
        PublishedReSample(codebook=codebook).decoded(chain) for codebook in (True, False)
    )
    r, gradient = misfit(coded, z)
    torch.testing.assert_close(r, DENSE.forward(prior().decode(z)) - problem.y, rtol=0, atol=1e-12)
    nearest = (z / GRID).round() * GRID
    torch.testing.assert_close(gradient, misfit(plain, nearest)[1], rtol=0, atol=1e-12)


def test_resample_still_meets_the_data_behind_a_coarse_codebook():
    """Rounding to the codes leaves 3 to 5 noise levels; 20 entries exceed 2 once in 10^6."""
    problem = posed(
        torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    )
    *_, last = ReSample(steps=40, skip=3)(problem, prior(), Noise(IDS, "solver"))
    assert (problem.residual(prior().decode(last.x)) > 2).any()
    assert (problem.residual(last.x0) < 2).all()
