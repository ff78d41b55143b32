"""The configuration of a training run: its keys, its seeds, the Trainer's arguments; checked before anything is built."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.files import Refusal, nearest
from ldm import config as configuration
from ldm import signatures
from ldm.trained import PARTS

SEEDS = 2**32  # which NumPy takes
MAPPING = "a mapping", lambda value: isinstance(value, dict)
NUMBER = "a number above 0", lambda value: type(value) in (int, float) and value > 0
COUNT = "a whole number above 0", lambda value: type(value) is int and value > 0
NUMBERS = (
    "numbers above 0",
    lambda value: (
        bool(value) and all(map(NUMBER[1], value if isinstance(value, list) else [value]))
    ),
)
KNOWN = {  # keys of a configuration, and what is allowed there
    **dict.fromkeys(("model", "data", *PARTS, "trainer", "contracts"), MAPPING),
    "ema_half_life": NUMBERS,
    "save_every": COUNT,
    "loggers": (
        "a list of loggers, target and params each",
        lambda value: isinstance(value, list) and all(map(MAPPING[1], value)),
    ),
    "first_stage_weights": ("a path", lambda value: isinstance(value, str)),
}
COUNTS = (
    "accumulate_grad_batches",
    "check_val_every_n_epoch",
    "val_check_interval",
)  # which Lightning divides by


def check_keys(config: configuration.Node) -> None:
    """Raise Refusal for the first key that no run has, or whose value is of another kind."""
    for key, value in config.items():
        if key not in KNOWN:
            raise Refusal(f"{config.locate(key)}: unknown key{nearest(key, KNOWN)}")
        kind, fits = KNOWN[key]
        if not fits(value):
            raise Refusal(f"{config.locate(key)}: {value!r} is not {kind}")
    if "contracts" in config:
        from ldm.checkpoints import description  # which imports torch

        description.contracts(config, Path(config.locate("contracts")))


def refuse_random_first_stage(config: configuration.Node, begins: str | None) -> None:
    """Raise Refusal for a latent prior whose autoencoder nobody gave weights. begins: what --init or --first-stage said."""
    params = (config.get("prior") or {}).get("params") or {}
    if begins is None and "first_stage" in params and "first_stage_weights" not in config:
        ways = "--init MODEL begins with a whole model, --first-stage RUN|FOLDER|FILE with an autoencoder"
        where = configuration.Node({}, "prior.params", config.origin).locate("first_stage")
        raise Refusal(f"{where}: has no weights; {ways}, --first-stage random with none")
    named = config.get("first_stage_weights")
    if begins is None and named is not None and not Path(named).exists():
        way = "train the autoencoder first, or name it with --first-stage RUN|FOLDER|FILE"
        raise Refusal(f"{config.locate('first_stage_weights')}: {named}: no such file; {way}")


def set_seeds(config: configuration.Node, seed: int) -> None:
    """--seed is also that of training's noise and of the data's order, where the configuration names none.

    Raises Refusal for one that NumPy does not take.
    """
    named = {"--seed": seed}
    for key in ("model", "data"):
        node = config.get(key)
        if not isinstance(node, configuration.Node):
            continue
        kind = configuration.resolve(node.get("target"), node.locate("target"))
        if "seed" in inspect.signature(kind).parameters:
            params = node.setdefault("params", configuration.Node(where=f"{key}.params"))
            named[f"{key}.params.seed"] = params.setdefault("seed", seed)
    for where, value in named.items():
        if isinstance(value, int) and value not in range(SEEDS):
            raise Refusal(f"{where}: {value} is no seed; 0 to {SEEDS - 1} are allowed")


def trainer_arguments(
    config: configuration.Node, flags: Mapping[str, Any], trainer: type, own: Sequence[str]
) -> configuration.Node:
    """`trainer:` with the flags, which go first; of the names and types that `trainer` takes, without its `own` ones."""
    origin = config.origin | {f"trainer.{name}": "command line" for name in flags}
    asked = configuration.Node({**config.get("trainer", {}), **flags}, "trainer", origin)
    signatures.check(trainer, asked, dict.fromkeys(own), asked.locate)
    for name in COUNTS:
        if isinstance(value := asked.get(name), (int, float)) and value <= 0:
            raise Refusal(f"{asked.locate(name)}: {value} must be above 0")
    return asked
