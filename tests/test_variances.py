"""A prior measures how wrong it is at each noise level while it is validated; solvers take that as Var[x0 | x]."""

import math

import pytest
import torch
from torch import nn

from data.seeding import Noise
from ldm.crops import Crops
from ldm.denoiser import Prior
from ldm.diffusion import LEVELS, PatchDiffusion, PixelDiffusion
from ldm.frame import fit
from ldm.optimisation import AdamW
from ldm.patch import PatchPrior
from solvers.operators import SuperResolution
from solvers.problem import Gaussian, measure
from solvers.state import belief, evident

S0 = 0.5


class Wiener(nn.Module):
    """E[x0 | x] for pixels N(0, S0^2); black states are told from the others by their position."""

    def forward(self, x, sigma, label=None, position=None):
        k = (S0**2 / (S0**2 + sigma**2)).reshape(-1, 1, 1, 1)
        return k * x


def validated(module: PixelDiffusion, image: torch.Tensor) -> Prior:
    """The module's prior after a validation on one batch."""
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    module.all_gather = lambda x: x  # type: ignore[method-assign]
    module.eval()
    with torch.no_grad():
        module.validation_step({"image": image, "image_id": [str(i) for i in range(len(image))]}, 0)
    module.on_validation_epoch_end()
    return module.prior


def noise(*shape: int) -> torch.Tensor:
    return S0 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_an_exact_denoiser_measures_the_posterior_variance():
    prior = validated(PixelDiffusion(Prior(Wiener(), (1, 64, 64)), AdamW(1e-3)), noise(8, 1, 64, 64))
    entries = 8 * 64 * 64
    for sigma, found in prior.variances:
        exact = S0**2 * sigma**2 / (S0**2 + sigma**2)
        assert abs(found / exact - 1) < 5 * math.sqrt(2 / entries)  # a mean of squares of normal errors; 12 comparisons
    assert len(prior.variances) == LEVELS


def test_the_padding_of_patches_does_not_count():
    """Noise inside, black around: the padding alone would be wrong by (1 - k)^2 at high levels."""
    prior = PatchPrior(Wiener(), 1, 32, 12)
    image = noise(16, 1, 32, 32)
    measured = validated(PatchDiffusion(prior, AdamW(1e-3), crops=Crops({12: 1.0}, per_image=40)), image)
    sigma, found = measured.variances[-1]
    entries = 16 * 40 * 12 * 12 / 16  # each pixel of an image is in about 16 * 40 * 144 / 16384 = 5.6 patches
    assert abs(found / (S0**2 * sigma**2 / (S0**2 + sigma**2)) - 1) < 5 * math.sqrt(2 / entries)


def test_between_levels_below_and_above():
    prior = Prior(Wiener(), (1, 8, 8), variances=[[1.0, 0.1], [0.1, 0.001]])  # in training's order, from the highest level down
    assert prior.variance(0.1) == pytest.approx(0.001)
    assert prior.variance(10**-0.5) == pytest.approx(0.01)
    assert prior.variance(0.01) == pytest.approx(1e-5)  # as sigma^2
    assert prior.variance(50.0) == pytest.approx(0.1)
    assert Prior(Wiener(), (1, 8, 8), variances=[[0.1, 0.5]]).variance(0.1) == pytest.approx(0.01)  # D(x) = x is no worse
    assert Prior(Wiener(), (1, 8, 8)).variance(0.1) is None


def test_solvers_believe_what_was_measured():
    prior = Prior(Wiener(), (1, 8, 8), variances=[[0.1, 0.001], [1.0, 0.1]])
    assert belief(prior, 1.0) == pytest.approx(0.1)
    assert belief(prior, 1.0, s0=0.5) == pytest.approx(0.2)  # 0.25 / 1.25
    assert belief(Prior(Wiener(), (1, 8, 8)), 1.0) == pytest.approx(0.2)
    framed, _ = fit(prior, (1, 6, 7))
    assert belief(framed, 1.0) == pytest.approx(0.1)


@pytest.mark.parametrize("error", ["white", "smooth"])
def test_the_residual_tells_how_wrong_an_estimate_is(error):
    """White errors of variance 0.01 are found as such, a constant one as the variance whose averages would be as large."""
    truth, n = noise(1, 1, 128, 128), 32 * 32
    problem = measure(SuperResolution(4), truth.double(), Gaussian(0.01), Noise(["a"], "noise"))
    if error == "white":
        m, expected = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1)), 0.01
    else:
        unit = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
        unit[..., 16, 16] = 1
        m, expected = truth + 0.1, 0.01 / float(problem.operator.adjoint(unit).square().sum())
    found = evident(m.double(), 1e-6, problem, Noise(["a"], "solver"))
    assert abs(float(found) / expected - 1) < 5 * 2 / math.sqrt(n)  # residual and probe are sums of n squares each
    assert float(evident(m.double(), 1e3, problem, Noise(["a"], "solver"))) == 1e3
