"""Restore images: python sample.py [flags] [key=value ...]; without any flag, the demo.

    python sample.py --data-root DIR --split test --task super_resolution --solver resample --model models/demo-latent
    python sample.py --task ct_parallel_20 mri_x4 --solver daps codps --model models/demo-patch --num-samples 4      # a grid
    python sample.py --measurements --task super_resolution --data-root DIR             # DIR holds what was measured
    python sample.py --solver prior --seeds 0-15                                        # draws from the prior itself

Dashes and underscores are the same. key=value overrides the merged configuration, e.g. solver.params.eta=0.5.
Exit codes: 0 all done, 1 some images failed (listed), 2 a mistake in what was asked (one line says which).
"""

import argparse
import contextlib
import functools
import logging
import platform
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from data import dataset, sources
from data.manifest import Row
from ldm import config as configuration
from ldm import frame, names
from ldm.denoiser import Prior
from ldm.generate import Sampler
from solvers import flags, report, volumes
from solvers.files import FOLDERS
from solvers.intake import Batches, Pending, Scan, read, seeded
from solvers.meter import peak_memory
from solvers.module import Cell, Reconstruction, Run
from solvers.operators.base import Operator
from solvers.problem import Likelihood
from solvers.results import Results
from solvers.writer import Writer

DEMO, DEMO_IMAGES = names.HOME / "models/demo-data/test.csv", 3
PARTS = {"prior": names.PRIOR, "operator": Operator, "likelihood": Likelihood, "solver": Callable}  # of a configuration
TOGETHER = 16  # images times draws in one network call, unless --batch-size says otherwise


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the key=value overrides; `options.command` is the whole line."""
    options, overrides, unknown = flags.parse(argv, __doc__)
    options.command = shlex.join(["python", "sample.py", *argv])
    if unknown:
        raise ValueError(f"unknown argument {unknown!r}{configuration.nearest(unknown.split('=')[0], flags.names())}")
    return options, overrides


def configurations(options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, configuration.Node]:
    """One merged configuration per cell of the grid, by name."""
    extra = [f"solver.params.steps={options.steps}"] if options.steps else []
    extra += [f"solver.params.eta={options.ddim_eta}"] if options.ddim_eta is not None else []
    cells = names.grid(options.base, options.task or [], options.solver or [], [*extra, *overrides])
    for cell in cells.values():
        for key in cell.keys() - set(PARTS):
            raise ValueError(f"{cell.locate(key)}: unknown key{configuration.nearest(key, PARTS)}")
    return cells


def all_rows(options: argparse.Namespace, unconditional: bool, folders: Sequence[Path]) -> Sequence[Any]:
    """What there is to restore, or the seeds to draw. folders: of results."""
    if unconditional:
        return options.seeds or range(options.num_samples)
    passed: list[Path] = []
    written = [folder / kind for folder in folders for kind in FOLDERS]
    rows = sources.find(options.data_root, options.split, options.manifest, written, passed)
    if passed := [path for path in passed if not path.is_relative_to(options.save_dir)]:
        note = f"note: {len(passed)} files that are no images by their name are passed over, the first {passed[0]}"
        rank_zero_only(print)(note, flush=True)
    return rows


def chosen(rows: Sequence[Any], start: int, limit: int | None) -> Sequence[Any]:
    """Those of them that this run restores."""
    some = rows[start : None if limit is None else start + limit]
    if not some:
        raise ValueError(f"--start {start} leaves none of {len(rows)} images")
    return some


def main(argv: Sequence[str]) -> int:
    for noisy in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.jit")  # torch's own, at its first forward derivative
    try:
        options, overrides = parse(argv)
        return restore(options, overrides)
    except (ValueError, OSError, MisconfigurationException) as error:
        return refuse(error)
    except (RuntimeError, MemoryError) as error:  # of which torch.OutOfMemoryError is one; the processor's is a plain one
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "DefaultCPUAllocator" not in str(error):
            raise
        return refuse(error, "; lower --batch-size, or use --precision bf16-mixed")


def refuse(error: Exception, hint: str = "") -> int:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    print(f"sample.py: {lines[0]}{hint}", file=sys.stderr)
    return 2


def restore(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Everything is checked on the first image before any network runs; then Lightning's predict goes through them all."""
    for name in options.plugin:
        configuration.admit(name)
    configs = configurations(options, overrides)
    if options.print_config:
        print("---\n".join(configuration.dump(config) for config in configs.values()), end="")
        return 0
    demo = defaults(options, configs)
    prior = names.prior(next(iter(configs.values())), options.model, options.model_config)
    cells = [cell(name, config, options) for name, config in configs.items()]
    folders = result_folders(options, cells)
    everything = all_rows(options, cells[0].operator is None, folders)
    by_id = {row.image_id: row for row in everything if isinstance(row, Row)}
    rows = chosen(everything, options.start, options.limit)
    load, notes, first = reader(prior, cells, rows, options.measurements)
    draws = max(one.draws for one in cells) if cells[0].operator else TOGETHER
    together = options.batch_size or min(draws, TOGETHER)
    run = Run(options.seed, together, options.measurements, options.precision)
    module = Reconstruction(prior, cells, run, functools.partial(frame.fit, tile=options.tile), notes)
    module.check(first)
    trainer = lightning(options)
    if options.compile:
        prior.denoiser = torch.compile(prior.denoiser)  # type: ignore[assignment]
    if options.dry_run:
        return estimate(trainer, module, first, len(rows))
    results = [Results(*place) for place in places(options, configs, cells, folders, prior)]
    with contextlib.ExitStack() as stack:
        if rank_zero_only.rank == 0:
            for result in results:
                stack.enter_context(result.opened(options.overwrite, {name: row.path for name, row in by_id.items()}))
                for name in result.changed:
                    print(f"note: {name} is another file than was restored before; it is restored again", flush=True)
        if demo and rank_zero_only.rank == 0:
            print(f"demo: {len(rows)} shipped held-out scans of subjects the prior never saw → {options.save_dir}", flush=True)
        for note in filter(None, dict.fromkeys(one.note(prior) for one in cells)):
            rank_zero_only(print)(f"note: {note}", flush=True)
        trainer.callbacks.append(Writer(results))  # type: ignore[attr-defined]
        pending = [batches(rows, load, max(1, together // one.draws), result) for one, result in zip(cells, results)]
        trainer.predict(module, pending, return_predictions=False)
        return conclude(results, cells, by_id, load) if rank_zero_only.rank == 0 else 0


def lightning(options: argparse.Namespace) -> pl.Trainer:
    """Lightning's part: processes and devices. Precision is the networks' alone (solvers.meter), so it is not told."""
    trainer = pl.Trainer(
        accelerator=options.accelerator, devices=options.devices, num_nodes=options.num_nodes,
        strategy="ddp" if options.devices * options.num_nodes > 1 else "auto", use_distributed_sampler=False,
        inference_mode=False, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    device = trainer.strategy.root_device.type
    if options.precision == "16-mixed" and device == "cpu":
        raise ValueError("--precision 16-mixed needs a GPU; bf16-mixed works on the CPU too")
    if options.precision.startswith("64") and device == "mps":
        raise ValueError(f"--precision {options.precision} does not exist on {device}; --accelerator cpu has it")
    return trainer


def batches(rows: Sequence[Any], load: Any, size: int, result: Results) -> DataLoader:
    """What is left to do for one cell, in batches of `size` images."""
    ids = [row.image_id if isinstance(row, Row) else f"{row:06d}" for row in rows]
    pending = Pending(ids, size, result.committed)
    return DataLoader(Batches(rows, load, size), None, sampler=pending, generator=torch.Generator())


def defaults(options: argparse.Namespace, configs: dict[str, configuration.Node]) -> bool:
    """Fill in what was not said; without any data it is the demo."""
    unconditional = all("operator" not in config for config in configs.values())
    if not unconditional and any("operator" not in config for config in configs.values()):
        raise ValueError("samplers of the prior and solvers of a task do not share a grid; run them apart")
    needless = ("num_runs", "measurements", "tile", "data_root", "manifest", "split") if unconditional else ("seeds",)
    for flag in needless:
        if getattr(options, flag):
            raise ValueError(f"--{flag.replace('_', '-')} means nothing {'without' if unconditional else 'with'} a task")
    if options.oracle and (options.measurements or not options.num_runs):
        raise ValueError("--oracle chooses among --num-runs by the truth, of which measurements have none")
    options.num_samples = options.num_samples or 1
    demo = not (options.data_root or options.manifest or unconditional)
    if demo and options.measurements:
        raise ValueError("--measurements needs --data-root or --manifest: the files that were measured")
    if demo:
        options.manifest, options.limit = DEMO, options.limit or DEMO_IMAGES
    if options.save_dir is None:
        options.save_dir = Path("results") / ("demo" if demo else next(iter(configs)) if len(configs) == 1 else "grid")
    return demo


def cell(name: str, config: configuration.Node, options: argparse.Namespace) -> Cell:
    """The operator, likelihood and solver of one configuration."""
    solver = part(name, config, "solver")
    if isinstance(solver, Sampler):
        if "operator" in config:
            raise ValueError(f"{name}: a sampler of the prior takes no --task")
        return Cell(name, None, None, solver)
    operator, likelihood = part(name, config, "operator"), part(name, config, "likelihood")
    turns = getattr(operator, "turns", False)  # a mean of half-turned solutions means nothing
    runs = options.num_runs or (4 if turns and options.num_samples == 1 else None)
    keep = "" if runs is None else "oracle" if options.oracle else "residual"
    return Cell(name, operator, likelihood, solver, runs or options.num_samples, keep)


def part(name: str, config: configuration.Node, key: str) -> Any:
    """One part of a configuration, built, and of its kind."""
    if key not in config:
        raise ValueError(f"{name}: the configuration has no {key}; name one with --{'solver' if key == 'solver' else 'task'}")
    made = configuration.build(config[key])
    if not isinstance(made, PARTS[key]):
        raise ValueError(f"{config.locate(key)}: {made!r} is no {key}; target and params of one are allowed")
    return made


def reader(prior: Prior, cells: Sequence[Cell], rows: Sequence[Any], measurements: bool) -> tuple[Any, list[str], Scan]:
    """How a row is read, what the records must say about it, and the first scan that can be read."""
    channels, physical = prior.image_shape[0], any(one.operator and one.operator.unit_range for one in cells)
    if cells[0].operator is None:
        load = functools.partial(seeded, channels)
    elif measurements:
        load = functools.partial(read, functools.partial(sources.measurement, physical=physical))
    else:
        load = functools.partial(read, functools.partial(dataset.load, channels=channels))
    first = next((scan for row in rows if not (scan := load(row)).error), None)
    if first is None:
        raise ValueError(load(rows[0]).error)
    assert first.source is not None
    if cells[0].operator is None or len(first.source.pixels) != 1 or channels != 3:
        return load, [], first
    prior.gray = True
    load = load if measurements else functools.partial(read, functools.partial(dataset.load, channels=1))
    return load, ["gray images under a prior of 3 channels: replicated on the way in, averaged on the way out"], load(rows[0])


def result_folders(options: argparse.Namespace, cells: Sequence[Cell]) -> list[Path]:
    """One for each cell."""
    root = options.save_dir / options.split if options.split else options.save_dir
    return [root / one.name for one in cells] if len(cells) > 1 else [root]


def places(
    options: argparse.Namespace, configs: dict[str, Any], cells: Sequence[Cell], folders: Sequence[Path], prior: Prior
) -> Iterator[tuple]:
    """For every cell: its folder, what decides whether results may be continued, and what is written beside them."""
    versions = {name: metadata.version(name) for name in ("torch", "pytorch-lightning", "diffusers", "numpy")}
    for one, folder in zip(cells, folders):
        config = yaml.safe_load(configuration.dump(configs[one.name]))
        config["prior"] = {"model": str(options.model or config.get("prior") or "demo-latent"), "sha256": prior.origin}
        config["run"] = {
            "seed": options.seed, "draws": one.draws, "keep": one.keep, "batch_size": options.batch_size, "tile": options.tile,
            "measurements": options.measurements, "precision": options.precision, "split": options.split,
            "keep_patient": options.keep_patient, "images": str(options.manifest or options.data_root or "seeds"),
        }  # fmt: skip
        made = f"{one.name}, prior {prior.origin[:16]}, seed {options.seed}; research use, not for diagnosis"
        facts = {"cell": one.name, "command": options.command, "versions": {"python": platform.python_version(), **versions}}
        facts |= {"note": note} if (note := one.note(prior)) else {}
        yield folder, config, facts, made, options.keep_patient


def conclude(results: Sequence[Results], cells: Sequence[Cell], by_id: dict[str, Row], load: Any) -> int:
    """Volumes, summaries and the report, once every process is done; 1 if any image failed."""
    for result in results:
        for line in volumes.reassemble(result, lambda name: load(by_id[name]) if name in by_id else None):
            print(f"note: {line}", flush=True)
    print(report.conclude({one.name: result for one, result in zip(cells, results)}))
    failures = [f"{one.name}: {line}" for one, result in zip(cells, results) for line in result.failures()]
    for line in failures:
        print(f"sample.py: failed: {line}", file=sys.stderr)
    return 1 if failures else 0


def estimate(trainer: pl.Trainer, module: Reconstruction, scan: Scan, count: int) -> int:
    """--dry-run: everything was checked; a few steps on the first image say how long it will take."""
    module.to(trainer.strategy.root_device)
    for one in module.cells:
        seconds = module.estimate(one, scan)
        minutes, peak = seconds * count / (trainer.num_devices * trainer.num_nodes) / 60, peak_memory() / 2**30
        print(f"{one.name}: about {seconds:.1f} s an image, {minutes:.1f} min for {count}; peak memory {peak:.2f} GiB")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names need not be UTF-8
    # Lightning's own handler only takes note of SIGTERM, and calls this one too; a restart goes on with what is committed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
