"""A call from Python: sample.py's words, reading and drawing, with objects in memory where that has files and flags."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from data import series, sources
from data.arrays import Arrays, Form, Range
from data.files import Refusal, printable
from data.formats import Image, Meta
from data.ranges import NAMED
from data.seeding import Noise
from solvers import problem as problems
from solvers.operators import trial
from solvers.operators.base import Operator
from solvers.problem import Likelihood, Problem
from solvers.run import scanned, whole
from solvers.run.answer import Measured, Result
from solvers.run.asked import NAMES, Asked, refuse_words, resolve
from solvers.run.progress import Watch
from solvers.run.reading import Source, reader
from solvers.run.record import Outcome
from solvers.run.scans import Load, Scan
from solvers.solver import check

# Words that say nothing about arrays: which files are read, as which volumes, and what is written of them.
OF_FILES = (
    "split", "window", "slicewise", "slice_range", "every", "planes", "coupling", "output_format",
    "keep_patient",
)  # fmt: skip
# Nor about a problem, which is posed.
OF_IMAGES = ("task", "measurements", "oracle", "start", "limit", "center", "range", "ids")


def measure(
    operator: Operator,
    image: Any,
    likelihood: Likelihood | float,
    seed: int,
    range: Range,
    ids: Any,
) -> Measured:
    """The measurement of an array's images, each with its own mask, kernel and noise."""
    if not isinstance(operator, Operator):
        allowed = "one of P.operators is allowed, as P.operators.SuperResolution(4)"
        raise Refusal(f"operator={printable(repr(operator)):.60}: {allowed}")
    arrays = Arrays(image, range, ids)
    x = torch.stack([arrays.image(row)[0] for row in arrays.rows])
    made = problems.measure(
        operator, x, likelihood, Noise([row.image_id for row in arrays.rows], "noise", seed)
    )
    return Measured(made.y, made.operator, made.likelihood, made.ids, arrays.form, arrays.intensity)


@dataclass(frozen=True)
class Call:
    """What a caller said. prior, solver: names or objects. words: flags of sample.py, by their names with _."""

    what: Any
    prior: Any
    solver: Any
    words: dict[str, Any]
    overrides: Sequence[str]
    range: Range
    ids: Any

    def resolved(self, problem: Problem | None = None) -> Asked:
        return resolve(self.prior, self.solver, self.words, self.overrides, problem)


def restore(call: Call, watch: Watch | None = None) -> Result | list[Result]:
    """What `palimpsest.restore` says."""
    what = call.what
    if watch is not None and not callable(watch):
        raise Refusal(f"watch={watch!r:.60}: a function that takes a Moment is allowed")
    if isinstance(what, Problem):
        said = {**call.words, "range": call.range, "ids": call.ids}
        refuse_words("a problem", said, (*OF_IMAGES, *OF_FILES))
        return of_problem(replace(call.resolved(what), watch=watch), what)
    asked, rows, source, form = images(call)
    asked = replace(asked, watch=watch)
    if form is not None:
        return asked.result(of_rows(asked, rows, source), form)
    several = os.path.isdir(what) or str(what).lower().endswith(sources.LISTINGS)
    outcomes = of_rows(asked, rows, source, several)
    outcomes.sort(key=_volume)  # stable: slices and files stay in order
    results = [asked.of_file(list(slices)) for _, slices in groupby(outcomes, _volume)]
    return results if several or len(results) > 1 else results[0]


def estimate(call: Call) -> float:
    """What `palimpsest.estimate` says."""
    if isinstance(call.what, Problem):
        raise Refusal("estimate takes an array, a file or a folder, not a problem")
    asked, rows, source, _ = images(call)
    rows, load, notes, first = readable(asked, rows, source)
    with replace(asked, watch=lambda _: None).module(notes, 0) as module:
        module.check(first)
        return module.estimate(asked.cell, first, trials=1) * len(rows)


def images(call: Call) -> tuple[Asked, Sequence[whole.Unit], Source | None, Form | None]:
    """What is asked for of an array's images or of files, their rows, and of arrays where their pixels are and their form."""
    what = call.what
    if not isinstance(what, NAMES):
        refuse_words("an array", call.words, OF_FILES)
        asked = call.resolved()
        arrays = Arrays(what, call.range, call.ids, asked.options.measurements)
        return asked, arrays.rows, Source(arrays.image, arrays.measurement), arrays.form
    refuse_words("files", {"range": call.range, "ids": call.ids}, ("range", "ids"))
    asked = call.resolved()
    options = asked.options
    options.data_root = Path(what)
    rows = sources.find(Path(what), options.split, kind=scanned.kind([asked.cell]))
    if options.slice_range or options.every:
        rows = series.chosen(rows, options.slice_range, options.every or 1)
    apart = options.slicewise or scanned.reads([asked.cell])
    found, note = whole.units(rows, [asked.cell], asked.prior, apart)
    if note:
        warnings.warn(note, stacklevel=4)
    return asked, found, scanned.source([asked.cell], options), None


def of_problem(asked: Asked, problem: Problem) -> Result:
    """Restored images of a problem, in the form of the images it was made of, if it knows that."""
    shape = problem.operator.shape or tuple(asked.prior.image_shape)
    nothing = Image(torch.zeros(tuple(shape)), Meta("npy", "float32", layout="chw"))
    if isinstance(problem, Measured):
        form, intensity = problem.form, problem.intensity
    else:
        form, intensity = (
            Form(True, True, problem.y.dtype, numpy=False, device=problem.y.device),
            NAMED["model"],
        )
    scans = [Scan(image_id, None, nothing, intensity) for image_id in problem.ids]
    with asked.module((), len(scans)) as module:
        seen, prior, _ = module.seen(problem)
        check(asked.cell.solver, seen, prior)
        trial.check(seen.operator, shape, module.like, prior.kind == "latent")
        outcomes = module.restore(asked.cell, scans, problem)
        module.progress.finished(len(scans))
    return asked.result(succeeded(outcomes), form)


def of_rows(
    asked: Asked, rows: Sequence[whole.Unit], source: Source | None = None, alone: bool = False
) -> list[Outcome]:
    """Outcomes of files or arrays, in the batches that sample.py cuts. alone: one that fails is not the others' fault."""
    rows, load, notes, first = readable(asked, rows, source)
    outcomes: list[Outcome] = []
    with asked.module(notes, len(rows)) as module:
        module.check(first)
        together = 1 if any(isinstance(row, series.Whole) for row in rows) else module.run.rows
        size = max(1, together // asked.cell.draws)
        for start in range(0, len(rows), size):
            outcomes += module.predict_step([load(row) for row in rows[start : start + size]], 0)
            module.progress.finished(min(size, len(rows) - start))
    return succeeded(outcomes, alone)


def readable(
    asked: Asked, rows: Sequence[whole.Unit], source: Source | None
) -> tuple[Sequence[whole.Unit], Load, list[str], Scan]:
    """The rows that are wanted, how one is read, what every record must say, and the first scan that can be read."""
    rows = rows[asked.options.start :][: asked.options.limit]
    if not rows:
        raise Refusal(f"start={asked.options.start} leaves no image")
    operators, measured = [asked.cell.operator], asked.options.measurements
    return rows, *reader(asked.prior, operators, rows, measured, source, asked.options.window)


def succeeded(outcomes: Sequence[Outcome], alone: bool = False) -> list[Outcome]:
    """All outcomes, or Refusal with the reason of the first that failed; RuntimeError if that is a bug in the program.

    alone: those that failed are left out with a warning, unless all did.
    """
    good = [outcome for outcome in outcomes if outcome.image is not None]
    lines = [f"{o.image_id}: {o.record['status']}" for o in outcomes if o.image is None]
    if lines and not (alone and good):
        if trace := next((o.trace for o in outcomes if o.trace), ""):
            raise RuntimeError(f"{lines[0]}\n{trace}")
        raise Refusal(lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""))
    for line in lines:
        warnings.warn(line, stacklevel=4)
    return good


def _volume(outcome: Outcome) -> tuple:
    """What the slices of a volume or series share."""
    assert outcome.image is not None
    return outcome.scan.volume or outcome.image_id, tuple(outcome.image.shape)
