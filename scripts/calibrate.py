"""What each solver really samples: runs on priors whose posterior is known, written to docs/calibration.md.

    python scripts/calibrate.py                       # all of it, some minutes on one core
    python scripts/calibrate.py --only DAPS --pairs 32

For every solver and prior: `pairs` measurements of prior samples, `draws` runs of each. Compared with the exact posterior,
entry by entry: the error of the mean (in posterior deviations, sampling error taken out), the variance ratio, the standard
deviation of (truth - mean) / std, and how often the 90 % interval mean -+ t(K-1) std sqrt(1 + 1/K) holds the truth.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from known_posteriors import LOW, S0, SIDE, TOP, D, Stream, priors, state_prior

from data.files import Refusal
from ldm.analytic import Mixture
from ldm.denoiser import Prior
from solvers import metrics
from solvers.codps import CoDPS, CoDPSPlus
from solvers.daps import DAPS
from solvers.dps import DPS, DPSLikelihood
from solvers.operators.base import LinearOperator
from solvers.operators.inpainting import Inpainting
from solvers.padis import PaDIS
from solvers.problem import Gaussian, Problem, measure
from solvers.psld import PSLD
from solvers.published.codps import PublishedCoDPSPlus
from solvers.published.daps import DAPSLangevin
from solvers.published.padis import PaDISDPS, PaDISLangevin
from solvers.published.padis_pc import PaDISPC
from solvers.resample import ReSample
from solvers.run import door
from solvers.run.command import Parser

SIGMA_Y = 0.1
RANGE = dict(sigma_min=LOW, sigma_max=TOP)
SOLVERS = {
    "DAPS, exact draw, scalar r2": DAPS(steps=60, **RANGE),
    "DAPS, exact draw, trace": DAPS(steps=60, covariance="trace", **RANGE),
    "DAPS, exact draw, whole covariance": DAPS(steps=60, covariance="operator", rank=D, **RANGE),
    "DAPS, published (ODE, Langevin)": DAPSLangevin(steps=40, M=20, lr=1e-4, tau=SIGMA_Y, **RANGE),
    "ReSample, exact update": ReSample(steps=30),
    "ReSample, code's variance": ReSample(steps=30, resampling="code"),
    "ReSample, re-encoding": ReSample(steps=30, resampling="encode"),
    "PSLD (latent)": PSLD(steps=50),
    "CoDPS+, free of tuning": CoDPSPlus(steps=100, clip=False),
    "CoDPS+, published c = 0.4": PublishedCoDPSPlus(
        steps=100, scale=0.4, t_div=10, div_ratio=100.0, inv_var=0.0, clip=False
    ),
    "CoDPS, free of tuning": CoDPS(steps=1000, clip=False),
    "DPS, likelihood": DPSLikelihood(steps=1000, clip=False),
    "DPS, published zeta = 0.3": DPS(steps=1000, clip=False),
    "PaDIS, DDNM": PaDIS(steps=50, inner=2, sigma_min=0.01, sigma_max=TOP, final="state"),
    "PaDIS, DPS": PaDISDPS(steps=50, inner=2, sigma_min=0.01, sigma_max=TOP, final="state"),
    "PaDIS, Langevin": PaDISLangevin(
        steps=50, inner=2, sigma_min=0.01, sigma_max=TOP, final="state"
    ),
    "PaDIS, predictor-corrector": PaDISPC(steps=50, sigma_min=0.01, sigma_max=TOP, final="state"),
}


@dataclass(frozen=True)
class Card:
    """One line of the table."""

    mean_error: float  # posterior deviations
    variance_ratio: float
    measured: float  # the variance ratio of the measured entries alone
    unmeasured: float
    z_std: float
    coverage: float  # of the 90 % interval

    @property
    def sampler(self) -> bool:
        return (
            0.97 <= self.variance_ratio <= 1.03
            and 0.88 <= self.coverage <= 0.92
            and self.mean_error <= 0.1
        )


def calibrate(
    solver,
    truth: Mixture,
    pairs: int = 64,
    draws: int = 24,
    seed: int = 0,
    other: LinearOperator | None = None,
    prior: Prior | None = None,
) -> Card:
    """Run `pairs` x `draws` chains at once and compare with the exact posterior.

    other: what measures the images of a prior, instead of every second pixel of the small ones.
    """
    ids = tuple(f"{i}" for i in range(pairs))
    noise = Stream(ids, "noise", seed)
    shape = tuple(prior.shape) if prior else (1, SIDE, SIDE)
    size = math.prod(shape)
    x0 = truth.draw(
        noise.uniform((pairs,), torch.float64), noise.normal((pairs, size), torch.float64)
    )
    every_other = Inpainting((torch.arange(D) % 2 == 0).reshape(SIDE, SIDE).float())
    operator = (other or every_other).draw(shape, noise)
    problem = measure(operator, x0.reshape(-1, *shape), Gaussian(SIGMA_Y), noise)
    many: Problem = problem.repeat(draws)
    *_, last = solver(many, prior or state_prior(truth, solver), Stream(many.ids, "solver", seed))
    x = last.x0.reshape(pairs, draws, size)
    A = operator.forward(torch.eye(size, dtype=torch.float64).reshape(-1, *shape)).flatten(1).T
    seen = A.square().sum(1) > 0  # entries of y that are measured
    kept = A.square().sum(0) > 0.99  # entries of x that are
    weights, means, variances = truth.posterior(A[seen], problem.y.flatten(1)[:, seen], SIGMA_Y)
    mean = torch.einsum("bk,bkd->bd", weights, means)
    variance = torch.einsum("bk,bkd->bd", weights, variances + means**2) - mean**2
    found_mean, found_variance, half = x.mean(1), x.var(1), metrics.half_width(x.movedim(1, 0))
    error = (
        (((found_mean - mean) ** 2 - found_variance / draws) / variance).mean().clamp_min(0).sqrt()
    )
    inflation = (1 + 1 / draws) * (draws - 1) / (draws - 3)  # of z^2, from finitely many draws
    z2 = (((found_mean - mean) ** 2 + variance) / found_variance).mean() / inflation
    inside = [
        torch.special.ndtr((found_mean[:, None] + sign * half[:, None] - means) / variances.sqrt())
        for sign in (1, -1)
    ]
    coverage = torch.einsum("bk,bkd->bd", weights, inside[0] - inside[1]).mean()
    ratio = found_variance / variance
    return Card(
        mean_error=float(error),
        variance_ratio=float(ratio.mean()),
        measured=float(ratio[:, kept].mean()),
        unmeasured=float(ratio[:, ~kept].mean()),
        z_std=math.sqrt(float(z2)),
        coverage=float(coverage),
    )


TITLES = [
    "| solver | prior | error of mean | variance ratio | of measured entries | of the others | z-std | 90 % coverage | called |",
    "|---|---|--:|--:|--:|--:|--:|--:|---|",
]


def table(only: str, pairs: int, draws: int) -> Iterator[str]:
    """The lines of the card, one by one."""
    for name, solver in SOLVERS.items():
        if only.lower() not in name.lower():
            continue
        for kind, truth in priors().items():
            begun = time.perf_counter()
            card = calibrate(solver, truth, pairs, draws)
            print(f"{name} on {kind}: {card} {time.perf_counter() - begun:.1f} s", file=sys.stderr)
            yield (
                f"| {name} | {kind} | {card.mean_error:.2f} | {card.variance_ratio:.3f} | {card.measured:.3f} |"
                f" {card.unmeasured:.3f} | {f'{card.z_std:.2f}' if card.z_std < 100 else '> 100'} |"
                f" {card.coverage:.1%} | {'sampler' if card.sampler else 'estimator'} |"
            )


def main(argv: Sequence[str]) -> int:
    parser = Parser("calibrate.py", __doc__)
    parser.add_argument("--only", default="", help="solvers whose name contains this")
    parser.add_argument("--pairs", type=int, default=64, help="measurements per solver and prior")
    parser.add_argument("--draws", type=int, default=24, help="runs per measurement (at least 4)")
    parser.add_argument("--out", type=Path, default=Path("docs/calibration.md"))
    return door.run(parser.prog, argv, lambda: write(parser.parse_args(argv)))


def write(options: argparse.Namespace) -> None:
    if options.pairs < 1 or options.draws < 4:
        raise Refusal("--pairs must be at least 1 and --draws at least 4")
    if not any(options.only.lower() in name.lower() for name in SOLVERS):
        raise Refusal(f"no solver is called {options.only!r}; there are {', '.join(SOLVERS)}")
    lines = list(TITLES)
    for line in table(options.only, options.pairs, options.draws):
        lines.append(line)
        if options.only:
            print(line)
        else:  # line by line: an interrupted card holds what was measured
            options.out.write_text(
                HEAD.format(**vars(options)) + "\n".join(lines) + "\n", encoding="utf-8"
            )


HEAD = f"""# What each solver really samples

Written by `python scripts/calibrate.py` ({{pairs}} measurements, {{draws}} draws of each). Images of {SIDE}×{SIDE} pixels, every
second one measured with noise {SIGMA_Y}; priors of deviation {S0} with exact denoisers, so that the posterior is known. A solver
whose variance ratio lies in 0.97–1.03, whose 90 % interval holds the truth in 88–92 % of the cases and whose mean is right to
0.1 posterior deviations is called a *sampler* of that posterior, the others *estimators*: their spread is not an uncertainty.

PaDIS's DPS, Langevin and predictor-corrector forms take their data step without asking sigma_y: at its stable length it sets
measured pixels to y itself, noise included, so that all draws agree there (ratio 0, z-std without bound) and differ elsewhere.
ReSample, PSLD, CoDPS and DPS step along their papers' tables of alpha_bar; x0_hat is never clipped, as these priors have no
range. `DPSLikelihood` needs DPS's many steps: with 100 instead of 1000 it diverges on the correlated prior.

"""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
