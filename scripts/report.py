"""Write report.html (self-contained) of one or more result folders, and print their numbers.

    python scripts/report.py results/demo [results/other ...]

Exit codes: 0 done, 2 a folder that holds no results.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from solvers import report  # noqa: E402


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    table = {}
    for folder in parser.parse_args(argv).folders:
        missing = [n for n in ("summary.json", "records.jsonl", "config.yaml") if not (folder / n).is_file()]
        if missing:
            print(f"report.py: {folder}: holds no {', '.join(missing)}; give a folder that sample.py wrote", file=sys.stderr)
            return 2
        print(report.write(folder))
        table[str(folder)] = json.loads((folder / "summary.json").read_text())
    print(report.text(table))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
