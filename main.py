"""Train a prior: python main.py --base configs/latent-diffusion/medical-vq-4.yaml --train [flags] [key=value ...]

    --base F...          YAML files, merged left to right          --print-config   show the merged result and stop
    --train [True]       train; without it the configuration is checked and printed
    --name N --project P --logdir logs --seed N                    results go to logs/<project>/<name>/
    --resume DIR|CKPT|auto    go on exactly where a run stopped (auto is the default of a scheduler's job)
    --init CKPT|FOLDER   start from these weights
    --compile            torch.compile the networks                --channels-last      their memory layout
    --log json           one line an event on stderr: step, seconds, loss, images a second
    --plugin MODULE...   let targets come from modules of your own
    --allow-env          let --base files ask for ${oc.env:NAME} and the like    --traceback   show where a mistake was found
    --<Trainer argument> VALUE    any of Lightning's: --max_steps 1000 --precision bf16-mixed --devices 2 ...
                         --strategy fsdp splits a diffusion network and its optimiser over the devices
    key=value            overrides, e.g. model.params.optimiser.params.lr=1e-4

Dashes and underscores are the same. Exit codes: 0 done, 2 a mistake in what was asked (one line says which).
"""

import argparse
import inspect
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from data.files import Refusal, commit, first_line, nearest, read_yaml
from ldm import checkpoints as weights
from ldm import config as configuration
from ldm.checkpoints.fitting import fill
from ldm.checkpoints.own import EMA_HALF_LIFE
from ldm.training.callbacks import AtomicSave, Averaging, Best, Last, Pictures, Recorded, Sharded, StopOnNaN
from ldm.training.configuration import check_keys, set_seeds, trainer_arguments
from ldm.training.run_folder import PARTS, checkpoint_of, claimed, digests, same_run
from ldm.training.watching import Watched
from solvers.run import door
from solvers.run.flags import Parser
from solvers.run.heart import Heart
from solvers.run.trainer import heed, surroundings

OWN = ("logger", "callbacks", "default_root_dir", "plugins", "overfit_batches")  # Trainer arguments that the program sets itself
FLAGS = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name not in ("self", *OWN)]
SAVE_EVERY = 500  # steps
MEMORY_HINT = "lower data.params.batch_size or model.params.crops, or set `checkpointing`"


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options and Trainer flags, and the key=value overrides."""
    parser = Parser("main.py", __doc__)
    parser.add_argument("-b", "--base", nargs="+", required=True)
    parser.add_argument("-t", "--train", nargs="?", const=True, default=False, type=yes)
    parser.add_argument("-n", "--name")
    parser.add_argument("-p", "--project", default="palimpsest")
    parser.add_argument("-r", "--resume")
    parser.add_argument("--init")
    parser.add_argument("-l", "--logdir", type=Path, default=Path("logs"))
    parser.add_argument("-s", "--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--plugin", nargs="+", default=[])
    parser.add_argument("--allow_env", action="store_true")
    parser.add_argument("--print_config", action="store_true")
    parser.add_argument("--log", choices=("text", "json"), default="text")
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", nargs="?", const=True, default=argparse.SUPPRESS, type=value, help=argparse.SUPPRESS)
    parser.refuse(argv)
    changes = parser.overrides(argv)
    options, rest = parser.parse_known_args([underscored(word) for word in argv if word not in changes])
    for word in rest:
        near = nearest(word, parser._option_string_actions) if word.startswith("-") else ""
        raise Refusal(f"unknown argument {word!r}{near}")
    return options, changes


def underscored(word: str) -> str:
    """--max-steps=3 -> --max_steps=3"""
    name, sign, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + sign + value if word.startswith("--") else word


def value(word: str) -> Any:
    """What YAML takes it for, but for 10:00:00:00, which it would read as a number to the base 60."""
    try:
        return word if re.fullmatch(r"\d+(:\d+)+", word) else read_yaml(word, "")
    except Refusal as error:
        raise argparse.ArgumentTypeError(f"{word!r} is not valid YAML") from error


def yes(word: str) -> bool:
    if not isinstance(found := value(word), bool):
        raise argparse.ArgumentTypeError(f"{word!r} is neither True nor False")
    return found


def assemble(config: configuration.Node) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """The module to train and its data; the prior or first stage is built once and handed to the module."""
    parts = [part for part in PARTS if part in config]
    if "model" not in config or "data" not in config or len(parts) != 1:
        raise Refusal("training needs `model:`, `data:` and one of `prior:` and `first_stage:` in the --base files")
    part = build_part(config, parts[0], torch.nn.Module)
    return build_part(config, "model", pl.LightningModule, **{parts[0]: part}), build_part(config, "data", pl.LightningDataModule)


def build_part(config: configuration.Node, key: str, kind: type, **extra: Any) -> Any:
    """The part of the configuration under `key`, built, and of its kind."""
    part = configuration.build(config[key], **extra)
    if not isinstance(part, kind):
        raise Refusal(f"{config.locate(key)}: is no {kind.__name__}; target and params of one are allowed")
    return part


def start(module: pl.LightningModule, config: configuration.Node, init: str | None) -> None:
    """Give a new run the weights it begins with: all of them (--init), and the first stage that the configuration names."""
    if init is not None:
        part, estimated = getattr(module, "prior", None) or module.first_stage, getattr(module, "estimate_scale", False)
        print("; ".join([f"--init {init}", *weights.initialise(part, init, estimated=estimated)]))
    if "first_stage_weights" in config:
        source = config["first_stage_weights"]
        if not hasattr(stage := getattr(module, "prior", None), "first_stage"):
            raise Refusal(f"{config.locate('first_stage_weights')}: only a latent prior has a first stage to fill")
        found = weights.first_stage(source)
        fill(stage.first_stage, found.state_dict(), source)
        weights.agree(found, stage.first_stage, source)


def train(config: configuration.Node, options: argparse.Namespace) -> None:
    pl.seed_everything(options.seed, workers=True, verbose=False)
    module, data = assemble(config)
    folder = options.logdir / options.project / (options.name or Path(options.base[0]).stem)
    resume = checkpoint_of(options.resume, folder)
    manifests = digests(getattr(data, "manifests", {}))
    if resume is None:
        start(module, config, options.init)
    else:
        same_run(resume, config, manifests)
    if options.channels_last:
        module.to(memory_format=torch.channels_last)
    if options.compile:
        module.compile_networks()
    first = rank_zero_only.rank == 0  # of the processes that Lightning or a launcher starts, one owns the folder
    with claimed(folder, resume) if first else nullcontext():
        if first:
            commit(folder / "config.yaml", configuration.dump(config))
        heart = Heart(folder, rank_zero_only.rank)
        trainer = make_trainer(config, folder, manifests, Watched(heart.beat, options.log))
        try:
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        except MisconfigurationException as error:  # settings of the Trainer that only the data or the devices contradict
            raise Refusal(f"trainer: {first_line(error)}") from error
        except RuntimeError as error:
            if str(error).startswith("Given groups="):  # what a convolution says
                raise Refusal(f"channels of the images, the states and the networks do not fit each other ({error})") from error
            raise


def placed(asked: configuration.Node, options: argparse.Namespace) -> None:
    """Look at what started this process. A scheduler's job is gone on with by itself, and its folder is called after it."""
    nodes, accelerator = asked.get("num_nodes", 1), asked.get("accelerator", "auto")
    around = surroundings(asked.get("devices", "auto"), nodes, accelerator)
    options.name = options.name or around.job or None
    if around.scheduled and options.resume is None and options.init is None:
        options.resume = "auto"


def make_trainer(config: configuration.Node, folder: Path, manifests: dict[str, str], watched: Watched) -> pl.Trainer:
    """Lightning's Trainer with the arguments of `trainer:` and the flags, and what every run of ours has.

    Beside TensorBoard's there are the loggers of `loggers:`, named as everything else is.
    """
    place = folder / "checkpoints"
    callbacks = [
        Averaging(config.get("ema_half_life", EMA_HALF_LIFE)),
        Recorded(configuration.plain(config), manifests),
        StopOnNaN(),
        Pictures(),
        watched,
        LearningRateMonitor("step"),
        Best(place, "best", monitor="val/loss", save_on_train_epoch_end=False, enable_version_counter=False),
        Last(place / "last.ckpt", config.get("save_every", SAVE_EVERY)),
    ]
    loggers = [TensorBoardLogger(folder, name="", version="tensorboard"), *map(configuration.build, config.get("loggers", []))]
    if strange := [logger for logger in loggers if not isinstance(logger, Logger)]:
        raise Refusal(f"{config.locate('loggers')}: {strange[0]!r:.80} is no logger; pytorch_lightning.loggers.… are allowed")
    asked = dict(config["trainer"])
    if asked.get("strategy") == "fsdp":
        asked["strategy"] = Sharded()
    try:
        return pl.Trainer(**asked, default_root_dir=folder, logger=loggers, plugins=[AtomicSave()], callbacks=callbacks)
    except (TypeError, MisconfigurationException) as error:
        words = ", ".join(f"{name}={value}" for name, value in asked.items() if isinstance(value, str))
        raise Refusal(f"trainer: {str(error).splitlines()[0]}" + f" (given as text: {words})" * bool(words)) from error


def main(argv: Sequence[str]) -> int:
    return door.run("main.py", argv, lambda: work(*parse(argv)), ": " + MEMORY_HINT)


def work(options: argparse.Namespace, changes: Sequence[str]) -> None:
    """Merge and check the configuration, then train, or show it."""
    if options.allow_env:
        configuration.admit_resolvers()
    for module in options.plugin:
        configuration.admit(module)
    config = configuration.load(options.base, changes)
    check_keys(config)
    given = {flag: getattr(options, flag) for flag in FLAGS if hasattr(options, flag)}
    config["trainer"] = trainer_arguments(config, given, pl.Trainer, OWN)
    set_seeds(config, options.seed)
    if options.train and not options.print_config:
        placed(config["trainer"], options)
        train(config, options)
    else:
        assemble(config)
        print(configuration.dump(config), end="")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    heed()  # until training begins, which listens itself
    sys.exit(main(sys.argv[1:]))
