"""What sample.py costs: K posterior draws of one image beside K single ones, with the shipped priors and few steps.

`python scripts/benchmark.py sample --threads 2`
"""

from functools import partial
from pathlib import Path

from benchmark_rows import Row, seconds

from data import dataset, sources
from ldm import checkpoints, frame
from ldm.denoiser import Prior
from solvers.daps import DAPS
from solvers.intake import Scan, read
from solvers.module import Cell, Reconstruction, Run
from solvers.operators import SuperResolution
from solvers.problem import Gaussian
from solvers.resample import ReSample
from solvers.step import Solver

MODELS = Path(__file__).resolve().parents[1] / "models"
K = 4


def scan() -> Scan:
    row = sources.find(listing=MODELS / "demo-data/test.csv")[0]
    return read(partial(dataset.load, channels=1), row)


def together(prior: Prior, solver: Solver) -> float:
    """Seconds of K draws in one batch, as a share of K times one draw."""
    cells = [Cell("super_resolution", SuperResolution(4), Gaussian(0.01), solver, draws) for draws in (K, 1)]
    module, image = Reconstruction(prior, cells, Run(rows=K), frame.fit), scan()
    several, single = seconds(*(partial(module.restore, cell, [image]) for cell in cells), repeat=3)
    return several / (K * single)


def latent_draws() -> list[Row]:
    """ReSample, decoder and encoder included."""
    prior, rows = checkpoints.load(MODELS / "demo-latent"), []
    for name, solver in {"pixels": ReSample(steps=8, skip=2, sigma_latent=0.0), "latent": ReSample(steps=8, skip=2)}.items():
        rows.append(Row(f"latent prior, ReSample in {name}: {K} draws / {K} x one", together(prior, solver), 0.9, "x"))
    return rows


def patch_draws() -> list[Row]:
    ratio = together(checkpoints.load(MODELS / "demo-patch"), DAPS(steps=4))
    return [Row(f"patch prior, DAPS: {K} draws / {K} x one", ratio, 1.05, "x")]


ROWS = (latent_draws, patch_draws)
