"""Solvers beside their networks: `python scripts/benchmark.py solvers`. Networks have random weights; ratios are of one run.

`resample_speed` runs the published form once (minutes); quality on real scans is sample.py's to measure.
"""

import time

import torch
from benchmark_rows import Row, seconds
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import EDM, VP, Prior
from ldm.latent import VQ, LatentPrior
from ldm.networks import UNet, VQModel
from ldm.schedule import Table
from solvers.codps import CoDPSPlus
from solvers.daps import DAPS
from solvers.descent import AdamW
from solvers.dps import DPS
from solvers.operators import GaussianBlur, SuperResolution
from solvers.padis import PaDIS
from solvers.problem import Gaussian, Problem, measure
from solvers.psld import PSLD
from solvers.resample import ReSample

STEPS = 8


def pixel_prior(size: int = 128) -> Prior:
    torch.manual_seed(0)
    return Prior(EDM(UNet(1, [32, 64, 96], blocks=1, time_scale=100)), (1, size, size)).eval().requires_grad_(False)


def latent_prior(size: int = 128) -> LatentPrior:
    torch.manual_seed(0)
    stage = VQ(VQModel(channels=1, widths=[32, 64, 128], blocks=1, latent=3, codes=4096, attention=False))
    denoiser = VP(UNet(3, [64, 128, 128], blocks=1), Table("scaled_linear"))
    prior = LatentPrior(denoiser, (3, size // 4, size // 4), stage, error_variance=1e-3)
    return prior.eval().requires_grad_(False)


def pose(operator, size: int = 128) -> Problem:
    noise = Noise(["a"], "noise")
    x0 = noise.normal((1, 1, size, size)).clamp(-1, 1) / 2
    return measure(operator.draw((1, size, size), noise), x0, Gaussian(0.05), noise)


def run(solver, problem: Problem, prior: Prior) -> Tensor:
    *_, last = solver(problem, prior, Noise(problem.ids, "solver"))
    return last.x0


def bare(prior: Prior, backward: bool = False) -> None:
    """STEPS network calls and nothing else, each with its backward pass if asked."""
    x, sigma = torch.zeros(1, *prior.shape), torch.ones(1)
    for _ in range(STEPS):
        with torch.set_grad_enabled(backward):
            x_t = x.requires_grad_(backward)
            y = prior.denoise(x_t, sigma)
            if backward:
                torch.autograd.grad(y.sum(), x_t)


def overhead() -> list[Row]:
    """Everything but the network, as a share of it."""
    prior, problem, rows = pixel_prior(), pose(SuperResolution(4)), []
    for name, solver in {"DAPS": DAPS(steps=STEPS), "CoDPS+": CoDPSPlus(steps=STEPS), "PaDIS, DDNM": PaDIS(steps=STEPS)}.items():
        spent, network = seconds(lambda s=solver: run(s, problem, prior), lambda: bare(prior), repeat=3)
        rows.append(Row(f"{name}, super-resolution, {STEPS} calls at 128^2 / bare network", spent / network, 1.05, "x"))
    return rows


def gradients() -> list[Row]:
    """DPS beside a forward and backward pass of the network."""
    prior, problem = pixel_prior(), pose(SuperResolution(4))
    spent, network = seconds(lambda: run(DPS(steps=STEPS), problem, prior), lambda: bare(prior, True), repeat=3)
    return [Row(f"DPS, super-resolution x{STEPS} calls / bare forward + backward", spent / network, 1.25, "x")]


def latent_gradients() -> list[Row]:
    """PSLD beside forward and backward passes of network, decoder and encoder."""
    prior, problem = latent_prior(), pose(SuperResolution(4))
    z = torch.zeros(1, *prior.shape)

    def chain() -> None:
        with torch.enable_grad():
            z_t = z.requires_grad_()
            glue = prior.to_state(prior.to_image(prior.denoise(z_t, torch.ones(1))))
            torch.autograd.grad(glue.sum(), z_t)

    spent, once = seconds(lambda: run(PSLD(steps=STEPS, polish=False), problem, prior), chain, repeat=3)
    return [Row(f"PSLD, super-resolution x{STEPS} calls / bare forward + backward", spent / (STEPS * once), 1.25, "x")]


def data_step() -> list[Row]:
    """One exact draw beside 100 Langevin steps, 61x61 blur at 256^2."""
    problem, solver = pose(GaussianBlur(), 256), DAPS(inner="langevin", M=100)
    m, prior, noise = torch.zeros(1, 1, 256, 256), Prior(Still(), (1, 256, 256)), Noise(["a"], "solver")
    exact, chain = seconds(
        lambda: DAPS().draw(m, 1.0, problem, prior, noise, noise), lambda: solver.chain(m, 1.0, 0.0, problem, noise), repeat=3
    )
    return [Row("DAPS, 61x61 blur at 256^2: 100 Langevin steps / exact draw", chain / exact, 20, "x", at_least=True)]


class Still(torch.nn.Module):
    """A network that costs nothing."""

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return x


def resample_speed() -> list[Row]:
    """The default beside the published form, one 128^2 image, 100 steps."""
    prior, problem = latent_prior(), pose(SuperResolution(4))
    published = ReSample(
        steps=100, skip=10, spacing="leading", look_ahead=5, inner="adamw", adamw=AdamW(stop=1e-6, weight_decay=0.01),
        resampling="code", tweedie="code", dps=0.5, polish=False,
    )  # fmt: skip
    default = seconds(lambda: run(ReSample(steps=50), problem, prior), repeat=1)[0]
    begun = time.process_time()
    run(published, problem, prior)
    ratio = (time.process_time() - begun) / default
    return [Row("ReSample, 128^2: published, 100 steps / default", ratio, 10, "x", at_least=True)]


ROWS = (overhead, gradients, latent_gradients, data_step, resample_speed)
