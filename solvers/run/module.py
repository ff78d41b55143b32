"""Restoration as Lightning's predict_step: measure, draw from the posterior, score. Files are written by writer.py."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from data.files import Refusal, Unwritable
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers import units
from solvers.measured.noise_level import estimated_sigma_y, overstated
from solvers.operators.base import Operator, Shape
from solvers.operators.grid import Grid
from solvers.photons import unit_scale
from solvers.problem import Gaussian, Problem, continued, from_measurement, image_shape, measure
from solvers.run.cells import Cell, Run
from solvers.run.cost import Meter
from solvers.run.door import lost, out_of_memory
from solvers.run.draws import Drawing, steps_of
from solvers.run.interrupted import Savings
from solvers.run.outside import narrow, put_back, set_aside
from solvers.run.progress import Progress, Watch
from solvers.run.reading import rescaled
from solvers.run.record import Outcome, broken, failed, nearest, scores
from solvers.run.scanned import picture
from solvers.run.scans import Scan, cut, named, remarks, sides, together
from solvers.run.whole import check_memory, lifted
from solvers.solver import check

ENOUGH = 10.0  # seconds that an estimate of a run's time may take
Fit = Callable[
    ..., tuple[Prior, str]
]  # a prior for images of this shape, and what had to be done ("" if nothing)


class Reconstruction(pl.LightningModule):
    """prior: what images look like. fit: adapts it to a scan's shape, or refuses in one line. notes: for every record."""

    def __init__(
        self,
        prior: Prior,
        cells: Sequence[Cell],
        run: Run,
        fit: Fit,
        notes: Sequence[str] = (),
        watch: Watch | None = None,
    ):
        super().__init__()
        self.prior, self.fit, self.notes = prior.requires_grad_(False).eval(), fit, tuple(notes)
        self.cells, self.run = cells, run
        self.progress = Progress(watch)
        self.savings: dict[str, Savings] = {}  # of long runs, by the name of the cell
        self.spread: Any = None  # of volumes: denoises slices by several processes (parallel.py)
        self.drawing = Drawing(run, self.progress, self.savings)
        if self.working_type is torch.float64:
            self.prior.double()

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return batch  # scans keep their files' pixels on the CPU; `restore` moves what it needs

    def check(self, scan: Scan) -> None:
        """Raises Refusal, in one line and before any network runs, for a cell that cannot restore this scan."""
        for cell in (cell for cell in self.cells if cell.operator):
            with named(scan.image_id):
                if scan.slices and scan.pixels is not None and cell.operator is not None:
                    finer = 1 / cell.operator.places[1] if self.run.measurements else 1
                    voxels = round(scan.pixels.numel() * finer)
                    check_memory(voxels, cell.draws, self.working_type.itemsize)
                problem, prior, _ = self.pose(cell, self.in_units(cell, [scan]))
            units.check(problem, simulated=not self.run.measurements)
            check(cell.solver, problem, prior)

    def predict_step(
        self, batch: list[Scan], batch_idx: int, dataloader_idx: int = 0
    ) -> list[Outcome]:
        """Restore a batch; scans of unequal shape are computed apart. The outcomes are in the batch's order."""
        cell = self.cells[dataloader_idx]
        outcomes = [failed(scan, scan.error, scan.trace) for scan in batch if scan.error]
        readable = [scan for scan in batch if not scan.error]
        for _, group in groupby(sorted(readable, key=together), key=together):
            outcomes += (self.restore if cell.operator else self.generate)(cell, list(group))
        order = {scan.image_id: i for i, scan in enumerate(batch)}
        return sorted(outcomes, key=lambda outcome: order[outcome.image_id])

    def restore(self, cell: Cell, scans: list[Scan], given: Problem | None = None) -> list[Outcome]:
        """Scans of one shape, one outcome each. If they cannot be restored together, one by one: what is wrong with one of them
        is not the others' fault. A bug in the program fails its image too, and its traceback goes with the outcome.
        given: their problem, where it is posed already and they hold no truth.
        """
        try:
            return self.restore_together(cell, scans, given)
        except Unwritable:  # the state of a long run: nor will the result be
            raise
        except Refusal as error:
            lone = failed(
                scans[0], str(error).removeprefix(f"{scans[0].image_id}: ")
            )  # which is said with every failure
        except Exception as error:
            if (
                out_of_memory(error) or lost(error) or isinstance(error, torch.AcceleratorError)
            ):  # nor would the next image do better
                raise
            lone = broken(scans[0], error)
        if len(scans) == 1:
            return [lone]
        alone = [None if given is None else given.select([i]) for i in range(len(scans))]
        outcomes = [self.restore(cell, [scan], own)[0] for scan, own in zip(scans, alone)]
        if lone.trace and not any(
            outcome.trace for outcome in outcomes
        ):  # a bug that only a batch shows is not hidden either
            outcomes[0] = replace(outcomes[0], trace=lone.trace)
        return outcomes

    def restore_together(
        self, cell: Cell, scans: list[Scan], given: Problem | None = None
    ) -> list[Outcome]:
        """Measurement, draws, and one outcome for each of the scans, which have one shape."""
        start = time.perf_counter()
        scans = self.in_units(cell, scans) if given is None else scans
        problem, prior, note = self.pose(cell, scans) if given is None else self.seen(given)
        if self.run.measurements or given is not None:
            units.check(problem)
        check(cell.solver, problem, prior)
        with Meter(prior, self.autocast, self.progress.ask) as meter:
            draws, bad = self.drawing.draw(
                cell, problem, prior, [scan.checksum if scan.slices else "" for scan in scans]
            )
        facts = {
            "nfe": meter.nfe,
            "vjps": meter.vjps,
            "seconds": self.since(start) / len(scans),
            "seed": self.run.seed,
        }
        doubts = (note, cell.lowered(prior), cell.note(prior))
        notes = [*self.notes, *filter(None, doubts)]
        baseline = problem.operator.baseline(problem.y, prior.image_shape)
        outcomes = []
        for b, scan in enumerate(scans):
            if b in bad:
                outcomes.append(failed(scan, bad[b]))
                continue
            cheap = None if baseline is None else baseline[b].cpu()
            one = problem.select([b])
            advice = [narrow(scan), overstated(one) if self.run.measurements else ""]
            own = [*remarks(scan, self.run.measurements), *filter(None, advice)]
            said = facts | {"notes": [*notes, *own], "advice": "; ".join(filter(None, advice))}
            outcomes.append(
                picture(put_back(self.conclude(cell, scan, one, draws[b], cheap, said)))
            )
        return outcomes

    def conclude(
        self,
        cell: Cell,
        scan: Scan,
        problem: Problem,
        draws: Tensor,
        baseline: Tensor | None,
        facts: dict[str, Any],
    ) -> Outcome:
        """Draws [K,C,H,W] of one image -> what is kept and its record."""
        operator, many = problem.operator, len(draws) > 1 and not cell.keep
        residuals = torch.cat([problem.residual(draw[None]) for draw in draws])
        truth = None if self.run.measurements or scan.pixels is None else scan.pixels.to(draws)
        turns = getattr(operator, "turns", False)
        kept = int(residuals.argmin()) if cell.keep else 0
        if cell.keep == "oracle" and truth is not None:
            kept = nearest(cut(draws, truth), truth, turns)
        image = draws.mean(0) if many else draws[kept]
        record = {"image_id": scan.image_id, **scan.identity, "residual": float(residuals[kept])}
        if many:
            record["residual_mean"] = float(problem.residual(image[None]))
        elif cell.keep:
            record |= {"kept_run": kept, "kept_by": cell.keep, "residuals": residuals.tolist()}
        if scan.scale != 1:
            record["scale"] = scan.scale
        if scan.slices and self.run.measurements and operator.places != (0.0, 1.0):
            record["slices_at"] = list(operator.places)
        if self.run.measurements and operator.grid not in (None, Grid()):
            record["grid"] = operator.grid._asdict()
        if isinstance(problem.likelihood, Gaussian) and problem.likelihood.sigma_y is None:
            record["sigma_y_estimated"] = float(estimated_sigma_y(problem))
        image, draws = image.cpu(), draws.cpu()
        if truth is not None:
            truth, record["clamped"] = truth.cpu(), scan.clamped
            image, draws = cut(image, truth), cut(draws, truth)
            baseline = None if baseline is None else cut(baseline, truth)
            record |= scores(image, truth, draws if many else None, baseline, turns)
        return Outcome(
            scan=scan,
            record=record | facts | {"status": "ok"},
            image=image,
            draws=draws if many else None,
            truth=truth,
            y=problem.stored()[0].cpu() / scan.scale,
            baseline=baseline,
            operator={name: tensor[0].cpu() for name, tensor in operator.files().items()},
            image_like=unit_scale(operator) == 2,
            axes=operator.reading,
            zoom=self.run.zoom,
            grid=operator.grid,
        )

    def in_units(self, cell: Cell, scans: list[Scan]) -> list[Scan]:
        """Measurements times `run.scale`, or without one what lies within their windows; others as they are."""
        assert cell.operator is not None and cell.likelihood is not None
        if self.run.measurements and self.run.scale == 1:
            return [set_aside(scan, cell.operator, cell.likelihood) for scan in scans]
        return rescaled(scans, cell.operator, self.run.scale, tuple(self.prior.image_shape))

    def pose(self, cell: Cell, scans: list[Scan]) -> tuple[Problem, Prior, str]:
        """The problem of scans of one shape, simulated, the user's own y or a scanner's own; a prior, and what was done."""
        if scans[0].pose:  # alone
            return self.seen(scans[0].pose())
        x = torch.stack([scan.pixels for scan in scans]).to(self.device, self.working_type)  # type: ignore[misc]
        ids, measured = [scan.image_id for scan in scans], tuple(x.shape[1:])
        assert cell.operator is not None and cell.likelihood is not None
        operator = lifted(cell.operator, x.ndim == 5, ids[0])
        noise = Noise(ids, "noise", self.run.seed)
        if self.run.measurements:
            shape = image_shape(operator, measured, tuple(self.prior.image_shape))
            prior, note = self.fitted(shape, scans[0], operator)
            return from_measurement(operator, x, cell.likelihood, noise, shape), prior, note
        x = continued(x, operator)
        shape = tuple(x.shape[1:])
        prior, note = self.fitted(shape, scans[0])
        if shape != measured:
            grown = f"{sides(measured)} image continued to {sides(shape)} by its edges, and cropped back"
            note = f"{grown}; {note}" if note else grown
        return measure(operator.draw(shape, noise), x, cell.likelihood, noise), prior, note

    def fitted(
        self, shape: Shape, scan: Scan, measured: Operator | None = None
    ) -> tuple[Prior, str]:
        """The prior for images of a shape, or for volumes. measured: the operator whose y the scan is."""
        if len(shape) < 4:
            return self.fit(self.prior, shape)
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
        prior, note = self.fit(self.prior, shape, spacing=found, **of_volumes)
        said = "restored as a volume" + (
            f", its slices' noise shared over {self.run.coupling:g} mm" if self.run.coupling else ""
        )
        return prior, f"{said}; {note}" if note else said

    def seen(self, problem: Problem) -> tuple[Problem, Prior, str]:
        """A problem that is posed already, on this device, and what `pose` says beside it."""
        shape = problem.operator.shape or tuple(self.prior.image_shape)
        return replace(problem, y=problem.y.to(self.device, self.working_type)), *self.fit(
            self.prior, shape
        )

    def generate(self, cell: Cell, scans: list[Scan]) -> list[Outcome]:
        """Draws from the prior itself, one for each seed, which is what the scan's id says."""
        start, ids = time.perf_counter(), [scan.image_id for scan in scans]
        noise, like = (
            Noise(ids, "solver", self.run.seed),
            torch.zeros((), device=self.device, dtype=self.working_type),
        )
        with Meter(self.prior, self.autocast) as meter:
            last, bad = self.drawing.follow(
                cell.solver(self.prior, noise, like), cell.solver.steps, ids
            )
            latent = self.prior.kind == "latent"
            image = (self.prior.decode(last.x0) if latent else self.prior.to_image(last.x0)).cpu()
        facts = {
            "nfe": meter.nfe,
            "seconds": self.since(start) / len(ids),
            "seed": self.run.seed,
            "status": "ok",
        }
        record = [{"image_id": name} | facts for name in ids]
        return [
            failed(s, bad[b]) if b in bad else Outcome(s, record[b], image[b], folder="samples")
            for b, s in enumerate(scans)
        ]

    def estimate(self, cell: Cell, scan: Scan, trials: int = 3) -> float:
        """Seconds an image, from the first steps on this scan (the very first, which warms up, apart where there is time)."""
        if cell.operator is None:
            noise, like = Noise([scan.image_id], "solver"), torch.zeros((), device=self.device)
            steps, rows, total = cell.solver(self.prior, noise, like), 1, cell.solver.steps
        else:
            problem, prior, _ = self.pose(cell, self.in_units(cell, [scan]))
            rows, total = min(cell.draws, self.run.rows), steps_of(cell.solver, problem, prior)
            steps = cell.solver(
                problem.repeat(rows), prior, Noise([scan.image_id] * rows, "solver", 0, range(rows))
            )
        times = [time.perf_counter()]
        with torch.no_grad():
            for _, _ in zip(range(trials + 1), steps):
                times.append(self.since(0))
                if times[-1] - times[0] > ENOUGH:
                    break
        warm = times[1:] if len(times) > 2 else times
        return (warm[-1] - warm[0]) / (len(warm) - 1) * total * cell.draws / rows

    def since(self, start: float) -> float:
        """Seconds, once the accelerator has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    @property
    def working_type(self) -> torch.dtype:
        """Of the sampler's state, the operators and the solves; networks may run lower."""
        return torch.float64 if self.run.precision in ("64", "64-true") else torch.float32

    @property
    def autocast(self) -> torch.dtype | None:
        return {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(self.run.precision)
