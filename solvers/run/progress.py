"""How far a run is: a bar with rate and remaining time on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

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


class Progress:
    """Images done, and of the batch at work its step and residual; of slices also which volume. Silent until `start`."""

    def __init__(self) -> None:
        self.bar = Bar(0, "images", visible=False)
        self.next = 0.0
        self.place: dict[str, str] = {}

    def start(self, total: int, visible: bool = True, volumes: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
        """total: images to do, at most. visible: of several processes, the first one's. volumes: the ids of their slices."""
        of = len(volumes)
        self.place = {
            name: f"volume {v}/{of}" + f" slice {k}/{len(ids)}" * (len(ids) > 1)
            for v, ids in enumerate(volumes.values(), 1)
            for k, name in enumerate(ids, 1)
        }
        longest = max(map(len, volumes.values()), default=0)
        self.bar, self.next = Bar(total, ("images", "volumes")[longest == 1] if longest < 2 else "slices", visible), 0.0

    def step(self, ids: Sequence[str], t: int, steps: int, residual: Callable[[], float] | None) -> None:
        """residual is computed only when it is shown: a few times a second, less often where it is slow (a decoder)."""
        begun = time.monotonic()
        if self.bar.disable or begun < self.next:
            return
        others = len(set(ids)) - 1
        first = self.place.get(ids[0], printable(ids[0]))
        words = [first + f" and {others} more" * bool(others), f"step {t + 1}/{steps}"]
        words += [f"residual {residual():.3f}"] if residual else []
        self.bar.set_postfix_str("  ".join(words), refresh=True)
        now = time.monotonic()
        self.next = now + max(self.bar.mininterval, min(20 * (now - begun), 30))

    def finished(self, images: int) -> None:
        self.bar.update(images)

    def close(self) -> None:
        self.bar.close()
