"""Solvers beside their networks: `python scripts/benchmark.py solvers`. The times of a ratio are taken in turns, of the
processor (with one thread the wall's on an idle machine), so that a busy machine changes little.

Networks have random weights, but for ReSample, which restores a demo scan with the shipped latent prior.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from benchmark_forms import solved
from benchmark_memory import memory
from benchmark_rows import Row, seconds
from benchmark_worlds import latent_prior, pixel_prior, pose, run
from torch import Tensor
from torchvision.transforms.functional import center_crop

from data.dataset import ManifestDataset
from data.seeding import Noise
from ldm import config
from ldm.checkpoints import load
from ldm.denoiser import Prior
from ldm.resize import fit
from ldm.spectra import KNOTS
from solvers.codps import CoDPS, CoDPSPlus
from solvers.daps import DAPS
from solvers.dps import DPS
from solvers.operators import GaussianBlur, SuperResolution
from solvers.padis import PaDIS
from solvers.pnp import PnP
from solvers.problem import measure
from solvers.psld import PSLD
from solvers.published.daps import DAPSLangevin
from solvers.run.whole import lifted
from solvers.solver import Chain

STEPS, TURNS = 8, 5
ROOT = Path(__file__).resolve().parents[1]
HEAD = ROOT / "models/demo-data/test.csv"


def bare(prior: Prior, call: Callable[[Tensor], Tensor], backward: bool) -> None:
    """STEPS calls of the prior's networks and nothing else, each with its backward pass if asked."""
    for _ in range(STEPS):
        with torch.set_grad_enabled(backward):
            x = torch.zeros(1, *prior.shape, requires_grad=backward)
            y = call(x)
            if backward:
                torch.autograd.grad(y.sum(), x)


OPERATORS = {"super-resolution x4": SuperResolution(4), "61x61 blur": GaussianBlur()}


def share(
    name: str,
    solver,
    operator: str,
    prior: Prior,
    call: Callable[[Tensor], Tensor],
    limit: float,
    backward: bool = False,
) -> Row:
    """A solver's time over that of as many bare calls."""
    problem = pose(OPERATORS[operator])
    spent, networks = seconds(
        lambda: run(solver, problem, prior),
        lambda: bare(prior, call, backward),
        repeat=TURNS,
        clock=time.process_time,
    )
    what = "forward + backward" if backward else "forward"
    return Row(
        f"{name}, {operator}, 128^2: {STEPS} steps / {STEPS} bare {what}",
        spent / networks,
        limit,
        "x",
    )


def overhead() -> Iterator[Row]:
    """Everything but the network, as a share of it."""
    prior = pixel_prior()
    for solver in (DAPS, CoDPS, CoDPSPlus, PaDIS):
        for operator in OPERATORS:
            call = partial(prior.denoise, sigma=torch.ones(1))
            yield share(solver.__name__, solver(steps=STEPS), operator, prior, call, 1.05)
    prior.variances = [
        [1.0, *(1e-4 / KNOTS**2).tolist()]
    ]  # conjugate gradients, where no `solve` is a closed form
    for one in (
        DAPS(steps=STEPS, sigma_max=None),
        CoDPSPlus(steps=STEPS),
        PaDIS(steps=STEPS, sigma_max=None),
    ):
        for operator in OPERATORS:
            yield share(f"{type(one).__name__}, V by frequency", one, operator, prior, call, 1.25)


def volumes() -> Iterator[Row]:
    """The update of a stack 8 x 128 x 128 by the shipped prior, as a share of the network's time."""
    shape, noise = (1, 8, 128, 128), Noise(["a"], "noise")
    prior, _ = fit(load(ROOT / "models/demo-pixel"), shape, spacing=(1.0, 1.0, 1.0))
    head = [image["image"] for image in ManifestDataset(HEAD) if "brain2" in image["image_id"]]
    x = center_crop(torch.stack(head[:8], 1), [128, 128])[None]
    for task in ("ct_parallel_20", "mri_x4", "through_plane_x4"):
        node = config.load([ROOT / f"configs/tasks/{task}.yaml"])
        operator = lifted(config.build(node["operator"]), True, "a").draw(shape, noise)
        problem = measure(operator, x, config.build(node["likelihood"]), noise)
        spent, networks = seconds(
            partial(run, PnP(steps=STEPS), problem, prior),
            partial(bare, prior, partial(prior.denoise, sigma=torch.ones(1)), False),
            repeat=2,
            clock=time.process_time,
        )
        yield Row(f"pnp, {task}, stack: update / network", spent / networks - 1, 0.35, "x")


def gradients() -> Iterator[Row]:
    """DPS and PSLD beside forward and backward passes of all networks that they go through."""
    pixel, latent, operator = pixel_prior(), latent_prior(), "super-resolution x4"
    yield share(
        "DPS",
        DPS(steps=STEPS),
        operator,
        pixel,
        partial(pixel.denoise, sigma=torch.ones(1)),
        1.25,
        True,
    )

    def chain(z: Tensor) -> Tensor:
        return latent.to_state(latent.to_image(latent.denoise(z, torch.ones(1))))

    yield share("PSLD", PSLD(steps=STEPS, polish=False), operator, latent, chain, 1.25, True)


def data_step() -> list[Row]:
    """One exact draw beside 100 Langevin steps, 61x61 blur at 256^2."""
    problem, solver = pose(GaussianBlur(), 256), DAPSLangevin(M=100)
    m, noise = torch.zeros(1, 1, 256, 256), Noise(["a"], "solver")
    chain = Chain(problem, Prior(Still(), (1, 256, 256)), noise, [1.0, 0.0])
    target = solver.target(problem, m, 1.0)
    exact, langevin = seconds(
        lambda: DAPS().draw(chain, m, 1.0),
        lambda: solver.draw(target, solver.lr, noise),
        repeat=3,
        clock=time.process_time,
    )
    return [
        Row(
            "DAPS, 61x61 blur at 256^2: 100 Langevin steps / exact draw",
            langevin / exact,
            20,
            "x",
            at_least=True,
        )
    ]


class Still(torch.nn.Module):
    """A network that costs nothing."""

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return x


def resample() -> list[Row]:
    """The default beside the published form (100 steps instead of its 500), one scan at half size."""
    default, published = solved("latent", "ReSample"), solved("latent", "ReSample, published")
    what = "ReSample, 128^2, published form of 100 steps against default:"
    return [
        Row(f"{what} time", published.seconds / default.seconds, 10, "x", at_least=True),
        Row(f"{what} PSNR gained", default.psnr - published.psnr, 0, "dB", at_least=True),
        Row(
            f"{what} |residual - 1| lost",
            abs(published.residual - 1) - abs(default.residual - 1),
            0,
            "",
            at_least=True,
        ),
    ]


ROWS = (overhead, volumes, gradients, data_step, resample, memory)
