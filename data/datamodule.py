"""The data of a run as Lightning wants it: loaders over manifests, in an order that a restart can continue (`data.epoch`)."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Subset, default_collate

from data import manifest
from data.dataset import ManifestDataset, Sample, checked, deaf
from data.epoch import EpochSampler, TrainingLoader, fair
from data.files import Refusal

MEMORY = 2**31  # bytes; a training set that fits is read once
SPREAD = 16  # images of a set that stand for all: for validation images where there are none, for their shapes


def together(samples: list[Sample]) -> dict[str, Any]:
    """Samples -> batch: image [B, C, H, W], image_id list of B, label and index [B]."""
    first = samples[0]
    for sample in samples:
        if sample["image"].shape != first["image"].shape:
            shapes = " and ".join(
                f"{s['image_id']} is {'x'.join(map(str, s['image'].shape))}"
                for s in (first, sample)
            )
            raise Refusal(
                f"images of unequal shape cannot be in one batch ({shapes}); set size, or crop for training"
            )
    return default_collate(samples)


def spread(count: int) -> list[int]:
    """SPREAD evenly spread ones of so many indices, or all."""
    return torch.linspace(0, count - 1, min(count, SPREAD)).round().int().tolist()


class ManifestData(pl.LightningDataModule):
    """Training, validation and test images out of manifests.

    train, validation, test: manifest files; a loader is asked for only where there is one.
    channels, size, augment, crop, zoom, seed, window: of `data.dataset.ManifestDataset`; augment, crop and zoom are for training.
    batch_size: per process; a run that goes on with another number of processes keeps the images of its optimiser steps, and
    this is the most that a process is given at once.
    balance: 0 trains on every row equally often, 1 on every subject, 0.5 is between; so that one patient with many slices does
    not drown the others.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        channels: int = 1,
        size: int | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        augment: bool = False,
        crop: int | None = None,
        balance: float = 0.0,
        seed: int = 0,
        window: str | None = None,
        zoom: float = 1.0,
    ):
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise Refusal(
                f"batch_size {batch_size} must be >= 1 and num_workers {num_workers} >= 0"
            )
        if not 0 <= balance <= 1:
            raise Refusal(
                f"balance {balance} must lie between 0 (rows count) and 1 (subjects count)"
            )
        checked(size, crop, zoom, window)
        self.manifests = {"train": train, "validation": validation, "test": test}
        self.channels, self.size, self.augment, self.crop, self.seed = (
            channels,
            size,
            augment,
            crop,
            seed,
        )
        self.window, self.zoom = window, zoom
        self.batch_size, self.num_workers, self.balance = batch_size, num_workers, balance
        self.datasets: dict[str, ManifestDataset] = {}

    def dataset(self, split: str) -> ManifestDataset:
        """The images of "train", "validation" or "test", read once. Raises Refusal if the configuration names no manifest."""
        if split not in self.datasets:
            path = self.manifests[split]
            if path is None:
                raise Refusal(f"data: no manifest is given for {split!r}")
            if split == "train":
                data = ManifestDataset(
                    path,
                    self.channels,
                    self.size,
                    self.augment,
                    self.crop,
                    self.seed,
                    MEMORY,
                    self.window,
                    self.zoom,
                )
            else:
                data = ManifestDataset(path, self.channels, self.size, window=self.window)
            self.datasets[split] = data
        return self.datasets[split]

    @property
    def doubts(self) -> str:
        """What is wrong with the images that weights are chosen and errors are measured on; "" if they are other subjects'."""
        if not self.validates:
            return "training images, because no validation images were named"
        leak = manifest.leak(str(self.manifests["validation"]))
        return f"slices of the subjects that were trained on ({leak} split)" if leak else ""

    @property
    def validates(self) -> bool:
        """Whether there are validation images; a manifest without rows, as preparation leaves it, holds none."""
        path = self.manifests["validation"]
        return path is not None and any(True for _ in manifest.read(path))

    def setup(self, stage: str) -> None:
        """Raise Refusal now where validation, hours later, would; evenly spread images tell whether all have one shape."""
        if stage == "fit" and self.batch_size > 1 and self.validates:
            data = self.dataset("validation")
            together([data[i] for i in spread(len(data))])

    def train_dataloader(self) -> TrainingLoader:
        """Shuffled, resumable, without a last incomplete optimiser step."""
        data, trainer = self.dataset("train"), self.trainer
        ranks, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        accumulated = trainer.accumulate_grad_batches if trainer else 1
        together = self.batch_size * ranks
        sampler = EpochSampler(data, ranks, rank, shuffle=True, seed=self.seed)
        sampler.divide(together, together * accumulated)
        if self.balance:
            sampler.weights = fair([row.subject or row.image_id for row in data.rows], self.balance)
        whole = len(data) >= together
        loader = TrainingLoader(
            data, self.batch_size, sampler=sampler, drop_last=whole, **self._loading()
        )
        loader.accumulated = accumulated
        return loader

    def val_dataloader(self) -> DataLoader:
        """In order; where there are none, some training images as they are, on which the prior's errors are measured."""
        if self.validates:
            return self._in_order("validation")
        path = self.manifests["train"]
        data = ManifestDataset(str(path), self.channels, self.size, window=self.window)
        return DataLoader(Subset(data, spread(len(data))), self.batch_size, **self._loading())

    def test_dataloader(self) -> DataLoader:
        """In order."""
        return self._in_order("test")

    def _in_order(self, split: str) -> DataLoader:
        return DataLoader(self.dataset(split), self.batch_size, **self._loading())

    def _loading(self) -> dict:
        return {
            "num_workers": self.num_workers,
            "collate_fn": together,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": self.num_workers > 0,
            "worker_init_fn": deaf,
            "generator": torch.Generator().manual_seed(
                self.seed
            ),  # else the loader draws from the global one
        }
