"""A line that says where a run is: images done, step, residual. On a terminal it is rewritten, in a log repeated rarely."""

import sys
import time
from collections.abc import Callable, Sequence


class Progress:
    """Silent until `start`; only the first process of a group shows anything. done: images finished, counted by the writer."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.visible = False
        self._next = 0.0

    def start(self, total: int, visible: bool = True) -> None:
        """total: images to do, at most."""
        self.total, self.done, self.visible = total, 0, visible
        self._next = self._began = time.monotonic()

    def step(self, ids: Sequence[str], t: int, steps: int, residual: Callable[[], float] | None) -> None:
        """residual is computed only when the line is shown: a few times a second, less often where it is slow (a decoder)."""
        if not self.visible or time.monotonic() < self._next:
            return
        bar = "#" * round(20 * self.done / max(self.total, 1))
        name = ids[0] if len(set(ids)) == 1 else f"{ids[0]} and {len(set(ids)) - 1} more"
        seconds = time.monotonic() - self._began
        fit = f"  residual {residual():.3f}" if residual else ""
        cost = time.monotonic() - self._began - seconds
        self._show(f"[{bar:20}] {self.done}/{self.total}  {name}  step {t + 1}/{steps}{fit}  {seconds:.0f} s")
        self._next = time.monotonic() + max(0.2 if sys.stderr.isatty() else 5, min(20 * cost, 30))

    def finish(self) -> None:
        if self.visible and sys.stderr.isatty():
            sys.stderr.write("\n")
        self.visible = False

    def _show(self, line: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{line[:110]}" if sys.stderr.isatty() else f"{line}\n")
        sys.stderr.flush()
