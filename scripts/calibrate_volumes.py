"""What solvers sample of volumes: 8x8x8 entries correlated along all axes, whose posterior is known. Prints a card.

    python scripts/calibrate_volumes.py                    # a minute or two on one free core
    python scripts/calibrate_volumes.py --pairs 16 --draws 24

The columns are those of docs/calibration.md; the card stands in docs/volumes.md.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from calibrate import LOW, S0, TITLES, TOP, calibrate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.seeding import Noise
from ldm.analytic import Mixture, gaussian
from ldm.denoiser import Prior
from ldm.volume import VolumePrior
from solvers.daps import DAPS
from solvers.operators.volume import MissingSlices, ThroughPlane
from solvers.run import door
from solvers.run.flags import Parser

SHAPE = (1, 8, 8, 8)
SOLVERS = {
    "DAPS, exact draw, whole covariance": DAPS(
        steps=40, sigma_max=TOP, sigma_min=LOW, covariance="operator", rank=30
    ),
    "DAPS, measured errors": DAPS(steps=40, sigma_max=TOP, sigma_min=LOW),
}
OPERATORS = {"through plane ×2": ThroughPlane(2.0), "every second slice": MissingSlices(every=2)}


def truth() -> Mixture:
    """Variance S0^2, which falls off with the distance along each axis over 1.5 voxels."""
    at = torch.arange(SHAPE[1]).double()
    line = torch.exp(-(at[:, None] - at).abs() / 1.5)
    return gaussian(S0**2 * torch.kron(torch.kron(line, line), line))


class Exact(VolumePrior):
    """A volume prior whose denoiser is the truth's own; its measured errors are white ones of the right size."""

    def __init__(self, exact: Mixture):
        rows = [[level, S0**2 * level**2 / (S0**2 + level**2)] for level in (LOW, 0.05, 0.5, TOP)]
        super().__init__(Prior(exact, SHAPE[:1] + SHAPE[2:], LOW, TOP, variances=rows), SHAPE)
        self.exact = exact

    def denoise(self, x: Tensor, sigma: Tensor, noise: Noise | None = None) -> Tensor:
        return self.exact(x, sigma)


def main(argv: Sequence[str]) -> int:
    parser = Parser("calibrate_volumes.py", __doc__)
    parser.add_argument("--pairs", type=int, default=8, help="measurements per solver and operator")
    parser.add_argument("--draws", type=int, default=24, help="runs per measurement (at least 4)")
    return door.run(parser.prog, argv, lambda: write(**vars(parser.parse_args(argv))))


def write(pairs: int, draws: int, **_: object) -> None:
    known = truth()
    print("\n".join(TITLES).replace("| prior |", "| measured |"))
    for name, solver in SOLVERS.items():
        for kind, operator in OPERATORS.items():
            card = calibrate(solver, known, pairs, draws, other=operator, prior=Exact(known))
            measured, others = (
                f"{v:.3f}" if v == v else "–" for v in (card.measured, card.unmeasured)
            )
            print(
                f"| {name} | {kind} | {card.mean_error:.2f} | {card.variance_ratio:.3f} | {measured} | {others} |"
                f" {card.z_std:.2f} | {card.coverage:.1%} | {'sampler' if card.sampler else 'estimator'} |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
