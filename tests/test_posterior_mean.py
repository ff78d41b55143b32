"""The posterior mean from a few draws: nearer to it than their average, by what the formula says, and the same in any batch."""

import math

import pytest
import torch

import palimpsest as P
from data.seeding import Noise
from ldm.denoiser import Prior
from ldm.patch import PatchPrior
from ldm.volume import VolumePrior
from solvers import contrast
from solvers.daps import AVERAGED, DAPS, conditional_mean
from solvers.operators import Inpainting
from solvers.problem import Gaussian, measure
from tests.test_variances import S0, Wiener, noise

K = 4
LEVELS = [0.01 * 1.05**i for i in range(150)]
KNOWN = [[s, S0**2 * s**2 / (S0**2 + s**2)] for s in LEVELS]  # Var[x0 | x], what training measures


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors are as large anywhere, as a white prior's are."""
    monkeypatch.setattr(contrast, "CONTRAST", 0.0)


def test_it_errs_by_what_the_formula_says(flat):
    """White pixels of deviation S0, half of them measured: the posterior is known, and so is what a mean of K errs by."""
    side, sigma_y = 96, 0.1
    x0 = noise(1, 1, side, side)
    mask = (torch.arange(side**2) % 2).reshape(side, side).float()
    problem = measure(Inpainting(mask), x0, Gaussian(sigma_y), Noise(["a"], "noise"))
    seen = mask.bool()
    share = torch.where(seen, S0**2 / (S0**2 + sigma_y**2), 0.0)
    mean, p = share * problem.y, S0**2 * (1 - share)
    z = torch.randn(K, 1, side, side, generator=torch.Generator().manual_seed(1))
    draws = mean[0] + p.sqrt() * z
    prior = Prior(Wiener(), (1, side, side), variances=KNOWN)
    found = conditional_mean(draws, problem, prior, seed=0, rows=K)
    s2 = AVERAGED**2 * float(draws.std(0).median()) ** 2
    left = (p / (p + s2)) ** 2 * p / K  # the noise cancels, as D is linear
    for where in (seen, ~seen):
        error = (found - mean[0])[0][where].square().mean()
        n = int(where.sum())  # independent pixels: six standard errors of a variance
        assert error / left[where].mean() == pytest.approx(1, abs=6 * math.sqrt(2 / n))


@pytest.mark.parametrize("kind", ["pixel", "patch", "gray", "volume", "gray volume"])
def test_rows_of_a_network_call_do_not_matter(kind: str):
    """Nor what the state of the prior is: patches with a border, colours of a gray image, volumes."""
    channels = 3 if "gray" in kind else 1
    prior = Prior(Wiener(), (channels, 24, 24), variances=KNOWN)
    if kind == "patch":
        prior = PatchPrior(Wiener(), 1, 24, 8, variances=KNOWN)
    prior.gray = channels == 3
    shape = (1, 24, 24)
    if "volume" in kind:
        prior = VolumePrior(prior, (channels, 5, 24, 24), coupling=2.0)
        shape = (1, 5, 24, 24)
    operator = Inpainting((torch.arange(24) % 3 > 0).float().expand(24, 24))
    problem = measure(operator, noise(1, *shape), Gaussian(0.05), Noise(["a"], "noise"))
    draws = noise(K, *shape) / 4
    found = [conditional_mean(draws, problem, prior, 0, rows) for rows in (1, 3, K)]
    assert found[0].shape == shape
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-5)
    assert not torch.equal(conditional_mean(draws, problem, prior, 1, K), found[-1])


@pytest.mark.parametrize("covariance, extra", [("measured", 1), ("heuristic", 0)])
def test_results_hold_it_where_the_errors_are_known_by_frequency(covariance: str, extra: int):
    """One more network call; where V is one number the result is the average of the draws."""
    prior = Prior(Wiener(), (1, 32, 32), variances=KNOWN)
    problem = measure(
        Inpainting((noise(32, 32) > 0).float()),
        noise(1, 1, 32, 32),
        Gaussian(0.1),
        Noise(["a"], "noise"),
    )
    solver = DAPS(steps=4, sigma_max=None, covariance=covariance)
    result = P.restore(problem, prior, solver=solver, draws=K, accelerator="cpu")
    assert result.record[0]["nfe"] == 4 + extra
    average = result.draws.mean(1)
    apart = float((result.image - average).abs().max())
    assert apart > 0.01 if extra else apart < 1e-6
    low, high = result.interval()
    torch.testing.assert_close((low + high) / 2, result.image, rtol=0, atol=1e-5)
