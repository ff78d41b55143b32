"""A training run: the module and its data are built, weights put in, the run folder claimed, and Lightning's Trainer started."""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from data.files import Refusal, commit, first_line
from ldm import checkpoints as weights
from ldm import config as configuration
from ldm.checkpoints.fitting import fill
from ldm.checkpoints.own import EMA_HALF_LIFE
from ldm.trained import PARTS
from ldm.training import global_batch
from ldm.training.callbacks import Averaging, Pictures, Recorded, Recount, Sharded, Shown, StopOnNaN
from ldm.training.run_folder import claimed, digests, same_run
from ldm.training.saving import AtomicSave, Best, Last
from ldm.training.watching import Watched

SAVE_EVERY = 500  # steps


def assemble(config: configuration.Node) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """The module to train and its data; the prior or first stage is built once and handed to the module.

    The data come first: mistakes in them need not wait for a model.
    """
    parts = [part for part in PARTS if part in config]
    if "model" not in config or "data" not in config or len(parts) != 1:
        raise Refusal(
            "training needs `model:`, `data:` and one of `prior:` and `first_stage:` in the --base files"
        )
    data = build_part(config, "data", pl.LightningDataModule)
    part = build_part(config, parts[0], torch.nn.Module)
    return build_part(config, "model", pl.LightningModule, **{parts[0]: part}), data


def build_part(config: configuration.Node, key: str, kind: type, **extra: Any) -> Any:
    """The part of the configuration under `key`, built, and of its kind."""
    part = configuration.build(config[key], **extra)
    if not isinstance(part, kind):
        raise Refusal(
            f"{config.locate(key)}: is no {kind.__name__}; target and params of one are allowed"
        )
    return part


def adopt(config: configuration.Node, source: str | Path) -> None:
    """--first-stage: the autoencoder's architecture goes into the configuration, and where its weights are.

    The prior keeps its image size and is told the autoencoder's image channels; latents of another number of channels than
    its network takes are refused.
    """
    where, params = config.locate("prior"), (config.get("prior") or {}).get("params") or {}
    if "first_stage" not in params:
        raise Refusal(f"{where}: only a latent prior has a first stage to take from {source}")
    node = weights.describe_first_stage(source).node
    with torch.device("meta"):
        old, new = configuration.build(params["first_stage"]), configuration.build(node)
    if "shape" in params:
        channels, *sides = params["shape"]
        latent = new.model.config["latent_channels"]
        if latent != channels:
            raise Refusal(
                f"{source}: its latents have {latent} channels, the network of {where} takes {channels}"
            )
        params["shape"] = [channels, *(side * old.factor // new.factor for side in sides)]
    params["first_stage"], params["image_channels"] = node, new.model.config["in_channels"]
    config["first_stage_weights"] = str(source)


def start(module: pl.LightningModule, config: configuration.Node, init: Path | None) -> None:
    """Give a new run the weights it begins with: all of them (--init), and the first stage that the configuration names."""
    if init is not None:
        part: Any = getattr(module, "prior", None) or module.first_stage
        estimated = getattr(module, "estimate_scale", False)
        print("; ".join([f"--init {init}", *weights.initialise(part, init, estimated=estimated)]))
    if "first_stage_weights" in config:
        source, stage = config["first_stage_weights"], cast(Any, getattr(module, "prior", None))
        if not hasattr(stage, "first_stage"):
            raise Refusal(
                f"{config.locate('first_stage_weights')}: only a latent prior has a first stage to fill"
            )
        found = weights.first_stage(source)
        fill(stage.first_stage, found.state_dict(), source)
        weights.agree(found, stage.first_stage, source)


def train(
    config: configuration.Node,
    options: argparse.Namespace,
    folder: Path,
    resume: Path | None,
    init: Path | None,
    beat: Callable[..., None],
) -> None:
    """folder: of the run. resume: the checkpoint it goes on from. init: weights that it begins with where there is none.

    beat: called with what the run is at (`Watched`).
    """
    pl.seed_everything(options.seed, workers=True, verbose=False)
    module, data = assemble(config)
    manifests = digests(getattr(data, "manifests", {}))
    place = None
    if resume is None:
        start(module, config, init)
    else:
        place = global_batch.place_in(same_run(resume, config, manifests))
    if options.channels_last:
        module.to(memory_format=torch.channels_last)
    if options.compile:
        cast(Any, module).compile_networks()
    first = (
        cast(Any, rank_zero_only).rank == 0
    )  # of the processes that Lightning or a launcher starts, one owns the folder
    with claimed(folder, resume) if first else nullcontext():
        if first:
            commit(folder / "config.yaml", configuration.dump(config))
        doubts = getattr(data, "doubts", "")  # of data modules of ours
        if first and doubts:
            print(
                f"note: best weights and error spectra are of {doubts}; data.params.validation=MANIFEST names better ones"
            )
        watched = Watched(beat, options.log)
        trainer = make_trainer(
            config, folder, manifests, watched, doubts, getattr(data, "validates", True)
        )
        if place and hasattr(data, "batch_size"):
            changed = global_batch.keep(trainer, data, place)
            if first and changed:
                print(f"note: {changed}")
        try:
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        except (
            MisconfigurationException
        ) as error:  # settings of the Trainer that only the data or the devices contradict
            raise Refusal(f"trainer: {first_line(error)}") from error
        except RuntimeError as error:
            if str(error).startswith("Given groups="):  # what a convolution says
                raise Refusal(
                    f"channels of the images, the states and the networks do not fit each other ({error})"
                ) from error
            raise


def make_trainer(
    config: configuration.Node,
    folder: Path,
    manifests: dict[str, str],
    watched: Watched,
    doubts: str,
    validates: bool,
) -> pl.Trainer:
    """Lightning's Trainer with the arguments of `trainer:` and the flags, and what every run of ours has.

    Beside TensorBoard's there are the loggers of `loggers:`, each a target and its params as everything else.

    doubts: of `Recorded`. validates: whether the loss on other images says which weights are best; else the last are.
    """
    place = folder / "checkpoints"
    chosen: dict[str, Any] = dict(
        monitor="val/loss", save_on_train_epoch_end=False, enable_version_counter=False
    )
    best = Best(place, "best", **chosen) if validates else None
    callbacks = [
        Averaging(config.get("ema_half_life", EMA_HALF_LIFE)),
        Recorded(configuration.plain(config), manifests, doubts),
        Recount(),
        StopOnNaN(),
        Pictures(),
        watched,
        LearningRateMonitor("step"),
        *filter(None, [best]),
        Last(place / "last.ckpt", config.get("save_every", SAVE_EVERY), best),
    ]
    loggers = [
        TensorBoardLogger(folder, name="", version="tensorboard"),
        *map(configuration.build, config.get("loggers", [])),
    ]
    if strange := [logger for logger in loggers if not isinstance(logger, Logger)]:
        raise Refusal(
            f"{config.locate('loggers')}: {strange[0]!r:.80} is no logger; pytorch_lightning.loggers.… are allowed"
        )
    asked = dict(config["trainer"])
    if asked.get("enable_progress_bar", True) is not False:
        callbacks.append(Shown())
    if asked.get("strategy") == "fsdp":
        asked["strategy"] = Sharded()
    try:
        return pl.Trainer(
            **asked,
            default_root_dir=folder,
            logger=loggers,
            plugins=[AtomicSave()],
            callbacks=callbacks,
        )
    except (TypeError, MisconfigurationException) as error:
        words = ", ".join(
            f"{name}={value}" for name, value in asked.items() if isinstance(value, str)
        )
        raise Refusal(
            f"trainer: {str(error).splitlines()[0]}" + f" (given as text: {words})" * bool(words)
        ) from error
