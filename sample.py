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
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from data import dataset, formats, sources
from data.manifest import Row
from data.ranges import DEPTH_8
from ldm import checkpoints, frame
from ldm import config as configuration
from ldm.denoiser import Prior
from ldm.generate import Sampler
from solvers import report
from solvers.intake import Batches, Pending, Scan
from solvers.module import Cell, Reconstruction, Run
from solvers.results import Results, peak_memory
from solvers.writer import Writer

HOME = Path(__file__).resolve().parent
DEMO, DEMO_IMAGES = HOME / "models/demo-data/test.csv", 3
PRECISIONS = ("32", "32-true", "bf16-mixed", "16-mixed", "64", "64-true")
SAMPLERS = "ldm.generate."  # solvers that draw from the prior and need no task
TOGETHER = 16  # images times draws in one network call, unless --batch-size says otherwise


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(message)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the key=value overrides. Old names of a flag stand behind its own."""
    overrides = [word for word in argv if "=" in word and not word.startswith(("-", "+"))]
    parser = Parser("sample.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--base", nargs="+", default=[], metavar="FILE", help="configuration files, merged left to right")
    add("--task", "--task-config", nargs="+", metavar="NAME|FILE", help="what was measured; several make a grid")
    add("--solver", nargs="+", metavar="NAME|FILE", help="how it is solved; several make a grid; prior: no measurement at all")
    add(
        "--model",
        "--ckpt",
        "--network",
        metavar="NAME|FOLDER|FILE",
        help="the prior's weights (default: the shipped latent prior)",
    )
    add("--model-config", "--ldm-config", "--config", metavar="FILE", help="what a foreign weight file does not say about itself")
    add("--diffusion-config", metavar="FILE", help="published scripts: --model, or --solver if it is YAML")
    add("--data-root", "--image-dir", type=Path, metavar="DIR")
    add("--split", metavar="NAME", help="DIR/NAME/, DIR/NAME.csv, DIR/NAME_images.txt, or the manifest's split column")
    add("--manifest", type=Path, metavar="FILE")
    add("--measurements", action="store_true", help="the files are what was measured; there is no truth")
    add("--save-dir", "--outdir", "--save-root", type=Path, metavar="DIR")
    add("--num-samples", type=whole, metavar="K", help="posterior draws per image: mean, std and interval")
    add("--num-runs", type=whole, metavar="K", help="draws per image of which the one of smallest residual is kept")
    add("--steps", "--ddim-steps", type=whole, metavar="N", help="noise levels of the solver")
    add("--ddim-eta", type=float, metavar="E", help="solver.params.eta=E")
    add("--batch-size", "--batch", type=whole, metavar="N", help="images times draws in one network call")
    add("--start", type=index, default=0, metavar="I")
    add("--limit", type=whole, metavar="N")
    add("--seed", type=int, default=0, metavar="N")
    add("--seeds", type=seeds, metavar="A-B,C", help="with --solver prior: one image each")
    add("--tile", action="store_true", help="images larger than the prior in overlapping tiles")
    add("--overwrite", action="store_true", help="replace results of another configuration")
    add("--dry-run", action="store_true", help="check everything and estimate seconds and memory")
    add("--keep-patient", action="store_true", help="leave the patient's data in DICOM results")
    add("--precision", choices=PRECISIONS, default="32-true", help="of the networks")
    add("--devices", type=whole, default=1, metavar="N")
    add("--num-nodes", type=whole, default=1, metavar="N")
    add("--accelerator", choices=("auto", "cpu", "gpu", "mps"), default="auto")
    add("--compile", action="store_true", help="torch.compile the network")
    add("--plugin", nargs="+", default=[], metavar="MODULE", help="let targets come from modules of your own")
    add("--print-config", action="store_true", help="show the merged configuration and stop")
    instead = yaml.safe_load((HOME / "configs/flags.yaml").read_text())
    for word in argv:
        flag = dashes(word).split("=")[0]
        if flag in instead:
            raise ValueError(f"{flag} of the published scripts: {instead[flag]}")
    options, rest = parser.parse_known_args([dashes(word) for word in argv if word not in overrides])
    if rest:
        known = [s for action in parser._actions for s in action.option_strings]
        raise ValueError(f"unknown argument {rest[0]!r}{configuration.nearest(rest[0].split('=')[0], known)}")
    word = options.diffusion_config
    if word and (options.solver if word.endswith((".yaml", ".yml")) else options.model):
        raise ValueError("--diffusion-config is an old name of --solver (YAML) or --model (weights); give one of them")
    if word and word.endswith((".yaml", ".yml")):
        options.solver = [word]
    elif word:
        options.model = word
    return options, overrides


def dashes(word: str) -> str:
    """--Save_dir=A_b -> --save-dir=A_b"""
    name, sign, value = word.partition("=")
    return name.replace("_", "-").lower() + sign + value if name.startswith("--") else word


def whole(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 1")
    return int(word)


def index(word: str) -> int:
    return 0 if word == "0" else whole(word)


def seeds(word: str) -> list[int]:
    """0-3,7 -> [0, 1, 2, 3, 7]"""
    try:
        ends = [part.split("-") for part in word.split(",")]
        return [seed for part in ends for seed in range(int(part[0]), int(part[-1]) + 1)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not of the form 0-49999 or 1,5,9-12") from None


def named(kind: str, name: str) -> Path:
    """The file of `configs/<kind>/` that a name or a path means; names of the published scripts are known too."""
    folder = HOME / "configs" / kind
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return Path(name)
    word = Path(name).stem.replace("-", "_")
    listing = folder / "aliases.yaml"
    aliases = yaml.safe_load(listing.read_text()) if listing.is_file() else {}
    names = {path.stem: path for path in folder.glob("*.yaml") if path != listing}
    word = aliases.get(word) or aliases.get(word.removesuffix("_config"), word.removesuffix("_config"))
    if word not in names:
        raise ValueError(f"unknown {kind.rstrip('s')} {name!r}{configuration.nearest(name, [*names, *aliases])}")
    return names[word]


def configurations(options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, configuration.Node]:
    """One merged configuration per cell of the grid, by name."""
    extra = [f"solver.params.steps={options.steps}"] if options.steps else []
    extra += [f"solver.params.eta={options.ddim_eta}"] if options.ddim_eta is not None else []
    cells = {}
    for task in options.task or [None]:
        for solver in options.solver or [None]:
            chosen = [named(kind, name) for kind, name in (("tasks", task), ("solvers", solver)) if name]
            known = configuration.load([*options.base, *chosen])
            if "solver" not in known:
                chosen.append(named("solvers", "resample"))
                known = configuration.load([*options.base, *chosen])
            if "operator" not in known and not str(known["solver"].get("target")).startswith(SAMPLERS):
                chosen.insert(0, named("tasks", "super_resolution"))
            name = "-".join(path.stem for path in chosen) or Path(options.base[0]).stem
            cells[name] = configuration.load([*options.base, *chosen], [*extra, *overrides])
    return cells


def load_prior(options: argparse.Namespace, config: configuration.Node) -> Prior:
    """The weights that --model names, else the configuration's `prior:`, else the shipped latent prior."""
    given = config.get("prior", {})
    if isinstance(given, dict) and "target" in given and not options.model:
        prior = configuration.build(given)
        if any(True for _ in prior.parameters()) and not prior.origin:
            raise ValueError(f"{config.locate('prior')}: describes a network without weights; name them with --model")
        return prior
    if isinstance(given, dict) and given.keys() - {"label"}:
        raise ValueError(f"{config.locate('prior')}: is stored with the weights; only prior.label=N can be said here")
    weights = options.model or (given if isinstance(given, str) else "demo-latent")
    path = next((p for p in (Path(weights), HOME / "models" / weights, HOME / weights) if p.exists()), None)
    if path is None:
        shipped = [p.name for p in (HOME / "models").glob("*") if (p / "config.yaml").is_file()]
        raise ValueError(f"unknown model {weights!r}{configuration.nearest(str(weights), shipped)}")
    trained = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]  # if it is a training's log folder
    path = next((checkpoint for checkpoint in trained if checkpoint.is_file()), path)
    with torch.random.fork_rng(devices=[]):  # networks are filled with global random numbers before their weights come
        prior = checkpoints.load(path, options.model_config)
    prior.label = given.get("label", prior.label) if isinstance(given, dict) else prior.label
    return prior


def read(load: Any, row: Row) -> Scan:
    """A row of the manifest as a Scan; a file that cannot be read is told, not raised."""
    try:
        return Scan(row.image_id, *load(row))
    except ValueError as error:
        return Scan(row.image_id, error=str(error))


def seeded(channels: int, seed: int) -> Scan:
    """The place of a draw from the prior: an id, and an 8-bit picture to be written."""
    nothing = torch.zeros(channels, 1, 1)
    return Scan(f"{seed:06d}", nothing, formats.Image(nothing, formats.Meta("png")), DEPTH_8)


def chosen_rows(options: argparse.Namespace, unconditional: bool) -> Sequence[Any]:
    """The rows to restore, or the seeds to draw."""
    if unconditional:
        rows = options.seeds or range(options.num_samples)
    else:
        rows = sources.find(options.data_root, options.split, options.manifest)
    stop = None if options.limit is None else options.start + options.limit
    if not rows[options.start : stop]:
        raise ValueError(f"--start {options.start} leaves none of {len(rows)} images")
    return rows[options.start : stop]


def main(argv: Sequence[str]) -> int:
    for noisy in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.jit")  # torch's own, at its first forward derivative
    try:
        options, overrides = parse(argv)
        return restore(options, overrides)
    except (ValueError, OSError, MisconfigurationException, torch.OutOfMemoryError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        hint = "; lower --batch-size, or use --precision bf16-mixed" if isinstance(error, torch.OutOfMemoryError) else ""
        print(f"sample.py: {lines[0]}{hint}", file=sys.stderr)
        return 2


def restore(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Everything is checked on the first image before any network runs; then Lightning's predict goes through them all."""
    for name in options.plugin:
        try:
            configuration.admit(name)
        except ImportError as error:
            raise ValueError(f"--plugin {name}: {error}") from None
    configs = configurations(options, overrides)
    if options.print_config:
        print("---\n".join(configuration.dump(config) for config in configs.values()), end="")
        return 0
    demo = defaults(options, configs)
    prior = load_prior(options, next(iter(configs.values())))
    cells = [cell(name, config, options) for name, config in configs.items()]
    rows = chosen_rows(options, cells[0].operator is None)
    load, notes, first = reader(prior, cells, rows, options.measurements)
    draws = max(one.draws for one in cells) if cells[0].operator else TOGETHER
    together = options.batch_size or min(draws, TOGETHER)
    run = Run(options.seed, together, options.measurements, options.precision)
    module = Reconstruction(prior, cells, run, functools.partial(frame.fit, tile=options.tile), notes)
    module.check(first)
    trainer = pl.Trainer(
        accelerator=options.accelerator, devices=options.devices, num_nodes=options.num_nodes,
        strategy="ddp" if options.devices * options.num_nodes > 1 else "auto", use_distributed_sampler=False,
        inference_mode=False, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    if options.precision == "16-mixed" and trainer.strategy.root_device.type == "cpu":
        raise ValueError("--precision 16-mixed needs a GPU; bf16-mixed works on the CPU too")
    if options.compile:
        prior.denoiser = torch.compile(prior.denoiser)  # type: ignore[assignment]
    if options.dry_run:
        return estimate(trainer, module, first, len(rows))
    results = [Results(*place) for place in places(options, configs, cells, prior)]
    with contextlib.ExitStack() as stack:
        if rank_zero_only.rank == 0:
            for result in results:
                stack.enter_context(result.opened(options.overwrite))
        if demo and rank_zero_only.rank == 0:
            print(f"demo: {len(rows)} shipped held-out scans of subjects the prior never saw → {options.save_dir}", flush=True)
        ids = [row.image_id if isinstance(row, Row) else f"{row:06d}" for row in rows]
        loaders = []
        for one, result in zip(cells, results):
            size = max(1, together // one.draws)
            pending = Pending(ids, size, result.committed)
            loaders.append(DataLoader(Batches(rows, load, size), None, sampler=pending, generator=torch.Generator()))
        trainer.callbacks.append(Writer(results))  # type: ignore[attr-defined]
        trainer.predict(module, loaders, return_predictions=False)
        return conclude(results, cells, rows, load) if rank_zero_only.rank == 0 else 0


def defaults(options: argparse.Namespace, configs: dict[str, configuration.Node]) -> bool:
    """Fill in what was not said; without any data it is the demo."""
    unconditional = all("operator" not in config for config in configs.values())
    if not unconditional and any("operator" not in config for config in configs.values()):
        raise ValueError("samplers of the prior and solvers of a task do not share a grid; run them apart")
    needless = ("num_runs", "measurements", "tile", "data_root", "manifest", "split") if unconditional else ("seeds",)
    for flag in needless:
        if getattr(options, flag):
            raise ValueError(f"--{flag.replace('_', '-')} means nothing {'without' if unconditional else 'with'} a task")
    for one, other in (("data_root", "manifest"), ("num_runs", "num_samples")):
        if getattr(options, one) and getattr(options, other):
            raise ValueError(
                f"--{one.replace('_', '-')} and --{other.replace('_', '-')} say the same thing twice; give one of them"
            )
    options.num_samples = options.num_samples or 1
    demo = not (options.data_root or options.manifest or unconditional)
    if demo:
        options.manifest, options.limit = DEMO, options.limit or DEMO_IMAGES
    if options.save_dir is None:
        options.save_dir = Path("results") / ("demo" if demo else next(iter(configs)) if len(configs) == 1 else "grid")
    return demo


def cell(name: str, config: configuration.Node, options: argparse.Namespace) -> Cell:
    """The operator, likelihood and solver of one configuration."""
    if "solver" not in config:
        raise ValueError(f"{name}: the configuration has no solver; name one with --solver")
    solver = configuration.build(config["solver"])
    if isinstance(solver, Sampler):
        if "operator" in config:
            raise ValueError(f"{name}: a sampler of the prior takes no --task")
        return Cell(name, None, None, solver)
    for part in ("operator", "likelihood"):
        if part not in config:
            raise ValueError(f"{name}: the configuration has no {part}; name a task with --task")
    operator, likelihood = configuration.build(config["operator"]), configuration.build(config["likelihood"])
    turns = getattr(operator, "turns", False)  # a mean of half-turned solutions means nothing
    runs = options.num_runs or (4 if turns and options.num_samples == 1 else None)
    return Cell(name, operator, likelihood, solver, runs or options.num_samples, runs is not None)


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


def places(options: argparse.Namespace, configs: dict[str, Any], cells: Sequence[Cell], prior: Prior):
    """For every cell: its folder, what decides whether results may be continued, and what is written beside them."""
    root = options.save_dir / options.split if options.split else options.save_dir
    versions = {name: metadata.version(name) for name in ("torch", "pytorch-lightning", "diffusers", "numpy")}
    for one in cells:
        config = yaml.safe_load(configuration.dump(configs[one.name]))
        config["prior"] = {"model": str(options.model or config.get("prior") or "demo-latent"), "sha256": prior.origin}
        config["run"] = {
            "seed": options.seed, "draws": one.draws, "keep": one.keep, "batch_size": options.batch_size, "tile": options.tile,
            "measurements": options.measurements, "precision": options.precision, "split": options.split,
            "keep_patient": options.keep_patient, "images": str(options.manifest or options.data_root or "seeds"),
        }  # fmt: skip
        made = f"{one.name}, prior {prior.origin[:16]}, seed {options.seed}; research use, not for diagnosis"
        folder = root / one.name if len(cells) > 1 else root
        yield folder, config, {"versions": {"python": platform.python_version(), **versions}}, made, options.keep_patient


def conclude(results: Sequence[Results], cells: Sequence[Cell], rows: Sequence[Any], load: Any) -> int:
    """Volumes, summaries and the report, once every process is done; 1 if any image failed."""
    by_id = {row.image_id: row for row in rows if isinstance(row, Row)}
    for result in results:
        result.reassemble(lambda name: load(by_id[name]))
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
    # Lightning's own handler only takes note of SIGTERM, and calls this one too; a restart goes on with what is committed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
