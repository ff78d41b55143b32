"""Several processes on one folder that know nothing of each other but its files: sample.py --join."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import tiny
from tiny import records, restored

import sample
from data import files
from solvers.run import restoration
from solvers.run.heart import workers
from solvers.run.process import Bounds
from solvers.run.shares import joined

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
MORE = ("--batch-size", "1", "solver.params.steps=12")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    where = tiny.world(tmp_path_factory.mktemp("world"))
    tiny.scans(where / "scans", 6)
    return where


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> Path:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    assert sample.main(tiny.words(world, folder, *MORE, task="mask")) == 0
    return folder


def same(one: Path, other: Path) -> None:
    first, second = records(one), records(other)
    for record in (*first.values(), *second.values()):
        del record["seconds"]
    assert list(first) == list(second) and first == second and restored(one) == restored(other)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    assert summaries[0]["images"] == summaries[1]["images"] == len(first)


def test_one_that_joins_nobody_does_it_all(world, alone, tmp_path):
    assert sample.main(tiny.words(world, tmp_path / "out", *MORE, "--join", task="mask")) == 0
    same(alone, tmp_path / "out")
    assert [facts["ended"] for facts in workers(tmp_path / "out")] == ["finished"]


@pytest.mark.parametrize(
    "page", ["report.html", "mask-codps/report.html", "mask-daps/summary.json"]
)
def test_one_that_was_killed_before_its_last_page_concludes_later(world, tmp_path, page):
    """Of several solvers too, over whose pages there is another."""
    both = ["--solver", f"{world}/daps.yaml", f"{world}/codps.yaml", "--limit", "2", "--join"]
    words = tiny.words(world, tmp_path / "out", *both, task="mask")
    assert sample.main(words) == 0
    (tmp_path / "out" / page).unlink()
    assert sample.main(words) == 0 and (tmp_path / "out" / page).exists()


def test_reading_ahead_and_writing_behind_change_nothing(world, alone, tmp_path):
    assert (
        sample.main(tiny.words(world, tmp_path / "out", *MORE, "--workers", "2", task="mask")) == 0
    )
    same(alone, tmp_path / "out")


def test_bounds_end_a_run_that_the_same_command_goes_on_with(
    world, alone, tmp_path, capsys, monkeypatch
):
    looks = count()  # a second passes between two looks at the clock
    monkeypatch.setattr(restoration, "Bounds", partial(Bounds, clock=lambda: next(looks)))
    words = tiny.words(world, tmp_path / "out", *MORE, task="mask")
    assert sample.main([*words, "--max-images", "2"]) == 0
    assert (
        "--max-images 2 is reached; the same command goes on from here" in capsys.readouterr().out
    )
    assert len(records(tmp_path / "out")) == 2
    assert sample.main([*words, "--max-hours", "0.0005"]) == 0  # 1.8 s
    assert 2 <= len(records(tmp_path / "out")) < 6
    assert sample.main(words) == 0
    same(alone, tmp_path / "out")


def test_a_run_alone_and_runs_together_keep_each_other_out(world, tmp_path, capsys):
    words, out = tiny.words(world, tmp_path / "out", *MORE, task="mask"), tmp_path / "out"
    with_others = "import sys; from pathlib import Path; from solvers.run.shares import joined\n"
    with_others += (
        "with joined(Path(sys.argv[1]), lambda: print('first', flush=True), lambda: 0): input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", with_others, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "first\n"
    try:
        assert sample.main(words) == 2 and "another run is writing here" in capsys.readouterr().err
        with joined(out, lambda: pytest.fail("it is not the first"), lambda: None) as hold:
            assert not hold.alone(0)
    finally:
        other.communicate("\n")


@pytest.mark.slow
def test_one_is_killed_and_the_other_finishes_its_images(world, alone, tmp_path):
    """Under another machine's name, so that only the lease tells. Nothing is lost, doubled or stale."""
    out = tmp_path / "out"
    command = tiny.command(*tiny.words(world, out, *MORE, "--join", "--lease", "5", task="mask"))
    first = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True)
    while first.poll() is None and not any(facts.get("step") for facts in workers(out)):
        time.sleep(0.05)
    second = subprocess.Popen(command, env=ENVIRONMENT)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    for path in (out / ".run/workers").glob(
        "*.json"
    ):  # a process of this machine is known to be gone at once
        facts = json.loads(path.read_text())
        if facts["pid"] == first.pid:
            name = f"elsewhere-{facts['worker'].split('-', 1)[1]}"
            log = out / ".run/shares.log"
            log.write_text(log.read_text().replace(facts["worker"], name))
            path.rename(path.with_name(f"{name}.json"))
    assert second.wait(timeout=500) == 0
    same(alone, out)


@pytest.mark.slow
def test_three_at_once(world, alone, tmp_path):
    command = tiny.command(*tiny.words(world, tmp_path / "out", *MORE, "--join", task="mask"))
    every = [subprocess.Popen(command, env=ENVIRONMENT) for _ in range(3)]
    assert [process.wait(timeout=500) for process in every] == [0, 0, 0]
    same(alone, tmp_path / "out")


def test_a_file_system_without_rename_or_locks_is_one_line(world, tmp_path, monkeypatch, capsys):
    """As some network file systems are: nothing is half written, and the line says what is missing."""
    words = tiny.words(world, tmp_path / "out", *MORE, task="mask")

    def refused(number: int):
        def call(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", refused(errno.EPERM))
        assert sample.main(words) == 2
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("sample.py:")
    ]
    assert "cannot be written (Operation not permitted)" in line and not list(
        (tmp_path / "out").glob("recon/*")
    )
    with monkeypatch.context() as patch:
        patch.setattr(files.fcntl, "lockf", refused(errno.ENOLCK))
        assert sample.main([*words, "--join"]) == 2
    assert "No locks available" in capsys.readouterr().err
