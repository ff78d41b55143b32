"""What a call from Python asks for: its words as sample.py's flags, one cell of a task and a solver, and a prior for it."""

import copy
import os
import shlex
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from numbers import Real
from typing import Any

import torch

from data.arrays import Form
from data.files import Refusal, nearest
from ldm import catalogue, plugins, resize
from ldm import config as configuration
from ldm.denoiser import Prior
from ldm.sampling import Sampler
from solvers.operators.base import Operator
from solvers.problem import Problem
from solvers.run import flags
from solvers.run.answer import Result
from solvers.run.cells import Cell, build, drawn, part, run_of
from solvers.run.module import Reconstruction
from solvers.run.parts import checked
from solvers.run.progress import Watch
from solvers.run.provenance import results_of
from solvers.run.record import Outcome
from solvers.run.trainer import make_trainer, quiet

NAMES = (str, os.PathLike)
FLAGS = (  # of sample.py that mean the same here, beside those that `palimpsest.restore` names
    "accelerator", "base", "batch_size", "keep_patient", "limit", "measurements", "model_config", "num_runs", "oracle", "plugin",
    "precision", "split", "start", "window", "slicewise", "slice_range", "every", "planes",
    "coupling", "zoom", "output_format", "center",
)  # fmt: skip
SAID = (
    "solver",
    "task",
    "steps",
    "draws",
    "seed",
    "range",
    "ids",
    "overrides",
    "watch",
)  # by `palimpsest.restore`
ELSEWHERE = {  # flags of sample.py that are called otherwise here
    "num_samples": "draws", "model": "prior", "data_root": "the first argument",
    "manifest": "the first argument", "save_dir": "Result.save", "dry_run": "P.estimate",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a call asks for, resolved: one cell, a prior for it, the flags, and who watches."""

    options: Namespace
    config: Mapping[str, Any]  # merged, as YAML takes it
    cell: Cell
    prior: Prior
    watch: Watch | None = None

    @contextmanager
    def module(self, notes: Sequence[str], images: int) -> Iterator[Reconstruction]:
        """The module on the device that the flags choose, and its progress bar."""
        run, fit = run_of(self.options, [self.cell]), resize.fit
        module = Reconstruction(self.prior, [self.cell], run, fit, notes, self.watch)
        with warnings.catch_warnings(), torch.no_grad():
            quiet()
            module.to(make_trainer(self.options).strategy.root_device)
            try:
                module.progress.start(images)
                yield module
            finally:
                module.progress.close()

    def result(self, outcomes: Sequence[Outcome], form: Form) -> Result:
        return Result(
            outcomes, form, partial(results_of, self.cell, self.config, self.prior, self.options)
        )

    def of_file(self, outcomes: Sequence[Outcome]) -> Result:
        """The result of a picture, or of the slices of a volume."""
        assert outcomes[0].image is not None
        solid = outcomes[0].image.ndim == 4
        return self.result(
            outcomes, Form(len(outcomes) > 1, len(outcomes[0].image) > 1, solid=solid)
        )


def known(flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """The caller's further flags. Raises Refusal for the first that means nothing here."""
    for flag in flags:
        if flag not in FLAGS:
            other = f"; here it is {ELSEWHERE[flag]}" if flag in ELSEWHERE else ""
            raise Refusal(f"unknown keyword {flag!r}{other or nearest(flag, (*SAID, *FLAGS))}")
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
    if (
        solver is not None
        and not isinstance(solver, NAMES)
        and (isinstance(solver, type) or not callable(solver))
    ):
        raise Refusal(
            f"solver={solver!r:.60}: a name of P.solvers(), a YAML file or a Solver is allowed"
        )
    if (
        words["steps"]
        and solver is not None
        and not isinstance(solver, NAMES)
        and not is_dataclass(solver)
    ):
        raise Refusal(
            f"steps= means nothing with {type(solver).__name__}, which is no dataclass; set it there"
        )
    task = words.get("task")
    if isinstance(task, Operator):
        raise Refusal(
            f"task={type(task).__name__}: a name of P.tasks() or a YAML file is allowed; operators go to P.measure"
        )


def resolve(
    prior: Any,
    solver: Any,
    words: Mapping[str, Any],
    overrides: Sequence[str],
    posed: Problem | None = None,
) -> Asked:
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
        cell, config["solver"] = (
            replace(cell, name=type(solver).__name__, solver=chosen),
            repr(chosen),
        )
    if cell.operator is None or isinstance(cell.solver, Sampler):
        raise Refusal(
            f"{name} draws from the prior itself and restores nothing; python sample.py --solver {name} does that"
        )
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
    options, changes, unknown = flags.parse([*listed(overrides), *arguments(words)], "")
    if unknown:
        raise Refusal(f"{unknown[0]!r} is not of the form key=value")
    return options, changes


def configured(
    options: Namespace, changes: Sequence[str], posed: bool
) -> tuple[str, configuration.Node]:
    """The name of the one cell and its configuration; of a problem, that of its solver."""
    if posed:
        for change in changes:
            if change.startswith(("operator", "likelihood")):
                raise Refusal(f"{change}: means nothing with a problem, which has its own")
        path = catalogue.settings_of_kind("solvers", (options.solver or [catalogue.SOLVER])[0])
        return path.stem, checked(configuration.load([*options.base, path], changes))
    grid = catalogue.grid(options.base, options.task or [], options.solver or [], changes)
    if len(grid) > 1:
        raise Refusal(f"one task and one solver a call, not {', '.join(grid)}")
    name, config = next(iter(grid.items()))
    described = options.task or "operator" in configuration.load(options.base)
    if "operator" in config and not described:
        said = f"no task is named: {catalogue.TASK} is simulated"
        warnings.warn(f"{said}; task= says what is measured", stacklevel=5)
    return name, checked(config)


def arguments(words: Mapping[str, Any]) -> list[str]:
    """The flags of sample.py that the words mean."""
    argv: list[str] = []
    for word, value in words.items():
        if value is None or value is False:
            continue
        flag = f"--{word.replace('_', '-')}"
        argv += [flag] if value is True else [flag, *map(str, listed(value))]
    return argv


def listed(value: Any) -> Sequence[Any]:
    """A list or tuple as it is, and anything else as the only one of a list."""
    return value if isinstance(value, (list, tuple)) else [value]


def spelled(what: Any, prior: Any, words: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """The command line that means the same as a call with names alone. Raises Refusal for what no command line can say."""
    refuse_words("a command line", words, ("range", "ids", "watch"))
    known({word: value for word, value in words.items() if word not in SAID})
    for word, value in {"what": what, "prior": prior, **words}.items():
        if not all(isinstance(one, (*NAMES, Real, type(None))) for one in listed(value)):
            kind = type(value).__name__
            raise Refusal(f"{word}: {kind} has no command line; names, files and numbers have")
    named = {"data_root": what, "model": prior, **words}
    named["num_samples"] = named.pop("draws", None)
    return shlex.join(["python", "sample.py", *arguments(named), *listed(overrides)])
