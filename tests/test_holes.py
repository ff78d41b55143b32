"""What y leaves open in a wide hole, draws of DAPS must leave open too: a Gaussian prior, whose posterior is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.seeding import Noise
from ldm import spectra
from ldm.denoiser import Prior
from solvers import contrast
from solvers.daps import DAPS
from solvers.operators import Inpainting
from solvers.problem import Gaussian, measure

SIDE, HOLE, SIGMA_Y, K = 40, 24, 0.05, 256


def power(f: Tensor) -> Tensor:
    """Of images that are mostly coarse, at frequencies in cycles per pixel."""
    return (800 * (f * SIDE) ** -3.0).clamp(max=2000)


S = power(torch.from_numpy(spectra.radius(SIDE, SIDE)))


class Exact(nn.Module):
    """E[x0 | x] = S / (S + sigma^2) x at each frequency."""

    def forward(self, x, sigma, label=None):
        gain = S / (S + sigma.reshape(-1, 1, 1, 1) ** 2)
        return torch.fft.ifft2(gain.to(x) * torch.fft.fft2(x)).real


def measured() -> list[list[float]]:
    """Var[x0 | x] at each knot, as training would find it."""
    at_knots = power(torch.from_numpy(spectra.KNOTS))
    levels = np.geomspace(0.002, 80, 40).tolist()
    return [[s, *(at_knots * s**2 / (at_knots + s**2)).tolist()] for s in levels]


def variance_of_mean(seen: Tensor) -> float:
    """Var[mean of the hole | y], by dense algebra: w' C w - w' C A' (A C A' + sigma_y^2)^-1 A C w."""
    row, column = torch.arange(SIDE**2) // SIDE, torch.arange(SIDE**2) % SIDE
    apart = (row[:, None] - row) % SIDE, (column[:, None] - column) % SIDE
    C = torch.fft.ifft2(S).real[apart]
    w = (~seen).double() / (~seen).sum()
    told = C[seen] @ w
    noisy = C[seen][:, seen] + SIGMA_Y**2 * torch.eye(int(seen.sum()), dtype=torch.float64)
    return float(w @ C @ w - told @ torch.linalg.solve(noisy, told))


def test_draws_differ_in_a_hole_as_much_as_the_posterior(monkeypatch: pytest.MonkeyPatch):
    """In its mean, the coarsest that y leaves open; a variance of K draws has a relative standard error of sqrt(2 / (K - 1))."""
    monkeypatch.setattr(contrast, "CONTRAST", 0.0)  # errors are as large anywhere
    mask = torch.ones(SIDE, SIDE)
    start = (SIDE - HOLE) // 2
    mask[start : start + HOLE, start : start + HOLE] = 0
    white = Noise(["a"], "noise").normal((1, 1, SIDE, SIDE), torch.float64)
    x0 = torch.fft.ifft2(S.sqrt() * torch.fft.fft2(white)).real
    problem = measure(Inpainting(mask), x0, Gaussian(SIGMA_Y), Noise(["a"], "noise")).repeat(K)
    prior = Prior(Exact(), (1, SIDE, SIDE), variances=measured()).double()
    noise = Noise(problem.ids, "solver", samples=range(K))
    *_, last = DAPS(steps=20, sigma_max=None, sigma_min=0.02)(problem, prior, noise)
    seen = mask.flatten().bool()
    found = float(last.x0.flatten(1)[:, ~seen].mean(1).var())
    ratio = found / variance_of_mean(seen)
    print(f"variance of the hole's mean, of the draws over the posterior: {ratio:.2f}")
    assert ratio == pytest.approx(1, abs=3 * math.sqrt(2 / (K - 1)))
