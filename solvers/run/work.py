"""What sample.py's words ask for, found and checked on the first image, before any network runs."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data import manifest, series, sources
from data.files import Refusal
from data.manifest import Row
from data.rows import ById, Rows
from data.series import Passed, Whole
from ldm import catalogue, resize
from ldm import config as configuration
from solvers.run import scanned, whole
from solvers.run.cells import Cell, build, run_of
from solvers.run.module import Reconstruction
from solvers.run.outputs import FOLDERS
from solvers.run.reading import reader
from solvers.run.scans import Scan
from solvers.run.whole import Unit


@dataclass
class Work:
    """A restoration that has been checked: its cells, what they are to restore, and how files become scans."""

    cells: Sequence[Cell]
    folders: Mapping[str, Path]  # of results, by cell
    everything: Mapping[str, Unit]  # that there is, by image id
    rows: Sequence[Unit]  # that are restored now
    load: Callable[[Unit], Scan]
    first: Scan
    module: Reconstruction
    remarks: Sequence[str]  # for the terminal

    @property
    def volumes(self) -> int:
        found = () if isinstance(self.rows, Rows) else self.rows  # those are images
        return sum(isinstance(row, Whole) for row in found)


def checked(
    options: argparse.Namespace,
    configs: Mapping[str, configuration.Node],
    say: Callable[[str], None],
) -> Work:
    """What is asked for, once the first image has shown that it can be done. say: tells the user a line at once."""
    prior = catalogue.prior(next(iter(configs.values())), options.model, options.model_config)
    cells = [build(name, config, options) for name, config in configs.items()]
    root = options.save_dir / (options.split or "")
    folders = {name: root / name if len(cells) > 1 else root for name in configs}
    slicewise = options.slicewise or scanned.reads(cells)
    found, apart = whole.units(
        all_rows(options, cells, folders.values(), say), cells, prior, slicewise
    )
    everything: Mapping[str, Unit] = (
        ById(found) if isinstance(found, Rows) else {unit.image_id: unit for unit in found}
    )
    rows = found[options.start :][: options.limit]
    if not rows:
        raise Refusal(f"--start {options.start} leaves none of {len(found)} images")

    operators = [cell.operator for cell in cells]
    load, notes, first = reader(
        prior, operators, rows, options.measurements, scanned.source(cells, options), options.window
    )
    leak = leaks(options, rows)
    notes = [*notes, *filter(None, [leak])]
    module = Reconstruction(prior, cells, run_of(options, cells), resize.fit, notes)
    module.check(first)
    remarks = dict.fromkeys(filter(None, [leak, apart, *(cell.note(prior) for cell in cells)]))
    return Work(cells, folders, everything, rows, load, first, module, list(remarks))


def all_rows(
    options: argparse.Namespace,
    cells: Sequence[Cell],
    folders: Iterable[Path],
    say: Callable[[str], None],
) -> Sequence[Row]:
    """What there is to restore; of the prior itself, one row for each seed. folders: of results."""
    if cells[0].operator is None:
        seeds = dict.fromkeys(options.seeds or range(options.num_samples))
        return Rows(Row("", f"{seed:06d}") for seed in seeds)
    passed: list[Passed] = []
    written = [folder / kind for folder in folders for kind in FOLDERS]
    rows = sources.find(
        options.data_root, options.split, options.manifest, written, passed, scanned.kind(cells)
    )
    for line in series.listed(
        one for one in passed if not one.path.is_relative_to(options.save_dir)
    ):
        say(f"note: {line}")
    chosen = options.slice_range or options.every
    return series.chosen(rows, options.slice_range, options.every or 1) if chosen else rows


def leaks(options: argparse.Namespace, rows: Sequence[Unit]) -> str:
    """What to know of images whose subjects are in other splits too, as their manifest says; "" of others."""
    marks = {row.leak for row in rows} - {""}
    table = Path(options.data_root or "", f"{options.split}.csv")  # of a folder of pictures
    if options.data_root and options.split and table.is_file():
        marks |= {manifest.leak(table)} - {""}
    return (
        f"A LEAK: other splits hold slices of these subjects ({', '.join(sorted(marks))} split)"
        if marks
        else ""
    )
