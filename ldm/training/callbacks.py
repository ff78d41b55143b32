"""What happens around training: weight averaging, checkpoints that survive a crash, pictures, clear failures."""

import math
import signal
import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.loops.evaluation_loop import RestartStage
from pytorch_lightning.strategies import ModelParallelStrategy
from torchvision.utils import make_grid

from data.files import Refusal, Unwritable, replacing, unwritable
from data.ranges import to_report
from ldm.training.ema import EMA
from ldm.training.sharding import split_like, whole

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # with which schedulers ask to stop; the second is Slurm's --signal


class Averaging(pl.Callback):
    """Keeps EMAs of everything that is exported, one for each half-life in images.

    The first is used for validation and stored as checkpoint["ema"]; the others as checkpoint["ema_others"], under their
    half-lives, for whoever exports to choose from (as Karras et al. 2024 do).
    """

    def __init__(self, half_lives: float | Sequence[float]):
        lengths = [half_lives] if isinstance(half_lives, (int, float)) else half_lives
        self.ema, *self.others = [EMA(length) for length in lengths]
        self.images = 0  # since the last optimiser step

    @property
    def all(self) -> list[EMA]:
        return [self.ema, *self.others]

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        names = {k for k, v in module.state_dict().items() if k.startswith(("prior.", "first_stage.")) and v.is_floating_point()}
        trained = {k for k, p in module.named_parameters() if p.requires_grad}
        for ema in self.all:
            if not ema.weights:
                ema.start(module, names & trained)
            ema.weights = {k: v.to(module.device) for k, v in ema.weights.items()}

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self.images += len(batch["image"]) * trainer.world_size
        if not accumulates(trainer):
            for ema in self.all:
                ema.update(module, self.images)
            self.images = 0

    def on_validation_start(self, trainer, module) -> None:
        self.ema.swap(module)

    def on_validation_end(self, trainer, module) -> None:
        self.ema.swap(module)

    def on_save_checkpoint(self, trainer, module, checkpoint: dict[str, Any]) -> None:
        stored = [{k: whole(v).cpu().clone() for k, v in ema.weights.items()} for ema in self.all]
        checkpoint["ema"], checkpoint["ema_images"] = stored[0], self.ema.seen
        checkpoint["ema_others"] = {f"{ema.half_life:g}": state for ema, state in zip(self.others, stored[1:])}

    def on_load_checkpoint(self, trainer, module, checkpoint: dict[str, Any]) -> None:
        """A length that the run did not keep so far begins at its first; files may hold them in half precision."""
        state, kept = module.state_dict(), checkpoint.get("ema_others", {})
        for ema in self.all:
            found = checkpoint["ema"] if ema is self.ema else kept.get(f"{ema.half_life:g}", checkpoint["ema"])
            ema.weights = {k: split_like(state[k], v.float().clone()) for k, v in found.items()}
            ema.seen = checkpoint["ema_images"]


class Sharded(ModelParallelStrategy):
    """`--strategy fsdp`: weights, gradients, averages and the optimiser's moments of the network are split over all processes
    (torch's fully_shard; on GPUs with NCCL, on CPUs with gloo). Checkpoints are whole, as without it.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


class AtomicSave(TorchCheckpointIO):
    """Write beside, sync, rename: a crash or a full disk never costs the checkpoint that was there.

    Raises Unwritable; torch itself says RuntimeError where the disk is full, with the place in its source code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
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
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(bytes_of, parts))


class Recorded(pl.Callback):
    """Stores in every checkpoint the merged configuration, with what training measured, and the digests of the manifests."""

    def __init__(self, config: dict[str, Any], manifests: dict[str, str]):
        self.config, self.manifests = config, manifests

    def on_save_checkpoint(self, trainer, module, checkpoint: dict[str, Any]) -> None:
        config = deepcopy(self.config)
        if hasattr(module, "measured"):
            config["prior"]["params"] |= module.measured()
        checkpoint["config"], checkpoint["manifests"] = config, self.manifests


def accumulates(trainer: pl.Trainer) -> bool:
    """Whether the batch just used is not the last of its optimiser step: no checkpoint holds the gradients gathered so far."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


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
        return super().state_key.replace("Best", "ModelCheckpoint", 1)  # as runs have it that began without this class

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
    """last.ckpt every `every` optimiser steps, at the last one, and when the machine asks to stop (`SIGNALS`; exit code 143).

    Saved at the end of a batch, when data order and counters stand where the next batch begins; a checkpoint written
    after the run would count an unfinished epoch as done. If a validation comes first, saved after it: a resumed run does
    not validate again, so a checkpoint that stands before a validation would lose what that found, best.ckpt and error
    spectra. The signal handler only sets a flag, which ranks share.
    A machine that asks to stop does not wait for a validation's end: it is saved what was before it, and the resumed run
    validates first; only the last validation of all is waited for. Before the first batch there is nothing to save, and the
    run ends at once.
    A Checkpoint, which Lightning calls after its Timer (--max_time); listed after the ModelCheckpoint whose best it stores.
    """

    def __init__(self, path: Path, every: int):
        self.path, self.every = path, every
        self.due, self.asked = False, False
        self.began, self.interrupted = False, False

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
            for number in SIGNALS:
                signal.signal(number, self.stop)

    def stop(self, *_: object) -> None:
        self.asked = True
        if not self.began:
            raise SystemExit(128 + signal.SIGTERM)

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        self.began = True

    def on_validation_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0) -> None:
        if trainer.sanity_checking or accumulates(trainer) or not self.shared(trainer):
            return
        if trainer.fit_loop.done or trainer.should_stop:  # a resumed run would have nothing to do, not even this
            return
        averaging = next(callback for callback in trainer.callbacks if isinstance(callback, Averaging))
        averaging.ema.swap(module)  # the weights that are trained, in whose place the validation has put their average
        self.interrupted = self.due = self.asked = True
        self.save(trainer)

    def shared(self, trainer: pl.Trainer) -> bool:
        """Whether any of the processes was asked to stop; they must all ask."""
        if trainer.world_size > 1:
            return bool(trainer.strategy.reduce_boolean_decision(self.asked, all=False))
        return self.asked

    def state_dict(self) -> dict[str, Any]:
        return {"interrupted": self.interrupted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.interrupted = state["interrupted"]

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if accumulates(trainer):
            trainer.should_stop = False  # nor may the run end here; Lightning's Timer asks again after the next batch
            return
        step = trainer.global_step
        asked = self.shared(trainer)
        ends = step == trainer.max_steps or trainer.should_stop
        ends |= trainer.is_last_batch and trainer.max_epochs == trainer.current_epoch + 1
        self.due, self.asked = self.due or asked or ends or step % self.every == 0, asked
        if not validates(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer, module) -> None:
        if not trainer.sanity_checking and not accumulates(trainer):
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """What is due by now."""
        if self.due:
            trainer.save_checkpoint(self.path)
        self.due = False
        if self.asked:
            raise SystemExit(128 + signal.SIGTERM)


class StopOnNaN(pl.Callback):
    """A loss that is not finite ends the run before it reaches a checkpoint."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        loss = float(outputs["loss"] if isinstance(outputs, Mapping) else outputs)
        if not math.isfinite(loss):
            kept = Path(trainer.default_root_dir, "checkpoints", "last.ckpt").is_file()
            intact = "; the last checkpoint is intact" if kept else ""
            raise Refusal(
                f"loss is {loss} at step {trainer.global_step}: lower the learning rate or gradient_clip_val, "
                f"or train with precision 32{intact}"
            )


class Pictures(pl.Callback):
    """After validation, grids of the first `count` validation images in TensorBoard: fixed images, seeds and grey scale."""

    def __init__(self, count: int = 4):
        self.count = count
        self.batch: dict[str, Any] = {}

    def on_validation_batch_start(self, trainer, module, batch, index, dataloader_idx=0) -> None:
        if index == 0:
            self.batch = {key: value[: self.count] for key, value in batch.items()}

    def on_validation_epoch_end(self, trainer, module) -> None:
        if not self.batch or trainer.logger is None or not (trainer.is_global_zero or isinstance(trainer.strategy, Sharded)):
            return
        for name, rows in module.pictures(self.batch).items():  # a network that is split needs every process
            grid = make_grid(to_report(rows.float().cpu()), nrow=len(self.batch["image"]))
            trainer.logger.experiment.add_image(name, grid, trainer.global_step)  # of the first process; elsewhere nothing
