"""Files of a scanner as scans to be restored: how they are found and read, and the picture cut out of what was restored."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data import formats, sources
from data.files import Refusal
from data.manifest import Row
from data.seeding import Noise
from solvers.measured.scanner import Scanner, centred
from solvers.operators.mri_coils import CoilImages
from solvers.problem import Problem
from solvers.run.cells import Cell
from solvers.run.reading import Source
from solvers.run.record import Outcome
from solvers.solver import BLACK


def reads(cells: Sequence[Cell]) -> bool:
    """Whether the tasks read a scanner's files, slice by slice."""
    return isinstance(cells[0].operator, Scanner)


def kind(cells: Sequence[Cell]) -> sources.Kind:
    """Which files are restored, and how many images one holds."""
    operator = cells[0].operator
    if not isinstance(operator, Scanner):
        return sources.IMAGES
    return sources.Kind(operator.known, lambda path: operator.count(Path(path)), operator.asks)


def source(cells: Sequence[Cell], options: Namespace) -> Source | None:
    """How a scanner's files are read; None where the tasks are of images. options: the flags of sample.py.

    Raises Refusal for flags that mean nothing with such files, and for grids of both kinds of tasks.
    """
    scanners = [cell for cell in cells if isinstance(cell.operator, Scanner)]
    if not scanners:
        if options.output_format:
            raise Refusal(
                "--output-format is for files of a scanner; other results have the format of their images"
            )
        return None
    if len({id(type(cell.operator)) for cell in cells}) > 1:
        raise Refusal("tasks that read a scanner's files share no grid with others; run them apart")
    if not options.measurements:
        raise Refusal(
            f"{scanners[0].name}: its images are in a scanner's file; --measurements FILE is allowed"
        )
    for flag in ("scale", "window"):
        if getattr(options, flag):
            raise Refusal(
                f"--{flag} means nothing with a scanner's file: its own noise and brightness say it"
            )
    scanner = scanners[0].operator
    assert isinstance(scanner, Scanner)
    read = partial(measurement, scanners[0], options.output_format or scanner.output)
    return Source(read, read)


def measurement(cell: Cell, output: str, row: Row, **_: object) -> tuple:
    """What `scans.read` makes a Scan of; k-space or sinogram are made a problem of when their turn comes."""
    assert isinstance(cell.operator, Scanner) and cell.likelihood is not None
    made = cell.operator.prepare(
        Path(row.path), row.slice or 0, row.image_id, cell.likelihood, output
    )
    return made.source.pixels, made.source, made.intensity, {"pose": made.pose, "kept": made.kept}


def emptied(draws: Tensor, problem: Problem, noise: Noise | None) -> Tensor:
    """Draws [B,K,C,H,W] that are black where no coil sees anything, since nothing but the prior speaks there, of what is air.

    noise: what draws from the posterior differ by there, as nobody sees what is below it; None: nothing.
    """
    A = problem.operator
    if not isinstance(A, CoilImages) or A.unseen is None:
        return draws
    air = torch.full_like(draws, BLACK)
    if noise is not None:
        z = noise.normal(tuple(draws.shape), torch.float32)
        air += problem.whitened().sigma_y / A.gain * z.to(draws)
    return torch.where(A.unseen.to(draws.device)[:, None], air, draws)


def picture(outcome: Outcome) -> Outcome:
    """The outcome whose images are the picture: the middle of the field of view, turned as its file is looked at."""
    scan, image = outcome.scan, outcome.image
    if scan.kept is None or image is None or scan.source is None:
        return outcome
    meta = replace(scan.source.meta, turn=(False, False, False))

    def cut(x: Tensor) -> Tensor:
        return formats.upright(formats.Image(centred(x, scan.kept), meta)).pixels  # type: ignore[arg-type]

    draws = None if outcome.draws is None else torch.stack([cut(draw) for draw in outcome.draws])
    return replace(outcome, image=cut(image), draws=draws)
