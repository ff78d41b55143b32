"""A problem is posed: scans of one shape become what was measured of them, and the prior is fitted to their shape."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.operators.base import Operator, Shape
from solvers.problem import Problem, continued, from_measurement, image_shape, measure
from solvers.run.cells import Cell, Run
from solvers.run.outside import set_aside
from solvers.run.parallel import Slices
from solvers.run.reading import rescaled
from solvers.run.scans import Scan, shape_of, sides
from solvers.run.whole import lifted

# A prior for images of this shape, and what had to be done ("" if nothing).
Fit = Callable[..., tuple[Prior, str]]


@dataclass
class Posing:
    """fit: adapts a prior to a scan's shape, or refuses in one line. like: a tensor of the device and type that are worked in.

    spread: denoises a volume's slices by several processes (`parallel.Slices`), once there are some.
    """

    run: Run
    fit: Fit
    spread: Slices | None = None

    def in_units(self, cell: Cell, scans: list[Scan], prior: Prior) -> list[Scan]:
        """Measurements times `run.scale`, or without one what lies within their windows; others as they are."""
        assert cell.operator is not None and cell.likelihood is not None
        if self.run.measurements and self.run.scale == 1:
            return [set_aside(scan, cell.operator, cell.likelihood) for scan in scans]
        return rescaled(scans, cell.operator, self.run.scale, tuple(prior.image_shape))

    def shape(self, cell: Cell, scan: Scan, prior: Prior) -> Shape:
        """Of the image that a scan is, or that it measures."""
        assert cell.operator is not None
        shape = shape_of(scan)
        if not self.run.measurements:
            return shape
        operator = lifted(cell.operator, len(shape) == 4, scan.image_id)
        return image_shape(operator, shape, tuple(prior.image_shape))

    def pose(
        self, cell: Cell, scans: list[Scan], prior: Prior, like: Tensor
    ) -> tuple[Problem, Prior, str]:
        """The problem of scans of one shape, simulated, the user's own y or a scanner's own; a prior, and what was done."""
        if scans[0].pose:  # alone
            return self.seen(scans[0].pose(), prior, like)
        x = torch.stack([scan.pixels for scan in scans]).to(like)  # type: ignore[misc]
        ids, measured = [scan.image_id for scan in scans], tuple(x.shape[1:])
        assert cell.operator is not None and cell.likelihood is not None
        operator = lifted(cell.operator, x.ndim == 5, ids[0])
        noise = Noise(ids, "noise", self.run.seed)
        if self.run.measurements:
            shape = self.shape(cell, scans[0], prior)
            fit, note = self.fitted(prior, shape, scans[0], operator)
            return from_measurement(operator, x, cell.likelihood, noise, shape), fit, note
        shape = operator.measurable(measured)
        if operator.grid and min(operator.shape_out(shape)[-2:]) < 2 <= min(measured[-2:]):
            told = f"a single row or column of pixels is measured of {sides(measured)}"
            raise Refusal(f"{told}; a smaller factor leaves 2×2 or more")
        x = continued(x, operator)
        fit, note = self.fitted(prior, shape, scans[0])
        if shape != measured:
            grown = f"{sides(measured)} image continued to {sides(shape)} by its edges, and cropped back"
            note = f"{grown}; {note}" if note else grown
        return measure(operator.draw(shape, noise), x, cell.likelihood, noise), fit, note

    def fitted(
        self, prior: Prior, shape: Shape, scan: Scan, measured: Operator | None = None
    ) -> tuple[Prior, str]:
        """The prior for images of a shape, or for volumes. measured: the operator whose y the scan is."""
        if len(shape) < 4:
            return self.fit(prior, shape)
        found = scan.spacing
        if found is not None and measured is not None and scan.pixels is not None:
            rows, columns = (n / m for n, m in zip(scan.pixels.shape[-2:], shape[-2:]))
            found = (found[0] * measured.places[1], found[1] * rows, found[2] * columns)
        of_volumes = {
            "batch": self.run.together,
            "turns": self.run.planes == "turns",
            "coupling": self.run.coupling,
            "spread": self.spread,
        }
        fit, note = self.fit(prior, shape, spacing=found, **of_volumes)
        said = "restored as a volume" + (
            f", its slices' noise shared over {self.run.coupling:g} mm" if self.run.coupling else ""
        )
        return fit, f"{said}; {note}" if note else said

    def seen(self, problem: Problem, prior: Prior, like: Tensor) -> tuple[Problem, Prior, str]:
        """A problem that is posed already, on this device, and what `pose` says beside it."""
        shape = problem.operator.shape or tuple(prior.image_shape)
        return replace(problem, y=problem.y.to(like)), *self.fit(prior, shape)
