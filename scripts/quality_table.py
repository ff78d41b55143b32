"""How good the shipped priors are: one Markdown table of every prior, task and solver, out of folders that sample.py wrote.

    python scripts/quality_table.py --commands                   # the runs, one command a line; the `# long` ones take hours
    python scripts/quality_table.py --commands | grep demo-pixel | grep -v '# long' | sh
    python scripts/quality_table.py results/quality --output docs/quality.md
    python scripts/quality_table.py results/quality --output docs/quality.md --keep demo-latent   # its rows of the page before

A run that was stopped goes on where it was; whatever is there makes the table. A cell run alone (one --task, one --solver)
belongs in the grid's folder for it, results/quality/PRIOR/TASK-SOLVER.
Exit codes: 0 done, 2 a mistake (one line).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quality_runs import CLASSICAL, LONG, MORE, SHORT, TASKS, commands

from data.bounded_yaml import read_yaml
from data.files import Refusal, json_lines
from solvers.run import door
from solvers.run.command import Parser

HEAD = """# Quality of the shipped priors

Held-out scans of subjects that the priors never saw, each restored from a simulated measurement. *draw* is one posterior draw,
*mean* the posterior mean that K draws tell ([uncertainty](uncertainty.md)); *gain* is the PSNR of the mean (of the draw where K
is 1) above the classical baseline: bicubic, harmonic fill, the blurred image, filtered backprojection, zero-filled. The residual
is of one draw: 1 means that the data are met to the noise level. *90 % holds* is the share of pixels whose truth lies in the 90 %
interval of the draws. Seconds are of one draw (of a process that shared two cores with others); *calls* are network evaluations +
backward passes of one draw.

`python scripts/quality_table.py results/quality --output docs/quality.md` wrote this page (its `--commands` lists all runs that
belong in it) after

"""
COLUMNS = (
    "prior", "solver", "n", "K", "draw: PSNR dB", "SSIM", "mean: PSNR dB", "SSIM", "baseline dB", "gain dB", "residual",
    "90 % holds", "s a draw", "calls",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One folder of results. `task`, `solver`: names of their files; `sigma_y`: as the run had it."""

    prior: str
    task: str
    solver: str
    sigma_y: Any
    draws: int
    command: str  # the call of sample.py that made it, or last went on with it
    records: list[dict[str, Any]]


def find(folder: Path) -> list[Cell]:
    """Every folder below that holds records. Raises Refusal if there is none."""
    cells = []
    for path in sorted(folder.rglob("records.jsonl")):
        config = read_yaml((path.parent / "config.yaml").read_text(), path.parent / "config.yaml")
        records = list(json_lines(path))
        good = [r for r in records if r["status"] == "ok" and "psnr" in r]
        task, _, solver = config.get("cell", path.parent.name).partition("-")
        sigma_y = config.get("likelihood", {}).get("params", {}).get("sigma_y")
        if good:
            cells.append(
                Cell(
                    config["prior"]["model"],
                    task,
                    solver,
                    sigma_y,
                    config["run"]["draws"],
                    config.get("command", f"(unknown: {path.parent})"),
                    good,
                )
            )
    if not cells:
        raise Refusal(
            f"{folder}: holds no records with a PSNR; give a folder that sample.py wrote into"
        )
    return cells


def shown(cell: Cell) -> str:
    """The prior's name, "none" for classical methods."""
    return "none" if cell.solver in CLASSICAL else Path(cell.prior).name


def row(cell: Cell) -> list[str]:
    def mean(key: str, digits: int) -> str:
        values = [r[key] for r in cell.records if r.get(key) is not None]
        return f"{fmean(values):.{digits}f}" if values else "–"

    of_draw = (
        (mean("psnr_draw", 2), mean("ssim_draw", 3))
        if cell.draws > 1
        else (mean("psnr", 2), mean("ssim", 3))
    )
    of_mean = (mean("psnr", 2), mean("ssim", 3)) if cell.draws > 1 else ("–", "–")
    gains = [
        r["psnr"] - r["baseline_psnr"] for r in cell.records if r.get("baseline_psnr") is not None
    ]
    gain = f"{fmean(gains):+.2f}" if gains else "–"
    seconds = f"{fmean(r['seconds'] for r in cell.records) / cell.draws:.1f}"
    calls = f"{fmean(r['nfe'] for r in cell.records):.0f} + {fmean(r['vjps'] for r in cell.records):.0f}"
    count = (str(len(cell.records)), str(cell.draws))
    return [
        shown(cell),
        cell.solver,
        *count,
        *of_draw,
        *of_mean,
        mean("baseline_psnr", 2),
        gain,
        mean("residual", 3),
        mean("coverage", 3),
        seconds,
        calls,
    ]


def lacking(made: set[tuple[str, str, str]]) -> list[str]:
    """What belongs in the page and is not among these priors, solvers and tasks."""
    groups = [
        (prior, solvers, TASKS)
        for plan in (SHORT, MORE)
        for prior, group in plan.items()
        for solvers, *_ in group
    ]
    groups += [(prior, solvers, tasks) for prior, group in LONG.items() for solvers, tasks in group]
    wanted = {
        (prior, solver, task): None
        for prior, solvers, tasks in groups
        for solver in solvers
        for task in tasks
    }
    return [" ".join(run) for run in wanted if run not in made]


def table(cells: Sequence[Cell], kept: "Page | None" = None) -> str:
    """One section a task and noise level, the best solver of each prior first. kept: rows of a page before."""
    kept = kept or Page([], {})
    calls = dict.fromkeys([*(c.command for c in cells), *kept.commands])
    parts = [HEAD, *(f"    {line}\n" for line in calls)]
    made = {(shown(cell), cell.solver, cell.task) for cell in cells}
    if absent := lacking(made | kept.runs):
        parts.append(f"\nNot run: {', '.join(absent)}.\n")
    sections: dict[str, list[list[str]]] = {}
    for cell in cells:
        sections.setdefault(f"{cell.task}, sigma_y {cell.sigma_y}", []).append(row(cell))
    for title, rows in kept.rows.items():
        new = sections.setdefault(title, [])
        new += [one for one in rows if one[:2] not in [other[:2] for other in new]]
    for title, rows in sorted(sections.items()):
        rows.sort(key=lambda one: (one[0], -float(one[4] if one[6] == "–" else one[6])))
        lines = [COLUMNS, ["---"] * 2 + ["--:"] * (len(COLUMNS) - 2), *rows]
        parts.append(f"\n## {title}\n\n" + "".join(f"| {' | '.join(r)} |\n" for r in lines))
    return "".join(parts)


@dataclass(frozen=True)
class Page:
    """What a page before says of some priors: the calls that made it, and its rows by their titles."""

    commands: list[str]
    rows: dict[str, list[list[str]]]

    @property
    def runs(self) -> set[tuple[str, str, str]]:
        """Priors, solvers and tasks; a title is a task and its noise."""
        return {
            (row[0], row[1], title.partition(",")[0])
            for title, rows in self.rows.items()
            for row in rows
        }


def read(page: Path, priors: Sequence[str]) -> Page:
    """Of a page that this script wrote, what it says of these priors."""
    found, title = Page([], {}), ""
    for line in page.read_text().splitlines() if priors else ():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            title = line[3:]
        elif line.startswith("|") and cells[0] in priors:
            found.rows.setdefault(title, []).append(cells)
        elif any(f"--model {prior} " in line for prior in priors):
            found.commands.append(line.strip())
    return found


def main(argv: Sequence[str]) -> int:
    parser = Parser("quality_table.py", __doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results/quality"))
    parser.add_argument("--commands", action="store_true", help="print the runs instead")
    parser.add_argument("--output", type=Path, metavar="FILE.md")
    parser.add_argument(
        "--keep", nargs="+", default=[], metavar="PRIOR", help="rows of --output that stay"
    )

    def work() -> None:
        options = parser.parse_args(argv)
        if options.keep and not options.output:
            raise Refusal("--keep takes rows out of the page that --output names")
        kept = read(options.output, options.keep) if options.keep else None
        found = [*commands(), ""] if options.commands else [table(find(options.folder), kept)]
        text = "\n".join(found)
        if options.output:
            options.output.write_text(text)
        else:
            print(text, end="")

    return door.run(parser.prog, argv, work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
