"""One measured number beside its limit, and how it is timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """`value` of `what`; met if it is at most (or, with at_least, at least) `limit`."""

    what: str
    value: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.what:<72} {self.value:8.2f} {sign} {self.limit:<7g} {self.unit:<13} {'ok' if self.met else 'MISSED'}"


def seconds(
    *calls: Callable[[], object], repeat: int = 15, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Least time of each call after one warm-up; the calls take turns, so that a busy machine slows all alike.

    clock: time.process_time counts the processor's work alone, for calls long enough to be interrupted.
    """
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeat):
        for call, record in zip(calls, times):
            start = clock()
            call()
            record.append(clock() - start)
    return [min(record) for record in times]
