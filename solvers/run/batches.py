"""Scans in batches that are cut from the manifest before anything is skipped.

The cut depends on the manifest and the batch size alone, so a restarted run computes the very same batches.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from solvers.run.scans import Scan


class Batches(Dataset):
    """Batch number -> its scans. rows: anything `load` takes; load: row -> Scan, run in the loader's workers."""

    def __init__(self, rows: Sequence[Any], load: Callable[[Any], Scan], batch_size: int):
        self.rows, self.load, self.batch_size = rows, load, batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, batch: int) -> list[Scan]:
        return [self.load(row) for row in self.rows[batch * self.batch_size : (batch + 1) * self.batch_size]]


class Pending(Sampler):
    """Numbers of the batches with an image that is not committed yet; each process of a group takes its share.

    committed: asked once, when the processes have met and none has begun.
    """

    def __init__(self, ids: Sequence[str], batch_size: int, committed: Callable[[], Collection[str]]):
        self.ids, self.batch_size, self.committed = ids, batch_size, committed

    @cached_property
    def mine(self) -> list[int]:
        grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if grouped else (0, 1)
        done, starts = self.committed(), range(0, len(self.ids), self.batch_size)
        pending = [b for b, i in enumerate(starts) if any(name not in done for name in self.ids[i : i + self.batch_size])]
        return pending[rank::world]

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)

    def __len__(self) -> int:
        return len(self.mine)


def batches(rows: Sequence[Any], load: Callable[[Any], Scan], size: int, committed: Callable[[], Collection[str]]) -> DataLoader:
    """What is left to do of the rows of a manifest, in batches of `size` images."""
    pending = Pending([row.image_id for row in rows], size, committed)
    return DataLoader(Batches(rows, load, size), None, sampler=pending, generator=torch.Generator())
