"""A restoration from its first check to its report: what sample.py does once its words are understood."""

import argparse
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from data import series
from data.files import printable
from data.manifest import Row
from ldm import config as configuration
from solvers.run import door, parallel, remarks, report, scanned, volumes
from solvers.run.batches import Pending, batches
from solvers.run.forecast import estimate
from solvers.run.interrupted import Savings
from solvers.run.process import Bounds, Part
from solvers.run.provenance import results_of
from solvers.run.results import Results
from solvers.run.scans import Scan
from solvers.run.shares import Hold
from solvers.run.trainer import Sharing, make_trainer, quiet, surroundings
from solvers.run.whole import Unit
from solvers.run.work import Work, checked
from solvers.run.writer import Writer


@rank_zero_only
def say(line: str) -> None:
    """Print a line, once for all processes."""
    print(printable(line), flush=True)


def restore(
    options: argparse.Namespace, configs: Mapping[str, configuration.Node], demo: bool
) -> int:
    """Everything is checked on the first image before any network runs; then Lightning's predict goes through them all.

    configs: of each cell of the grid, by its name. demo: whether no data were named. Returns the exit code.
    """
    quiet()
    begun = time.monotonic()
    surroundings(options.devices, options.num_nodes, options.accelerator)
    work = checked(options, configs, say)
    trainer = make_trainer(options)
    if options.compile:
        prior = work.module.prior
        prior.denoiser = torch.compile(prior.denoiser)  # type: ignore[assignment]
    if options.dry_run:
        many = trainer.num_devices * trainer.num_nodes
        return estimate(work.module, trainer.strategy.root_device, many, work.first, len(work.rows))
    results = {}
    for cell in work.cells:
        plain = configuration.plain(configs[cell.name])
        results[cell.name] = results_of(
            cell, plain, work.module.prior, options, work.folders[cell.name]
        )
    with locked_folders(results.values(), options, work.everything) as holds:
        if demo:
            say(
                f"demo: {len(work.rows)} shipped held-out scans of subjects the prior never saw → {options.save_dir}"
            )
        for remark in work.remarks:
            say(f"note: {remark}")
        complete = predict(work, results, trainer, options)
        if cast(Any, rank_zero_only).rank > 0:
            return 0
        if options.join and not last(holds, results.values(), complete):
            return 0
        if options.join or trainer.world_size > 1:
            for result in results.values():
                result.order(work.everything)
        for savings in work.module.savings.values():
            savings.tidy()
        code = conclude(results, work.everything, work.load, options.slices)
        print(f"took {time.monotonic() - begun:.1f} s")
        return code


def predict(
    work: Work, results: Mapping[str, Results], trainer: pl.Trainer, options: argparse.Namespace
) -> bool:
    """Restore what is not committed yet; whether nothing is left then."""
    module = work.module
    units, processes = len(work.rows), trainer.world_size
    split = parallel.split(work.volumes, units, processes, options.split_volumes)
    if split:
        say(f"note: {processes} processes share the slices of each volume")
    elif processes > 1 and work.volumes:
        say(f"note: {processes} processes share volumes, and not their slices (--split-volumes)")
    module.savings.update(
        {name: Savings(result.folder, result.digest) for name, result in results.items()}
    )
    together = 1 if work.volumes else module.run.rows
    sizes = {cell.name: max(1, together // cell.draws) for cell in work.cells}
    parts = parts_of(results, sizes, options, trainer, split)
    module.progress.json = options.log == "json"
    module.progress.beats = [part.heart.beat for part in parts.values()]
    ahead = reading_ahead(options.workers, trainer, work.volumes > 0 or scanned.reads(work.cells))
    trainer.callbacks.append(Writer(list(results.values()), list(parts.values()), ahead > 0))  # type: ignore[attr-defined]
    if split:
        trainer.callbacks.append(Sharing([part.heart.beat for part in parts.values()]))  # type: ignore[attr-defined]
    pending = []
    for name, part in parts.items():
        left_over = Pending(work.rows, sizes[name], results[name].committed, part.numbers)
        pending.append(batches(work.rows, work.load, sizes[name], left_over, ahead))
    with left(parts.values()):
        trainer.predict(module, pending, return_predictions=False)
    complete = all(part.complete for part in parts.values())
    if bound := next(iter(parts.values())).bounds.reached:
        say(f"note: {bound} is reached; the same command goes on from here" * (not complete))
    return complete


def parts_of(
    results: Mapping[str, Results],
    sizes: Mapping[str, int],
    options: argparse.Namespace,
    trainer: pl.Trainer,
    split: bool = False,
) -> dict[str, Part]:
    """What this process does of each cell; the bounds are of all cells together. split: the first process restores all."""
    bounds, rank = Bounds(options.max_images, options.max_hours), trainer.global_rank
    shared, helps = options.join or (trainer.world_size > 1 and not split), split and rank > 0
    made = {}
    for name, result in results.items():
        size = sizes[name]
        made[name] = Part(result.folder, bounds, rank, shared, options.lease, size, helps)
    return made


def reading_ahead(workers: int | None, trainer: pl.Trainer, large: bool) -> int:
    """How many processes read images ahead: as many as are asked for, else none beside a processor that computes itself.

    large: of volumes, and of files that are made a problem of when their turn comes, one at a time is all that is held.
    """
    if large and workers:
        say("note: volumes and files of a scanner are not read ahead; --workers has no effect")
    return (
        0
        if large
        else workers
        if workers is not None
        else 0
        if trainer.strategy.root_device.type == "cpu"
        else 2
    )


@contextmanager
def left(parts: Iterable[Part]) -> Iterator[None]:
    """However the work ends, what was taken and is not done goes back into the queue."""
    reason = "stopped"
    try:
        yield
        reason = "finished"
    finally:
        for part in parts:
            part.leave(reason)


def last(holds: Iterable[Hold], results: Collection[Results], complete: bool) -> bool:
    """Whether this process concludes a folder that several have worked on: the last one to leave does, once for all."""
    every = [hold.alone(60.0 if complete else 0.0) for hold in holds]
    folders = [result.folder for result in results]
    over = [folders[0].parent / "report.html"] if len(folders) > 1 else []
    if all(every) and not all(result.concluded(over) for result in results):
        return True
    say("the results are concluded by the process that leaves last")
    return False


@contextmanager
def locked_folders(
    results: Iterable[Results], options: argparse.Namespace, rows: Mapping[str, Unit]
) -> Iterator[list[Hold]]:
    """Hold the result folders, and say which images are restored again; of several processes the first does it for all."""
    with ExitStack() as stack:
        holds = []
        for result in results if cast(Any, rank_zero_only).rank == 0 else ():
            hold = stack.enter_context(
                result.opened(options.overwrite, rows, options.verify, options.join)
            )
            holds += [hold] if hold else []
            for line in result.remarks:
                say(f"note: {line}")
        yield holds


def conclude(
    results: Mapping[str, Results],
    rows: Mapping[str, Unit],
    load: Callable[[Unit], Scan],
    keep: bool,
) -> int:
    """Volumes, summaries and the report, once every process is done; 1 if any image failed. keep: a volume's slices too."""
    members = series.members(row for row in rows.values() if isinstance(row, Row))
    for result in results.values():
        for line in volumes.reassemble(
            result, members, lambda image_id: load(rows[image_id]), keep
        ):
            say(f"note: {line}")
    print(report.conclude(results))
    for name, result in results.items():
        for remark in (remarks.advice, remarks.clamped, remarks.beaten):
            if line := remark(result.records()):
                print(f"note: {name}: {line}", flush=True)
    failures = [f"{name}: {line}" for name, result in results.items() for line in result.failures()]
    for line in failures:
        door.complain("sample.py", f"failed: {line}")
    return 1 if failures else 0
