"""Train a prior: python main.py --base configs/latent-diffusion/medical-vq-4.yaml --train [flags] [key=value ...]

    --base F...          YAML files, merged left to right          --print-config   show the merged result and stop
    --train [True]       train; without it the configuration is checked and printed
    --name N --project P --logdir logs --seed N                    results go to logs/<project>/<name>/
    --resume DIR|CKPT|auto    go on exactly where a run stopped    --init CKPT|FOLDER   start from these weights
    --plugin MODULE      let targets come from a module of your own
    --<Trainer argument> VALUE    any of Lightning's: --max_steps 1000 --precision bf16-mixed --devices 2 ...
    key=value            overrides, e.g. model.params.optimiser.params.lr=1e-4

Dashes and underscores are the same. Exit codes: 0 done, 2 a mistake in what was asked (one line says which).
"""

import argparse
import fcntl
import inspect
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from ldm import checkpoints as weights
from ldm import config as configuration
from ldm.checkpoints.fitting import fill
from ldm.callbacks import AtomicSave, Averaging, Pictures, Recorded, StopOnNaN

OWN = ("logger", "callbacks", "default_root_dir", "plugins", "model_registry")  # Trainer arguments the program sets itself
FLAGS = [n for n in inspect.signature(pl.Trainer.__init__).parameters if n != "self" and n not in OWN]
HALF_LIFE = 10_000  # images; overridden by ema_half_life in the configuration


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(message)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options and Trainer flags, and the key=value overrides."""
    argv = [a if "=" in a and not a.startswith("--") else dashes(a) for a in argv]
    parser = Parser(prog="main.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--base", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--train", nargs="?", const=True, default=False, type=yes)
    parser.add_argument("--name")
    parser.add_argument("--project")
    parser.add_argument("--resume", metavar="DIR|CKPT|auto")
    parser.add_argument("--init", metavar="CKPT|FOLDER")
    parser.add_argument("--logdir", type=Path, default=Path("logs"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plugin", nargs="+", default=[], metavar="MODULE")
    parser.add_argument("--print_config", action="store_true")
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", nargs="?", const=True, default=argparse.SUPPRESS, type=yaml.safe_load, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(argv)
    for word in rest:
        if word.startswith("-") or "=" not in word:
            known = [s for a in parser._actions for s in a.option_strings]
            raise ValueError(f"unknown argument {word!r}{configuration.nearest(word, known) if word.startswith('-') else ''}")
    return options, rest


def dashes(word: str) -> str:
    """--max-steps=3 -> --max_steps=3"""
    if not word.startswith("--"):
        return word
    name, sign, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + sign + value


def yes(word: str) -> bool:
    value = yaml.safe_load(word)
    if not isinstance(value, bool):
        raise argparse.ArgumentTypeError(f"{word!r} is neither True nor False")
    return value


def train(config: configuration.Node, options: argparse.Namespace) -> None:
    pl.seed_everything(options.seed, workers=True, verbose=False)
    module, data = assemble(config)
    folder = options.logdir / (options.project or "palimpsest") / (options.name or Path(options.base[0]).stem)
    resume = checkpoint_of(options.resume, folder)
    if resume is None:
        start(module, config, options.init)
    with claimed(folder, resume):
        (folder / "config.yaml").write_text(configuration.dump(config))
        trainer = pl.Trainer(
            **config.get("trainer", {}),
            default_root_dir=folder,
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            plugins=[AtomicSave()],
            callbacks=[
                Averaging(config.get("ema_half_life", HALF_LIFE)),
                Recorded(configuration.plain(config)),
                StopOnNaN(),
                Pictures(),
                LearningRateMonitor("step"),
                *checkpoints(folder, config),
            ],
        )
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)


def assemble(config: configuration.Node) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """The module to train and its data; `prior` or `first_stage` is built once and handed to `model`."""
    kinds = [k for k in ("prior", "first_stage") if k in config]
    if "model" not in config or "data" not in config or len(kinds) != 1:
        raise ValueError("training needs `model:`, `data:` and one of `prior:` and `first_stage:` in the --base files")
    part = configuration.build(config[kinds[0]])
    return configuration.build(config["model"], **{kinds[0]: part}), configuration.build(config["data"])


def start(module: pl.LightningModule, config: configuration.Node, init: str | None) -> None:
    """Give a new run the weights it begins with: all of them (--init), and the first stage that the configuration names."""
    if init is not None:
        changed = weights.initialise(module.prior if "prior" in config else module.first_stage, init)
        print(f"--init {init}" + (f"; adapted from 3 image channels to 1: {', '.join(changed)}" if changed else ""))
    if "first_stage_weights" in config:
        source = config["first_stage_weights"]
        fill(module.prior.first_stage, weights.first_stage(source).state_dict(), source)


def checkpoints(folder: Path, config: configuration.Node) -> list[ModelCheckpoint]:
    """last.ckpt at every `save_every` steps and at the end, best.ckpt by validation loss."""
    place = folder / "checkpoints"
    return [
        ModelCheckpoint(place, "last", every_n_train_steps=config.get("save_every", 500), enable_version_counter=False),
        ModelCheckpoint(place, "best", monitor="val/loss", enable_version_counter=False),
    ]


def checkpoint_of(resume: str | None, folder: Path) -> Path | None:
    """The file --resume means; `auto` starts anew where there is nothing to resume."""
    if resume is None:
        return None
    if resume == "auto":
        last = folder / "checkpoints" / "last.ckpt"
        return last if last.is_file() else None
    path = Path(resume)
    path = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"--resume: {path}: no such checkpoint")
    return path


class claimed:
    """Holds a run's folder: two runs never write into one, and a finished or broken run is only gone on with on request."""

    def __init__(self, folder: Path, resume: Path | None):
        self.folder, self.resume = folder, resume

    def __enter__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.folder / ".lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{self.folder}: another run is writing here; choose another --name") from None
        if self.resume is None and (self.folder / "checkpoints").exists():
            raise ValueError(f"{self.folder}: holds an earlier run; choose another --name, or go on with it by --resume auto")

    def __exit__(self, *_: object) -> None:
        self.lock.close()


def main(argv: Sequence[str]) -> int:
    try:
        options, overrides = parse(argv)
        for module in options.plugin:
            configuration.admit(module)
        config = configuration.load(options.base, overrides)
        given = {flag: getattr(options, flag) for flag in FLAGS if hasattr(options, flag)}
        config["trainer"] = {**config.get("trainer", {}), **given}
        if options.train and not options.print_config:
            train(config, options)
        else:
            assemble(config)
            print(configuration.dump(config), end="")
    except ValueError as error:
        print(f"main.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
