"""How far a run is: a bar with rate and remaining time on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from tqdm import tqdm

from data.files import printable

OFTEN, RARELY = 0.2, 5.0  # seconds between two showings on a terminal and in a log


class Bar(tqdm):
    """tqdm's bar on stderr; where that is no terminal, whole lines instead of one that is written over."""

    def __init__(self, total: int, unit: str, visible: bool = True):
        self.terminal = sys.stderr.isatty()
        every = OFTEN if self.terminal else RARELY
        super().__init__(
            total=total,
            unit=f" {unit}",
            disable=not visible,
            file=sys.stderr,
            mininterval=every,
            miniters=0,
            dynamic_ncols=self.terminal,
            ncols=None if self.terminal else 110,
            ascii=" #",
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
        if self.terminal:
            return super().display(msg, pos)
        self.fp.write(f"{msg or self}\n")
        self.fp.flush()
        return True

    def close(self) -> None:
        if self.disable or self.terminal:
            return super().close()
        self.display()
        self.disable: bool = True
        self._decr_instances(self)


class Stopped(BaseException):
    """Raised where a watcher asked a run to stop; no error, so nothing that fails an image catches it."""


@dataclass(frozen=True)
class Moment:
    """How far a run is, told to its watcher before each network call."""

    image_id: str  # the first image at work
    done: int  # images restored
    images: int  # to restore
    step: int  # steps made of the images at work
    steps: int
    seconds: float  # since the start
    look: Callable[[], Tensor | None]  # the images at work as they are estimated now, [B,C,H,W] in [-1, 1]
    measure: Callable[[], float | None]  # |A x - y| / (sigma_y sqrt(m)) of the estimates

    @property
    def share(self) -> float:
        """What is done of the whole, from 0 to 1."""
        return (self.done + self.step / self.steps) / max(self.images, 1)

    @property
    def remaining(self) -> float | None:
        """Seconds that are left if they go on as fast; None before the first step."""
        return self.seconds * (1 - self.share) / self.share if self.share else None


Watch = Callable[[Moment], Any]  # returns False to stop the run


class Progress:
    """Images done, and of the batch at work its step and residual. Silent until `start`.

    watch: is told a Moment before each network call. Raises Stopped if it returns False.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self.bar = Bar(0, "images", visible=False)
        self.next = 0.0
        self.watch, self.begun, self.total, self.done = watch, time.monotonic(), 0, 0
        self.begin([""], 1)

    def begin(self, ids: Sequence[str], steps: int) -> None:
        """Images at work from now on, whose first step is to come."""
        self.now: tuple[str, int, int, Any, Any] = ids[0], 0, steps, None, None

    def ask(self) -> None:
        """Before each network call: whether to go on."""
        if self.watch is None:
            return
        name, step, steps, image, residual = self.now
        look, measure = image or (lambda: None), residual or (lambda: None)
        seconds = time.monotonic() - self.begun
        if self.watch(Moment(name, self.done, self.total, step, steps, seconds, look, measure)) is False:
            raise Stopped

    def start(self, total: int, visible: bool = True) -> None:
        """total: images to do, at most. visible: of several processes, the first one's."""
        self.bar, self.next = Bar(total, "images", visible and self.watch is None), 0.0
        self.begun, self.total, self.done = time.monotonic(), total, 0

    def step(
        self,
        ids: Sequence[str],
        t: int,
        steps: int,
        residual: Callable[[], float] | None,
        image: Callable[[], Tensor] | None = None,
    ) -> None:
        """residual is computed only when it is shown: a few times a second, less often where it is slow (a decoder)."""
        self.now = ids[0], t + 1, steps, image, residual
        begun = time.monotonic()
        if self.bar.disable or begun < self.next:
            return
        others = len(set(ids)) - 1
        words = [printable(ids[0]) + f" and {others} more" * bool(others), f"step {t + 1}/{steps}"]
        words += [f"residual {residual():.3f}"] if residual else []
        self.bar.set_postfix_str("  ".join(words), refresh=True)
        now = time.monotonic()
        self.next = now + max(self.bar.mininterval, min(20 * (now - begun), 30))

    def finished(self, images: int) -> None:
        self.done += images
        self.bar.update(images)

    def close(self) -> None:
        self.bar.close()
