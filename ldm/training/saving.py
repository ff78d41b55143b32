"""When a training run is saved, and how: atomically, at the end of a step, and when the machine asks to stop."""

import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.loops.evaluation_loop import RestartStage
from tqdm import tqdm

from data.files import Unwritable, replacing, unwritable
from ldm.training.callbacks import Averaging, accumulates

SIGNALS = (
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGINT,
)  # a scheduler asks to stop, Slurm's --signal does, somebody does


class AtomicSave(TorchCheckpointIO):
    """Write beside, sync, rename: a crash or a full disk never costs the checkpoint that was there.

    Raises Unwritable; torch itself says RuntimeError where the disk is full, with the place in its source code.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            intact = "; the previous checkpoint is intact" if path.is_file() else ""
            raise Unwritable(f"{unwritable(path, cause, bytes_of(checkpoint))}{intact}") from error


def bytes_of(value: Any) -> int:
    """What the tensors in a nest of dictionaries and lists take."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    parts = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, (list, tuple))
        else ()
    )
    return sum(map(bytes_of, parts))


def validates(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the batch just used."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


class Best(ModelCheckpoint):
    """best.ckpt after a validation; after one inside an accumulation, as soon as that is over."""

    due = False

    @property
    def state_key(self) -> str:
        return super().state_key.replace(
            "Best", "ModelCheckpoint", 1
        )  # as runs have it that began without this class

    def on_validation_end(self, trainer, module) -> None:
        self.due = accumulates(trainer) and not trainer.sanity_checking
        if not self.due:
            super().on_validation_end(trainer, module)

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        super().on_train_batch_end(trainer, module, outputs, batch, index)
        if self.due and not accumulates(trainer):
            self.due = False
            super().on_validation_end(trainer, module)


class Last(Checkpoint):
    """last.ckpt every `every` optimiser steps, at the last one, and when asked to stop (`SIGNALS`: exit code 143; Ctrl-C: 130).

    Saved at the end of a batch, when data order and counters stand where the next batch begins; a checkpoint written
    after the run would count an unfinished epoch as done. If a validation comes first, saved after it: a resumed run does
    not validate again, so a checkpoint that stands before a validation would lose what that found, best.ckpt and error
    spectra. The signal handler only sets a flag, which ranks share.
    Who asks to stop does not wait for a validation's end: it is saved what was before it, and the resumed run validates
    first; only the last validation of all is waited for. Before the first batch there is nothing to save, and the run ends
    at once.
    best.ckpt is the same file as long as nothing was validated, so that every run folder has one. best: None, if never.
    A Checkpoint, which Lightning calls after its Timer (--max_time); listed after the ModelCheckpoint whose best it stores.
    """

    def __init__(self, path: Path, every: int, best: Best | None):
        self.path, self.every, self.best = path, every, best
        self.due, self.asked = False, 0
        self.began = False
        self.interrupted = False  # in a validation
        self.before: Any = None  # the handler of Ctrl-C that was there

    def on_sanity_check_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.listen()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.listen()
        if self.interrupted:  # the validation that the checkpoint was saved in begins again
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting, loop._restart_stage = False, RestartStage.RESTARTED_MID_EVALUATION
        self.interrupted = False

    def listen(self) -> None:
        """In place of Lightning's handler, after which a run may end between two batches, unsaved and with exit code 0."""
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.signal(number, self.ask) for number in SIGNALS}
            self.before = self.before or handlers[signal.SIGINT]

    def ask(self, number: int, frame: Any) -> None:
        """The run ends after this step, saved; a second Ctrl-C does not wait for that."""
        if not self.began or number == signal.SIGINT == self.asked:
            say("not saved; --resume auto goes on from the last checkpoint, or begins anew")
            raise SystemExit(code(number))
        self.asked = number

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        self.began = True

    def on_validation_batch_end(
        self, trainer, module, outputs, batch, index, dataloader_idx=0
    ) -> None:
        if trainer.sanity_checking or accumulates(trainer) or not (asked := self.shared(trainer)):
            return
        if (
            trainer.fit_loop.done or trainer.should_stop
        ):  # a resumed run would have nothing to do, not even this
            return
        averaging = next(
            callback for callback in trainer.callbacks if isinstance(callback, Averaging)
        )
        averaging.ema.swap(
            module
        )  # the weights that are trained, in whose place the validation has put their average
        self.interrupted = self.due = True
        self.asked = asked
        self.save(trainer)

    def shared(self, trainer: pl.Trainer) -> int:
        """The signal by which any of the processes was asked to stop, or 0; they must all call this."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(
            bool(self.asked), all=False
        ):
            return self.asked or signal.SIGTERM  # of another process
        return self.asked

    def state_dict(self) -> dict[str, Any]:
        return {"interrupted": self.interrupted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.interrupted = state["interrupted"]

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if accumulates(trainer):
            trainer.should_stop = (
                False  # nor may the run end here; Lightning's Timer asks again after the next batch
            )
            return
        step = trainer.global_step
        asked = self.shared(trainer)
        ends = step == trainer.max_steps or trainer.should_stop
        ends |= trainer.is_last_batch and trainer.max_epochs == trainer.current_epoch + 1
        self.due, self.asked = bool(self.due or asked or ends or step % self.every == 0), asked
        if not validates(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer, module) -> None:
        if not trainer.sanity_checking and not accumulates(trainer):
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """What is due by now."""
        if self.due:
            trainer.save_checkpoint(self.path)
            if trainer.is_global_zero and not (self.best and self.best.best_model_path):
                same_file(self.path, self.path.with_name("best.ckpt"))
        self.due = False
        if self.asked:
            if trainer.is_global_zero:
                say(f"saved at step {trainer.global_step}; --resume auto goes on")
            raise SystemExit(code(self.asked))


def say(what: str) -> None:
    """One line that no progress bar runs into, as other programs say that they were stopped."""
    tqdm.write(f"main.py: stopped: {what}", file=sys.stderr)


def code(number: int) -> int:
    """The exit code after a signal; Slurm's early one counts as the end that it announces."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


def same_file(path: Path, other: Path) -> None:
    """Make `other` a second name of the file, or a copy where the file system has no such names; whole or not at all."""
    part = other.with_name(f".{other.name}.tmp")
    part.unlink(missing_ok=True)
    try:
        part.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, part)
    part.replace(other)
