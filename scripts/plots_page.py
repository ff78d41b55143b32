"""Write docs/plots.md and docs/plots/*.svg: PSNR against seconds of docs/quality.md, and the calibration card as a plot.

    python scripts/plots_page.py
    python scripts/plots_page.py --docs /tmp/pages

Exit codes: 0 done, 2 a mistake (one line).
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.files import Refusal
from solvers.run import door
from solvers.run.command import HOME, Parser
from solvers.run.scatter import Point, scatter

SIZE = (760, 430)
INTRO = """# Quality in plots

Written by `scripts/plots_page.py` from the tables of [quality](quality.md); do not edit by hand. PSNR is that of the mean of the
draws where there are several, of the draw where there is one, over four held-out slices (one of the solvers that take minutes).
Seconds are of one draw, of a process that shared two cores with others; the axis is logarithmic. Up and to the left is better.
"""


def main(argv: Sequence[str]) -> int:
    parser = Parser("plots_page.py", __doc__)
    parser.add_argument(
        "--docs",
        type=Path,
        default=HOME / "docs",
        metavar="DIR",
        help="holds quality.md and calibration.md",
    )
    return door.run(parser.prog, argv, lambda: write(parser.parse_args(argv)))


def write(options: argparse.Namespace) -> None:
    folder, page = options.docs / "plots", [INTRO]
    folder.mkdir(exist_ok=True)
    for title, rows in tables(options.docs / "quality.md"):
        task, _, noise = title.partition(", ")
        points = [Point(seconds(row), quality(row), row["solver"], row["prior"]) for row in rows]
        name = f"{task}-{noise.split()[-1]}.svg"
        (folder / name).write_text(scatter(points, "seconds a draw", "PSNR dB", SIZE))
        page.append(f"## {title}\n\n![PSNR against seconds, {title}](plots/{name})\n")
    (options.docs / "plots.md").write_text("\n".join(page))
    cards = [
        row
        for _, rows in tables(options.docs / "calibration.md")
        for row in rows
        if row.get("prior") == "correlated"
    ]
    spread, held = "variance ratio", "90 % coverage"
    points = [
        Point(float(row[spread]), float(row[held].rstrip("%")), row["solver"], row["called"])
        for row in cards
    ]
    if not points:
        raise Refusal(f"{options.docs}/calibration.md: holds no table of the correlated prior")
    (folder / "calibration.svg").write_text(
        scatter(
            points,
            "variance of the draws over that of the posterior",
            "90 % interval holds, %",
            SIZE,
            (1, 90),
        )
    )
    print(options.docs / "plots.md")


def tables(path: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Each table of a page with the title above it, its rows by their headings."""
    title, head, rows = "", [], []  # type: tuple[str, list[str], list[dict[str, str]]]
    for line in [*path.read_text().splitlines(), ""]:
        if line.startswith("#"):
            title = line.lstrip("# ")
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if not line.startswith("|"):
            if rows:
                yield title, rows
            head, rows = [], []
        elif not head:
            head = [f"mean {cell}" if cell in cells[:i] else cell for i, cell in enumerate(cells)]
        elif not re.fullmatch(r"[\s|:-]+", line):
            rows.append(dict(zip(head, cells)))


def quality(row: dict[str, str]) -> float:
    """PSNR of the mean of the draws, of a single one its own."""
    mean = row["mean: PSNR dB"]
    return float(row["draw: PSNR dB"] if mean == "–" else mean)


def seconds(row: dict[str, str]) -> float:
    return max(float(row["s a draw"]), 0.1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
