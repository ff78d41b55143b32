"""What happens around training: weight averaging, checkpoints that survive a crash, pictures, clear failures."""

import math
import shutil
import signal
import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.strategies import ModelParallelStrategy
from torchvision.utils import make_grid

from data.files import Refusal, Unwritable, replacing, unwritable
from data.ranges import to_report
from ldm.training.ema import EMA
from ldm.training.sharding import split_like, whole


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
    """Stores in every checkpoint the merged configuration, with what training measured, and the digests of the manifests.

    doubts: what is wrong with the images that it was measured on, or "".
    """

    def __init__(self, config: dict[str, Any], manifests: dict[str, str], doubts: str = ""):
        self.config, self.manifests, self.doubts = config, manifests, doubts

    def on_save_checkpoint(self, trainer, module, checkpoint: dict[str, Any]) -> None:
        config = deepcopy(self.config)
        if hasattr(module, "measured"):
            config["prior"]["params"] |= module.measured()
        checkpoint["config"], checkpoint["manifests"], checkpoint["doubts"] = config, self.manifests, self.doubts


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
    """last.ckpt every `every` optimiser steps, at the last one, and when asked to stop (SIGTERM: exit code 143; Ctrl-C: 130).

    Saved at the end of a batch, when data order and counters stand where the next batch begins; a checkpoint written
    after the run would count an unfinished epoch as done. If a validation comes first, saved after it: a resumed run does
    not validate again, so a checkpoint that stands before a validation would lose what that found, best.ckpt and error
    spectra. The signal handler only sets a flag, which ranks share.
    best.ckpt is the same file as long as nothing was validated, so that every run folder has one. best: None, if never.
    A Checkpoint, which Lightning calls after its Timer (--max_time); listed after the ModelCheckpoint whose best it stores.
    """

    def __init__(self, path: Path, every: int, best: Best | None):
        self.path, self.every, self.best = path, every, best
        self.due, self.asked = False, 0
        self.interrupted: Any = None  # the handler of Ctrl-C that was there before

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            # In place of Lightning's handler, after which a run may end between two batches, unsaved and with exit code 0.
            signal.signal(signal.SIGTERM, self.ask)
            self.interrupted = signal.signal(signal.SIGINT, self.ask)

    def ask(self, number: int, frame: Any) -> None:
        """The run ends after this step, saved; a second Ctrl-C does not wait for that."""
        if number == signal.SIGINT == self.asked:
            raise SystemExit(128 + number)
        self.asked = number

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if self.interrupted is not None:
            signal.signal(signal.SIGINT, self.interrupted)

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if accumulates(trainer):
            trainer.should_stop = False  # nor may the run end here; Lightning's Timer asks again after the next batch
            return
        step = trainer.global_step
        asked = self.asked
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(bool(asked), all=False):
            asked = asked or signal.SIGTERM  # of another process
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
            raise SystemExit(128 + self.asked)


def same_file(path: Path, other: Path) -> None:
    """Make `other` a second name of the file, or a copy where the file system has no such names; whole or not at all."""
    part = other.with_name(f".{other.name}.tmp")
    part.unlink(missing_ok=True)
    try:
        part.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, part)
    part.replace(other)


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


class Shown(TQDMProgressBar):
    """Lightning's bar without the version of the logger, which here is always the same word."""

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, module).items() if name != "v_num"}


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
