"""Lightning's part of a restoration: processes and devices. It is told no precision, which is the networks' alone (cost.py)."""

import logging
import os
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from data.files import Refusal, first_line
from solvers.run import topology
from solvers.run.module import Reconstruction
from solvers.run.parallel import Slices

NOISY = (
    "pytorch_lightning",
    "pytorch_lightning.utilities.rank_zero",
    "pytorch_lightning.accelerators.cuda",
    "lightning.fabric",
    "lightning_fabric",
)


def quiet() -> None:
    """Silence what Lightning and torch say about themselves."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="torch.jit"
    )  # torch's own, at its first forward derivative


def surroundings(devices: object, nodes: int, accelerator: str) -> topology.Topology:
    """Who started this process, as which of how many; Lightning is told what it does not find out by itself.

    Raises Refusal, in one line, where the processes do not fit --devices and --num-nodes, or the machine has fewer GPUs.
    """
    found = topology.detect(os.environ)
    meant = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    found.check(devices, nodes, torch.cuda.device_count() if meant else None)
    topology.adopt(found, os.environ)
    if found.launcher:
        cast(Any, rank_zero_only).rank = found.rank
        if found.rank == 0:
            print(found, flush=True)
    return found


def make_trainer(options: Namespace) -> pl.Trainer:
    """The trainer that sample.py's flags ask for. Raises Refusal for a precision that its device does not have."""
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
        raise Refusal(
            f"--precision {options.precision} does not exist on {device}; --accelerator cpu has it"
        )
    return trainer


class Sharing(pl.Callback):
    """Several processes share the slices of each volume: the first restores, the others denoise what it sends until it is done.

    beats: signs of life, given at every call.
    """

    def __init__(self, beats: Sequence[Callable[[], None]]):
        self.beats = beats

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: Reconstruction) -> None:  # type: ignore[override]
        device, low = trainer.strategy.root_device, pl_module.autocast
        slices = Slices(pl_module.prior, device, low, self.beat)
        if slices.rank:
            slices.serve()
        pl_module.posing.spread = slices

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: Reconstruction) -> None:  # type: ignore[override]
        if pl_module.posing.spread is not None and trainer.is_global_zero:
            pl_module.posing.spread.end()

    def beat(self) -> None:
        for beat in self.beats:
            beat()
