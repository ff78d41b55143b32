"""Each solver's default beside its published form on a demo scan with the shipped priors, as a Markdown table.

    python scripts/benchmark.py forms --threads 2          # some minutes

Published forms are the files of configs/published with fewer steps, all on x4 super-resolution with noise 0.05; latent
priors restore the middle 128 x 128 pixels. Seconds are the processor's.
"""

import copy
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data import dataset, manifest
from data.seeding import Noise
from ldm import checkpoints, config
from ldm.denoiser import Prior
from solvers.meter import Meter
from solvers.metrics import psnr
from solvers.operators import SuperResolution
from solvers.problem import Gaussian, measure

HOME = Path(__file__).resolve().parents[1]
SCAN, CROP = "brain2-ax-008", 128
FORMS = {  # name -> configuration, steps
    ("latent", "ReSample"): ("solvers/resample", 50),
    ("latent", "ReSample, pixels only"): ("solvers/resample_fast", 50),
    ("latent", "ReSample, published"): ("published/resample/ffhq-ddim/super_resolution", 100),
    ("latent", "PSLD"): ("solvers/psld", 50),
    ("latent", "PSLD, published"): ("published/psld/ffhq_ldm-ddim/super_resolution", 100),
    ("latent", "DAPS"): ("solvers/daps", 10),
    ("latent", "DAPS, published"): ("published/daps/ffhq_ldm-hmc/super_resolution", 10),
    ("patch", "DAPS"): ("solvers/daps", 25),
    ("patch", "DAPS, published"): ("published/daps/ffhq-langevin/super_resolution", 10),
    ("patch", "CoDPS+"): ("solvers/codps_plus", 25),
    ("patch", "CoDPS+, published"): ("published/codps/ffhq-ddim/super_resolution", 25),
    ("patch", "PaDIS, DDNM"): ("solvers/padis", 25),
    ("patch", "PaDIS, DPS, |A|^2 step"): ("solvers/padis_dps", 5),
    ("patch", "PaDIS, DPS, published"): ("published/padis/celebahq-dps/super_resolution", 5),
    ("patch", "DPS"): ("solvers/dps", 50),
}


@dataclass(frozen=True)
class Form:
    """One run. NFE counts network calls, vjps backward passes through network or decoder."""

    kind: str
    name: str
    psnr: float
    residual: float
    seconds: float
    nfe: int
    vjps: int
    steps: int
    met = True  # nothing is promised here

    def __str__(self) -> str:
        return (
            f"| {self.kind} | {self.name} | {self.steps} | {self.psnr:.2f} | {self.residual:.2f} | {self.seconds:.0f} |"
            f" {self.nfe} | {self.vjps} |"
        )


class Title:
    """The head of the table."""

    met = True

    def __str__(self) -> str:
        return "| prior | solver | steps | PSNR dB | residual | seconds | NFE | vjps |\n|---|---|--:|--:|--:|--:|--:|--:|"


@functools.cache
def solved(kind: str, name: str) -> Form:
    """Run a form once in this process."""
    file, steps = FORMS[kind, name]
    solver = config.build(config.load([HOME / f"configs/{file}.yaml"], [f"solver.params.steps={steps}"])["solver"])
    prior, truth = shipped(kind), scan(CROP if kind == "latent" else 256)
    noise = Noise([SCAN], "noise")
    problem = measure(SuperResolution(4).draw(tuple(truth.shape[1:]), noise), truth, Gaussian(0.05), noise)
    begun = time.process_time()
    with Meter(prior) as meter:
        *_, last = solver(problem, prior, Noise([SCAN], "solver"))
        image = last.x0
    spent = time.process_time() - begun
    return Form(kind, name, float(psnr(image, truth)), float(problem.residual(image)), spent, meter.nfe, meter.vjps, steps)


@functools.cache
def shipped(kind: str) -> Prior:
    """A shipped prior; the latent one on latents of the crop, which its network, being convolutional, takes as well."""
    prior = checkpoints.load(HOME / f"models/demo-{kind}").eval().requires_grad_(False)
    if kind == "latent":
        prior = copy.copy(prior)
        prior.shape = (prior.shape[0], CROP // 4, CROP // 4)
    return prior


@functools.cache
def scan(size: int) -> Tensor:
    """The middle of the demo scan, [1,1,size,size]."""
    rows = manifest.read(HOME / "models/demo-data/test.csv")
    image = dataset.load(next(row for row in rows if row.image_id == SCAN), channels=1)[0]
    top, left = ((n - size) // 2 for n in image.shape[1:])
    return image[None, :, top : top + size, left : left + size]


def table() -> Iterator[Form | Title]:
    """Line by line, as they are measured."""
    yield Title()
    for kind, name in FORMS:
        yield solved(kind, name)


ROWS = (table,)
