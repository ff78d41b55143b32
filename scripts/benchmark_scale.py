"""What many images cost beside the network: `python scripts/benchmark.py scale`. Times are of the processor.

Records, manifests and queues are as long as a hospital's archive; files behind them are few, and on this machine's disk.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import benchmark_scale_runs
from benchmark_rows import Row

from data import sources
from data.manifest import Row as ManifestRow
from solvers.run.batches import Pending
from solvers.run.committed import RECORDS, in_order, stamp, standing
from solvers.run.heart import Heart
from solvers.run.results import Results
from solvers.run.shares import Shares, key_of

MANY = 1_000_000
TAKEN = 20_000  # batches of a queue
HELD = 100, 100_000  # rows that are compared
ROOT = Path(__file__).resolve().parents[1]


def name(number: int) -> str:
    return f"slice{number:07d}"


def written(folder: Path, count: int) -> Path:
    """Records of so many images, in the order in which many processes would have committed them, and one image's file."""
    source = folder / "scan.png"
    source.write_bytes(b"a scan")
    (folder / "recon").mkdir()
    (folder / "recon/a.png").write_bytes(b"abc")
    facts = {
        "residual": 1.0123456789, "psnr": 31.23456789, "ssim": 0.912345678, "nmse": 0.0123456, "baseline_psnr": 28.123456,
        "nfe": 100, "vjps": 0, "seconds": 1.2345, "seed": 0, "notes": [], "status": "ok", "input_sha256": "a" * 64,
        "input_stamp": stamp(ManifestRow(str(source), "")), "row": {"slice": None, "window": None}, "contract": [0.0, 65535.0],
        "files": {"recon": "recon/a.png"}, "written": {"recon/a.png": [3, "b" * 64]}, "config": "0123456789abcdef",
    }  # fmt: skip
    rest = json.dumps(facts)[1:]
    with (folder / RECORDS).open("w") as file:
        for number in range(count):
            file.write(f'{{"image_id": "{name(number * 7919 % count)}", {rest}\n')
    return source


def records() -> Iterator[Row]:
    """Records of a million images: put in order when a run ends, and looked at when it is started again."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        source = written(folder, MANY)
        begun = time.process_time()
        in_order(folder / RECORDS, map(name, range(MANY)))
        yield Row(
            f"merging {MANY:,} records in the manifest's order",
            time.process_time() - begun,
            30,
            "s",
        )
        rows = {name(number): ManifestRow(str(source), name(number)) for number in range(MANY)}
        begun = time.process_time()
        found = standing(folder, rows)
        found.keep()
        took = time.process_time() - begun
        assert len(found.kept) == MANY
        yield Row(f"resuming on {MANY:,} records", took, 30, "s")


def first_image() -> Iterator[Row]:
    """A manifest of a million rows, read and cut into batches: what comes before the first image of a new folder."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "rows.csv"
        with path.open("w") as file:
            file.write("path,image_id,subject,split\n")
            for number in range(MANY):
                file.write(
                    f"scans/{number // 100:05d}/{name(number)}.png,{name(number)},p{number // 100},test\n"
                )
        begun = time.process_time()
        rows = sources.find(listing=path)
        pending = Pending(
            rows, 1, Results(Path(made), {}, {}).committed, Shares(Heart(Path(made))).take
        )
        assert next(iter(pending)) == 0 and len(pending) == MANY
        what = f"from a manifest of {MANY:,} rows to the first batch"
        yield Row(what, time.process_time() - begun, 10, "s")


def queue() -> Iterator[Row]:
    """One process takes and finishes batches; the lock is what bounds how many processes one queue serves."""
    with tempfile.TemporaryDirectory() as made:
        shares, count = Shares(Heart(Path(made))), TAKEN
        keys = [key_of([name(number)]) for number in range(count)]
        begun = time.process_time()
        for number in islice(shares.take(keys), count):
            shares.finished(keys[number])
        yield Row(
            "taking and finishing a batch", 1000 * (time.process_time() - begun) / count, 1, "ms"
        )


HOLDING = """
import sys
sys.path.insert(0, {root!r})
from data import sources
from data.rows import ById
pages = lambda: int(open("/proc/self/statm").read().split()[1])
before = pages()
rows = ById(sources.find(listing=sys.argv[1]))
assert "{last}" in rows
print((pages() - before) * 4096 / 1e6)
"""


def memory() -> Iterator[Row]:
    """What the rows themselves take, from 100 to 100,000 of them, found and looked up by their ids."""
    peaks = []
    with tempfile.TemporaryDirectory() as made:
        for count in HELD:
            path = Path(made) / f"{count}.csv"
            path.write_text(
                "path,image_id\n"
                + "".join(f"scans/{name(n)}.png,{name(n)}\n" for n in range(count))
            )
            code = HOLDING.format(root=str(ROOT), last=name(count - 1))
            words = [sys.executable, "-c", code, str(path)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout))
    what = f"memory of {HELD[1]:,} rows against {HELD[0]}"
    yield Row(what, peaks[1] - peaks[0], 20, "MB")


ROWS = (queue, memory, first_image, records, *benchmark_scale_runs.ROWS)
