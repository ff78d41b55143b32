"""The order of an epoch's rows, and a place in it that a run goes on from with any number of processes.

Which row comes when, and how it is varied, depends on (seed, epoch) alone. Processes are dealt the order row by row, so that
what they have read together after so many batches is a first part of it. A checkpoint stores the length of that part.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

AGAIN = 2**32  # what tells the views of a row that an epoch holds more than once; epochs stay below


class EpochSampler(DistributedSampler):
    """(row, view) in an order drawn from (seed, epoch), this rank's share of it; the first `skip` of the order, which all
    ranks have read together, are left out.

    weights: how often each row is drawn, with replacement; None: every row once. view: the epoch, plus AGAIN for each time
    that the epoch has held the row before.
    """

    skip = 0
    batch = 1  # rows that all ranks read at once; what is left of an epoch is a multiple of it
    weights: Tensor | None = None

    def divide(self, batch: int, step: int) -> None:
        """An epoch of whole optimiser steps; of whole batches where it has too few rows for one; else of every row, some of
        them again so that all ranks have as many.
        """
        rows = len(self.dataset)  # type: ignore[arg-type]
        unit = step if rows >= step else batch if rows >= batch else 0
        self.batch = batch if unit else 1
        if unit:
            self.total_size = rows // unit * unit
            self.num_samples = self.total_size // self.num_replicas

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        left = self.order()[self.skip :]
        left = left[: len(left) // self.batch * self.batch]
        yield from left[self.rank :: self.num_replicas]

    def order(self) -> list[tuple[int, int]]:
        """Of the whole epoch, for all ranks."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        rows = len(self.dataset)  # type: ignore[arg-type]
        if self.weights is None:
            drawn = (
                torch.randperm(rows, generator=generator) if self.shuffle else torch.arange(rows)
            ).tolist()
            drawn = (drawn * (1 + self.total_size // rows))[: self.total_size]
            return [(row, self.epoch) for row in drawn]
        drawn = torch.multinomial(
            self.weights, self.total_size, replacement=True, generator=generator
        ).tolist()
        before = Counter[int]()
        views = []
        for row in drawn:
            views.append((row, self.epoch + AGAIN * before[row]))
            before[row] += 1
        return views


def fair(subjects: Sequence[str], balance: float) -> Tensor:
    """[n] weights of rows with which a subject's share grows as (its rows)^(1 - balance)."""
    rows = Counter(subjects)
    return torch.tensor([float(rows[subject]) ** -balance for subject in subjects])


class TrainingLoader(DataLoader):
    """A loader whose place in the epoch is saved in Lightning's checkpoints (its `state_dict` protocol).

    accumulated: batches of an optimiser step.
    """

    sampler: EpochSampler
    accumulated = 1
    rows = 0  # of this epoch's order handed out, over all ranks
    resumed: dict[str, int] | None = None

    @property
    def together(self) -> int:
        """Rows that all ranks are handed at once."""
        return int(self.batch_size or 1) * self.sampler.num_replicas

    def __iter__(self):
        # A generator, because Lightning asks for the iterator before it tells the sampler the epoch.
        here = self.resumed is not None and self.resumed["epoch"] == self.sampler.epoch
        self.rows = self.resumed["rows"] if here else 0
        self.resumed = None
        self.sampler.skip = self.rows
        for batch in super().__iter__():
            self.rows += self.together
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands, or where it will be gone on with; and rows of a batch and of an optimiser step."""
        here = self.resumed or {"epoch": self.sampler.epoch, "rows": self.rows}
        return {**here, "batch": self.together, "step": self.together * self.accumulated}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration there, if it is of that epoch."""
        used = state.get("used", 0)  # batches: of versions that knew one number of ranks only
        self.resumed = {"epoch": state["epoch"], "rows": state.get("rows", used * self.together)}
