"""Draws of images and volumes: a solver followed to its end, image by image given up where it fails."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.problem import Problem
from solvers.run.cells import Cell, Run
from solvers.run.interrupted import Savings
from solvers.run.progress import Progress
from solvers.solver import Solver, Step


@dataclass(frozen=True)
class Drawing:
    """How draws are made. savings: of long runs, by the name of the cell."""

    run: Run
    progress: Progress
    savings: Mapping[str, Savings]

    def draw(
        self, cell: Cell, problem: Problem, prior: Prior, sums: Sequence[str]
    ) -> tuple[Tensor, dict[int, str]]:
        """[B,K,C,H,W] draws, and for every image that failed the reason. At most `run.rows` rows a network call, of volumes one.

        sums: of each volume a digest of its file, "" of images.
        """
        if any(sums):
            return self.draw_volumes(cell, problem, prior, sums)
        k, count = cell.draws, len(problem.ids)
        everything, pieces = problem.repeat(k), []
        bad: dict[int, str] = {}
        self.progress.begin(count, count * k)
        for chosen in self.together(problem, k):
            piece = everything.select(chosen)
            noise = Noise(piece.ids, "solver", self.run.seed, cell.solver.streams(chosen, k))
            last, reasons = self.follow(
                cell.solver(piece, prior, noise),
                steps_of(cell.solver, piece, prior),
                piece.ids,
                piece,
            )
            pieces.append(last.x0.detach())
            for row, reason in reasons.items():
                bad.setdefault(chosen[row] // k, reason)
        return torch.cat(pieces).unflatten(0, (count, k)), bad

    def means(
        self, cell: Cell, draws: Tensor, problem: Problem, prior: Prior, bad: Mapping[int, str]
    ) -> Tensor:
        """[B,C,H,W] the best single image that the draws [B,K,C,H,W] of each image tell."""
        average = draws.mean(1)
        if cell.draws == 1 or cell.keep:
            return average
        for row in set(range(len(draws))) - bad.keys():
            one = problem.select([row])
            rows = self.run.rows if draws.ndim == 5 else 1  # of volumes one
            average[row] = cell.solver.mean(draws[row], one, prior, self.run.seed, rows)
        return average

    def together(self, problem: Problem, k: int) -> Iterator[list[int]]:
        """Rows of images and their k draws that go through the network at once: neighbours that begin at the same noise level,
        which is coarser where y leaves coarse structure open."""
        each = [problem.operator.select([i]).leaves_coarse for i in range(len(problem.ids))]
        for _, group in groupby(range(len(each) * k), lambda row: each[row // k]):
            rows = list(group)
            yield from (rows[i : i + self.run.rows] for i in range(0, len(rows), self.run.rows))

    def draw_volumes(
        self, cell: Cell, problem: Problem, prior: Prior, sums: Sequence[str]
    ) -> tuple[Tensor, dict[int, str]]:
        """`draw`, a draw at a time; each goes on where an earlier run was killed."""
        made: list[Tensor] = []
        bad: dict[int, str] = {}
        self.progress.begin(len(problem.ids), len(problem.ids) * cell.draws)
        for row in range(len(problem.ids)):
            for k in range(cell.draws):
                image, reasons = self.draw_volume(cell, problem.select([row]), prior, k, sums[row])
                made.append(image)
                for reason in reasons.values():
                    bad.setdefault(row, reason)
        return torch.cat(made).unflatten(0, (len(problem.ids), cell.draws)), bad

    def draw_volume(
        self, cell: Cell, problem: Problem, prior: Prior, k: int, scan: str
    ) -> tuple[Tensor, dict[int, str]]:
        """Draw number k of one volume, [1,C,D,H,W]."""
        solver, savings, (image_id,) = cell.solver, self.savings.get(cell.name), problem.ids
        noise = Noise([image_id], "solver", self.run.seed, solver.streams([k], cell.draws))
        before, done = savings.load(image_id, k, scan) if savings else (None, None)
        if done is not None:
            return done.to(problem.y), {}
        total = steps_of(solver, problem, prior)
        if not (savings and solver.resumable):
            last, reasons = self.follow(solver(problem, prior, noise), total, problem.ids, problem)
        else:
            steps = savings.following(
                solver(problem, prior, noise, before), noise, image_id, k, scan
            )
            last, reasons = self.follow(steps, total, problem.ids, problem)
        if savings and cell.draws > 1 and not reasons:
            savings.finish(image_id, k, scan, last.x0)
        return last.x0.detach(), reasons

    def follow(
        self, steps: Iterator[Any], total: int, ids: Sequence[str], problem: Problem | None = None
    ) -> tuple[Any, dict[int, str]]:
        """Run to the last step. Images that become non-finite are given up; none looks at another, so the rest goes on."""
        reasons: dict[int, str] = {}
        self.progress.follow(ids, total)
        for step in steps:
            finite = torch.isfinite(step.x).flatten(1).all(1)
            for row in (~finite).nonzero().flatten().tolist():
                reasons.setdefault(
                    row, f"non-finite values at step {step.t}, sigma {step.sigma:.4g}"
                )
            if len(reasons) == len(ids):
                break
            seen = (
                (partial(mean_residual, problem, step), partial(getattr, step, "x0"))
                if problem
                else (None, None)
            )
            self.progress.step(ids, step.t, total, *seen)
        for row in (~torch.isfinite(step.x0).flatten(1).all(1)).nonzero().flatten().tolist():
            reasons.setdefault(row, f"non-finite image at the last step, {step.t}")
        return step, reasons


def steps_of(solver: Solver, problem: Problem, prior: Prior) -> int:
    """The steps of a run; `steps` are those that were asked for."""
    return len(solver.levels(problem, prior)) - 1


def mean_residual(problem: Problem, step: Step) -> float:
    return float(problem.residual(step.x0).nanmean())
