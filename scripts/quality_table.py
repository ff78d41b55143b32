"""How good the shipped priors are: one Markdown table of every prior, task and solver, out of folders that sample.py wrote.

    python scripts/quality_table.py --commands                   # the runs, one command a line; the `# long` ones take hours
    python scripts/quality_table.py --commands | grep demo-patch | grep -v '# long' | sh
    python scripts/quality_table.py results/quality --output docs/quality.md

A run that was stopped goes on where it was; whatever is there makes the table. A cell run alone (one --task, one --solver)
belongs in the grid's folder for it, results/quality/PRIOR/TASK-SOLVER.
Exit codes: 0 done, 2 a mistake (one line).
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.bounded_yaml import read_yaml
from data.files import Refusal, json_lines
from solvers.run import door
from solvers.run.command import Parser

TASKS = (
    "super_resolution",
    "inpainting_random",
    "inpainting_box",
    "gaussian_deblur",
    "ct_parallel_20",
    "mri_x4",
)
CLASSICAL = ("baseline", "tv")
SHORT = {
    "demo-latent": [(("resample_fast",), 50, 4)],
    "demo-patch": [(("daps",), 20, 4)],
}  # prior -> solvers, steps, slices
MORE = {  # at most 100 network calls a draw: a night on two cores, where SHORT is an hour
    "demo-latent": [(("daps",), 20, 4), (("resample",), 50, 4)],
    "demo-patch": [
        (("codps", "codps_plus"), 50, 4),
        (("padis",), 30, 4),
        (("padis_pc", "resample"), 30, 4),
    ],
}
MIXED = {
    "demo-patch": " --precision bf16-mixed"
}  # 1.75 times as fast; the time of latent priors is their decoder's
LONG = {  # prior -> solvers and tasks: minutes to hours a draw, so one slice, one draw
    "demo-latent": [
        (("psld",), TASKS),
        (("resample_stages", "psld_published", "dps", "daps_hmc", "resample_published"), TASKS[:1]),
    ],
    "demo-patch": [
        (("dps",), TASKS),
        (("padis_langevin", "daps_langevin", "padis_dps", "padis_dps_published"), TASKS[:1]),
    ],
}
HEAD = """# Quality of the shipped priors

Held-out scans of subjects that the priors never saw, each restored from a simulated measurement. *draw* is one posterior draw,
*mean* the mean of K draws; *gain* is the PSNR of the mean (of the draw where K is 1) above the classical baseline: bicubic,
harmonic fill, the blurred image, filtered backprojection, zero-filled. The residual is of one draw: 1 means that the data are
met to the noise level. *90 % holds* is the share of pixels whose truth lies in the 90 % interval of the draws. Seconds are of
one draw (of a process that shared two cores with others); *calls* are network evaluations + backward passes of one draw.

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


def commands() -> Iterator[str]:
    """One call of sample.py a line; the noisier super-resolution has folders of its own."""
    noisy = "likelihood.params.sigma_y=0.05"
    for groups, long in ((SHORT, ""), (MORE, "  # long")):
        for prior, (solvers, steps, slices) in (
            (prior, one) for prior, group in groups.items() for one in group
        ):
            more = f"--limit {slices} --num-samples 4 --steps {steps}{MIXED.get(prior, '')}"
            yield call(prior, TASKS, solvers, "", more) + long
            yield call(prior, TASKS[:1], solvers, "/noisier", f"{more} {noisy}") + long
    yield call("demo-patch", TASKS, CLASSICAL, "/classical", "--limit 4")
    yield call("demo-patch", TASKS[:1], CLASSICAL, "/classical/noisier", f"--limit 4 {noisy}")
    for prior, groups in LONG.items():
        for solvers, tasks in groups:
            yield (
                call(prior, tasks, solvers, "/long", f"--limit 1{MIXED.get(prior, '')}")
                + "  # long"
            )


def call(prior: str, tasks: Sequence[str], solvers: Sequence[str], folder: str, more: str) -> str:
    place = f"results/quality/{prior}{folder}" + (
        "" if len(tasks) * len(solvers) > 1 else f"/{tasks[0]}-{solvers[0]}"
    )
    grid = f"--task {' '.join(tasks)} --solver {' '.join(solvers)}"
    return f"python sample.py --manifest models/demo-data/test.csv --model {prior} {grid} {more} --save-dir {place}"


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


def lacking(cells: Sequence[Cell]) -> list[str]:
    """What belongs in the page and was not run."""
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
    return [
        " ".join(run) for run in wanted if run not in {(shown(c), c.solver, c.task) for c in cells}
    ]


def table(cells: Sequence[Cell]) -> str:
    """One section a task and noise level, the best solver of each prior first."""
    parts = [HEAD, *(f"    {line}\n" for line in dict.fromkeys(c.command for c in cells))]
    if absent := lacking(cells):
        parts.append(f"\nNot run: {', '.join(absent)}.\n")
    for task, sigma_y in sorted({(c.task, c.sigma_y) for c in cells}, key=str):
        chosen = [c for c in cells if (c.task, c.sigma_y) == (task, sigma_y)]
        chosen.sort(key=lambda c: (shown(c), -fmean(r["psnr"] for r in c.records)))
        rows = [COLUMNS, ["---"] * 2 + ["--:"] * (len(COLUMNS) - 2), *map(row, chosen)]
        parts.append(
            f"\n## {task}, sigma_y {sigma_y}\n\n"
            + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
        )
    return "".join(parts)


def main(argv: Sequence[str]) -> int:
    parser = Parser("quality_table.py", __doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results/quality"))
    parser.add_argument("--commands", action="store_true", help="print the runs instead")
    parser.add_argument("--output", type=Path, metavar="FILE.md")

    def work() -> None:
        options = parser.parse_args(argv)
        text = "\n".join([*commands(), ""]) if options.commands else table(find(options.folder))
        if options.output:
            options.output.write_text(text)
        else:
            print(text, end="")

    return door.run(parser.prog, argv, work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
