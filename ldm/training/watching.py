"""What a training run tells while it goes on: throughput in TensorBoard, signs of life, one JSON line an event."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl


class Watched(pl.Callback):
    """beat: called after every batch with step, steps, loss and rates, and writes when it is time. log: "json" prints lines."""

    def __init__(self, beat: Callable[..., None], log: str = "text"):
        self.beat, self.json = beat, log == "json"
        self.began, self.images, self.first = 0.0, 0, 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began, self.images, self.first = time.monotonic(), 0, trainer.global_step
        self.tell(trainer, "start", steps=trainer.max_steps)

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self.images += len(batch["image"]) * trainer.world_size
        seconds = max(time.monotonic() - self.began, 1e-9)
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        rates = {
            "images_per_second": self.images / seconds,
            "steps_per_second": (trainer.global_step - self.first) / seconds,
        }
        facts = {
            "step": trainer.global_step,
            "loss": loss,
            **{key: round(rate, 4) for key, rate in rates.items()},
        }
        self.beat(**facts, steps=max(trainer.max_steps, 0), per_second=facts["images_per_second"])
        if trainer.global_step % max(trainer.log_every_n_steps, 1) == 0 and trainer.global_step:
            for logger in trainer.loggers:
                logger.log_metrics(
                    {"train/images per second": rates["images_per_second"]}, trainer.global_step
                )
            self.tell(trainer, "step", **facts)

    def on_validation_end(self, trainer, module) -> None:
        if not trainer.sanity_checking:
            scalars = {
                key: float(value)
                for key, value in trainer.callback_metrics.items()
                if key == "val/loss"
            }
            self.tell(trainer, "validation", step=trainer.global_step, **scalars)

    def on_train_end(self, trainer, module) -> None:
        self.beat(always=True, ended="finished")
        self.tell(trainer, "end", step=trainer.global_step)

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        self.beat(always=True, ended=type(exception).__name__)

    def tell(self, trainer: pl.Trainer, event: str, **facts: Any) -> None:
        if self.json:
            seconds = round(time.monotonic() - self.began, 3)
            line = {
                "event": event,
                "time": round(time.time(), 3),
                "rank": trainer.global_rank,
                "seconds": seconds,
                **facts,
            }
            print(json.dumps(line), file=sys.stderr, flush=True)
