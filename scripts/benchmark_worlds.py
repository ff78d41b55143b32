"""Priors with random weights and a measurement: what solvers are timed on."""

import torch
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import EDM, VP, Prior
from ldm.latent import VQ, LatentPrior
from ldm.networks.unet import UNet, VQModel
from ldm.schedule import Table
from solvers.problem import Gaussian, Problem, measure


def pixel_prior(size: int = 128) -> Prior:
    torch.manual_seed(0)
    return (
        Prior(EDM(UNet(1, [32, 64, 96], blocks=1, time_scale=100)), (1, size, size))
        .eval()
        .requires_grad_(False)
    )


def latent_prior(size: int = 128) -> LatentPrior:
    torch.manual_seed(0)
    stage = VQ(
        VQModel(channels=1, widths=[32, 64, 128], blocks=1, latent=3, codes=4096, attention=False)
    )
    denoiser = VP(UNet(3, [64, 128, 128], blocks=1), Table("scaled_linear"))
    prior = LatentPrior(denoiser, (3, size // 4, size // 4), stage, error_variance=1e-3)
    return prior.eval().requires_grad_(False)


def pose(operator, size: int = 128) -> Problem:
    """Two-dimensional noise of deviation up to 0.5, measured with sigma_y 0.05."""
    noise = Noise(["a"], "noise")
    x0 = noise.normal((1, 1, size, size)).clamp(-1, 1) / 2
    return measure(operator.draw((1, size, size), noise), x0, Gaussian(0.05), noise)


def run(solver, problem: Problem, prior: Prior) -> Tensor:
    *_, last = solver(problem, prior, Noise(problem.ids, "solver"))
    return last.x0
