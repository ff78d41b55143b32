"""Scans in batches that are cut from the manifest before anything is skipped.

The cut depends on the manifest and the batch size alone, so a restarted run computes the very same batches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.dataset import deaf
from solvers.run.scans import Load, Scan
from solvers.run.shares import KEY, key_of

Queue = Callable[[Sequence[str]], Iterator[int]]


class Batches(Dataset):
    """Batch number -> its scans. rows: anything `load` takes; load: row -> Scan, run in the loader's workers."""

    def __init__(self, rows: Sequence[Any], load: Load, batch_size: int):
        self.rows, self.load, self.batch_size = rows, load, batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, batch: int) -> list[Scan]:
        return [
            self.load(row)
            for row in self.rows[batch * self.batch_size : (batch + 1) * self.batch_size]
        ]


class Pending(Sampler):
    """Numbers of the batches with an image that is not committed yet.

    committed: whether each of these ids is; asked once, when the processes have met and none has begun. queue: which of the
    batches this process does, and when (`shares.Shares.take`, given what they are called); without one it does them all.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        batch_size: int,
        committed: Callable[[Iterable[str]], np.ndarray],
        queue: Queue | None = None,
    ):
        self.rows, self.batch_size, self.committed, self.queue = rows, batch_size, committed, queue

    def ids(self, batch: int) -> list[str]:
        begin = batch * self.batch_size
        return [row.image_id for row in self.rows[begin : begin + self.batch_size]]

    @cached_property
    def there(self) -> np.ndarray:
        """Whether each image is committed."""
        return self.committed(row.image_id for row in self.rows)

    @cached_property
    def open(self) -> np.ndarray:
        starts = np.arange(0, len(self.rows), self.batch_size)
        return np.flatnonzero(~np.logical_and.reduceat(self.there, starts))

    @cached_property
    def done(self) -> set[str]:
        """The images that are committed and yet in a batch that is not done."""
        size = self.batch_size
        return {
            name
            for batch in self.open.tolist()
            if (held := self.there[batch * size : (batch + 1) * size]).any()
            for name, there in zip(self.ids(batch), held)
            if there
        }

    def __iter__(self) -> Iterator[int]:
        queue = self.queue or (lambda keys: iter(range(len(keys))))
        return (int(self.open[number]) for number in queue(Keys(self.open, self.ids)))

    def __len__(self) -> int:
        return len(self.open)


class Keys(Sequence[str]):
    """What batches are called in the queue, 16 bytes each, found when they are asked for. ids: of a batch."""

    def __init__(self, batches: np.ndarray, ids: Callable[[int], Sequence[str]]):
        self.batches, self.ids = batches, ids
        self.held = np.zeros(len(batches), f"S{KEY}")

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: Any) -> Any:
        if not self.held[number]:
            self.held[number] = key_of(self.ids(int(self.batches[number])))
        return self.held[number].decode()


def batches(
    rows: Sequence[Any], load: Load, size: int, pending: Pending, workers: int = 0
) -> DataLoader:
    """What is left to do of the rows of a manifest, in batches of `size` images. workers: processes that read ahead."""
    images, own = Batches(rows, load, size), torch.Generator()
    ahead = {
        "num_workers": workers,
        "worker_init_fn": deaf,
        "prefetch_factor": 1 if workers else None,
    }
    return DataLoader(images, None, sampler=pending, generator=own, **ahead)  # type: ignore[arg-type]
