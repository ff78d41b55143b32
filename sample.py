"""Restore images: python sample.py [flags] [key=value ...]; without any flag, the demo.

    python sample.py --data-root DIR --split test --task super_resolution --solver resample --model models/demo-latent
    python sample.py --task ct_parallel_20 mri_x4 --solver daps codps --model models/demo-patch --num-samples 4      # a grid
    python sample.py --measurements --task super_resolution --data-root DIR             # DIR holds what was measured
    python sample.py --solver prior --seeds 0-15                                        # draws from the prior itself

Dashes and underscores are the same. key=value overrides the merged configuration, e.g. solver.params.eta=0.5.
Exit codes: 0 all done, 1 some images failed (listed), 2 a mistake in what was asked (one line says which).
"""

import argparse
import functools
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from data import dataset, sources
from data.files import Refusal, first_line, nearest, printable
from data.manifest import Row
from ldm import catalogue, resize
from ldm import config as configuration
from ldm.denoiser import Prior
from ldm.sampling import Sampler
from solvers.operators.base import Operator
from solvers.problem import Likelihood
from solvers.run import door, flags, report, volumes
from solvers.run.cost import peak_memory
from solvers.run.module import Cell, Reconstruction, Run
from solvers.run.outputs import FOLDERS
from solvers.run.provenance import results_of
from solvers.run.results import Results
from solvers.run.scans import Scan, batches, first_readable, read, seeded
from solvers.run.writer import Writer

PARTS = {"prior": catalogue.PRIOR, "operator": Operator, "likelihood": Likelihood, "solver": Callable}  # of a configuration
TOGETHER = 16  # images times draws in one network call, unless --batch-size says otherwise

Load = Callable[[Row], Scan]


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the key=value overrides."""
    options, overrides, unknown = flags.parse(argv, __doc__)
    if unknown:
        raise Refusal(f"unknown argument {unknown!r}{nearest(unknown.split('=')[0], flags.names())}")
    return options, overrides


def main(argv: Sequence[str]) -> int:
    for noisy in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.jit")  # torch's own, at its first forward derivative
    return door.run("sample.py", argv, lambda: restore(*parse(argv)), ": lower --batch-size, or use --precision bf16-mixed")


@rank_zero_only
def say(line: str) -> None:
    """Print a line, once for all processes."""
    print(printable(line), flush=True)


def restore(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Everything is checked on the first image before any network runs; then Lightning's predict goes through them all."""
    if options.allow_env:
        configuration.admit_resolvers()
    for name in options.plugin:
        configuration.admit(name)
    configs = configurations(options, overrides)
    if options.print_config:
        print("---\n".join(configuration.dump(config) for config in configs.values()), end="")
        return 0

    demo = flags.complete(options, {name: "operator" in config for name, config in configs.items()})
    prior = catalogue.prior(next(iter(configs.values())), options.model, options.model_config)
    cells = [build_cell(name, config, options) for name, config in configs.items()]
    root = options.save_dir / (options.split or "")
    folders = {name: root / name if len(cells) > 1 else root for name in configs}
    everything = {row.image_id: row for row in all_rows(options, cells, folders.values())}
    rows = list(everything.values())[options.start :][: options.limit]
    if not rows:
        raise Refusal(f"--start {options.start} leaves none of {len(everything)} images")

    load, notes, first = reader(prior, cells, rows, options.measurements)
    most = max(cell.draws for cell in cells) if cells[0].operator else TOGETHER
    together = options.batch_size or min(most, TOGETHER)
    run = Run(options.seed, together, options.measurements, options.precision)
    module = Reconstruction(prior, cells, run, functools.partial(resize.fit, tile=options.tile), notes)
    module.check(first)
    trainer = make_trainer(options)
    if options.compile:
        prior.denoiser = torch.compile(prior.denoiser)  # type: ignore[assignment]
    if options.dry_run:
        return estimate(trainer, module, first, len(rows))

    merged = {name: configuration.plain(config) for name, config in configs.items()}
    results = {cell.name: results_of(cell, merged[cell.name], prior, options, folders[cell.name]) for cell in cells}
    with held(results.values(), options.overwrite, everything):
        if demo:
            say(f"demo: {len(rows)} shipped held-out scans of subjects the prior never saw → {options.save_dir}")
        for note in filter(None, dict.fromkeys(cell.note(prior) for cell in cells)):
            say(f"note: {note}")
        trainer.callbacks.append(Writer(list(results.values())))  # type: ignore[attr-defined]
        pending = [batches(rows, load, max(1, together // cell.draws), results[cell.name].committed) for cell in cells]
        trainer.predict(module, pending, return_predictions=False)
        if rank_zero_only.rank > 0:
            return 0
        return conclude(results, lambda image_id: load(everything[image_id]) if image_id in everything else None)


def configurations(options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, configuration.Node]:
    """One merged configuration per cell of the grid, by name."""
    cells = catalogue.grid(options.base, options.task or [], options.solver or [], overrides)
    for cell in cells.values():
        for key in cell.keys() - set(PARTS):
            raise Refusal(f"{cell.locate(key)}: unknown key{nearest(key, PARTS)}")
    return cells


def part(name: str, config: configuration.Node, key: str) -> Any:
    """One part of a configuration, built, and of its kind."""
    if key not in config:
        raise Refusal(f"{name}: the configuration has no {key}; name one with --{'solver' if key == 'solver' else 'task'}")
    made = configuration.build(config[key])
    if not isinstance(made, PARTS[key]):
        raise Refusal(f"{config.locate(key)}: {made!r} is no {key}; target and params of one are allowed")
    return made


def build_cell(name: str, config: configuration.Node, options: argparse.Namespace) -> Cell:
    """The operator, likelihood and solver of one configuration."""
    solver = part(name, config, "solver")
    if isinstance(solver, Sampler):
        if "operator" in config:
            raise Refusal(f"{name}: a sampler of the prior takes no --task")
        return Cell(name, None, None, solver)
    operator, likelihood = part(name, config, "operator"), part(name, config, "likelihood")
    turns = getattr(operator, "turns", False)  # a mean of half-turned solutions means nothing
    runs = options.num_runs or (4 if turns and options.num_samples == 1 else None)
    keep = "" if runs is None else "oracle" if options.oracle else "residual"
    return Cell(name, operator, likelihood, solver, runs or options.num_samples, keep)


def all_rows(options: argparse.Namespace, cells: Sequence[Cell], folders: Iterable[Path]) -> Sequence[Row]:
    """What there is to restore; of the prior itself, one row for each seed. folders: of results."""
    if cells[0].operator is None:
        return [Row("", f"{seed:06d}") for seed in options.seeds or range(options.num_samples)]
    passed: list[Path] = []
    written = [folder / kind for folder in folders for kind in FOLDERS]
    rows = sources.find(options.data_root, options.split, options.manifest, written, passed)
    if passed := [path for path in passed if not path.is_relative_to(options.save_dir)]:
        say(f"note: {len(passed)} files that are no images by their name are passed over, the first {passed[0]}")
    return rows


def reader(prior: Prior, cells: Sequence[Cell], rows: Sequence[Row], measurements: bool) -> tuple[Load, list[str], Scan]:
    """How a row is read, what the records must say about it, and the first scan that can be read."""
    channels = prior.image_shape[0]
    load: Load = functools.partial(read, functools.partial(dataset.load, channels=channels))
    if cells[0].operator is None:
        load = functools.partial(seeded, channels)
    elif measurements:
        physical = any(cell.operator and cell.operator.unit_range for cell in cells)
        load = functools.partial(read, functools.partial(sources.measurement, physical=physical))
    first = first_readable(rows, load)
    if cells[0].operator is None or channels != 3 or len(first.source.pixels) != 1:
        return load, [], first
    prior.gray = True  # from here on its images have one channel
    load, _, first = reader(prior, cells, rows, measurements)
    return load, ["gray images under a prior of 3 channels: replicated on the way in, averaged on the way out"], first


def make_trainer(options: argparse.Namespace) -> pl.Trainer:
    """Lightning's part: processes and devices. Precision is the networks' alone (solvers.run.cost), so it is not told."""
    try:
        trainer = pl.Trainer(
            accelerator=options.accelerator, devices=options.devices, num_nodes=options.num_nodes,
            strategy="ddp" if options.devices * options.num_nodes > 1 else "auto", use_distributed_sampler=False,
            inference_mode=False, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
    except MisconfigurationException as error:  # devices that there are not
        raise Refusal(first_line(error)) from error
    device = trainer.strategy.root_device.type
    if options.precision == "16-mixed" and device == "cpu":
        raise Refusal("--precision 16-mixed needs a GPU; bf16-mixed works on the CPU too")
    if options.precision.startswith("64") and device == "mps":
        raise Refusal(f"--precision {options.precision} does not exist on {device}; --accelerator cpu has it")
    return trainer


@contextmanager
def held(results: Iterable[Results], overwrite: bool, rows: Mapping[str, Row]) -> Iterator[None]:
    """Hold the result folders, and say which images are restored again; of several processes the first does it for all."""
    with ExitStack() as stack:
        for result in results if rank_zero_only.rank == 0 else ():
            stack.enter_context(result.opened(overwrite, {image_id: row.path for image_id, row in rows.items()}))
            for name in result.changed:
                say(f"note: {name} is another file than was restored before; it is restored again")
        yield


def conclude(results: Mapping[str, Results], load: Callable[[str], Scan | None]) -> int:
    """Volumes, summaries and the report, once every process is done; 1 if any image failed. load: a scan, by its id."""
    for result in results.values():
        for line in volumes.reassemble(result, load):
            say(f"note: {line}")
    print(report.conclude(results))
    failures = [f"{name}: {line}" for name, result in results.items() for line in result.failures()]
    for line in failures:
        door.complain("sample.py", f"failed: {line}")
    return 1 if failures else 0


def estimate(trainer: pl.Trainer, module: Reconstruction, scan: Scan, count: int) -> int:
    """--dry-run: everything was checked; a few steps on the first image say how long it will take."""
    module.to(trainer.strategy.root_device)
    for cell in module.cells:
        seconds = module.estimate(cell, scan)
        minutes, peak = seconds * count / (trainer.num_devices * trainer.num_nodes) / 60, peak_memory() / 2**30
        print(f"{cell.name}: about {seconds:.1f} s an image, {minutes:.1f} min for {count}; peak memory {peak:.2f} GiB")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names need not be UTF-8
    # Lightning's own handler only takes note of SIGTERM, and calls this one too; a restart goes on with what is committed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
