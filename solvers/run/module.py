"""Restoration as Lightning's predict_step: measure, draw from the posterior, score. Files are written by writer.py."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from math import prod
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from data.files import Refusal, Unwritable
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers import units
from solvers.measured import joint_phase, kernel
from solvers.measured.noise_level import overstated
from solvers.operators import trial
from solvers.problem import Problem
from solvers.run.cells import Cell, Run
from solvers.run.concluded import concluded
from solvers.run.cost import Meter
from solvers.run.door import lost, out_of_memory
from solvers.run.draws import Drawing, steps_of
from solvers.run.interrupted import Savings
from solvers.run.outside import narrow, put_back
from solvers.run.posing import Fit, Posing
from solvers.run.progress import Progress, Watch
from solvers.run.record import Outcome, broken, failed
from solvers.run.scanned import emptied, picture
from solvers.run.scans import Scan, named, remarks, together
from solvers.run.whole import check_memory, volumetric
from solvers.solver import check

ENOUGH = 10.0  # seconds that an estimate of a run's time may take


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
        self.prior, self.notes = prior.requires_grad_(False).eval(), tuple(notes)
        self.posing = Posing(run, fit)
        self.cells, self.run = cells, run
        self.progress = Progress(watch)
        self.savings: dict[str, Savings] = {}  # of long runs, by the name of the cell
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
                if scan.slices:
                    voxels = prod(self.posing.shape(cell, scan, self.prior))
                    alone = not volumetric(one.operator for one in self.cells)
                    check_memory(voxels, cell.draws, self.working_type.itemsize, alone)
                problem, prior, _ = self.pose(cell, self.in_units(cell, [scan]))
            units.check(problem, simulated=not self.run.measurements)
            kernel.check(problem, prior)
            check(cell.solver, problem, prior)
            trial.check(problem.operator, prior.image_shape, self.like, prior.kind == "latent")

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
        simulated = not self.run.measurements and given is None
        if not simulated:
            units.check(problem)
        kernel.check(problem, prior)
        check(cell.solver, problem, prior)
        with Meter(prior, self.autocast, self.progress.ask) as meter:
            problem, kernels = kernel.known(problem, prior, self.run.seed, simulated)
            problem, phases = joint_phase.refined(problem, prior, cell.solver, self.run.seed)
            draws, bad = self.drawing.draw(
                cell, problem, prior, [scan.checksum if scan.slices else "" for scan in scans]
            )
            means = self.drawing.means(cell, draws, problem, prior, bad)
        if not simulated:
            spread = cell.draws > 1 and cell.solver.posterior(prior, problem.operator)
            air = Noise(problem.ids, "noise", self.run.seed) if spread else None
            draws = emptied(draws, problem, air)
            means = emptied(means[:, None], problem, None)[:, 0]
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
            remarked = [*remarks(scan, self.run.measurements), *filter(None, advice)]
            own = remarked + (kernels or phases)[b : b + 1]
            said = facts | {"notes": [*notes, *own], "advice": "; ".join(filter(None, advice))}
            outcomes.append(
                picture(
                    put_back(concluded(cell, self.run, scan, one, draws[b], means[b], cheap, said))
                )
            )
        return outcomes

    def in_units(self, cell: Cell, scans: list[Scan]) -> list[Scan]:
        """`Posing.in_units`, with this prior."""
        return self.posing.in_units(cell, scans, self.prior)

    def pose(self, cell: Cell, scans: list[Scan]) -> tuple[Problem, Prior, str]:
        """`Posing.pose`, with this prior, here."""
        return self.posing.pose(cell, scans, self.prior, self.like)

    def seen(self, problem: Problem) -> tuple[Problem, Prior, str]:
        """`Posing.seen`, with this prior, here."""
        return self.posing.seen(problem, self.prior, self.like)

    def generate(self, cell: Cell, scans: list[Scan]) -> list[Outcome]:
        """Draws from the prior itself, one for each seed, which is what the scan's id says."""
        start, ids = time.perf_counter(), [scan.image_id for scan in scans]
        noise = Noise(ids, "solver", self.run.seed)
        with Meter(self.prior, self.autocast) as meter:
            last, bad = self.drawing.follow(
                cell.solver(self.prior, noise, self.like), cell.solver.steps, ids
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
            noise = Noise([scan.image_id], "solver")
            steps, rows = cell.solver(self.prior, noise, self.like), 1
            total = cell.solver.steps * cell.draws
        else:
            problem, prior, _ = self.pose(cell, self.in_units(cell, [scan]))
            rows = min(cell.draws, self.run.rows)
            total = steps_of(cell.solver, problem, prior) * cell.draws
            total += kernel.STEPS * problem.operator.blind
            total += joint_phase.calls(problem, prior, cell.solver)
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
        return (warm[-1] - warm[0]) / (len(warm) - 1) * total / rows

    def since(self, start: float) -> float:
        """Seconds, once the accelerator has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    @property
    def like(self) -> Tensor:
        """A number of this device and working type."""
        return torch.zeros((), device=self.device, dtype=self.working_type)

    @property
    def working_type(self) -> torch.dtype:
        """Of the sampler's state, the operators and the solves; networks may run lower."""
        return torch.float64 if self.run.precision in ("64", "64-true") else torch.float32

    @property
    def autocast(self) -> torch.dtype | None:
        return {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(self.run.precision)
