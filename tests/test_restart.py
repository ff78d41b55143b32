"""sample.py as a process: killed at any moment, asked to stop, shared with another one, given very many images."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from tiny import records, restored

from data.seeding import Noise

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    where = tiny.world(tmp_path_factory.mktemp("world"))
    tiny.scans(where / "scans", 8)
    return where


def finish(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def started(arguments: list[str], folder: Path) -> subprocess.Popen:
    """The process, once it has taken the folder up: before that there is nothing to disturb but imports."""
    config = folder / "config.yaml"
    before = config.stat().st_mtime_ns if config.exists() else 0
    process = subprocess.Popen(arguments, **QUIET)
    while process.poll() is None and not (config.exists() and config.stat().st_mtime_ns != before):
        time.sleep(0.005)
    return process


def committed(folder: Path) -> int:
    lines = folder / "records.jsonl"
    return lines.read_bytes().count(b"\n") if lines.exists() else 0


@pytest.mark.slow  # tests/chaos kills ten times by default
def test_killed_ten_times_and_restarted(world: Path, tmp_path: Path):
    """SIGKILL at random moments, then a last run to the end: files as if nothing had happened, one record per image."""
    more = ["--batch-size", "2", "solver.params.steps=50"]
    whole = started(
        tiny.command(*tiny.words(world, tmp_path / "whole", *more, task="mask")), tmp_path / "whole"
    )
    began = time.monotonic()
    assert whole.wait() == 0
    work = time.monotonic() - began
    arguments = tiny.command(*tiny.words(world, tmp_path / "killed", *more, task="mask"))
    moments, after = 10, []
    for u in Noise(["kill"], "noise").uniform((1, moments))[0].tolist():
        process = started(arguments, tmp_path / "killed")
        time.sleep(work * u * 2 / moments)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after.append(committed(tmp_path / "killed"))
    finish(arguments)
    print(
        f"{moments} kills, each within {2 * work / moments:.1f} s of its start; images committed after each: {after}"
    )
    assert restored(tmp_path / "killed") == restored(tmp_path / "whole")
    first, second = records(tmp_path / "whole"), records(tmp_path / "killed")
    for record in (*first.values(), *second.values()):
        del record["seconds"]
    assert second == first and len(first) == 8


def test_asked_to_stop_it_exits_143_and_goes_on_later(world: Path, tmp_path: Path):
    """SIGTERM is how schedulers preempt; Lightning's own handler would only take note of it."""
    words = tiny.words(world, tmp_path / "stopped", "solver.params.steps=50", task="mask")
    process = started(tiny.command(*words), tmp_path / "stopped")
    while process.poll() is None and not committed(tmp_path / "stopped"):
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 143
    done = set(records(tmp_path / "stopped"))
    assert 0 < len(done) < 8
    kept = {name: (tmp_path / "stopped/recon" / f"{name}.png").stat().st_mtime_ns for name in done}
    finish(tiny.command(*words))
    assert len(records(tmp_path / "stopped")) == 8 and len(restored(tmp_path / "stopped")) == 8
    assert kept == {
        name: (tmp_path / "stopped/recon" / f"{name}.png").stat().st_mtime_ns for name in done
    }


def test_two_processes_give_a_single_process_its_images(world: Path, tmp_path: Path):
    more = ["--batch-size", "1", "--limit", "3", "solver.params.steps=20"]
    finish(tiny.command(*tiny.words(world, tmp_path / "one", *more, solver="daps")))
    two = tiny.command(*tiny.words(world, tmp_path / "two", *more, "--devices", "2", solver="daps"))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_PORT": str(20000 + os.getpid() % 20000),
    }
    done = subprocess.run(two, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert restored(tmp_path / "two") == restored(tmp_path / "one")
    assert sorted(records(tmp_path / "two")) == ["scan0", "scan1", "scan2"]


MEASURED = """
import re, sys, threading, time
import sample
most = [0]
def watch():
    while True:
        with open("/proc/self/status") as file:
            most[0] = max(most[0], int(re.search(r"RssAnon:\\s*([0-9]+)", file.read())[1]))
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
done = sample.main(sys.argv[1:])
print(done, most[0])
"""


def peak(world: Path, tmp_path: Path, rows: int, known: bool = False) -> float:
    """MiB that a run over so many rows of a manifest takes at its peak; known: whose images are all recorded already.

    Looked at every 5 ms. Of the process's own memory: how much of its libraries' files lies in memory is the system's affair.
    """
    lines = [f"{world}/scans/scan{i % 8}.png,r{i}" for i in range(rows)]
    (tmp_path / f"{rows}.csv").write_text("\n".join(["path,image_id", *lines]) + "\n")
    words = [
        "--task", f"{world}/sr.yaml", "--solver", "baseline", "--model", f"{world}/pixel",
        "--accelerator", "cpu", "--manifest", f"{tmp_path}/{rows}.csv",
        "--save-dir", f"{tmp_path}/{rows}",
    ]  # fmt: skip

    def run(*more: str) -> float:
        done, size = subprocess.run(
            [sys.executable, "-c", MEASURED, *words, *more],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
        ).stdout.splitlines()[-1].split()  # fmt: skip
        assert done == "0"
        return float(size) / 1024

    if known:
        run("--limit", "8")
        path = tmp_path / str(rows) / "records.jsonl"
        first = [json.loads(line) for line in path.read_text().splitlines()]
        made = (first[i % 8] | {"image_id": f"r{i}"} for i in range(rows))
        path.write_text("".join(json.dumps(record) + "\n" for record in made))
    size = run()
    assert len(records(tmp_path / str(rows))) == rows
    return size


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_flat_from_ten_to_ten_thousand_images(world: Path, tmp_path: Path):
    few, many = peak(world, tmp_path, 10), peak(world, tmp_path, 10_000)
    print(f"peak memory: {few:.0f} MiB for 10 images, {many:.0f} MiB for 10,000")
    # Rows, records and a line of the report: under 5 KiB an image. One panel kept in memory would be 1 MiB an image.
    assert many - few < 50


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_going_on_holds_little_of_each_image_that_is_done(world: Path, tmp_path: Path):
    """Its row as bytes, and numbers: less than 20 MB from 100 to 100,000 rows, with the page that lists them all."""
    few, many = peak(world, tmp_path, 100, True), peak(world, tmp_path, 100_000, True)
    more = (many - few) * 2**20 / 1e6
    print(f"peak memory of going on: {few:.0f} MiB for 100 images, {more:.1f} MB more for 100,000")
    assert more < 20
