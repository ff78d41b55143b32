"""How much noise a measurement holds, from the measurement alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data.files import Refusal
from solvers.photons import unit_scale

OFF = 2.0  # how many times sigma_y may be what is found
RUN = 64  # neighbouring differences that are judged together when sigma_y is estimated
STENCILS: dict[
    str, list[list[list[int]]]
] = {  # of the differences that noise is judged by, the first that has enough
    "plane": [[[1, -1], [-1, 1]], [[1, -2, 1]], [[1], [-2], [1]]],
    "rows": [[[1, -4, 6, -4, 1]]],
    "columns": [[[1], [-2], [1]]],
    "none": [],
}


def estimated_sigma_y(problem: Any) -> Tensor:
    """sigma_y of each image [B] of a `Problem`, from y alone: the root mean square of what no image can explain, where an
    operator has that (k-space); else from differences of neighbours, whose structure makes it too large.

    The finest diagonal differences (Donoho & Johnstone 1994), or second differences along lines where too few 2 x 2 blocks are
    measured; of MRI along columns, of CT fourth ones along the bins. They are cut into runs of 64 neighbours; the lower
    quartile of the runs' median absolute values keeps clear of edges and of the middle of k-space. Of Gaussian noise it is
    0.6082 sigma: a median of 64 has the mean 0.6745 and the deviation 0.0983. Of the shipped scans at the tasks' noise CT
    comes out 2 to 11 % too large, k-space right to 10 % (of complex images by one coil, if a tenth of their rows are air).
    """
    y, operator = problem.y, problem.operator
    seen, alone = operator.restrict(torch.ones_like(y)), operator.noise_alone(y)
    if y.ndim < 4:
        raise Refusal(
            "sigma_y cannot be estimated from measurements without neighbours: give likelihood sigma_y"
        )
    result = []
    for row, image_id in enumerate(problem.ids):
        noise = alone[row][alone[row] != 0] if alone is not None else y.new_zeros(0)
        if len(noise) >= 8 * RUN:
            result.append(float(noise.square().mean().sqrt()))
            continue
        several = differences(y[row], seen[row], operator.select([row]).neighbours)
        found = next((d for d in several if len(d) >= 8 * RUN), torch.zeros(RUN))
        medians = found[: len(found) // RUN * RUN].reshape(-1, RUN).abs().median(1).values
        medians = medians[medians > 0]  # runs of padding measure nothing
        if not len(medians):
            raise Refusal(
                f"{image_id}: sigma_y cannot be estimated from this measurement: give likelihood sigma_y"
            )
        result.append(float(medians.quantile(0.25)) / 0.6082)
    return torch.tensor(result, dtype=y.dtype, device=y.device)


def typical(deviation: Tensor, ids: Sequence[str]) -> Tensor:
    """The median deviation of the entries of each image, [B,...] -> [B], without infinite ones, which say nothing. Raises Refusal
    for images that have no others."""
    for row, image_id in zip(deviation, ids):
        if not bool(row.isfinite().any()):
            raise Refusal(
                f"{image_id}: the deviation of every entry is infinite, so that y says nothing; at least one must be finite"
            )
    return torch.stack([row[row.isfinite()].median() for row in deviation])


def differences(image: Tensor, mask: Tensor, neighbours: str) -> list[Tensor]:
    """Differences within planes of [...,H,W], of measured entries alone; their noise has the entries' standard deviation."""
    results = []
    for stencil in STENCILS[neighbours]:
        weight = torch.tensor(stencil, dtype=image.dtype, device=image.device)[None, None]
        if any(k > n for k, n in zip(weight.shape[-2:], image.shape[-2:])):
            continue
        value = torch.nn.functional.conv2d(image.flatten(0, -3)[:, None], weight / weight.norm())
        whole = (
            torch.nn.functional.conv2d(mask.flatten(0, -3)[:, None], weight.abs())
            == weight.abs().sum()
        )
        results.append(value[whole])
    return results


def overstated(problem: Any) -> str:
    """What to say of a sigma_y that is far above what y, a picture of its image, can hold; "" where it is not."""
    if getattr(problem.likelihood, "sigma_y", None) is None or unit_scale(problem.operator) != 2:
        return ""
    try:
        found = float(estimated_sigma_y(problem))
    except Refusal:  # too few pixels to tell
        return ""
    if problem.sigma_y <= OFF * found:
        return ""
    return (
        f"sigma_y is {problem.sigma_y:g}, but neighbours in y differ as by noise of {found:.2g}, so that the result is smoothed"
        " too much; likelihood.params.sigma_y=null takes what is found"
    )
