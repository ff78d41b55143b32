"""What a measurement holds beyond its window: set aside while images are drawn, and put back onto what was restored.
A window that holds far more than the image is named.

A prior knows images in [-1, 1]. Metal in a CT whose window ends at 400 HU is none of them, and must not be lost either.
"""

from dataclasses import replace

import torch
from torch import Tensor

from data.formats import unpadded
from data.ranges import NARROW
from data.sources import ARRAYS
from solvers.operators.base import Operator
from solvers.photons import unit_scale
from solvers.problem import Gaussian, Likelihood
from solvers.run.record import Outcome
from solvers.run.scans import Scan

NOISE = 4.0  # deviations of noise that belong to a value within the window: beyond them lies one in 16,000
NORMAL = 0.6745  # median of |n| for n of deviation 1


def narrow(scan: Scan) -> str:
    """What to say of a picture of 16 bits whose values end below an eighth of its window, as 12 bits do; "" of others."""
    if (
        scan.volume
        or scan.source is None
        or scan.intensity is None
        or scan.source.meta.dtype != "uint16"
    ):
        return ""
    low, high = (float(end) for end in unpadded(scan.source).aminmax())
    share = (high - scan.intensity.low) / (scan.intensity.high - scan.intensity.low)
    if not (low < high and share < NARROW):
        return ""
    window = f"{scan.intensity.low:g} to {scan.intensity.high:g}"
    return f"its values, {low:g} to {high:g}, end at {share:.1%} of its window, {window}; --window p0:p100 is theirs alone"


def set_aside(scan: Scan, operator: Operator, likelihood: Likelihood) -> Scan:
    """The scan with y clamped to its window where it leaves that by more than noise does, and the rest as `outside`.

    Only of a y that is a picture of the image, read from a file that has a window.
    """
    y = scan.pixels
    if y is None or scan.source is None or unit_scale(operator) != 2 or operator.grid is None:
        return scan
    if (
        scan.source.meta.format in ARRAYS
        and scan.intensity is not None
        and not scan.intensity.origin
    ):
        return scan
    beyond = y.abs() > 1 + NOISE * _deviation(y, likelihood)
    if not bool(beyond.any()):
        return scan
    kept = torch.where(beyond, y.clamp(-1, 1), y)
    return replace(scan, pixels=kept, outside=y - kept)


def put_back(outcome: Outcome) -> Outcome:
    """The outcome whose image, draws and y have what was set aside, brought to the image's pixels."""
    rest, image, grid = outcome.scan.outside, outcome.image, outcome.grid
    if rest is None or image is None or grid is None:
        return outcome
    if outcome.y is not None:
        outcome = replace(outcome, y=outcome.y + rest.to(outcome.y))
    share = int(rest.count_nonzero()) / rest.numel()
    if len(rest) != len(image):  # of another number of channels
        rest = rest.mean(0, keepdim=True)
    added = grid.bicubic(rest.to(image), *image.shape[-2:])
    draws = None if outcome.draws is None else outcome.draws + added
    return replace(
        outcome, image=image + added, draws=draws, record=outcome.record | {"carried": share}
    )


def _deviation(y: Tensor, likelihood: Likelihood) -> float:
    """sigma_y; where it is not known, from the finest diagonal differences of y [C,H,W] (Donoho & Johnstone 1994)."""
    if not isinstance(likelihood, Gaussian):
        return 0.0
    if likelihood.sigma_y is not None:
        return likelihood.sigma_y
    if min(y.shape[-2:]) < 2:
        return 0.0
    fine = y[..., 1:, 1:] - y[..., 1:, :-1] - y[..., :-1, 1:] + y[..., :-1, :-1]
    return float(fine.abs().median()) / 2 / NORMAL
