"""One queue for all processes: each batch once, lost ones again, nobody waits for a clock that is not his own."""

import errno
import fcntl
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from data.files import Refusal, Unwritable
from solvers.run import shares
from solvers.run.heart import Heart, Watch, beat_of, forget, prometheus, workers
from solvers.run.shares import Shares, clear, key_of

KEYS = [key_of([str(number)]) for number in range(12)]


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self, now: float = 0.0):
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def member(folder: Path, clock: Clock, host: str = "elsewhere", wait: float = 60.0) -> Shares:
    """A process of another machine, which nobody can ask for by its number."""
    heart = Heart(folder, clock=clock, every=1.0)
    heart.name = f"{host}-{os.getpid()}-{heart.name.rsplit('-', 1)[1]}"
    heart.beat(always=True)
    return Shares(heart, wait, clock, clock.sleep)


def test_whoever_is_free_takes_the_next(tmp_path):
    """A process that is slow at its first batch gets no second; the others do all the rest."""
    clock = Clock()
    slow, quick = member(tmp_path, clock), member(tmp_path, clock)
    held = next(slow.take(KEYS))
    done = []
    for number in quick.take(KEYS):
        done.append(number)
        quick.finished(KEYS[number])
        if len(done) == len(KEYS) - 1:
            slow.finished(KEYS[held])
    assert held == 0 and done == list(range(1, 12))
    assert list(member(tmp_path, clock).take(KEYS)) == []


def test_what_a_dead_process_held_is_done_by_others_after_the_stated_time(tmp_path):
    clock = Clock()
    dead, alive = member(tmp_path, clock, wait=60), member(tmp_path, clock, wait=60)
    held = next(dead.take(KEYS))
    done, when = [], {}
    for number in alive.take(KEYS):
        done.append(number)
        when[number] = clock.now
        alive.finished(KEYS[number])
    assert sorted(done) == list(range(12)) and done[-1] == held
    assert 60 <= when[held] <= 60 + 2 * 6 and when[done[-2]] == 0


def test_a_sign_of_life_keeps_what_is_held(tmp_path):
    """However long it takes, and though every beat comes from a clock that is an hour away."""
    clock, far = Clock(), Clock(3600.0)
    busy = member(tmp_path, far)
    other = member(tmp_path, clock, wait=60)
    held, taken = next(busy.take(KEYS[:1])), []

    def sleep(seconds: float) -> None:
        clock.now += seconds
        far.now -= seconds  # it even runs backwards
        busy.heart.beat(always=True)
        if clock.now > 600:
            busy.finished(KEYS[held])

    other.sleep = sleep
    taken += other.take(KEYS[:1])
    assert taken == [] and clock.now > 600


def test_a_process_of_this_machine_that_is_gone_is_known_at_once(tmp_path):
    heart = Heart(tmp_path)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    heart.name = heart.name.replace(f"-{os.getpid()}-", f"-{child}-")
    heart.beat(always=True, pid=child)
    assert Watch(tmp_path, 1e9).gone(heart.name)
    mine = Heart(tmp_path)
    mine.beat(always=True)
    assert not Watch(tmp_path, 1e9).gone(mine.name)
    mine.stop("finished")
    assert Watch(tmp_path, 1e9).gone(mine.name)


def test_what_is_left_is_free_at_once(tmp_path):
    clock = Clock()
    first, second = member(tmp_path, clock), member(tmp_path, clock)
    held = next(first.take(KEYS))
    first.leave()
    assert next(second.take(KEYS)) == held and clock.now == 0


def test_a_line_that_was_cut_by_a_kill_spoils_no_other(tmp_path):
    clock = Clock()
    first = member(tmp_path, clock)
    first.finished(KEYS[0])
    with first.path.open("ab") as file:
        file.write(b"take 0123")
    second = member(tmp_path, clock)
    assert next(second.take(KEYS)) == 1
    third = member(tmp_path, clock)
    assert next(third.take(KEYS)) == 2


def test_a_new_queue(tmp_path):
    clock = Clock()
    first = member(tmp_path, clock)
    for number in first.take(KEYS):
        first.finished(KEYS[number])
    clear(tmp_path)
    forget(tmp_path)
    assert (
        len(list(zip(range(3), member(tmp_path, clock).take(KEYS)))) == 3
        and len(workers(tmp_path)) == 1
    )


@pytest.mark.parametrize("number", shares.LOCKLESS)
def test_a_file_system_without_locks_is_one_line(number, tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(Refusal, match="has no locks; give each process its own --start, --limit"):
        next(member(tmp_path, Clock()).take(KEYS))


def test_a_full_disk_and_a_held_queue_are_one_line(tmp_path, monkeypatch):
    member_ = member(tmp_path, clock := Clock(), wait=60)
    with monkeypatch.context() as patch, pytest.raises(Unwritable, match="the disk is full"):
        patch.setattr(
            Shares, "_follow", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space"))
        )
        next(member_.take(KEYS))

    def lockf(*_):
        raise BlockingIOError

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(Refusal, match="has held it for 60 s"):
        next(member_.take(KEYS))
    assert 60 <= clock.now < 61


def working(folder: str, out) -> None:
    own = Shares(Heart(Path(folder)), 60.0)
    for number in own.take(KEYS * 0 + [key_of([str(n)]) for n in range(200)]):
        out.put(number)
        own.finished(key_of([str(number)]))


@pytest.mark.forks
def test_four_processes_at_once_take_each_batch_once(tmp_path):
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    every = [context.Process(target=working, args=(str(tmp_path), out)) for _ in range(4)]
    for one in every:
        one.start()
    taken = sorted(out.get(timeout=120) for _ in range(200))
    for one in every:
        one.join()
    assert taken == list(range(200)) and out.empty()


def test_the_numbers_of_all_processes_are_one_text_for_prometheus(tmp_path):
    for rank in (1, 0):
        Heart(tmp_path, rank).beat(always=True, done=3, failed=rank, total=8, residual=float("nan"))
    text = (tmp_path / "metrics.prom").read_text()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert text == prometheus(workers(tmp_path)) and len(set(names)) == len(names) >= 4
    assert 'palimpsest_done{rank="0",worker=' in text and "residual" not in text
    assert [facts["rank"] for facts in workers(tmp_path)] == [0, 1]


def test_a_beat_that_cannot_be_read_is_none(tmp_path):
    heart = Heart(tmp_path)
    heart.beat(always=True)
    heart.path.write_bytes(b'{"beat"')
    assert beat_of(tmp_path, heart.name) == {} and workers(tmp_path) == []
    heart.path.write_text(json.dumps([1]))
    assert beat_of(tmp_path, heart.name) == {}


def test_who_waits_for_the_last_of_others_sees_soon_that_they_are_done(tmp_path):
    """At the latest when it has waited twice as long as they took, and a tenth of a second."""
    clock = Clock()
    slow, quick = member(tmp_path, clock), member(tmp_path, clock)
    held = next(slow.take(KEYS[:1]))

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now >= 0.4:
            slow.finished(KEYS[held])

    quick.sleep = sleep
    assert list(quick.take(KEYS[:1])) == [] and clock.now <= 0.9
