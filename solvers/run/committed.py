"""What stands of an earlier run's results: records that can be read, of the same rows of the manifest, with all their files."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from data import formats
from data.files import file_digest, replacing

RECORDS, REJECTED = "records.jsonl", "records.rejected.jsonl"

Record = dict[str, Any]


class Standing(NamedTuple):
    """kept: records of images that need not be restored again. again: why others are, by image. rejected: bad lines, and what
    to say of each."""

    kept: list[Record]
    again: dict[str, str]
    rejected: list[tuple[bytes, str]]


def standing(folder: Path, rows: Mapping[str, Any], verify: bool = False) -> Standing:
    """Look at every record of a folder and at its files. rows: image id -> its row of the manifest now; verify: digests too.

    Of several records of an image the last one counts, which is the one its files were written for. Failed images are tried
    again without a word.
    """
    found: dict[str, Record] = {}
    rejected = []
    for number, line in _lines(folder / RECORDS):
        record, fault = _read(line)
        if fault:
            rejected.append((line, f"{folder / RECORDS}, line {number}: {fault}; set aside in {REJECTED}"))
        else:
            found.pop(record["image_id"], None)
            found[record["image_id"]] = record
    good = [record for record in found.values() if record["status"] == "ok"]
    reasons = {r["image_id"]: _difference(r, rows) or _loss(r, folder, verify) for r in good}
    kept = [record for record in good if not reasons[record["image_id"]]]
    return Standing(kept, {name: reason for name, reason in reasons.items() if reason}, rejected)


def records_in(path: Path) -> Iterator[Record]:
    """The records of a folder, one for each image, in the order they were committed; what cannot be read is passed over."""
    last: dict[str, int] = {}
    for number, line in _lines(path):
        record, fault = _read(line)
        if not fault:
            last[record["image_id"]] = number
    wanted = set(last.values())
    for number, line in _lines(path):
        if number in wanted:
            yield json.loads(line)


def in_order(path: Path, ids: Iterable[str]) -> None:
    """Rewrite a file of records, the last one of each image, in the order of the ids; those of other images follow.

    Lines are copied as they are; what is held of each is its place in the file.
    """
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    for _, line in _lines(path):
        record, fault = _read(line)
        if not fault:
            places.pop(record["image_id"], None)
            places[record["image_id"]] = offset, len(line)
        offset += len(line)
    if not places:
        return
    with path.open("rb") as old, replacing(path) as new:
        for name in ids:
            if (place := places.pop(name, None)) is not None:
                new.write(_at(old, *place))
        for place in places.values():
            new.write(_at(old, *place))


def _at(file: IO[bytes], offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def traces(folder: Path, names: list[str]) -> dict[str, list[Any]]:
    """Size and SHA-256 of files just written, by their names below the folder."""
    return {name: [(folder / name).stat().st_size, file_digest(folder / name)] for name in names}


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, from 1; a last one cut short by a crash was never committed."""
    if path.exists():
        with path.open("rb") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.endswith(b"\n"))


def _read(line: bytes) -> tuple[Record, str]:
    """A record, or what is wrong with the line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}, "is no JSON"
    if not isinstance(record, dict):
        return {}, f"holds a {type(record).__name__}, not a record"
    for key, kind in (("image_id", str), ("status", str)):
        if not isinstance(record.get(key), kind):
            return {}, f"has no {key}"
    files = record.get("files", {} if record["status"] != "ok" else None)
    if not isinstance(files, dict) or not all(isinstance(name, str) and _inside(name) for name in files.values()):
        return {}, "does not name its files"
    written = record.get("written", {})
    if not isinstance(written, dict) or not all(_inside(k) and isinstance(v, list) and len(v) == 2 for k, v in written.items()):
        return {}, "does not say what was written"
    return record, ""


def _inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _difference(record: Record, rows: Mapping[str, Any]) -> str:
    """What is another now than when the image was restored, or ""."""
    row = rows.get(record["image_id"])
    if row is None:
        return ""
    for key, before in record.get("row", {}).items():
        now = json.loads(json.dumps(getattr(row, key)))  # as a record has it
        if now != before:
            return f"its {key} is {now}, not {before} as when it was restored"
    checksum = record.get("input_sha256")
    if checksum and formats.checksum(row.path) not in ("", checksum):
        return "is another file than was restored before"
    return ""


def _loss(record: Record, folder: Path, verify: bool) -> str:
    """The first of its files that is not there any more as it was written, or ""."""
    written = record.get("written") or dict.fromkeys(record["files"].values(), [None, None])
    for name, (size, digest) in written.items():
        path = folder / name
        if not path.is_file():
            return f"its {name} is gone"
        if size not in (None, path.stat().st_size):
            return f"its {name} has {path.stat().st_size} bytes instead of {size}"
        if verify and digest and file_digest(path) != digest:
            return f"its {name} has changed since it was written"
    return ""
