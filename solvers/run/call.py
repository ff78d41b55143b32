"""A call from Python: sample.py's words, reading and drawing, with objects in memory where that has files and flags."""

import copy
import os
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from data import series, sources
from data.arrays import Arrays, Form, Range
from data.files import Refusal, nearest
from data.formats import Image, Meta
from data.ranges import NAMED
from data.seeding import Noise
from ldm import catalogue, plugins, resize
from ldm import config as configuration
from ldm.denoiser import Prior
from ldm.sampling import Sampler
from solvers import problem as problems
from solvers.operators.base import Operator
from solvers.problem import Likelihood, Problem
from solvers.run import flags, scanned, whole
from solvers.run.answer import Measured, Result
from solvers.run.cells import Cell, build, drawn, part, run_of
from solvers.run.module import Reconstruction
from solvers.run.parts import checked
from solvers.run.provenance import results_of
from solvers.run.record import Outcome
from solvers.run.scans import Scan, Source, reader
from solvers.run.trainer import make_trainer, quiet
from solvers.solver import check

NAMES = (str, os.PathLike)
FLAGS = (  # of sample.py that mean the same here, beside those that `palimpsest.restore` names
    "accelerator", "base", "batch_size", "keep_patient", "limit", "measurements", "model_config", "num_runs", "oracle",
    "output_format", "center", "plugin",
    "precision", "split", "start", "window", "slicewise", "slice_range", "every", "planes", "coupling",
)  # fmt: skip
OF_IMAGES = ("task", "measurements", "oracle", "start", "limit")  # say nothing about a problem, which is posed


def measure(operator: Operator, image: Any, likelihood: Likelihood | float, seed: int, range: Range, ids: Any) -> Measured:
    """The measurement of an array's images, each with its own mask, kernel and noise."""
    arrays = Arrays(image, range, ids)
    x = torch.stack([arrays.image(row)[0] for row in arrays.rows])
    made = problems.measure(operator, x, likelihood, Noise([row.image_id for row in arrays.rows], "noise", seed))
    return Measured(made.y, made.operator, made.likelihood, made.ids, arrays.form, arrays.intensity)


def restore(
    what: Any, prior: Any, solver: Any, words: dict[str, Any], overrides: Sequence[str], range: Range, ids: Any
) -> Result | list[Result]:
    """What `palimpsest.restore` says. prior, solver: names or objects. words: flags of sample.py, by their names with _."""
    if isinstance(what, Problem):
        refuse_words("a problem", {**words, "range": range, "ids": ids}, (*OF_IMAGES, "split", "window", "range", "ids"))
        return of_problem(resolve(prior, solver, words, overrides, what), what)
    if not isinstance(what, NAMES):
        refuse_words("an array", words, ("split", "window"))
        asked = resolve(prior, solver, words, overrides)
        arrays = Arrays(what, range, ids, asked.options.measurements)
        return asked.result(of_rows(asked, arrays.rows, Source(arrays.image, arrays.measurement)), arrays.form)
    refuse_words("files", {"range": range, "ids": ids}, ("range", "ids"))
    asked = resolve(prior, solver, words, overrides)
    asked.options.data_root = Path(what)
    several = os.path.isdir(what) or str(what).lower().endswith(sources.LISTINGS)
    rows = sources.find(Path(what), asked.options.split, kind=scanned.kind([asked.cell]))
    options = asked.options
    if options.slice_range or options.every:
        rows = series.chosen(rows, options.slice_range, options.every or 1)
    found, note = whole.units(rows, [asked.cell], asked.prior, options.slicewise or scanned.reads([asked.cell]))
    if note:
        warnings.warn(note, stacklevel=3)
    outcomes = of_rows(asked, found, scanned.source([asked.cell], options), several)
    volumes = groupby(sorted(outcomes, key=_volume), _volume)  # a stable sort: slices and files stay in order
    results = [asked.of_file(list(slices)) for _, slices in volumes]
    return results if several or len(results) > 1 else results[0]


@dataclass(frozen=True)
class Asked:
    """What a call asks for, resolved: one cell, a prior for it, and the flags."""

    options: Namespace
    config: Mapping[str, Any]  # merged, as YAML takes it
    cell: Cell
    prior: Prior

    @contextmanager
    def module(self, notes: Sequence[str], images: int) -> Iterator[Reconstruction]:
        """The module on the device that the flags choose, and its progress bar."""
        run, fit = run_of(self.options, [self.cell]), resize.fit
        module = Reconstruction(self.prior, [self.cell], run, fit, notes)
        with warnings.catch_warnings(), torch.no_grad():
            quiet()
            module.to(make_trainer(self.options).strategy.root_device)
            try:
                module.progress.start(images)
                yield module
            finally:
                module.progress.close()

    def result(self, outcomes: Sequence[Outcome], form: Form) -> Result:
        return Result(outcomes, form, partial(results_of, self.cell, self.config, self.prior, self.options))

    def of_file(self, outcomes: Sequence[Outcome]) -> Result:
        """The result of a picture, or of the slices of a volume."""
        assert outcomes[0].image is not None
        solid = outcomes[0].image.ndim == 4
        return self.result(outcomes, Form(len(outcomes) > 1, len(outcomes[0].image) > 1, solid=solid))


def known(flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """The caller's further flags. Raises Refusal for the first that means nothing here."""
    for flag in flags:
        if flag not in FLAGS:
            raise Refusal(f"unknown keyword {flag!r}{nearest(flag, FLAGS)}")
    return flags


def refuse_words(what: str, words: Mapping[str, Any], needless: Sequence[str]) -> None:
    """Raise Refusal for a keyword that means nothing with what is restored."""
    for word in needless:
        if words.get(word) not in (None, False):
            raise Refusal(f"{word}= means nothing with {what}")


def refuse_strangers(prior: Any, solver: Any, words: Mapping[str, Any]) -> None:
    """Raise Refusal for objects that are not what their keyword takes."""
    if prior is not None and not isinstance(prior, (*NAMES, Prior)):
        raise Refusal(f"prior={prior!r:.60}: what P.load returns or takes is allowed")
    if solver is not None and not isinstance(solver, NAMES) and (isinstance(solver, type) or not callable(solver)):
        raise Refusal(f"solver={solver!r:.60}: a name of P.solvers(), a YAML file or a Solver is allowed")
    if words["steps"] and solver is not None and not isinstance(solver, NAMES) and not is_dataclass(solver):
        raise Refusal(f"steps= means nothing with {type(solver).__name__}, which is no dataclass; set it there")
    task = words.get("task")
    if isinstance(task, Operator):
        raise Refusal(f"task={type(task).__name__}: a name of P.tasks() or a YAML file is allowed; operators go to P.measure")


def resolve(prior: Any, solver: Any, words: Mapping[str, Any], overrides: Sequence[str], posed: Problem | None = None) -> Asked:
    """The flags, the cell and the prior that are meant. posed: the problem, if it is not made of a task and images."""
    refuse_strangers(prior, solver, words)
    named = {"model": prior, "solver": solver}
    named = {flag: value for flag, value in named.items() if isinstance(value, NAMES)}
    options, changes = parse({**words, **named}, overrides)
    for module in options.plugin:
        plugins.admit(module)
    name, config = configured(options, changes, posed is not None)
    if posed is not None:
        made = part(name, config, "solver") if solver is None or named.get("solver") else solver
        cell = drawn(Cell(name, posed.operator, posed.likelihood, made), options)
    else:
        cell = build(name, config, options)
    if solver is not None and "solver" not in named:
        chosen = replace(solver, steps=options.steps) if options.steps else solver
        cell, config["solver"] = replace(cell, name=type(solver).__name__, solver=chosen), repr(chosen)
    if cell.operator is None or isinstance(cell.solver, Sampler):
        raise Refusal(f"{name} draws from the prior itself and restores nothing; python sample.py --solver {name} does that")
    if prior is None or "model" in named:
        prior = catalogue.prior(config, options.model, options.model_config)
    else:  # the caller's own keeps its precision, and what it is told of gray images
        prior = copy.deepcopy(prior) if options.precision.startswith("64") else copy.copy(prior)
        options.model = type(prior).__name__
    if note := cell.note(prior):
        warnings.warn(note, stacklevel=4)
    return Asked(options, configuration.plain(config), cell, prior)


def parse(words: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Namespace, list[str]]:
    """The flags of sample.py that the words mean, checked as they are there, and the overrides of the configuration."""
    argv: list[str] = []
    for word, value in words.items():
        if value is None or value is False:
            continue
        flag = f"--{word.replace('_', '-')}"
        several = value if isinstance(value, (list, tuple)) else [value]
        argv += [flag] if value is True else [flag, *map(str, several)]
    options, changes, unknown = flags.parse([*overrides, *argv], "")
    if unknown:
        raise Refusal(f"{unknown[0]!r} is not of the form key=value")
    return options, changes


def configured(options: Namespace, changes: Sequence[str], posed: bool) -> tuple[str, configuration.Node]:
    """The name of the one cell and its configuration; of a problem, that of its solver."""
    if posed:
        path = catalogue.settings_of_kind("solvers", (options.solver or [catalogue.SOLVER])[0])
        return path.stem, checked(configuration.load([*options.base, path], changes))
    grid = catalogue.grid(options.base, options.task or [], options.solver or [], changes)
    if len(grid) > 1:
        raise Refusal(f"one task and one solver a call, not {', '.join(grid)}")
    name, config = next(iter(grid.items()))
    return name, checked(config)


def of_problem(asked: Asked, problem: Problem) -> Result:
    """Restored images of a problem, in the form of the images it was made of, if it knows that."""
    shape = problem.operator.shape or tuple(asked.prior.image_shape)
    nothing = Image(torch.zeros(tuple(shape)), Meta("npy", "float32", layout="chw"))
    if isinstance(problem, Measured):
        form, intensity = problem.form, problem.intensity
    else:
        form, intensity = Form(True, True, problem.y.dtype, numpy=False, device=problem.y.device), NAMED["model"]
    scans = [Scan(image_id, None, nothing, intensity) for image_id in problem.ids]
    with asked.module((), len(scans)) as module:
        seen, prior, _ = module.seen(problem)
        check(asked.cell.solver, seen, prior)
        outcomes = module.restore(asked.cell, scans, problem)
        module.progress.finished(len(scans))
    return asked.result(succeeded(outcomes), form)


def of_rows(asked: Asked, rows: Sequence[whole.Unit], source: Source | None = None, alone: bool = False) -> list[Outcome]:
    """Outcomes of files or arrays, in the batches that sample.py cuts. alone: one that fails is not the others' fault."""
    rows = rows[asked.options.start :][: asked.options.limit]
    if not rows:
        raise Refusal(f"start={asked.options.start} leaves no image")
    load, notes, first = reader(
        asked.prior, [asked.cell.operator], rows, asked.options.measurements, source, asked.options.window
    )
    outcomes: list[Outcome] = []
    with asked.module(notes, len(rows)) as module:
        module.check(first)
        together = 1 if any(isinstance(row, series.Whole) for row in rows) else module.run.rows
        size = max(1, together // asked.cell.draws)
        for start in range(0, len(rows), size):
            outcomes += module.predict_step([load(row) for row in rows[start : start + size]], 0)
            module.progress.finished(min(size, len(rows) - start))
    return succeeded(outcomes, alone)


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
