"""Processes that are killed or asked to stop, half of them where it hurts: each life is a fork, which need not import torch."""

import os
import random
import signal
import tempfile
from collections.abc import Callable, Mapping

from solvers.run.topology import heed

Places = Mapping[
    str, tuple[object, str, int]
]  # what is hit: of what, which, at most at its n-th call
SAID = tempfile.TemporaryFile("a+")  # by the last life, on stderr
PIECE = 20  # lives, ten by SIGKILL and ten by SIGTERM


def deadly(function, count: int, number: int, after: bool):
    """The function, which sends its process a signal at its count-th call, before it does anything or after."""
    calls = [0]

    def hooked(*arguments, **named):
        calls[0] += 1
        if calls[0] == count and not after:
            os.kill(os.getpid(), number)
        result = function(*arguments, **named)
        if calls[0] == count and after:
            os.kill(os.getpid(), number)
        return result

    return hooked


def life(work: Callable[[], int], hook: Callable[[], None] = lambda: None) -> int:
    """The signal or exit code of a run in a process of its own."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            heed()
            hook()
            os.ftruncate(SAID.fileno(), 0)
            os.dup2(SAID.fileno(), 2)
            code = work()
        except SystemExit as end:
            code = end.code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def last_words() -> str:
    SAID.seek(0)
    return SAID.read()[-2000:]


def aimed(chance: random.Random, number: int, places: Places) -> Callable[[], None]:
    """At a call of one of the places."""
    place, name, most = places[chance.choice(sorted(places))]
    count, after = chance.randint(1, most), chance.random() < 0.5
    return lambda: setattr(place, name, deadly(getattr(place, name), count, number, after))


def timed(chance: random.Random, number: int, longest: float) -> Callable[[], None]:
    """At any moment: after so many seconds of the process's own work."""
    moment = chance.uniform(0.02, longest)

    def hook() -> None:
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), number))
        signal.setitimer(signal.ITIMER_PROF, moment)

    return hook


def survived(
    work: Callable[[], int],
    places: Places,
    longest: float,
    deaths: int,
    seed: int,
    whole: Callable[[], None],
    anew: Callable[[], None],
) -> str:
    """So many lives, SIGKILL and SIGTERM in turn, half of them aimed, and one that nobody disturbs; what became of them.

    whole: asserts that the results are those of an undisturbed run. anew: removes them, where a life got through.
    """
    chance, ends = random.Random(seed), list[int]()
    for turn in range(deaths):
        number = (signal.SIGKILL, signal.SIGTERM)[turn % 2]
        hook = aimed(chance, number, places) if turn % 4 < 2 else timed(chance, number, longest)
        ends.append(life(work, hook))
        assert ends[-1] in (0, -signal.SIGKILL, 143), (turn, ends, last_words())
        if ends[-1] == 0 and turn < deaths - 1:
            whole()
            anew()
    assert life(work) == 0
    whole()
    assert ends.count(0) < deaths / 2
    killed, stopped = ends.count(-signal.SIGKILL), ends.count(143)
    return f"{deaths} lives: {killed} killed, {stopped} stopped, {ends.count(0)} got through"
