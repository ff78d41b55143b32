"""Speed and memory against their limits, one line each.

    python scripts/benchmark.py operators                  # one core, as the limits are stated
    python scripts/benchmark.py operators --only inpainting --threads 2

Exit codes: 0 all limits met, 1 some missed (marked), 2 a mistake (one line).
"""

import argparse
import importlib
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

SUBJECTS = ("operators", "train", "solvers", "forms", "sample")  # each has its rows in scripts/benchmark_<subject>.py


def main() -> int:
    """Run the rows of one subject and print them as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose function's name holds this")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = [row for row in importlib.import_module(f"benchmark_{arguments.subject}").ROWS if arguments.only in row.__name__]
    if not chosen:
        print(f"benchmark: no row of {arguments.subject} is called {arguments.only!r}", file=sys.stderr)
        return 2
    met = True
    for measure in chosen:
        for row in measure():
            print(row, flush=True)
            met &= row.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
