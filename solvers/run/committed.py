"""What stands of an earlier run's results: records that can be read, of the same rows of the manifest, with all their files."""

import json
import os
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data import series
from data.files import file_digest
from solvers.run.lines import NOBODY, Lines, lines

RECORDS, REJECTED = "records.jsonl", "records.rejected.jsonl"

Record = dict[str, Any]
BEGIN = b'{"image_id": "'  # of a line


class Standing(NamedTuple):
    """kept: numbers of the lines, ascending, whose images need not be restored again. again: why others are, by image.
    rejected: bad lines, and what to say of each.
    """

    lines: Lines
    kept: np.ndarray
    again: dict[str, str]
    rejected: list[tuple[bytes, str]]

    def keep(self) -> None:
        """Leave the records that are kept, and no others."""
        self.lines.keep(self.kept)


def standing(folder: Path, rows: Mapping[str, Any], verify: bool = False) -> Standing:
    """Look at every record of a folder and at its files. rows: image id -> its row of the manifest now; verify: digests too.

    Of several records of an image the last one counts, which is the one its files were written for. Failed images are tried
    again without a word. Of a record only numbers are held, so that a million of them need little memory.
    """
    good, volumes = (
        bytearray(),
        array("q"),
    )  # of each line; the hash of the volume that a slice is in
    again, rejected = dict[int, tuple[str, str]](), []
    digest = cache(file_digest)  # a volume's slices have one file

    def look(line: bytes) -> str:
        number = len(good)
        record, fault = _read(line)
        if fault:
            said = f"{folder / RECORDS}, line {number + 1}: {fault}; set aside in {REJECTED}"
            rejected.append((line, said))
        fine = not fault and record["status"] == "ok"
        reason = fine and (
            _difference(record, rows, verify) or _loss(record, folder, digest if verify else None)
        )
        if reason:
            again[number] = record["image_id"], reason
        good.append(fine and not reason)
        volumes.append(hash(record["volume"]) if fine and whole(record) else NOBODY)
        return "" if fault else record["image_id"]

    found = Lines(folder / RECORDS, look, _id_of)
    within, keeps = np.asarray(volumes), np.frombuffer(good, bool)
    counts = found.counted
    again = {number: why for number, why in again.items() if counts[number]}
    # The slices of a volume that was put together are not at hand any more.
    spoilt = {int(within[number]) for number in again} - {NOBODY}
    lost = counts & keeps & np.isin(within, list(spoilt))
    if lost.any():
        numbers = np.flatnonzero(lost).tolist()
        for number, line in zip(numbers, found.at(numbers)):
            again[number] = _id_of(line), "its volume is to be put together again"
    reasons = dict(again[number] for number in sorted(again))
    return Standing(found, np.flatnonzero(counts & keeps & ~lost), reasons, rejected)


def records_in(path: Path) -> Iterator[Record]:
    """The records of a folder, one for each image, in the order they were committed; what cannot be read is passed over."""
    wanted = Lines(path, _name).counted
    for number, line in enumerate(lines(path)):
        if number < len(wanted) and wanted[number]:
            yield json.loads(line)


def in_order(path: Path, ids: Iterable[str]) -> None:
    """Rewrite a file of records, the last one of each image, in the order of the ids; those of other images follow.

    Lines are copied as they are; what is held of each are numbers.
    """
    found = listed(path)
    if len(found.names):
        found.keep(found.ordered(ids))


def listed(path: Path) -> Lines:
    """The lines of a file of records."""
    return Lines(path, _id_of)


def _name(line: bytes) -> str:
    """The image of a record; "" of a line that is none."""
    record, fault = _read(line)
    return "" if fault else record["image_id"]


def _id_of(line: bytes) -> str:
    """The image of a record, "" of a bad line. Lines as they are written here need no parsing to tell it."""
    end = line.find(b'"', len(BEGIN))
    if (
        line.startswith(BEGIN)
        and end > 0
        and line.endswith(b"}\n")
        and line.count(BEGIN) == 1
        and b"\\" not in line[:end]
    ):
        return line[len(BEGIN) : end].decode()
    return _name(line)


def traces(folder: Path, names: list[str]) -> dict[str, list[Any]]:
    """Size and SHA-256 of files just written, by their names below the folder."""
    return {name: [(folder / name).stat().st_size, file_digest(folder / name)] for name in names}


def stamp(row: Any) -> list[int]:
    """Size and time of the last change, in nanoseconds, of a row's file or of each of a volume's; [0, 0] if there is none."""
    seen: list[int] = []
    for path in series.files_of(row):
        try:
            found = os.stat(path)
        except OSError:
            seen += [0, 0]
        else:
            seen += [found.st_size, found.st_mtime_ns]
    return seen


def _read(line: bytes) -> tuple[Record, str]:
    """A record, or what is wrong with the line."""
    try:
        record = json.loads(line.decode())  # of bytes json would first guess the encoding
    except (ValueError, RecursionError):
        return {}, "is no JSON"
    if not isinstance(record, dict):
        return {}, f"holds a {type(record).__name__}, not a record"
    for key, kind in (("image_id", str), ("status", str)):
        if not isinstance(record.get(key), kind):
            return {}, f"has no {key}"
    files = record.get("files", {} if record["status"] != "ok" else None)
    if not isinstance(files, dict) or not all(
        isinstance(name, str) and _inside(name) for name in files.values()
    ):
        return {}, "does not name its files"
    written = record.get("written", {})
    if not isinstance(written, dict) or not all(
        _inside(k) and isinstance(v, list) and len(v) == 2 for k, v in written.items()
    ):
        return {}, "does not say what was written"
    return record, ""


def _inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _difference(record: Record, rows: Mapping[str, Any], verify: bool) -> str:
    """What is another now than when the image was restored, or "". A file of the same size and time of change is the same,
    and is not read unless `verify` asks for it.
    """
    row = rows.get(record["image_id"])
    if row is None:
        return ""
    for key, before in record.get("row", {}).items():
        now = getattr(row, key)
        if now != before and (now := json.loads(json.dumps(now))) != before:  # as a record has it
            return f"its {key} is {now}, not {before} as when it was restored"
    checksum = record.get("input_sha256")
    seen = record.get("input_stamp") or ()
    if not verify and checksum and any(seen) and seen == stamp(row):
        return ""
    if checksum and series.checksum(row) not in ("", checksum):
        return "is another file than was restored before"
    return ""


def whole(record: Record) -> bool:
    """Whether it is of a slice whose volume is put together, and whose own file is gone."""
    return "volume" in record and not record["files"].get("recon", "").startswith("slices/")


def _loss(record: Record, folder: Path, digest_of: Callable[[Path], str] | None) -> str:
    """The first of its files that is not there any more as it was written, or ""; with digest_of, or has changed."""
    written = record.get("written") or dict.fromkeys(record["files"].values(), [None, None])
    for name, (size, digest) in written.items():
        try:
            found = os.stat(f"{folder}/{name}")
        except OSError:
            return f"its {name} is gone"
        if not stat.S_ISREG(found.st_mode):
            return f"its {name} is gone"
        if size not in (None, found.st_size):
            return f"its {name} has {found.st_size} bytes instead of {size}"
        if digest_of and digest and digest_of(folder / name) != digest:
            return f"its {name} has changed since it was written"
    return ""
