"""Restorations that are killed again and again, half of the times where it hurts: nothing is lost, doubled or stale.

Each life is a fork of this process, so that it need not import torch; training has the same in test_runs_killed.py.
"""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

import sample
from data import files
from solvers.run import report, results, shares, volumes, writer
from solvers.run.topology import heed

Hook = Callable[[Callable, object], None]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Three pictures and a volume of three slices."""
    import nibabel

    where = tiny.world(tmp_path_factory.mktemp("world"))
    y, x = np.mgrid[0:16, 0:16]
    slices = [np.sin(x / 3 + i) * np.cos(y / 4) * 300 + 400 for i in range(3)]
    nibabel.save(
        nibabel.Nifti1Image(np.stack(slices, 2).astype(np.int16), np.eye(4)),
        where / "scans/volume.nii",
    )
    return where


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


AIMED = {  # what is hit, and how often it is called at most until it is
    "a file is renamed": (files.os, "replace", 8),
    "a file is synced": (files.os, "fsync", 12),
    "a record is written": (results, "append", 4),
    "records are taken up": (results, "keep", 1),
    "a volume is put together": (volumes, "_assemble", 1),
    "the summary is written": (report, "write", 1),
    "an image is committed": (writer.Writer, "commit", 3),
}
JOINED = {"a batch is taken": (shares.Shares, "_add", 4)}


def life(words: list[str], hook: Callable[[], None]) -> int:
    """The signal or exit code of a run in a process of its own."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            heed()
            hook()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = sample.main(words)
        except SystemExit as end:
            code = end.code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def aimed(chance: random.Random, number: int, joined: bool) -> Callable[[], None]:
    places = AIMED | (JOINED if joined else {})
    place, name, most = places[chance.choice(sorted(places))]
    count, after = chance.randint(1, most), chance.random() < 0.5

    def hook() -> None:
        setattr(place, name, deadly(getattr(place, name), count, number, after))

    return hook


def timed(chance: random.Random, number: int, joined: bool) -> Callable[[], None]:
    """At any moment: after so much of the process's own work."""
    moment = chance.uniform(0.02, 0.4)

    def hook() -> None:
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), number))
        signal.setitimer(signal.ITIMER_PROF, moment)

    return hook


def survived(world: Path, where: Path, deaths: int, *more: str) -> None:
    words = tiny.words(world, where / "out", "--batch-size", "2", *more, solver="daps", task="mask")
    assert life(words, lambda: None) == 0
    shutil.move(where / "out", where / "whole")
    chance, ends = random.Random(deaths), []
    for turn in range(deaths):
        number = (signal.SIGKILL, signal.SIGTERM)[turn % 2]
        hook = (aimed if turn % 4 < 2 else timed)(chance, number, "--join" in more)
        ends.append(life(words, hook))
        assert ends[-1] in (0, -signal.SIGKILL, 143), (turn, ends)
        if (
            ends[-1] == 0 and turn < deaths - 1
        ):  # it got through before it was hit: the next one begins anew
            same(where)
            shutil.rmtree(where / "out")
    assert life(words, lambda: None) == 0
    same(where)
    print(
        f"{deaths} lives: {ends.count(-signal.SIGKILL)} killed, {ends.count(143)} stopped, {ends.count(0)} got through"
    )
    assert ends.count(0) < deaths / 2


def same(where: Path) -> None:
    """Files to the byte, one record an image, no file that is not of the results."""
    first, second = tiny.records(where / "whole"), tiny.records(where / "out")
    for record in (*first.values(), *second.values()):
        del record["seconds"]
    assert second == first
    names = [
        {str(p.relative_to(f)): p for p in f.rglob("*") if p.is_file()}
        for f in (where / "whole", where / "out")
    ]
    kept = [
        {name for name in one if not name.startswith(".run/") and ".tmp" not in name}
        for one in names
    ]
    assert kept[0] == kept[1]
    for name in kept[0]:
        if name.split("/")[0] in ("recon", "measurement", "panels", "operator"):
            assert names[0][name].read_bytes() == names[1][name].read_bytes(), name


def test_ten_deaths(world, tmp_path):
    survived(world, tmp_path, 10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("more", [(), ("--join",)], ids=["alone", "joined"])
def test_two_hundred_deaths(world, tmp_path, more):
    """A hundred by SIGKILL, a hundred by SIGTERM."""
    survived(world, tmp_path, 200, *more)
