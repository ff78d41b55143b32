"""Manifests: which images there are, whose they are, and how their intensities are read. Text, CSV or JSONL.

* `.csv`: a header naming columns out of `COLUMNS`, `path` among them, separated by commas;
* `.jsonl`: one object per line with keys out of `COLUMNS`, `path` among them;
* any other suffix is text: one path per line, as the published scripts write.

Relative paths are relative to the manifest, so that a data set can be moved or mounted elsewhere, and must not climb out of its
folder (`..`). Absolute paths are taken as they are. UTF-8, with or without a byte order mark; lines end in LF or CRLF;
blank ones are skipped. `read` streams and looks at the text only; `check` also looks across rows and at the disk.
"""

import math
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.files import Refusal, file_digest
from data.manifest_lines import COLUMNS, Bad, csv_rows, jsonl_rows, lines, text_rows

__all__ = ["COLUMNS", "Row", "check", "identify", "leak", "read"]

PATH_LIMIT = 4096  # characters
ID_LIMIT = 200  # bytes; file systems allow 255 for a name, and results add suffixes to it
LARGEST = 2**31  # slices and labels stay below


class Row(NamedTuple):
    """One image."""

    path: str  # the manifest's folder has been put before a relative one
    image_id: str  # unique, and a safe file name; made from the path (and slice) where the manifest gives none
    subject: str = ""  # pseudonym of the person; "" if not told
    split: str = ""  # "train", "val", "test" or any other word; "" if not told
    slice: int | None = None  # index in a volume or multi-frame file, from 0; None for a picture
    window: tuple[float, float] | None = (
        None  # the stored values that become -1 and +1; None: as the file says
    )
    label: int = -1  # class, from 0; -1 if none
    sha256: str = ""  # of the file; "" if not told
    line: int = 0  # line in the manifest, from 1
    leak: str = ""  # "within-subject": other slices of this person are in another split; "" if nothing is known
    volume: str = ""  # the name of the volume that it is a slice of, beside others; "" for an image of its own


def read(path: str | Path) -> Iterator[Row]:
    """Every row, in order. Raises Refusal (one line: file, row, reason) at the first that is not right."""
    path = Path(path)
    records = {".csv": csv_rows, ".jsonl": jsonl_rows}.get(path.suffix.lower(), text_rows)
    folder = "" if path.parent == Path(".") else f"{path.parent}/".replace("//", "/")
    line = 0
    try:
        for line, cells in records(lines(path)):
            yield _row(cells, folder, line)
    except Bad as error:
        raise Refusal(f"{path}: row {error.line or line}: {error}") from None
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror or error}") from None


def leak(path: str | Path) -> str:
    """How the images of a manifest leak into other splits, as its first row says; of a list `<split>_images.txt`, as the
    `<split>.csv` beside it does. "" where nothing is known.
    """
    path = Path(path)
    table = path.with_name(f"{path.name.removesuffix('_images.txt')}.csv")
    if path.name.endswith("_images.txt") and table.is_file():
        path = table
    return next((row.leak for row in read(path)), "")


def check(path: str | Path, checksums: bool = False) -> int:
    """Read the whole manifest and look across its rows; returns how many there are.

    Raises Refusal (one line: file, row, reason) for two rows of one image, two of one image_id, a subject in two splits, and a
    missing file; with `checksums`, also for a file that has changed. It compares digests: 32 bytes a row.
    """
    images, ids, subjects, splits = (array("q") for _ in range(4))
    seen = ""
    for row in read(path):
        if row.path != seen:
            seen = row.path
            _look(Path(path), row, checksums)
        images.append(hash((row.path, row.slice)))
        ids.append(hash(row.image_id))
        subjects.append(hash(row.subject) if row.subject and row.split else 0)
        splits.append(hash(row.split))
    _once(
        Path(path),
        images,
        "image",
        lambda row: f"{row.path}{'' if row.slice is None else f' slice {row.slice}'}",
    )
    _once(Path(path), ids, "image_id", lambda row: row.image_id)
    order = np.lexsort((splits, subjects))
    subject, split = np.asarray(subjects)[order], np.asarray(splits)[order]
    divided = set(
        subject[1:][(subject[1:] == subject[:-1]) & (split[1:] != split[:-1])].tolist()
    ) - {0}
    first: dict[str, Row] = {}
    for row in read(path) if divided else ():
        if hash(row.subject) in divided and row.split:
            before = first.setdefault(row.subject, row)
            if before.split != row.split:
                where = f"in {before.split!r} (row {before.line}) and in {row.split!r}"
                raise Refusal(
                    f"{path}: row {row.line}: subject {row.subject!r} is in two splits, {where}"
                )
    return len(images)


def _look(path: Path, row: Row, checksums: bool) -> None:
    if not os.path.isfile(row.path):
        raise Refusal(f"{path}: row {row.line}: there is no file {row.path}")
    if checksums and row.sha256:
        if file_digest(row.path) != row.sha256.lower():
            raise Refusal(
                f"{path}: row {row.line}: {row.path} has changed; its SHA-256 is not the manifest's"
            )


def _once(path: Path, digests: array, what: str, name: Callable[[Row], str]) -> None:
    """Refusal if two rows have the same name. digests: of the names; where two agree, the names themselves are looked at."""
    ordered = np.sort(np.asarray(digests))
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    first: dict[str, int] = {}
    for row, digest in zip(read(path), digests) if twice else ():
        if digest in twice and (before := first.setdefault(name(row), row.line)) != row.line:
            raise Refusal(
                f"{path}: row {row.line}: {what} {name(row)!r} is in row {before} already"
            )


def _row(cells: Sequence[Any], folder: str, line: int) -> Row:
    """The row of a line."""
    path, image_id, subject, split, index, window, label, sha256, leak = cells
    path, image_id, subject, split, sha256, leak = map(
        _printable, (path, image_id, subject, split, sha256, leak)
    )
    if ".." in path and ".." in path.split("/"):
        raise Bad(f"{path[:80]!r} climbs out of its folder ('..')")
    if not path or len(path) > PATH_LIMIT:
        raise Bad(f"the path is {'longer than any file system allows' if path else 'empty'}")
    try:
        number, bounds, kind = _numbers(index, window, label)
    except (TypeError, AttributeError):  # only JSON has cells that are no text
        raise Bad(f"a cell of {cells!r:.80} has the wrong type") from None
    image_id = image_id or identify(path.removeprefix(folder) if path[0] == "/" else path, number)
    if len(image_id) > 50 or "/" in image_id or "\\" in image_id or image_id[0] == ".":
        _safe(image_id)
    place = path if path[0] == "/" else folder + path
    return Row(place, image_id, subject, split, number, bounds, kind, sha256, line, leak)


def _printable(cell: Any) -> str:
    if cell is None:
        return ""
    if type(cell) is not str or not cell.isprintable():
        raise Bad(f"{cell!r:.80} is not printable text")
    return cell.strip()


def identify(path: str, index: int | None = None) -> str:
    """The image id of a path in a data set: folders joined by '__', no suffix, and the slice: 'a/b.nii.gz', 7 -> 'a__b-0007'.
    Numbers after the last dot are no suffix: DICOM files may be named by their UIDs.
    """
    folder, slash, name = path.rpartition("/")
    whole = name[1:].removesuffix(".gz").removesuffix(".GZ")
    stem, dot, suffix = whole.rpartition(".")
    stem = name[:1] + (stem if dot and not suffix.isdigit() else whole)
    joined = f"{folder}{slash}{stem}".strip("/").replace("/", "__").lstrip(".") or "image"
    return joined if index is None else f"{joined}-{index:04d}"


def _safe(image_id: str) -> None:
    if (
        image_id[0] == "."
        or "/" in image_id
        or "\\" in image_id
        or len(image_id.encode()) > ID_LIMIT
    ):
        raise Bad(
            f"image_id {image_id[:80]!r} is no safe file name (no slash, no leading dot, at most {ID_LIMIT} bytes)"
        )


@lru_cache(16384, typed=True)  # a million rows share a few; True is not 1
def _numbers(
    index: Any, window: Any, label: Any
) -> tuple[int | None, tuple[float, float] | None, int]:
    """slice, window, label."""
    return (
        None if index is None or index == "" else _whole(index, "slice"),
        None if window is None or window == "" else _window(window),
        -1 if label is None or label == "" or label in ("-1", -1) else _whole(label, "label"),
    )


def _whole(cell: str | int, name: str) -> int:
    number = cell if type(cell) is int else -1
    if type(cell) is str and cell.isascii() and cell.strip().isdigit() and len(cell) < 19:
        number = int(cell)
    if not 0 <= number < LARGEST:
        raise Bad(f"{name} {cell!r:.80} is not a whole number from 0")
    return number


def _window(value: str) -> tuple[float, float]:
    """'low:high' in stored units."""
    try:
        low, high = map(float, value.split(":"))
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise Bad(f"window {value[:80]!r} is not 'low:high' with low < high, in stored units")
    return low, high
