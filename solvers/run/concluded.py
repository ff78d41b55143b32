"""What is kept of one image's draws: the result, and its record."""

from typing import Any

import torch
from torch import Tensor

from solvers.measured.noise_level import estimated_sigma_y
from solvers.operators.grid import Grid
from solvers.photons import unit_scale
from solvers.problem import Gaussian, Problem
from solvers.run.cells import Cell, Run
from solvers.run.record import ALIKE, ROUNDING, Outcome, nearest, scores
from solvers.run.scans import Scan, cut


def concluded(
    cell: Cell,
    run: Run,
    scan: Scan,
    problem: Problem,
    draws: Tensor,
    mean: Tensor,
    baseline: Tensor | None,
    facts: dict[str, Any],
) -> Outcome:
    """Draws [K,C,H,W] of one image and its posterior mean -> what is kept and its record."""
    operator, many = problem.operator, len(draws) > 1 and not cell.keep
    residuals = torch.cat([problem.residual(draw[None]) for draw in draws])
    truth = None if run.measurements or scan.pixels is None else scan.pixels.to(draws)
    turns = getattr(operator, "turns", False)
    kept = int(residuals.argmin()) if cell.keep else 0
    if cell.keep == "oracle" and truth is not None:
        kept = nearest(cut(draws, truth), truth, turns)
    image = mean if many else draws[kept]
    record = {"image_id": scan.image_id, **scan.identity, "residual": float(residuals[kept])}
    if many:
        record["residual_mean"] = float(problem.residual(image[None]))
    elif cell.keep:
        record |= {"kept_run": kept, "kept_by": cell.keep, "residuals": residuals.tolist()}
    if scan.scale != 1:
        record["scale"] = scan.scale
    if scan.slices and run.measurements and operator.places != (0.0, 1.0):
        record["slices_at"] = list(operator.places)
    if run.measurements and operator.grid not in (None, Grid()):
        record["grid"] = operator.grid._asdict()
    if isinstance(problem.likelihood, Gaussian) and problem.likelihood.sigma_y is None:
        record["sigma_y_estimated"] = float(estimated_sigma_y(problem))
    image, draws = image.cpu(), draws.cpu()
    if truth is not None:
        truth, record["clamped"] = truth.cpu(), scan.clamped
        image, draws = cut(image, truth), cut(draws, truth)
        baseline = None if baseline is None else cut(baseline, truth)
        record |= scores(image, truth, draws if many else None, baseline, turns)
    alike = many and float(draws.std(0).max()) < ROUNDING
    notes = [*facts["notes"], *[ALIKE] * alike]
    return Outcome(
        scan=scan,
        record=record | facts | {"notes": notes, "status": "ok"},
        image=image,
        draws=draws if many else None,
        truth=truth,
        y=problem.stored()[0].cpu() / scan.scale,
        baseline=baseline,
        operator={name: tensor[0].cpu() for name, tensor in operator.files().items()},
        image_like=unit_scale(operator) == 2,
        axes=operator.reading,
        zoom=run.zoom,
        grid=operator.grid,
    )
