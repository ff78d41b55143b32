"""Each solver's default beside its published form on a demo scan with the shipped priors, as a Markdown table.

    python scripts/benchmark.py forms                     # an hour on one core
    python scripts/benchmark.py forms --only patch        # one of the two priors

Published forms are the files of configs/published with fewer steps (and 2 of PaDIS's 10 a level), all on x4
super-resolution with noise 0.05; the latent prior restores the scan at half size. Seconds are the processor's.
"""

import copy
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from data import dataset, manifest
from data.seeding import Noise
from ldm import checkpoints, config
from ldm.denoiser import Prior
from solvers.metrics import psnr
from solvers.operators import SuperResolution
from solvers.problem import Gaussian, measure
from solvers.run.cost import Meter

HOME = Path(__file__).resolve().parents[1]
SCAN, HALF = "brain2-ax-008", 128
FORMS = {  # name -> configuration, steps, other settings
    ("latent", "ReSample"): ("solvers/resample", 50),
    ("latent", "ReSample, pixels only"): ("solvers/resample_fast", 50),
    ("latent", "ReSample, the paper's stages"): ("solvers/resample_stages", 100),
    ("latent", "ReSample, published"): ("published/resample/ffhq-ddim/super_resolution", 100),
    ("latent", "PSLD"): ("solvers/psld", 100),
    ("latent", "PSLD, published"): ("published/psld/ffhq_ldm-ddim/super_resolution", 100),
    ("latent", "DAPS"): ("solvers/daps", 10),
    ("latent", "DAPS, published"): ("published/daps/ffhq_ldm-hmc/super_resolution", 10),
    ("latent", "DPS"): ("solvers/dps", 100),
    ("latent", "bicubic"): ("solvers/baseline", 1),
    ("patch", "DAPS"): ("solvers/daps", 25),
    ("patch", "DAPS, published"): ("published/daps/ffhq-langevin/super_resolution", 20),
    ("patch", "CoDPS+"): ("solvers/codps_plus", 50),
    ("patch", "CoDPS+, published"): ("published/codps/ffhq-ddim/super_resolution", 50),
    ("patch", "PaDIS, DDNM"): ("solvers/padis", 25),
    ("patch", "PaDIS, DDNM, published"): (
        "published/padis/aapm-ddnm/ct_parallel_20",
        20,
        "inner=2",
    ),
    ("patch", "PaDIS, DPS, operator-normalised"): ("solvers/padis_dps", 20, "inner=2"),
    ("patch", "PaDIS, DPS, published"): (
        "published/padis/celebahq-dps/super_resolution",
        20,
        "inner=2",
    ),
    ("patch", "PaDIS, Langevin, operator-normalised"): ("solvers/padis_langevin", 20, "inner=2"),
    ("patch", "PaDIS, Langevin, published"): (
        "published/padis/aapm-langevin/ct_parallel_20",
        20,
        "inner=2",
        "zeta=0.6",
    ),
    ("patch", "PaDIS, PC, operator-normalised"): ("solvers/padis_pc", 20),
    ("patch", "PaDIS, PC, published"): ("published/padis/aapm-pc/ct_parallel_20", 20, "zeta=0.6"),
    ("patch", "DPS"): ("solvers/dps", 40),
    ("patch", "ReSample"): ("solvers/resample", 25),
    ("patch", "bicubic"): ("solvers/baseline", 1),
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
    file, steps, *more = FORMS[kind, name]
    changes = [f"solver.params.{change}" for change in (f"steps={steps}", *more)]
    solver = config.build(config.load([HOME / f"configs/{file}.yaml"], changes)["solver"])
    prior, truth = shipped(kind), scan(HALF if kind == "latent" else 256)
    noise = Noise([SCAN], "noise")
    problem = measure(
        SuperResolution(4).draw(tuple(truth.shape[1:]), noise), truth, Gaussian(0.05), noise
    )
    begun = time.process_time()
    with Meter(prior) as meter:
        *_, last = solver(problem, prior, Noise([SCAN], "solver"))
        image = last.x0
    spent = time.process_time() - begun
    return Form(
        kind,
        name,
        float(psnr(image, truth)),
        float(problem.residual(image)),
        spent,
        meter.nfe,
        meter.vjps,
        steps,
    )


@functools.cache
def shipped(kind: str) -> Prior:
    """A shipped prior; the latent one on latents of half its size, which its network, being convolutional, takes as well."""
    prior = checkpoints.load(HOME / f"models/demo-{kind}").eval().requires_grad_(False)
    if kind == "latent":
        prior = copy.copy(prior)
        prior.shape = (prior.shape[0], HALF // 4, HALF // 4)
    return prior


@functools.cache
def scan(size: int) -> Tensor:
    """The demo scan, [1,1,size,size], pixels averaged where it is smaller."""
    rows = manifest.read(HOME / "models/demo-data/test.csv")
    image = dataset.load(next(row for row in rows if row.image_id == SCAN), channels=1)[0]
    return functional.adaptive_avg_pool2d(image[None], size)


def latent() -> Iterator[Form | Title]:
    return table("latent")


def patch() -> Iterator[Form | Title]:
    return table("patch")


def table(kind: str) -> Iterator[Form | Title]:
    """Line by line, as they are measured."""
    yield Title()
    for each, name in FORMS:
        if each == kind:
            yield solved(kind, name)


ROWS = (latent, patch)
