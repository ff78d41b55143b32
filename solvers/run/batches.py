"""Scans in batches that are cut from the manifest before anything is skipped.

The cut depends on the manifest and the batch size alone, so a restarted run computes the very same batches.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.dataset import deaf
from solvers.run.scans import Load, Scan
from solvers.run.shares import key_of

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

    committed: asked once, when the processes have met and none has begun. queue: which of them this process does, and when
    (`shares.Shares.take`, given what the batches are called); without one it does them all.
    """

    def __init__(
        self,
        ids: Sequence[str],
        batch_size: int,
        committed: Callable[[], Collection[str]],
        queue: Queue | None = None,
    ):
        self.ids, self.batch_size, self.committed, self.queue = ids, batch_size, committed, queue

    @cached_property
    def open(self) -> list[int]:
        done, starts = self.committed(), range(0, len(self.ids), self.batch_size)
        return [
            b
            for b, i in enumerate(starts)
            if any(name not in done for name in self.ids[i : i + self.batch_size])
        ]

    def __iter__(self) -> Iterator[int]:
        if self.queue is None:
            return iter(self.open)
        keys = [
            key_of(self.ids[b * self.batch_size : (b + 1) * self.batch_size]) for b in self.open
        ]
        return (self.open[number] for number in self.queue(keys))

    def __len__(self) -> int:
        return len(self.open)


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
