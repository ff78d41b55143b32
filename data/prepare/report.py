"""What a preparation made: the manifests, a report in numbers, and a contact sheet to look at."""

import csv
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data.files import commit_json
from data.manifest import COLUMNS, read
from data.prepare.convert import BINS, Done

SHOWN = 16  # pictures per split on the contact sheet
TILE, STRIP, MARGIN = 96, 64, 16  # pixels
TWINS = 100  # pictures that are in two splits, listed


def collect(outcomes: Iterable[Done], splits: list[str], root: Path) -> dict[str, Any]:
    """Write `<split>.csv` and `<split>_images.txt` while the outcomes come, then report.json and contact_sheet.png.

    Returns the report. The manifests appear, whole, at the end.
    """
    skipped: list[dict[str, str]] = []
    totals = {split: {"images": 0, "files": 0, "passed_over": 0, "enlarged": 0} for split in splits}
    subjects: dict[str, set[str]] = defaultdict(set)
    shapes: dict[str, Counter] = {split: Counter() for split in splits}
    contracts: dict[str, Counter] = {split: Counter() for split in splits}  # stored values that became black and white
    histograms = {split: np.zeros(BINS, np.int64) for split in splits}
    marks = {split: array("Q") for split in splits}  # 64 bits of the checksum of every picture that shows something
    gap, leaks = 0, False
    with ExitStack() as stack:
        tables, lists = {}, {}
        for split in splits:
            table = stack.enter_context((root / f".{split}.csv.part").open("w", newline="", encoding="utf-8"))
            tables[split] = csv.DictWriter(table, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
            tables[split].writeheader()
            lists[split] = stack.enter_context((root / f".{split}_images.txt.part").open("w", encoding="utf-8"))
        for done in outcomes:
            if done.reason:
                skipped.append({"file": done.file, "reason": done.reason})
                continue
            held = {image["split"] for image in done.images}
            for split in held or ({done.split} if not done.gap else ()):
                totals[split]["files"] += 1
            totals[done.split if done.split in totals else splits[0]]["passed_over"] += done.passed
            gap += done.gap
            for image in done.images:
                split = image["split"]
                tables[split].writerow(image)
                lists[split].write(f"{image['path']}\n")
                totals[split]["images"] += 1
                totals[split]["enlarged"] += image["enlarged"]
                subjects[split].add(image["subject"])
                histograms[split] += image["histogram"]
                leaks |= bool(image.get("leak"))
                if np.count_nonzero(image["histogram"]) > 1:
                    marks[split].append(int(image["sha256"][:16], 16))
                if image.get("contract"):
                    contracts[split][image["contract"]] += 1
                if image["shape"]:
                    shapes[split]["x".join(map(str, image["shape"]))] += 1
    for split in splits:
        for name in (f"{split}.csv", f"{split}_images.txt"):
            (root / f".{name}.part").replace(root / name)
    report = {
        split: totals[split]
        | {
            "subjects": len(subjects[split] - {""}),
            "contracts": dict(contracts[split].most_common(20)),
            "source_shapes": dict(shapes[split].most_common(20)),
            "strays": sum(1 for _ in (root / split).glob("*.png")) - totals[split]["images"],
            "histogram": histograms[split].tolist(),
        }
        for split in splits
    } | {"skipped": skipped, "twins": twins(root, marks), "within_subject": leaks, "left_out_between": gap}
    commit_json(root / "report.json", report)
    contact_sheet(root, splits, histograms).save(root / "contact_sheet.png")
    return report


def twins(root: Path, marks: dict[str, array]) -> list[list[str]]:
    """Pictures of different splits that are the same to the last bit, at most TWINS of them: the same scan under two names."""
    found = set()
    for one, other in combinations(marks, 2):
        found |= set(np.intersect1d(marks[one], marks[other]).tolist())
    places: dict[str, list[str]] = defaultdict(list)
    for split in marks if found else ():
        for row in read(root / f"{split}.csv"):
            if int(row.sha256[:16], 16) in found:
                places[row.sha256].append(f"{split}/{row.image_id}.png")
    return list(places.values())[:TWINS]


def contact_sheet(root: Path, splits: list[str], histograms: dict[str, np.ndarray]) -> Image.Image:
    """For each split a row of pictures, evenly spread, and the histogram of all its pixels (height: logarithm of the count)."""
    row = MARGIN + TILE + STRIP
    sheet = Image.new("RGB", (SHOWN * TILE, row * len(splits)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, split in enumerate(splits):
        top = number * row
        paths = [entry.path for entry in read(root / f"{split}.csv")]
        draw.text((4, top + 2), f"{split}: {len(paths)} images, black to white below", fill="black")
        for column, i in enumerate(np.linspace(0, len(paths) - 1, min(SHOWN, len(paths))).round().astype(int)):
            sheet.paste(_tile(Path(paths[i])), (column * TILE, top + MARGIN))
        height = np.log1p(histograms[split])
        height = (height / max(height.max(), 1) * (STRIP - 8)).round().astype(int)
        width = SHOWN * TILE // BINS
        for i, h in enumerate(height.tolist()):
            draw.rectangle((i * width, top + row - 4 - h, (i + 1) * width - 2, top + row - 4), fill=(70, 70, 70))
    return sheet


def _tile(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    pixels = (pixels // 257).astype(np.uint8) if pixels.itemsize > 1 else pixels
    return Image.fromarray(pixels).convert("RGB").resize((TILE, TILE), Image.Resampling.BOX)
