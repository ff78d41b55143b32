"""What sample.py costs: K posterior draws of one image beside K single ones, with the shipped priors and few steps.

`python scripts/benchmark.py sample`; the times are of the processor.
"""

import time
from functools import partial
from pathlib import Path

from benchmark_rows import Row, seconds

from data import dataset, sources
from ldm import checkpoints, resize
from ldm.denoiser import Prior
from solvers.daps import DAPS
from solvers.operators import SuperResolution
from solvers.problem import Gaussian
from solvers.resample import ReSample
from solvers.run.cells import Cell, Run
from solvers.run.module import Reconstruction
from solvers.run.scans import Scan, read
from solvers.solver import Solver

MODELS = Path(__file__).resolve().parents[1] / "models"
K = 4


def scan() -> Scan:
    row = sources.find(listing=MODELS / "demo-data/test.csv")[0]
    return read(partial(dataset.load, channels=1), row)


def together(what: str, prior: Prior, solver: Solver, limit: float) -> Row:
    """Seconds of K draws in one batch, as a share of K times one draw."""
    cells = [
        Cell("super_resolution", SuperResolution(4), Gaussian(0.01), solver, draws)
        for draws in (K, 1)
    ]
    module, image = Reconstruction(prior, cells, Run(rows=K), resize.fit), scan()
    calls = [partial(module.restore, cell, [image]) for cell in cells]
    several, single = seconds(*calls, repeat=1, clock=time.process_time)
    return Row(f"{what}: {K} draws / {K} x one", several / (K * single), limit, "x")


def latent_in_pixels() -> list[Row]:
    """One decode and one encode at every level."""
    prior = checkpoints.load(MODELS / "demo-latent")
    return [
        together(
            "latent prior, ReSample in pixels",
            prior,
            ReSample(steps=4, skip=1, sigma_latent=0.0),
            0.9,
        )
    ]


def latent_daps() -> list[Row]:
    """Network calls, and Gauss-Newton through the decoder, at every level."""
    return [
        together(
            "latent prior, DAPS",
            checkpoints.load(MODELS / "demo-latent"),
            DAPS(steps=1, newton=1, cg=2),
            0.9,
        )
    ]


def patch() -> list[Row]:
    return [
        together("patch prior, DAPS", checkpoints.load(MODELS / "demo-patch"), DAPS(steps=2), 1.05)
    ]


ROWS = (latent_in_pixels, latent_daps, patch)
