"""The part of a run that one process does: what it takes, until when, and the signs of life that it gives meanwhile."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from solvers.run.heart import Heart
from solvers.run.shares import PATIENCE, Shares, key_of


@dataclass
class Bounds:
    """How much a process may take in all; None: no bound. clock: seconds."""

    images: int | None = None
    hours: float | None = None
    clock: Callable[[], float] = time.monotonic
    taken: int = 0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def reached(self) -> str:
        """Which bound is reached, or ""."""
        if self.images is not None and self.taken >= self.images:
            return f"--max-images {self.images}"
        if self.hours is not None and self.clock() - self.began >= 3600 * self.hours:
            return f"--max-hours {self.hours:g}"
        return ""


class Part:
    """What this process does of one folder of results. shared: with others, by the folder's queue.

    size: images in a batch, as they are counted against the bounds. helps: it restores nothing itself, but denoises slices of
    what another process restores.
    """

    def __init__(
        self,
        folder: Path,
        bounds: Bounds,
        rank: int = 0,
        shared: bool = False,
        lease: float = PATIENCE,
        size: int = 1,
        helps: bool = False,
    ):
        self.bounds, self.size, self.helps = bounds, size, helps
        self.heart = Heart(folder, rank)
        self.shares = Shares(self.heart, lease) if shared else None
        self.done = self.failed = 0
        self.complete = True  # whether nothing was left because of the bounds

    def numbers(self, keys: Sequence[str]) -> Iterator[int]:
        """Which of the batches of these names are to be done here, each when it is its turn."""
        self.heart.beat(always=True, total=len(keys) * self.size, done=0, failed=0)
        if self.helps:
            return
        source = self.shares.take(keys) if self.shares else iter(range(len(keys)))
        for _ in range(len(keys)):
            if self.bounds.reached:
                self.complete = False
                return
            if (number := next(source, None)) is None:
                return
            self.bounds.taken += self.size
            yield number

    def committed(self, records: Sequence[dict[str, Any]]) -> None:
        """The records of a batch are on the disk."""
        bad = sum(record["status"] != "ok" for record in records)
        self.done, self.failed = self.done + len(records), self.failed + bad
        if self.shares:
            self.shares.finished(key_of([record["image_id"] for record in records]))
        self.heart.beat(done=self.done, failed=self.failed, image=records[-1]["image_id"])

    def leave(self, reason: str) -> None:
        """Give back what was taken and not finished."""
        if self.shares:
            self.shares.leave()
        self.heart.stop(reason)
