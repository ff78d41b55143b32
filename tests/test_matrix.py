"""Any prior, any operator, any solver: it runs and explains the data, or refuses in one line before any network runs.

python tests/test_matrix.py        # runs all cells and writes docs/matrix.md
"""

import sys
from pathlib import Path

import pytest
import torch
from analytic import isotropic, latent, patched

from data.seeding import Noise
from solvers.baseline import Baseline
from solvers.codps import CoDPS, CoDPSPlus
from solvers.daps import DAPS
from solvers.dps import DPS
from solvers.operators import (
    CT,
    BoxInpainting,
    CartesianMRI,
    CompressedSensing,
    Denoising,
    GaussianBlur,
    HighDynamicRange,
    MotionBlur,
    NonlinearBlur,
    PhaseRetrieval,
    RandomInpainting,
    SpiralMRI,
    SpokesMRI,
    StripeInpainting,
    SuperResolution,
    TileCentre,
    UniformBlur,
)
from solvers.padis import PaDIS
from solvers.pnp import PnP
from solvers.problem import Clean, Gaussian, Poisson, measure
from solvers.psld import PSLD
from solvers.published.daps import DAPSLangevin
from solvers.published.descent import AdamW
from solvers.published.padis import PaDISDPS, PaDISLangevin
from solvers.published.padis_pc import PaDISPC
from solvers.published.resample import PublishedReSample
from solvers.resample import ReSample
from solvers.solver import check
from solvers.tv import TV

SHAPE, IDS, SIGMA_Y = (1, 8, 8), ("a", "b"), 0.05
NOISY = Gaussian(SIGMA_Y)
PRIORS = {
    "pixel": isotropic(SHAPE),
    "latent": latent(SHAPE, error_variance=1e-3),
    "patch": patched(8, 3),
}
OPERATORS = {
    "super-resolution": SuperResolution(2),
    "Gaussian blur": GaussianBlur(5, 1.0, "reflect"),
    "motion blur": MotionBlur(5),
    "uniform blur": UniformBlur(3),
    "random inpainting": RandomInpainting(),
    "box inpainting": BoxInpainting(),
    "destriping": StripeInpainting(),
    "denoising": Denoising(),
    "tile centres": TileCentre(2),
    "CT": CT(views=4, bins=16),
    "MRI": CartesianMRI(acceleration=2),
    "MRI, radial": SpokesMRI(spokes=6),
    "MRI, spiral": SpiralMRI(shots=3),
    "compressed sensing": CompressedSensing(),
    "phase retrieval": PhaseRetrieval(),
    "HDR": HighDynamicRange(),
    "nonlinear blur": NonlinearBlur(5, 1.0),
}
SOLVERS = {
    "resample": ReSample(steps=12, skip=3),
    "resample_fast": ReSample(steps=12, skip=3, sigma_latent=0.0),
    "resample_published": PublishedReSample(
        steps=8, skip=3, adamw=AdamW(iterations_pixel=30, iterations_latent=30), dps=0.5
    ),
    "psld": PSLD(steps=10),
    "daps": DAPS(steps=8, sigma_min=0.02),
    "daps_trace": DAPS(steps=8, sigma_min=0.02, covariance="trace"),
    "daps_langevin": DAPSLangevin(steps=6, M=5, lr=1e-5, tau=SIGMA_Y),
    "pnp": PnP(steps=8),
    "codps": CoDPS(steps=20),
    "codps_plus": CoDPSPlus(steps=20),
    "dps": DPS(steps=20),
    "padis": PaDIS(steps=20),
    "padis_dps": PaDISDPS(steps=10),
    "padis_langevin": PaDISLangevin(steps=10),
    "padis_pc": PaDISPC(steps=10),
    "tv": TV(steps=20),
    "baseline": Baseline(),
}
CONDITIONED = {
    "resample",
    "resample_fast",
    "daps",
    "daps_trace",
    "pnp",
    "codps_plus",
    "padis",
}  # their data step is the update
FEW = {"motion blur", "random inpainting", "HDR"}


def pose(name: str, likelihood=NOISY):
    noise = Noise(IDS, "noise")
    x0 = (0.5 * noise.normal((len(IDS), *SHAPE), torch.float64)).clamp(-1, 1)
    return measure(OPERATORS[name].draw(SHAPE, noise), x0, likelihood, noise)


def cell(solver: str, operator: str, prior: str, likelihood=NOISY) -> tuple[float, str]:
    """The larger residual of the two images, or infinity and the reason of the refusal."""
    problem = pose(operator, likelihood)
    try:
        check(SOLVERS[solver], problem, PRIORS[prior])
    except ValueError as error:
        assert "\n" not in str(error)
        return float("inf"), str(error)
    *_, last = SOLVERS[solver](problem, PRIORS[prior], Noise(IDS, "solver"))
    assert last.x0.shape == (len(IDS), *SHAPE) and torch.isfinite(last.x0).all()
    residual = problem.residual(last.x0)
    if solver in CONDITIONED:
        # 2: with few entries a residual of 1 fluctuates; the mean square of 16 entries exceeds 4 once in 10^6
        assert (residual < 2).all(), (
            f"{solver} on {operator} with a {prior} prior leaves {residual.tolist()}"
        )
    return float(residual.max()), ""


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "operator",
    [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in OPERATORS],
)
def test_cell(operator, solver, prior):
    cell(solver, operator, prior)


@pytest.mark.parametrize("solver", ["resample", "daps", "pnp", "codps_plus", "padis", "dps"])
@pytest.mark.parametrize("likelihood", [Clean(), Poisson(200.0)], ids=["clean", "poisson"])
def test_other_likelihoods(solver, likelihood):
    *_, last = SOLVERS[solver](pose("denoising", likelihood), PRIORS["pixel"], Noise(IDS, "solver"))
    assert torch.isfinite(last.x0).all()


def write(path: Path) -> None:
    """All cells as one table for each kind of prior."""
    lines = [
        "# Prior × operator × solver",
        "",
        "Written by `python tests/test_matrix.py`: tiny priors with exact denoisers, 8×8 images, few steps. A number is the",
        "larger residual |A x − y| / (sigma_y √m) of two images: 1 is the noise level. Solvers whose data step is a gradient",
        "need more steps than these, and published step lengths know nothing of |A|. A letter is a refusal, made before any",
        "network runs.",
    ]
    reasons: dict[str, str] = {}
    for prior in PRIORS:
        lines += [
            "",
            f"## {prior} prior",
            "",
            f"| | {' | '.join(SOLVERS)} |",
            "|---|" + "--:|" * len(SOLVERS),
        ]
        for operator in OPERATORS:
            row = []
            for solver in SOLVERS:
                residual, reason = cell(solver, operator, prior)
                reason = reason.replace(type(OPERATORS[operator]).__name__, "this one")
                if reason:
                    reasons.setdefault(reason, chr(ord("a") + len(reasons)))
                row.append(reasons[reason] if reason else f"{residual:.2g}")
            lines.append(f"| {operator} | {' | '.join(row)} |")
            print(lines[-1], file=sys.stderr)
    lines += [
        "",
        "Refusals:",
        "",
        *(f"* **{letter}** {reason}" for reason, letter in reasons.items()),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).resolve().parent.parent / "docs" / "matrix.md")
