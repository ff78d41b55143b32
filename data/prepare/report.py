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
from data.manifest_lines import KNOWN
from data.prepare.convert import BINS, Done

SHOWN = 12  # pictures per split on the contact sheet
TILE, STRIP, MARGIN = 160, 64, 16  # pixels
LETTERS = TILE // 6 - 1  # of a name, that fit below its picture
TWINS = 100  # pictures that are in two splits, listed


def collect(
    outcomes: Iterable[Done], splits: list[str], root: Path, within: bool = False
) -> dict[str, Any]:
    """Write `<split>.csv` and `<split>_images.txt` while the outcomes come, then report.json and contact_sheet.png.

    Returns the report. The manifests appear, whole, at the end. within: subjects were divided, which every row says.
    """
    skipped: list[dict[str, str]] = []
    counted = ("images", "files", "passed_over", "enlarged", "black")
    totals = {split: dict.fromkeys(counted, 0) for split in splits}
    subjects: dict[str, set[str]] = defaultdict(set)
    shapes: dict[str, Counter] = {split: Counter() for split in splits}
    contracts: dict[str, Counter] = {
        split: Counter() for split in splits
    }  # stored values that became black and white
    histograms = {split: np.zeros(BINS, np.int64) for split in splits}
    marks = {
        split: array("Q") for split in splits
    }  # 64 bits of the checksum of every picture that shows something
    gap, columns = 0, KNOWN if within else COLUMNS
    with ExitStack() as stack:
        tables, lists = {}, {}
        for split in splits:
            table = stack.enter_context(
                (root / f".{split}.csv.part").open("w", newline="", encoding="utf-8")
            )
            tables[split] = csv.DictWriter(
                table, columns, extrasaction="ignore", restval="", lineterminator="\n"
            )
            tables[split].writeheader()
            lists[split] = stack.enter_context(
                (root / f".{split}_images.txt.part").open("w", encoding="utf-8")
            )
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
                totals[split]["black"] += not any(image["histogram"][1:])
                histograms[split] += image["histogram"]
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
    } | {
        "skipped": skipped,
        "twins": twins(root, marks),
        "within_subject": within,
        "left_out_between": gap,
    }
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
    """For each split a row of pictures with their names, evenly spread, and the histogram of all its pixels."""
    row = 3 * MARGIN + TILE + STRIP
    sheet = Image.new("RGB", (SHOWN * TILE, row * len(splits)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, split in enumerate(splits):
        top = number * row
        entries = list(read(root / f"{split}.csv"))
        draw.text((4, top + 2), f"{split}: {len(entries)} images", fill="black")
        for column, i in enumerate(
            np.linspace(0, len(entries) - 1, min(SHOWN, len(entries))).round().astype(int)
        ):
            sheet.paste(_tile(Path(entries[i].path)), (column * TILE, top + MARGIN))
            draw.text(
                (column * TILE + 2, top + MARGIN + TILE + 2),
                shortened(entries[i].image_id),
                fill="black",
            )
        _histogram(draw, histograms[split], top + 2 * MARGIN + TILE)
    return sheet


def shortened(name: str) -> str:
    """A name that fits below its picture; its end tells slices apart."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 12]}..{name[-10:]}"


def _histogram(draw: ImageDraw.ImageDraw, counts: np.ndarray, top: int) -> None:
    """Bars over the whole width from black to white, and below them what they are."""
    height = np.log1p(counts)
    height = (height / max(height.max(), 1) * (STRIP - 8)).round().astype(int)
    width = SHOWN * TILE // BINS
    for i, h in enumerate(height.tolist()):
        draw.rectangle(
            (i * width, top + STRIP - h, (i + 1) * width - 2, top + STRIP), fill=(70, 70, 70)
        )
    words = f"all pixels, black on the left to white on the right; height: log(1 + count), up to {counts.max():,}"
    draw.text((4, top + STRIP + 2), words, fill="black")


def _tile(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    pixels = (pixels // 257).astype(np.uint8) if pixels.itemsize > 1 else pixels
    return Image.fromarray(pixels).convert("RGB").resize((TILE, TILE), Image.Resampling.BOX)
