"""Turn folders of images (PNG, JPEG, BMP, TIFF, DICOM, NIfTI, NRRD, ...) into a data set of square PNGs with manifests.

    python scripts/prepare_super_resolution_dataset.py --train-dir scans --split 0.8/0.1/0.1 --window -1000:400

writes <root>/{train,val,test}/*.png, <split>_images.txt (a relative path per line), <split>.csv (with checksums), report.json and
contact_sheet.png. 8 bits, or 16 where the input is deeper; without --window or --percentiles nothing is clipped. Gray stays gray
and colour stays colour, unless --grayscale. A subject is never in two splits. Called again after a kill, it goes on.
Exit codes: 0 all done, 1 some files could not be read (listed), 2 a mistake in what was asked (one line says which).
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from preparation_summary import next_command, print_summary

from data.files import Refusal, commit, locked
from data.manifest import COLUMNS
from data.prepare.convert import Done, run
from data.prepare.plan import SPLITS, STUDY, plan
from data.prepare.recipe import Recipe
from data.prepare.report import collect
from solvers.run import door
from solvers.run.command import Parser
from solvers.run.progress import Bar

WORKERS = 256  # at most


def pair(text: str) -> tuple[float, float]:
    """'low:high'."""
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW:HIGH, two numbers") from None


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("prepare_super_resolution_dataset.py", __doc__)
    add = parser.add_argument
    add("--train-dir", type=Path, required=True, metavar="DIR", help="searched with its subfolders")
    add("--val-dir", type=Path, metavar="DIR")
    add("--test-dir", type=Path, metavar="DIR")
    add(
        "--split",
        metavar="A/B[/C]",
        help="divide --train-dir into train/val/test by subject, or by file if no subject is known",
    )
    add(
        "--within-subject",
        action="store_true",
        help="--split divides each volume or series by blocks of slices, which leaks",
    )
    add(
        "--subject",
        metavar="REGEX",
        help=f"finds the subject in the relative path; or {STUDY}; default: PatientID",
    )
    add("--seed", type=int, default=0, help="of the division")
    add("--output-root", type=Path, default=Path("data/super_resolution"), metavar="DIR")
    add("--image-size", type=int, default=256, metavar="N")
    add("--grayscale", action="store_true", help="colour to luminance, one channel")
    add(
        "--window",
        type=pair,
        metavar="LOW:HIGH",
        help="stored values (CT: HU) that become black and white",
    )
    add(
        "--percentiles",
        type=pair,
        metavar="LOW:HIGH",
        help="the same by percentiles of each volume or series",
    )
    add(
        "--slice-axis",
        type=int,
        default=2,
        metavar="N",
        help="of NIfTI and NRRD volumes: 0, 1 or 2; pixels count as square",
    )
    add(
        "--min-foreground",
        type=float,
        default=0.0,
        metavar="PART",
        help="pass over slices with less above a tenth of white",
    )
    add("--bit-depth", type=int, choices=(8, 16), help="default: 8 for 8-bit files, else 16")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add(
        "--skip-existing",
        action="store_true",
        help="keep pictures that exist, even if made otherwise",
    )
    add(
        "--write-manifests",
        action="store_true",
        help="accepted for compatibility: manifests are always written",
    )
    add("--strict", action="store_true", help="stop at the first file that cannot be read")
    return parser.parse_args(argv)


def counted(outcomes: Iterator[Done], total: int) -> Iterator[Done]:
    """Pass the outcomes on and show how far they are."""
    with Bar(total, "files") as bar:
        for outcome in outcomes:
            yield outcome
            bar.update()


def prepare(options: argparse.Namespace) -> int:
    """Plan, work, report."""
    given = {"train": options.train_dir, "val": options.val_dir, "test": options.test_dir}
    folders = {split: folder for split, folder in given.items() if folder}
    try:
        shares = tuple(map(float, options.split.split("/"))) if options.split is not None else None
    except ValueError:
        raise Refusal(f"--split {options.split!r} is not of the form 0.8/0.1/0.1") from None
    check_output(options.output_root, list(folders.values()))
    if not 1 <= options.workers <= WORKERS:
        raise Refusal(f"--workers {options.workers} must be at least 1 and at most {WORKERS}")
    recipe = Recipe(
        options.image_size,
        options.grayscale,
        options.window,
        options.percentiles,
        options.slice_axis,
        options.min_foreground,
        options.bit_depth,
        options.skip_existing,
    )
    within = options.slice_axis if options.within_subject else None
    planned = plan(folders, shares, options.subject, options.seed, within)
    with locked(options.output_root, "wait for it, or choose another folder", "preparation"):
        outcomes = run(
            planned,
            recipe,
            options.output_root,
            min(options.workers, len(planned.sources)),
            options.strict,
        )
        done = counted(outcomes, len(planned.sources))
        report = collect(done, planned.splits, options.output_root, planned.within)
        for split, share in zip(SPLITS, shares or ()):
            if share and split not in planned.splits:
                empty_manifests(options.output_root, split)
    print_summary(planned, recipe, report)
    if report["skipped"]:
        print(f"  all in {options.output_root / 'report.json'}")
    print(f"next: {next_command(options.output_root, planned.splits)}")
    return 1 if report["skipped"] else 0


def empty_manifests(root: Path, split: str) -> None:
    """Of a split that was asked for and got nothing: training does without, and sample.py says so."""
    commit(root / f"{split}.csv", ",".join(COLUMNS) + "\n")
    commit(root / f"{split}_images.txt", "")


def check_output(root: Path, folders: list[Path]) -> None:
    """No picture may be written among those that are read: it could take the place of one, or be taken in the next time."""
    for folder in folders:
        for written in (root, *(root / split for split in SPLITS)):
            if written.resolve().is_relative_to(folder.resolve()):
                raise Refusal(
                    f"--output-root {root} writes into {folder}, whose images it would take in the next time"
                )
            if written != root and folder.resolve().is_relative_to(written.resolve()):
                raise Refusal(
                    f"{folder} lies in {written}, where --output-root {root} writes; choose another one"
                )


def main(argv: list[str]) -> int:
    return door.run("prepare", argv, lambda: prepare(parse(argv)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
