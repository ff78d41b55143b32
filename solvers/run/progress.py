"""How far a run is: a bar with rate and remaining time on a terminal, a line every few seconds in a log."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    """Images done, and of the batch at work its step and residual. Silent until `start`.

    json: in place of the bar one JSON object a line, of every process. beats: called at every step with what is at work.
    """

    def __init__(self) -> None:
        self.bar = Bar(0, "images", visible=False)
        self.next = 0.0
        self.json, self.rank, self.began = False, 0, 0.0
        self.beats: list[Callable[..., None]] = []

    def start(self, total: int, visible: bool = True, rank: int = 0) -> None:
        """total: images to do, at most. visible: of several processes, the first one's. rank: of this process."""
        self.bar, self.next = Bar(total, "images", visible and not self.json), 0.0
        self.rank, self.began = rank, time.monotonic()
        self.tell("start", images=total)

    def tell(self, event: str, **facts: Any) -> None:
        """One line about an event, if they are asked for."""
        if self.json:
            seconds = round(time.monotonic() - self.began, 3)
            line = {"event": event, "time": round(time.time(), 3), "rank": self.rank, "seconds": seconds, **facts}
            print(json.dumps({k: None if v != v else v for k, v in line.items()}), file=sys.stderr, flush=True)

    def image(self, record: Mapping[str, Any]) -> None:
        """An image is done. Its own seconds are those that it took."""
        known = {key: record[key] for key in ("residual", "psnr", "nfe") if isinstance(record.get(key), (int, float))}
        cost = {"took": round(record["seconds"], 3)} if "seconds" in record else {}
        self.tell("image", image=record["image_id"], status=record["status"], **cost, **known)

    def step(self, ids: Sequence[str], t: int, steps: int, residual: Callable[[], float] | None) -> None:
        """residual is computed only when it is shown: a few times a second, less often where it is slow (a decoder)."""
        begun = time.monotonic()
        for beat in self.beats:
            beat(step=t + 1, steps=steps, image=ids[0])
        if (self.bar.disable and not self.json) or begun < self.next:
            return
        if self.json:
            known = {"residual": round(residual(), 4)} if residual else {}
            self.tell("step", image=ids[0], images=len(set(ids)), step=t + 1, steps=steps, **known)
            self.next = time.monotonic() + RARELY
            return
        others = len(set(ids)) - 1
        words = [printable(ids[0]) + f" and {others} more" * bool(others), f"step {t + 1}/{steps}"]
        words += [f"residual {residual():.3f}"] if residual else []
        self.bar.set_postfix_str("  ".join(words), refresh=True)
        now = time.monotonic()
        self.next = now + max(self.bar.mininterval, min(20 * (now - begun), 30))

    def finished(self, images: int) -> None:
        self.bar.update(images)

    def close(self) -> None:
        self.bar.close()
        self.tell("end")
