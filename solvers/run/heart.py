"""A sign of life of every process that works in a folder, and what a monitor reads of them all.

Each process replaces its own file in `.run/workers/` while it goes on: the number of the beat, what it has done, what it is
at. Whoever beats also replaces `metrics.prom`, the same numbers of all processes for Prometheus. No clock is compared with
another machine's: a process is given up when its beat has not changed for as long as somebody else has watched it (`Watch`).
"""

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.files import replacing

RUN, WORKERS, METRICS = ".run", "workers", "metrics.prom"
OFTEN = 5.0  # seconds between two beats, at least
MEANING = {  # of the numbers of a beat -> what Prometheus is told of them
    "done": ("counter", "images finished by this process"),
    "failed": ("counter", "images that failed in this process"),
    "total": ("gauge", "images in the run"),
    "step": ("gauge", "step of the solver, or of training"),
    "steps": ("gauge", "steps in all"),
    "per_second": ("gauge", "images a second since this process began"),
    "loss": ("gauge", "training loss"),
    "residual": ("gauge", "residual of the images at work"),
    "seconds": ("gauge", "seconds since this process began"),
}


class Heart:
    """The beats of this process in one folder. rank: among processes that were started together."""

    def __init__(
        self,
        folder: Path,
        rank: int = 0,
        every: float = OFTEN,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self.every, self.clock = folder, every, clock
        self.name = f"{platform.node() or 'here'}-{os.getpid()}-{secrets.token_hex(3)}"
        self.facts: dict[str, Any] = {
            "worker": self.name,
            "host": platform.node(),
            "pid": os.getpid(),
            "rank": rank,
            "beat": 0,
        }
        self.began, self.next = clock(), 0.0
        self.mutex = threading.Lock()

    @property
    def path(self) -> Path:
        return self.folder / RUN / WORKERS / f"{self.name}.json"

    def beat(self, always: bool = False, **facts: Any) -> None:
        """Note the facts; write them if it is time. A full disk is for those to complain of who write results."""
        with self.mutex:
            self._beat(always, facts)

    def _beat(self, always: bool, facts: Mapping[str, Any]) -> None:
        self.facts |= facts
        now = self.clock()
        if now < self.next and not always:
            return
        self.next = now + self.every
        seconds = now - self.began
        self.facts["beat"] += 1
        self.facts["seconds"] = round(seconds, 1)
        if "done" in self.facts and seconds > 0:
            self.facts["per_second"] = round(self.facts["done"] / seconds, 4)
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path, sync=False) as file:
                file.write(json.dumps(self.facts).encode())
            with replacing(self.folder / METRICS, sync=False) as file:
                file.write(prometheus(workers(self.folder)).encode())

    def stop(self, reason: str) -> None:
        """The last beat: why the process ends."""
        self.beat(always=True, ended=reason)


class Watch:
    """Which processes are given up: those whose beat has not changed for `patience` seconds of this process's own clock."""

    def __init__(self, folder: Path, patience: float, clock: Callable[[], float] = time.monotonic):
        self.folder, self.patience, self.clock = folder, patience, clock
        self.seen: dict[str, tuple[int, float]] = {}

    def gone(self, name: str) -> bool:
        """Whether this process is over. One of this machine is asked for by its number, which needs no waiting."""
        facts = beat_of(self.folder, name)
        if "ended" in facts:
            return True
        host, pid = (
            name.rsplit("-", 2)[0],
            int(facts.get("pid", 0)) or _number(name.rsplit("-", 2)[1:2]),
        )
        if (
            host == platform.node()
            and pid
            and not Path(f"/proc/{pid}").exists()
            and Path("/proc/self").exists()
        ):
            return True
        number, since = self.seen.get(name, (-1, 0.0))
        if number != facts.get("beat", 0):
            self.seen[name] = (facts.get("beat", 0), self.clock())
            return False
        return self.clock() - since >= self.patience


def beat_of(folder: Path, name: str) -> dict[str, Any]:
    """The last beat of a process; empty if it has none that can be read."""
    try:
        facts = json.loads((folder / RUN / WORKERS / f"{name}.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def workers(folder: Path) -> list[dict[str, Any]]:
    """The last beats of all processes that have worked in a folder, by their rank."""
    names = [path.stem for path in (folder / RUN / WORKERS).glob("*.json")]
    found = [facts for name in names if (facts := beat_of(folder, name))]
    return sorted(found, key=lambda facts: (facts.get("rank", 0), str(facts.get("worker"))))


def forget(folder: Path) -> None:
    """Remove the beats of processes that are over."""
    for path in (folder / RUN / WORKERS).glob("*.json"):
        path.unlink(missing_ok=True)


def prometheus(beats: list[dict[str, Any]]) -> str:
    """Beats in the text format of Prometheus's exposition, one sample for each process."""
    lines = []
    for key, (kind, meaning) in MEANING.items():
        samples = [
            f"palimpsest_{key}{_labels(facts)} {facts[key]}"
            for facts in beats
            if _finite(facts.get(key))
        ]
        if samples:
            lines += [
                f"# HELP palimpsest_{key} {meaning}",
                f"# TYPE palimpsest_{key} {kind}",
                *samples,
            ]
    return "\n".join(lines) + "\n" if lines else ""


def _labels(facts: Mapping[str, Any]) -> str:
    named = {"rank": facts.get("rank", 0), "worker": facts.get("worker", "")}
    return "{" + ",".join(f"{key}={json.dumps(str(value))}" for key, value in named.items()) + "}"


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value and abs(value) != float("inf")


def _number(parts: list[str]) -> int:
    return int(parts[0]) if parts and parts[0].isdigit() else 0
