"""A run that is looked at while it goes on: what it tells before each network call, gathered into something to show."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from data.pictures import channels
from solvers.run.figures import picture, size, uri
from solvers.run.plots import curves
from solvers.run.progress import Moment, Watch, about

OFTEN = 1.0  # seconds between two looks at the estimate


@dataclass
class Glimpse:
    """How far a run is and what it has so far; a notebook shows it as a bar, a picture and a curve."""

    moment: Moment | None = None  # None: the prior is being loaded
    seconds: list[float] = field(default_factory=list)  # since the start, of each look
    residuals: list[float] = field(default_factory=list)  # |A x - y| / (sigma_y sqrt(m)) then
    picture: str = ""  # of the estimate, as the address of itself
    style: str = ""  # of this picture

    def html(self) -> str:
        if self.moment is None:
            return "<p role=status>loading the prior …</p><progress></progress>"
        now, left = self.moment, self.moment.remaining
        image = f"image {now.done + 1} of {now.images}, " if now.images > 1 else ""
        words = f"{image}step {now.step} of {now.steps}" + (
            "" if left is None else f", about {about(left)} left"
        )
        return f"<p role=status>{words}</p><progress value='{now.share:.3f}'></progress>{self.figures()}"

    _repr_html_ = html

    def figures(self) -> str:
        """The estimate and how its residual went; nothing before the first step."""
        if not self.picture:
            return ""
        lines = {"residual": (self.seconds, self.residuals)}
        curve = curves(lines, "seconds", "residual", log="y")
        image = f"<img id=now class=pic style='{self.style}' src='{self.picture}' alt='estimate so far'>"
        return f"<div class=figures><figure>{image}</figure><figure>{curve}</figure></div>"


def follow(restore: Callable[[Watch], Any], stop: threading.Event, every: float) -> Iterator[Any]:
    """What is so far, every so many seconds, and at last the result of `restore`, which runs in a thread of its own.

    stop: ends it before its next network call. So does closing the iterator. Raises what `restore` does.
    """
    seen, end, due = Glimpse(), {}, 0.0

    def watch(moment: Moment) -> bool:
        nonlocal due
        seen.moment = moment
        if moment.step and time.monotonic() > due and (image := moment.look()) is not None:
            seen.seconds.append(moment.seconds)
            seen.residuals.append(moment.measure() or 0.0)
            volume = image.ndim == 5  # of which the middle slice is shown
            first = image[0, :, image.shape[2] // 2] if volume else image[0]
            seen.picture = uri(picture(channels(first.cpu()).numpy(), -1, 1))
            seen.style = size(first.shape)
            due = time.monotonic() + OFTEN
        return not stop.is_set()

    def work() -> None:
        try:
            end["result"] = restore(watch)
        except BaseException as error:  # raised again below, where somebody sees it
            end["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(every)
            yield seen
    finally:
        stop.set()
    if "error" in end:
        raise end["error"]
    yield end["result"]
