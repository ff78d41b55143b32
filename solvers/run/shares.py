"""One queue of batches for all processes that work on a folder of results, wherever they run.

The queue is a file to which lines are added under a lock: `take BATCH PROCESS`, `done BATCH PROCESS`, `left PROCESS`. Whoever
is free takes the first batch that nobody has, so that a slow image or a slow machine holds nobody back. What a process has
taken is its own while it shows signs of life (`heart.py`); after `patience` seconds without one, it is anybody's again.

Nothing here decides what an image looks like: two processes that restore the same one, because the first was only thought to
be gone, write the same bytes, and the record that was added last counts.
"""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data.files import Refusal, digest, unwritable
from solvers.run.heart import RUN, Heart, Watch

PATIENCE = 600.0  # seconds without a sign of life after which a process's images are others'
KEY = 16  # characters of a batch's name
SOON, LATE = 0.1, 5.0  # seconds between two looks at what others do, at first and after a while
LOCKLESS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class Shares:
    """The queue of one folder, as this process sees it. sleep, clock: of time, for tests."""

    def __init__(
        self,
        heart: Heart,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.heart, self.patience, self.clock, self.sleep = heart, patience, clock, sleep
        self.path = heart.folder / RUN / "shares.log"
        self.watch = Watch(heart.folder, patience, clock)
        self.owner: dict[str, str] = {}  # of batches taken and not done
        self.done: set[str] = set()
        self.read = 0  # bytes of the file
        self.mutex = (
            threading.Lock()
        )  # a lock of the system's does not keep threads of one process apart

    def take(self, keys: Sequence[str]) -> Iterator[int]:
        """Numbers of batches, each when this process is free for it; ends when all are done, by whomever.

        keys: of the batches, in the order in which they are to be done.
        """
        ahead, later, pause = iter(range(len(keys))), list[int](), SOON
        while True:
            chosen = self._first(keys, ahead, later)
            if chosen is None:  # all are taken; some may be done, or their process is gone
                later = [number for number in later if keys[number] not in self.done]
                chosen = self._first(keys, iter(tuple(later)), [])
            if chosen is not None:
                pause = SOON
                yield chosen
            elif all(self.owner.get(keys[number]) in (None, self.heart.name) for number in later):
                return
            else:
                self.heart.beat()
                self.sleep(min(self.patience / 10, pause))
                pause = min(2 * pause, LATE)

    def finished(self, key: str) -> None:
        """A batch's results are on the disk."""
        with self._held() as file:
            self._add(file, f"done {key} {self.heart.name}")

    def leave(self) -> None:
        """Give back what was taken and is not done."""
        with self._held() as file:
            self._add(file, f"left {self.heart.name}")

    def _first(self, keys: Sequence[str], numbers: Iterator[int], passed: list[int]) -> int | None:
        """The first of the batches that is free, taken. passed: gets those that are not done, with the one taken: it may be
        lost to another process.
        """
        gone: dict[str, bool] = {}
        with self._held() as file:
            for number in numbers:
                key = keys[number]
                if key in self.done:
                    continue
                passed.append(number)
                owner = self.owner.get(key)
                if owner is not None and owner not in gone:
                    gone[owner] = owner != self.heart.name and self.watch.gone(owner)
                if owner is None or gone[owner]:
                    self._add(file, f"take {key} {self.heart.name}")
                    return number
        return None

    @contextmanager
    def _held(self) -> Iterator[IO[bytes]]:
        """The file, locked, once what others have added is known."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.mutex, self.path.open("a+b", buffering=0) as file:
                self._lock(file)
                self._follow(file)
                yield file
        except OSError as error:
            if error.errno in LOCKLESS:
                raise Refusal(
                    f"{self.path}: its file system has no locks; give each process its own --start, --limit"
                ) from None
            raise unwritable(self.path, error) from error

    def _lock(self, file: IO[bytes]) -> None:
        """Wait for it, but not for a process that hangs while it holds it."""
        until = self.clock() + self.patience
        while True:
            try:
                return fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                if self.clock() > until:
                    raise Refusal(
                        f"{self.path}: a process has held it for {self.patience:g} s; end the one that hangs"
                    ) from None
                self.sleep(0.02)

    def _follow(self, file: IO[bytes]) -> None:
        file.seek(self.read)
        text = file.read()
        whole = text[
            : text.rfind(b"\n") + 1
        ]  # a process may have been killed inside its line, which the next one ends
        self.read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._note(line.split())

    def _note(self, words: list[str]) -> None:
        match words:
            case ["take", key, name]:
                self.owner[key] = name
            case ["done", key, _]:
                self.owner.pop(key, None)
                self.done.add(key)
            case ["left", name]:
                self.owner = {key: owner for key, owner in self.owner.items() if owner != name}

    def _add(self, file: IO[bytes], line: str) -> None:
        torn = (
            self.read < os.fstat(file.fileno()).st_size
        )  # after a piece of a line begins a new one
        file.write(f"{chr(10) * torn}{line}\n".encode())
        self._follow(file)


def key_of(ids: Sequence[str]) -> str:
    """What a batch is called in the queue: the same in every process, whatever else its manifest lists."""
    return digest(*ids)[:KEY]


class Hold:
    """A folder held together with other processes; the lock goes when the process does."""

    def __init__(self, file: IO[bytes], sleep: Callable[[float], None] = time.sleep):
        self.file, self.sleep = file, sleep

    def get(self, kind: int, seconds: float) -> bool:
        """Try for so long to hold it alone (LOCK_EX) or with others (LOCK_SH)."""
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.lockf(self.file, kind | fcntl.LOCK_NB)
                return True
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= until:
                    return False
                self.sleep(0.1)

    def alone(self, seconds: float) -> bool:
        """Whether all others have left within this time. It is let go of first, so that two do not wait for each other."""
        fcntl.lockf(self.file, fcntl.LOCK_UN)
        return self.get(fcntl.LOCK_EX, seconds)


@contextmanager
def joined(
    folder: Path, first: Callable[[], None], later: Callable[[], None], seconds: float = 60.0
) -> Iterator[Hold]:
    """Hold a folder together with others. first: done by whoever finds nobody else there; later: by those who come after.

    Raises Refusal where a run that shares with nobody holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+b") as file:
        hold = Hold(file)
        if hold.get(fcntl.LOCK_EX, 0):
            first()
            hold.get(fcntl.LOCK_SH, seconds)
        elif hold.get(fcntl.LOCK_SH, seconds):
            later()
        else:
            raise Refusal(
                f"{folder}: a run without --join is writing here; wait for it, or choose another --save-dir"
            )
        yield hold


def clear(folder: Path) -> None:
    """Begin a new queue. Only for whoever is alone in the folder."""
    (folder / RUN / "shares.log").unlink(missing_ok=True)
