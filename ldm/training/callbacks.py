"""What happens around training: weight averaging, checkpoints that survive a crash, pictures, clear failures."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.strategies import ModelParallelStrategy
from torchvision.utils import make_grid

from data.files import Refusal
from data.ranges import to_report
from ldm.training import global_batch
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
        names = {
            k
            for k, v in module.state_dict().items()
            if k.startswith(("prior.", "first_stage.")) and v.is_floating_point()
        }
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
        checkpoint["ema_others"] = {
            f"{ema.half_life:g}": state for ema, state in zip(self.others, stored[1:])
        }

    def on_load_checkpoint(self, trainer, module, checkpoint: dict[str, Any]) -> None:
        """A length that the run did not keep so far begins at its first; files may hold them in half precision."""
        state, kept = module.state_dict(), checkpoint.get("ema_others", {})
        for ema in self.all:
            found = (
                checkpoint["ema"]
                if ema is self.ema
                else kept.get(f"{ema.half_life:g}", checkpoint["ema"])
            )
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
        checkpoint["config"], checkpoint["manifests"], checkpoint["doubts"] = (
            config,
            self.manifests,
            self.doubts,
        )


class Recount(pl.Callback):
    """Lightning's counters of batches, when a run goes on with another number of processes (`ldm.training.global_batch`)."""

    def on_load_checkpoint(self, trainer, module, checkpoint: dict[str, Any]) -> None:
        batch = getattr(trainer.datamodule, "batch_size", None)
        if isinstance(batch, int):
            global_batch.recount(checkpoint, batch * trainer.world_size)


def accumulates(trainer: pl.Trainer) -> bool:
    """Whether the batch just used is not the last of its optimiser step: no checkpoint holds the gradients gathered so far."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


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
        return {
            name: value
            for name, value in super().get_metrics(trainer, module).items()
            if name != "v_num"
        }


class Pictures(pl.Callback):
    """After validation, grids of the first `count` validation images in TensorBoard: fixed images, seeds and grey scale."""

    def __init__(self, count: int = 4):
        self.count = count
        self.batch: dict[str, Any] = {}

    def on_validation_batch_start(self, trainer, module, batch, index, dataloader_idx=0) -> None:
        if index == 0:
            self.batch = {key: value[: self.count] for key, value in batch.items()}

    def on_validation_epoch_end(self, trainer, module) -> None:
        if (
            not self.batch
            or trainer.logger is None
            or not (trainer.is_global_zero or isinstance(trainer.strategy, Sharded))
        ):
            return
        for name, rows in module.pictures(
            self.batch
        ).items():  # a network that is split needs every process
            grid = make_grid(to_report(rows.float().cpu()), nrow=len(self.batch["image"]))
            trainer.logger.experiment.add_image(
                name, grid, trainer.global_step
            )  # of the first process; elsewhere nothing
