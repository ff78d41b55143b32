# PYTHON_ARGCOMPLETE_OK
"""Train a prior: python main.py --base configs/latent-diffusion/medical-vq-4.yaml --train [flags] [key=value ...]

    --base F...          YAML files, merged left to right          --print-config   show the merged result and stop
    --train [True]       train; without it the configuration is checked and printed
    --name N --project P --logdir logs --seed N                    results go to logs/<project>/<name>/
    --resume DIR|CKPT|auto    go on exactly where a run stopped (auto is the default of a scheduler's job)
    --init CKPT|FOLDER   start from these weights
    --first-stage RUN|FOLDER|FILE|random     a latent prior's autoencoder: weights and architecture; random: none
    --compile            torch.compile the networks                --channels-last      their memory layout
    --log json           one line an event on stderr: step, seconds, loss, images a second
    --plugin MODULE...   let targets come from modules of your own
    --list tasks|solvers|models|operators     what there is to restore with
    --allow-env          let --base files ask for ${oc.env:NAME} and the like    --traceback   show where a mistake was found
    --<Trainer argument> VALUE    any of Lightning's: --max_steps 1000 --precision bf16-mixed --devices 2 ...
                         --strategy fsdp splits a diffusion network and its optimiser over the devices
    key=value            overrides, e.g. model.params.optimiser.params.lr=1e-4

Dashes and underscores are the same. Exit codes: 0 done, 2 a mistake in what was asked (one line says which).
"""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.bounded_yaml import read_yaml
from data.files import Refusal
from ldm import catalogue, plugins, trained
from ldm import config as configuration
from ldm.training.configuration import (
    check_keys,
    refuse_random_first_stage,
    set_seeds,
    trainer_arguments,
)
from ldm.training.trainer_signature import trainer
from solvers.run import door, listing, topology
from solvers.run.command import Parser
from solvers.run.heart import Heart

OWN = (
    "logger",
    "callbacks",
    "default_root_dir",
    "plugins",
    "overfit_batches",
)  # Trainer arguments that the program sets itself
TRAINER = trainer()
FLAGS = [name for name in inspect.signature(TRAINER).parameters if name not in OWN]
RANDOM = "random"  # of --first-stage: an autoencoder without weights
MEMORY_HINT = "lower data.params.batch_size or model.params.crops, or set `checkpointing`"


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options and Trainer flags, and the key=value overrides."""
    ours = parser()
    ours.refuse(argv)
    changes = ours.overrides(argv)
    options, rest = ours.parse_known_args([word for word in argv if word not in changes])
    ours.refuse_unknown(rest)
    return options, changes


def parser() -> Parser:
    """Every flag of training, those of Lightning's Trainer among them."""
    made = Parser("main.py", __doc__)
    made.add_argument("-b", "--base", nargs="+", required=True)
    made.add_argument("-t", "--train", nargs="?", const=True, default=False, type=yes)
    made.add_argument("-n", "--name")
    made.add_argument("-p", "--project", default="palimpsest")
    made.add_argument("-r", "--resume")
    made.add_argument("--init")
    made.add_argument("--first-stage")
    made.add_argument("-l", "--logdir", type=Path, default=Path("logs"))
    made.add_argument("-s", "--seed", type=int, default=0)
    made.add_argument("--compile", action="store_true")
    made.add_argument("--channels-last", action="store_true")
    made.add_argument("--plugin", nargs="+", default=[])
    made.add_argument("--allow-env", action="store_true")
    made.add_argument("--print-config", action="store_true")
    made.add_argument("--log", choices=("text", "json"), default="text")
    made.add_argument("--list", action=listing.List, choices=listing.KINDS)
    quiet = argparse.SUPPRESS
    for flag in FLAGS:
        made.add_argument(
            f"--{flag.replace('_', '-')}",
            nargs="?",
            const=True,
            default=quiet,
            type=value,
            help=quiet,
        )
    return made


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


def main(argv: Sequence[str]) -> int:
    return door.run("main.py", argv, lambda: work(*parse(argv)), ": " + MEMORY_HINT)


def work(options: argparse.Namespace, changes: Sequence[str]) -> None:
    """Merge and check the configuration, then train, or show it."""
    if options.allow_env:
        configuration.admit_resolvers()
    for module in options.plugin:
        plugins.admit(module)
    config = configuration.load(options.base, changes)
    check_keys(config)
    given = {flag: getattr(options, flag) for flag in FLAGS if hasattr(options, flag)}
    config["trainer"] = trainer_arguments(config, given, TRAINER, OWN)

    around = topology.detect(os.environ)
    if (
        options.train and around.scheduled
    ):  # a job's folder is called after it, and it is gone on with by itself
        options.name = options.name or around.job or None
        options.resume = options.resume or (None if options.init else "auto")
    folder = options.logdir / options.project / (options.name or Path(options.base[0]).stem)
    resume = trained.checkpoint_of(options.resume, folder)
    stage = (
        None if options.first_stage in (None, RANDOM) else catalogue.weights(options.first_stage)
    )
    begins = None if options.init is None else catalogue.weights(options.init)
    if options.first_stage == RANDOM:
        config.pop("first_stage_weights", None)
    if options.train and resume is None:
        refuse_random_first_stage(config, options.init or options.first_stage)

    from solvers.run.trainer import quiet

    quiet()
    from ldm.training import (
        run,
    )  # torch and Lightning, which take seconds: what can be wrong without them was looked at
    from solvers.run.trainer import surroundings

    if stage is not None:
        run.adopt(config, stage)
    set_seeds(config, options.seed)
    if options.train and not options.print_config:
        asked = config["trainer"]
        surroundings(
            asked.get("devices", "auto"),
            asked.get("num_nodes", 1),
            asked.get("accelerator", "auto"),
        )
        run.train(config, options, folder, resume, begins, Heart(folder, around.rank).beat)
    else:
        run.assemble(config)
        print(configuration.dump(config), end="")


if __name__ == "__main__":
    topology.heed()  # until training begins, which listens itself
    sys.exit(main(sys.argv[1:]))
