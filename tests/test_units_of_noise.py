"""Noise that is estimated, or differs from image to image: what is found of an image is what it is found of it alone."""

from dataclasses import replace

import pytest
import torch
from analytic import Shrink, Table, latent

from data.files import Refusal
from data.seeding import Noise
from ldm import schedule
from ldm.denoiser import Prior
from solvers.baseline import Baseline, LeastSquares
from solvers.codps import CoDPS, CoDPSPlus
from solvers.daps import DAPS
from solvers.dps import DPS, DPSLikelihood
from solvers.measured.noise_level import estimated_sigma_y
from solvers.operators import (
    CartesianMRI,
    Denoising,
    HighDynamicRange,
    RandomInpainting,
    SuperResolution,
)
from solvers.padis import PaDIS
from solvers.pnp import PnP
from solvers.problem import Gaussian, Problem, Varying, measure
from solvers.psld import PSLD
from solvers.published.daps import DAPSLangevin, DAPSMetropolis
from solvers.published.descent import AdamW
from solvers.published.padis import PaDISDPS, PaDISLangevin
from solvers.published.padis_pc import PaDISPC
from solvers.published.psld import PublishedPSLD
from solvers.published.resample import PublishedReSample
from solvers.resample import ReSample
from solvers.tv import TV

IDS, SHAPE = ("a", "b", "c"), (1, 48, 48)
DESCENT = AdamW(iterations_pixel=5, iterations_latent=5, stop=1e-3)

SOLVERS = {
    "tv": TV(steps=10, lam=0.05),
    "dps": DPS(steps=5),
    "dps_likelihood": DPSLikelihood(steps=5),
    "psld": PSLD(steps=5),
    "daps": DAPS(steps=3),
    "pnp": PnP(steps=3),
    "codps": CoDPS(steps=5),
    "codps_plus": CoDPSPlus(steps=5),
    "padis": PaDIS(steps=3),
    "resample": ReSample(steps=3),
    "baseline": Baseline(),
    "least_squares": LeastSquares(3),
    "published_daps": DAPSLangevin(steps=3, M=5, lr=1e-5),
    "published_daps_metropolis": DAPSMetropolis(steps=3, M=5, lr=1e-5),
    "published_padis_dps": PaDISDPS(steps=3, normalisation="paper"),
    "published_padis_dps_gain": PaDISDPS(steps=3),
    "published_padis": PaDISLangevin(steps=3, normalisation="paper"),
    "published_padis_pc": PaDISPC(steps=3, normalisation="published"),
    "published_psld": PublishedPSLD(steps=5),
    "published_psld_paste": PublishedPSLD(steps=5, back="pinv", paste=True),
    "published_resample": PublishedReSample(steps=3, adamw=DESCENT, dps=0.5),
    "published_resample_pixels": PublishedReSample(steps=3, adamw=DESCENT, sigma_latent=0.0),
}


def prior_of(name: str) -> Prior:
    if "psld" in name or "resample" in name:
        return latent(SHAPE)
    return Prior(Table(Shrink(), schedule.scaled_linear_alpha_bar()), SHAPE)


def scans(operator) -> Problem:
    """Three images [3,1,48,48] with noise of 0.02, 0.1 and 0.4, of which the problem does not say how much."""
    ramp = torch.linspace(-0.5, 0.5, 48).double().expand(3, *SHAPE)
    drawn = operator.draw(SHAPE, Noise(IDS, "mask"))
    deviation = torch.tensor([0.02, 0.1, 0.4]).double().reshape(3, 1, 1, 1)
    problem = measure(drawn, ramp, Varying(deviation), Noise(IDS, "noise"))
    return replace(problem, likelihood=Gaussian(None))


def alone(solver, problem: Problem, prior: Prior) -> torch.Tensor:
    one_by_one = [problem.select([i]) for i in range(len(problem.ids))]
    return torch.cat([solver.solve(one, prior) for one in one_by_one])


@pytest.mark.parametrize("name", SOLVERS)
def test_an_estimate_is_worth_as_much_as_the_number(name):
    """Alone to the bit, and in a batch of other estimates to rounding."""
    solver, prior, problem = SOLVERS[name], prior_of(name), scans(SuperResolution(2))
    rows = [problem.select([i]) for i in range(3)]
    told = [replace(row, likelihood=Gaussian(float(estimated_sigma_y(row)))) for row in rows]
    expected = torch.cat([solver.solve(row, prior) for row in told])
    assert torch.equal(alone(solver, problem, prior), expected)
    torch.testing.assert_close(solver.solve(problem, prior), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", SOLVERS)
def test_noise_that_varies_is_each_image_s_own(name):
    """From entry to entry, and from image to image by a factor of 20."""
    solver, prior, problem = SOLVERS[name], prior_of(name), scans(RandomInpainting())
    varies = 1 + Noise(IDS, "noise").uniform((3, *SHAPE)).to(problem.y)
    deviation = torch.tensor([0.02, 0.1, 0.4]).double().reshape(3, 1, 1, 1) * varies
    problem = replace(problem, likelihood=Varying(deviation))
    torch.testing.assert_close(
        solver.solve(problem, prior), alone(solver, problem, prior), rtol=0, atol=1e-7
    )


def half(operator, size: int = 48) -> tuple[torch.Tensor, Problem]:
    """Images [3,1,size,size] and their measurement, of which some says nothing: half of an image-like y."""
    x = torch.linspace(-0.5, 0.5, size).double().expand(3, 1, size, size)
    drawn = operator.draw((1, size, size), Noise(IDS, "mask"))
    deviation = torch.full_like(drawn.forward(x), 0.1)
    deviation[..., : deviation.shape[-1] // 2] = torch.inf
    return x, measure(drawn, x, Varying(deviation), Noise(IDS, "noise"))


@pytest.mark.parametrize(
    "operator",
    [Denoising(), RandomInpainting(), SuperResolution(2), CartesianMRI(), HighDynamicRange()],
)
def test_entries_of_infinite_noise_are_not_measured(operator):
    """|A x - y| / sigma_y has m squares of mean 1, m at least 240; 4 standard errors of its root are 4 / sqrt(2 m)."""
    x, problem = half(operator)
    white = problem.whitened()
    A, told = white.operator, problem.likelihood.deviation.isfinite()
    entries = problem.operator.restrict(torch.ones_like(problem.y)) * told
    assert torch.equal(A.restrict(torch.ones_like(problem.y)), entries)
    torch.testing.assert_close(A.measured(problem.y), entries.flatten(1).sum(1))
    assert int(A.measured(problem.y).min()) > 240
    torch.testing.assert_close(problem.residual(x), torch.ones(3).double(), rtol=0, atol=0.18)
    answer = A.baseline(white.y, SHAPE)
    assert answer is None or bool(answer.isfinite().all())
    known = A.given(white.y, white.sigma_y)
    assert bool(known.forward(x).isfinite().all()) and bool((known.forward(x)[~told] == 0).all())


@pytest.mark.parametrize("name", SOLVERS)
def test_entries_of_infinite_noise_change_nothing(name):
    solver, prior, (_, problem) = SOLVERS[name], prior_of(name), half(SuperResolution(2))
    told = problem.likelihood.deviation.isfinite()
    expected = solver.solve(problem, prior)
    assert bool(expected.isfinite().all())
    wrong = replace(problem, y=torch.where(told, problem.y, 9.0))
    assert torch.equal(solver.solve(wrong, prior), expected)


def test_noise_that_is_infinite_everywhere_is_refused():
    _, problem = half(Denoising())
    deviation = problem.likelihood.deviation.clone()
    deviation[1] = torch.inf
    with pytest.raises(Refusal, match="^b: .* at least one must be finite$"):
        PnP(steps=3).solve(replace(problem, likelihood=Varying(deviation)), prior_of("pnp"))
