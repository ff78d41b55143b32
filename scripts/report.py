"""Write report.html (self-contained) of one or more result folders, and print their numbers.

    python scripts/report.py results/demo [results/other ...]

Exit codes: 0 done, 2 a folder that holds no results.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.files import Refusal
from solvers.run import door, report
from solvers.run.command import Parser

WANTED = ("summary.json", "records.jsonl", "config.yaml")


def main(argv: Sequence[str]) -> int:
    parser = Parser("report.py", __doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    return door.run(parser.prog, argv, lambda: write(parser.parse_args(argv).folders))


def write(folders: Sequence[Path]) -> None:
    for folder in folders:
        missing = [name for name in WANTED if not (folder / name).is_file()]
        if missing:
            raise Refusal(f"{folder}: holds no {', '.join(missing)}; give a folder that sample.py wrote")
        try:
            print(report.write(folder))
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # of files that anybody may have written
            raise Refusal(f"{folder}: what it holds was not written by sample.py ({error!r})") from error
    print(report.text({str(folder): json.loads((folder / "summary.json").read_text()) for folder in folders}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
