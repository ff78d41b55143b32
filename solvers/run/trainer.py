"""Lightning's part of a restoration: processes and devices. It is told no precision, which is the networks' alone (cost.py)."""

import logging
import warnings
from argparse import Namespace

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from data.files import Refusal, first_line

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
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.jit")  # torch's own, at its first forward derivative


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
        raise Refusal(f"--precision {options.precision} does not exist on {device}; --accelerator cpu has it")
    return trainer
