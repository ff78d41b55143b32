"""How far a run is: a bar with rate and remaining time on a terminal, a line every few seconds in a log."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from types import MappingProxyType
from typing import Any

from torch import Tensor
from tqdm import tqdm

from data.files import printable

OFTEN, RARELY = 0.2, 5.0  # seconds between two showings on a terminal and in a log
WAITING = 5.0  # seconds inside one step, after which that is shown


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
    share: float  # what is done of the whole, from 0 to 1
    seconds: float  # since the start
    look: Callable[
        [], Tensor | None
    ]  # the images at work as they are estimated now, [B,C,H,W] in [-1, 1]
    measure: Callable[[], float | None]  # |A x - y| / (sigma_y sqrt(m)) of the estimates

    @property
    def remaining(self) -> float | None:
        """Seconds that are left if they go on as fast; None before the first step."""
        return self.seconds * (1 - self.share) / self.share if self.share else None


def about(seconds: float) -> str:
    """0.34 -> 0.3 s; 75 -> 75 s; 240 -> 4 min."""
    if seconds < 10:
        return f"{max(seconds, 0.1):.1f} s"
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


Watch = Callable[[Moment], Any]  # returns False to stop the run


class Progress:
    """Images done, and of the batch at work its step, residual and how long it has been inside; of slices also which volume.
    Silent until `start`.

    A thread shows it every few seconds, whatever the solver is busy with: one step may last minutes (tiles, a decoder,
    conjugate gradients). What counts as done is a fraction of the images, so that the remaining time is told from the first step.

    watch: is told a Moment before each network call, which raises Stopped if it returns False; there is no bar then.
    json: in place of the bar one JSON object a line, of every process. beats: called at every step with what is at work.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch, self.total = watch, 0
        self.bar = Bar(0, "images", visible=False)
        self.next = 0.0
        self.json, self.rank, self.began = False, 0, 0.0
        self.beats: list[Callable[..., None]] = []
        self.place: dict[str, str] = {}
        self.images = 0  # that are finished
        self.batch = self.rows = self.before = (
            0  # images and draws at work, and draws of these that are finished
        )
        self.words: list[str] = []
        self.begun = 0.0  # the step at work
        self.part = 0.0  # of the batch at work
        self.over = Event()
        self.follow([""], 1)

    def start(
        self,
        total: int,
        visible: bool = True,
        volumes: Mapping[str, Sequence[str]] = MappingProxyType({}),
        rank: int = 0,
    ) -> None:
        """total: images to do, at most. visible: of several processes, the first one's. volumes: the ids of their slices.

        rank: of this process.
        """
        of = len(volumes)
        self.place = {
            name: f"volume {v}/{of}" + f" slice {k}/{len(ids)}" * (len(ids) > 1)
            for v, ids in enumerate(volumes.values(), 1)
            for k, name in enumerate(ids, 1)
        }
        longest = max(map(len, volumes.values()), default=0)
        unit = ("images", "volumes")[longest == 1] if longest < 2 else "slices"
        visible = visible and not self.json and self.watch is None
        self.bar, self.next, self.images, self.words = Bar(total, unit, visible), 0.0, 0, []
        self.total, self.part = total, 0.0
        self.over = Event()
        self.rank, self.began = rank, time.monotonic()
        self.tell("start", images=total)
        if visible:
            Thread(target=self._show, args=(self.over,), daemon=True).start()

    def begin(self, images: int, rows: int) -> None:
        """A batch of images, and of `rows` draws of them together."""
        self.batch, self.rows, self.before = images, rows, 0
        self.words, self.begun, self.part = [], time.monotonic(), 0.0

    def follow(self, ids: Sequence[str], steps: int) -> None:
        """Images at work from now on, whose first step is to come."""
        self.now: tuple[str, int, int, Any, Any] = ids[0], 0, steps, None, None

    def ask(self) -> None:
        """Before each network call: whether to go on."""
        if self.watch is None:
            return
        name, step, steps, image, residual = self.now
        look, measure = image or (lambda: None), residual or (lambda: None)
        share, seconds = (
            (self.images + self.part) / max(self.total, 1),
            time.monotonic() - self.began,
        )
        moment = Moment(name, self.images, self.total, step, steps, share, seconds, look, measure)
        if self.watch(moment) is False:
            raise Stopped

    def tell(self, event: str, **facts: Any) -> None:
        """One line about an event, if they are asked for."""
        if self.json:
            seconds = round(time.monotonic() - self.began, 3)
            line = {
                "event": event,
                "time": round(time.time(), 3),
                "rank": self.rank,
                "seconds": seconds,
                **facts,
            }
            print(
                json.dumps({k: None if v != v else v for k, v in line.items()}),
                file=sys.stderr,
                flush=True,
            )

    def image(self, record: Mapping[str, Any]) -> None:
        """An image is done. Its own seconds are those that it took."""
        known = {
            key: record[key]
            for key in ("residual", "psnr", "nfe")
            if isinstance(record.get(key), (int, float))
        }
        cost = {"took": round(record["seconds"], 3)} if "seconds" in record else {}
        self.tell("image", image=record["image_id"], status=record["status"], **cost, **known)

    def step(
        self,
        ids: Sequence[str],
        t: int,
        steps: int,
        residual: Callable[[], float] | None,
        image: Callable[[], Tensor] | None = None,
    ) -> None:
        """Step t of `steps` is done for these ids. residual is computed only when it is shown: a few times a second, less often
        where it is slow (a decoder).
        """
        begun = time.monotonic()
        for beat in self.beats:
            beat(step=t + 1, steps=steps, image=ids[0])
        self.begun, self.now = begun, (ids[0], t + 1, steps, image, residual)
        if self.rows:
            part = (self.before + len(ids) * (t + 1) / steps) / self.rows
            self.part = self.batch * min(1.0, part)
            self.bar.n = round(self.images + self.part, 2)
            self.before += len(ids) * (t + 1 == steps)
        if (self.bar.disable and not self.json) or begun < self.next:
            return
        if self.json:
            known = {"residual": round(residual(), 4)} if residual else {}
            self.tell("step", image=ids[0], images=len(set(ids)), step=t + 1, steps=steps, **known)
            self.next = time.monotonic() + RARELY
            return
        others = len(set(ids)) - 1
        first = self.place.get(ids[0], printable(ids[0]))
        self.words = [first + f" and {others} more" * bool(others), f"step {t + 1}/{steps}"]
        self.words += [f"residual {residual():.3f}"] if residual else []
        self.bar.set_postfix_str("  ".join(self.words), refresh=True)
        now = time.monotonic()
        self.next = now + max(self.bar.mininterval, min(20 * (now - begun), 30))

    def finished(self, images: int) -> None:
        self.images += images
        self.batch = self.rows = 0
        self.part = 0.0
        self.bar.update(self.images - self.bar.n)
        self.bar.n = self.images  # a whole number again

    def close(self) -> None:
        self.over.set()
        self.bar.close()
        self.tell("end")

    def _show(self, over: Event) -> None:
        """Every few seconds without a showing, another one: how long the step at work has lasted."""
        while not over.wait(max(self.bar.mininterval, WAITING)):
            now = time.monotonic()
            if self.begun and now - max(self.begun, self.next - self.bar.mininterval) >= WAITING:
                here = f"in the next step for {now - self.begun:.0f} s"
                self.bar.set_postfix_str("  ".join([*self.words, here]), refresh=True)
