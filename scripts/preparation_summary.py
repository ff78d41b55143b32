"""What the preparation of a data set has to say when it is done: what was made, what was decided unasked, what to do next."""

import shlex
from pathlib import Path
from typing import Any

from data.files import printable
from data.prepare.plan import SPLITS, STUDY, Plan
from data.prepare.recipe import Recipe

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


LISTED = 10  # of the files that could not be read


MANIFESTS = {"train": "train", "validation": "val"}  # of a data file -> split


WAYS_OUT = {
    "train": "--train-dir or --split gives it pictures",
    "val": "training keeps its last weights; --val-dir, --split and more subjects, or --within-subject give it pictures",
    "test": "--test-dir, --split and more subjects, or --within-subject give it pictures",
}


def print_summary(planned: Plan, recipe: Recipe, report: dict[str, Any]) -> None:
    """What was made, what was decided without being asked, and what could not be read."""
    for split in planned.splits:
        part = report[split]
        print(
            f"{split}: {part['images']} images of {part['files']} files, {part['subjects']} known subjects",
            end="",
        )
        print(
            "".join(
                f", {part[what]} {what.replace('_', ' ')}"
                for what in ("passed_over", "enlarged", "strays")
                if part[what]
            )
        )
    for split in SPLITS:
        if split not in planned.splits:
            print(f"{split}: empty; {WAYS_OUT[split]}")
        elif not report[split]["images"]:
            print(f"{split}: has no images, none of its files gave any; {WAYS_OUT[split]}")
    if planned.within:
        print(
            f"A LEAK that was asked for: slices of one subject are in several splits, {report['left_out_between']} between them"
        )
        print(
            "  left out; manifests, cards and reports say so, and no figure on such a split is one on other people"
        )
    subjects = {source.subject for source in planned.sources}
    if planned.divided and not planned.within and len(subjects) == 1 and subjects != {""}:
        print(
            "all files are of one subject, which is never divided: if the PatientIDs were made alike, take"
        )
        print(
            f"  --subject {STUDY}, or --subject REGEX, which finds the subject in the path; or divide it: --within-subject"
        )
    skipped = report["skipped"]
    bad = {entry["file"] for entry in skipped}
    unknown = sum(not source.subject and source.name not in bad for source in planned.sources)
    if planned.divided and unknown and not planned.within:
        print(
            f"of {unknown} files the subject is not known: they were divided one by one; --subject tells whose they are"
        )
    scans = any(not source.name.lower().endswith(PICTURES) for source in planned.sources)
    if scans and not (recipe.window or recipe.percentiles):
        print(
            "scans went from the least to the greatest value of each volume or series (CT: within -1024 to 3071 HU);"
        )
        print("a narrower range shows more: CT --window -1000:400, MR --percentiles 0:99.9")
    for split in planned.splits:
        part = report[split]
        if part["black"]:
            print(
                f"{split}: {part['black']} images are black; --min-foreground 0.01 passes over those that show little"
            )
        deep = any(float(ends.split(":")[1]) > 255 for ends in part["contracts"])
        histogram = part["histogram"]
        if deep and any(histogram[1:]) and not any(histogram[len(histogram) // 8 :]):
            print(
                f"{split}: no pixel is above an eighth of the range: 12 bits stored in 16? --window 0:4095 shows them"
            )
    if planned.ignored:
        print(f"{planned.ignored} other files are no images by their name")
    if skipped:
        print(f"{len(skipped)} files could not be read:")
        print(
            "\n".join(
                printable(f"  {entry['file']}: {entry['reason']}") for entry in skipped[:LISTED]
            )
        )
    if report["twins"]:
        print(
            f"A LEAK: {len(report['twins'])} pictures are in two splits under different names, all in report.json:"
        )
        print("\n".join(f"  {' = '.join(names)}" for names in report["twins"][:LISTED]))


def next_command(root: Path, splits: list[str]) -> str:
    """What trains the autoencoder on these pictures; the README goes on from there."""
    lists = {
        name: root / f"{split}_images.txt" if split in splits else "null"
        for name, split in MANIFESTS.items()
    }
    data = [f"data.params.{name}={path}" for name, path in lists.items()]
    return shlex.join(
        ["python", "main.py", "--base", "configs/autoencoder/medical-vq-f4.yaml", "--train", *data]
    )
