"""Samplers of the prior against transcriptions in the papers' own coordinates, with an exact Gaussian denoiser."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from data.seeding import Noise
from ldm import sampling, schedule
from ldm.denoiser import VP, Prior

MEAN, SPREAD = 0.2, 0.4  # of a Gaussian prior, the same for every pixel
SHAPE = (1, 3, 4)
IDS = ["0", "1"]


class GaussianDenoiser(nn.Module):
    """E[x0 | x] for x0 ~ N(MEAN, SPREAD^2)."""

    def forward(self, x, sigma, label=None):
        c = SPREAD**2 / (SPREAD**2 + sigma.reshape(-1, 1, 1, 1) ** 2)
        return MEAN + c * (x - MEAN)


class GaussianEps(nn.Module):
    """The same prior as an eps network on a VP table; the time fed must be the table's own index."""

    def __init__(self, alpha_bar):
        super().__init__()
        self.register_buffer("table", alpha_bar)

    def forward(self, x, t):
        t = t.reshape(-1, 1, 1, 1)
        assert torch.allclose(t, t.round(), atol=1e-6)
        a = self.table[t.round().long()]
        return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * SPREAD**2 + 1 - a)


def d(x, sigma):
    return MEAN + SPREAD**2 / (SPREAD**2 + sigma**2) * (x - MEAN)


def edm_prior() -> Prior:
    return Prior(GaussianDenoiser(), SHAPE, 0.01, 20.0)


def draw(sampler, prior) -> tuple[np.ndarray, Noise]:
    noise = Noise(IDS, "solver")
    steps = list(sampler(prior, noise, torch.zeros((), dtype=torch.float64)))
    assert [s.t for s in steps] == list(range(sampler.steps))
    return steps[-1].x0.numpy(), Noise(IDS, "solver")


def normal(noise: Noise) -> np.ndarray:
    return noise.normal((2, *SHAPE), torch.float64).numpy()


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_is_song_2021_equation_12(eta: float):
    table = schedule.linear_alpha_bar()
    prior = Prior(VP(GaussianEps(table), table), SHAPE)
    found, noise = draw(sampling.DDIM(8, eta), prior)
    a = table[schedule.ddim_times(8)].tolist() + [1.0]
    x = (
        normal(noise) * math.sqrt((1 - a[0]) / a[0]) * math.sqrt(a[0])
    )  # the sampler starts at sigma_max n in VE coordinates
    for now, then in zip(a, a[1:]):
        eps = math.sqrt(1 - now) * (x - math.sqrt(now) * MEAN) / (now * SPREAD**2 + 1 - now)
        x0 = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
        s = eta * math.sqrt((1 - then) / (1 - now)) * math.sqrt(1 - now / then)
        x = (
            math.sqrt(then) * x0
            + math.sqrt(1 - then - s**2) * eps
            + (s * normal(noise) if s > 0 else 0)
        )
    assert np.abs(found - x).max() < 1e-10


@pytest.mark.parametrize("churn", [0.0, 3.0])
def test_heun_is_edm_algorithm_2(churn: float):
    sampler = sampling.Heun(steps=7, S_churn=churn, S_min=0.05, S_max=10.0, S_noise=1.01)
    found, noise = draw(sampler, edm_prior())
    t = [(20 ** (1 / 7) + i / 6 * (0.01 ** (1 / 7) - 20 ** (1 / 7))) ** 7 for i in range(7)] + [0.0]
    x = t[0] * normal(noise)
    for i in range(7):
        gamma = min(churn / 7, math.sqrt(2) - 1) if 0.05 <= t[i] <= 10 else 0
        hat = t[i] * (1 + gamma)
        x = x + math.sqrt(hat**2 - t[i] ** 2) * 1.01 * normal(noise) if gamma else x
        slope = (x - d(x, hat)) / hat
        ahead = x + (t[i + 1] - hat) * slope
        if t[i + 1] > 0:
            ahead = x + (t[i + 1] - hat) * (slope / 2 + (ahead - d(ahead, t[i + 1])) / t[i + 1] / 2)
        x = ahead
    assert np.abs(found - x).max() < 1e-10


def test_heun_follows_the_exact_flow():
    """x(sigma) - m scales with sqrt(s0^2 + sigma^2); Heun's global error falls with the square of the step."""
    errors = []
    for steps in (32, 64):
        found, noise = draw(sampling.Heun(steps), edm_prior())
        x = 20 * normal(noise)
        exact = MEAN + SPREAD * (x - MEAN) / math.sqrt(SPREAD**2 + 400)
        errors.append(np.abs(found - exact).max())
    assert errors[1] < 2e-3 and 3 < errors[0] / errors[1] < 6


@pytest.mark.parametrize("corrected", [True, False])
def test_langevin_keeps_the_level_it_is_told(corrected: bool):
    """At a fixed D the corrected update has stationary variance sigma^2, the published one sigma^2 / (1 - eps / 4)."""

    class Fixed(nn.Module):
        def forward(self, x, sigma, label=None):
            return torch.full_like(x, MEAN)

    prior = Prior(Fixed(), (1, 100, 100), 0.5, 0.5 + 1e-9)
    sampler = sampling.Langevin(
        steps=30, sigma_max=0.5 + 1e-9, sigma_min=0.5, eps=1.0, corrected=corrected
    )
    *_, last = sampler(prior, Noise(["0"], "solver"), torch.zeros((), dtype=torch.float64))
    expected = 0.25 if corrected else 0.25 / 0.75
    # 10,000 independent pixels: the variance's relative standard error is sqrt(2 / 10000); four of them.
    assert abs(float((last.x - MEAN).square().mean()) / expected - 1) < 4 * math.sqrt(2 / 10000)


def test_no_steps_is_a_mistake():
    with pytest.raises(ValueError, match="at least 1"):
        sampling.Heun(steps=0)


def test_langevin_levels_that_the_prior_does_not_know_are_refused():
    prior = Prior(GaussianDenoiser(), SHAPE, 1e-4, 1e-3)
    with pytest.raises(ValueError, match="outside the prior's 0.0001..0.001"):
        next(sampling.Langevin(steps=2)(prior, Noise(IDS, "solver"), torch.zeros(2, *SHAPE)))
