"""How long one waits for help, a list and a mistake: processor seconds of a whole call of each door.

`python scripts/benchmark.py doors`
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmark_rows import Row

HOME = Path(__file__).resolve().parents[1]
LIMIT = 1.5  # seconds
CALLS = (
    ("main.py", "--help"),
    ("sample.py", "--help"),
    ("sample.py", "--list", "operators"),
    ("main.py", "--base", "configs/pixel-diffusion/demo.yaml", "--max-stesp", "3"),
    ("sample.py", "--task", "super_resolutoin"),
)


def waiting() -> Iterator[Row]:
    """The least of three calls each."""
    for call in CALLS:
        yield Row(" ".join(call), min(spent(call) for _ in range(3)), LIMIT, "s")


def spent(call: tuple[str, ...]) -> float:
    """Processor seconds of a process, its own and the system's for it."""
    before = os.times()
    subprocess.run([sys.executable, *call], cwd=HOME, capture_output=True)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


ROWS = [waiting]
