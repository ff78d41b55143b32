"""Volumes in a folder: which rows are slices of one, and which DICOM files beside them are none.

A file of several slices is a volume. So are the DICOM files of a folder that share series, orientation and size; their order
is that along the normal. A localizer, directory, report or empty file among them is passed over.
"""

from collections.abc import Iterable, Iterator, Sequence
from os.path import dirname
from pathlib import Path
from typing import NamedTuple

from data import formats
from data.files import Refusal, digest
from data.formats import dicom_series
from data.formats.dicom_series import Header
from data.manifest import Row
from data.rows import Rows

LOCALIZER = "a localizer beside slices"
DIGITS = 16  # of a series' pseudonym


class Passed(NamedTuple):
    """A file that is left out, and why."""

    path: Path
    why: str


class Whole(NamedTuple):
    """A volume that is read, restored and written as one image."""

    rows: tuple[Row, ...]  # of its slices, in order

    @property
    def image_id(self) -> str:
        return self.rows[0].volume

    @property
    def path(self) -> str:
        return self.rows[0].path

    @property
    def slice(self) -> None:
        return None

    @property
    def window(self) -> tuple[float, float] | None:
        return self.rows[0].window

    @property
    def leak(self) -> str:
        return self.rows[0].leak

    @property
    def label(self) -> int:
        return self.rows[0].label


def checksum(row: Row | Whole) -> str:
    """SHA-256 of a row's file, or of those of all its files."""
    files = files_of(row)
    if len(files) == 1:
        return formats.checksum(files[0])
    found = [formats.checksum(file) for file in files]
    return digest(*found) if all(found) else ""


def files_of(row: Row | Whole) -> list[str]:
    """The file of a row, or all files of a volume."""
    return (
        list(dict.fromkeys(one.path for one in row.rows)) if isinstance(row, Whole) else [row.path]
    )


def wholes(rows: Iterable[Row]) -> list[Row | Whole]:
    """Rows, the slices of each volume as one; a volume of a single slice stays an image."""
    slices: dict[str, list[Row]] = {}
    order: list[Row] = []
    for row in rows:
        if not row.volume or row.volume not in slices:
            order.append(row)
        if row.volume:
            slices.setdefault(row.volume, []).append(row)
    return [
        Whole(tuple(slices[row.volume])) if len(slices.get(row.volume, [])) > 1 else row
        for row in order
    ]


def gathered(rows: Iterable[Row], passed: list[Passed]) -> list[Row]:
    """The rows of files in a folder, where slices of a DICOM series have become one volume each, in order.

    passed: filled with what is no slice and no image.
    """
    rows = list(rows)
    headers = {
        row: found for row in rows if _may_be_dicom(row) and (found := _header(row)) is not None
    }
    members: dict[tuple[str, str], list[Row]] = {}
    for row, found in headers.items():
        if found.volume and not found.localizer and not found.nothing:
            members.setdefault((dirname(row.path), found.volume), []).append(row)
    stacks = {key: found for key, found in members.items() if len(found) > 1}
    beside = {folder for folder, _ in stacks}
    left_out = {
        row: why
        for row, found in headers.items()
        if (why := _left_out(found, dirname(row.path) in beside))
    }
    passed += [Passed(Path(row.path), why) for row, why in left_out.items()]
    named = {
        row._replace(volume=""): slices for slices in _named(stacks, headers) for row in slices
    }
    return list(_placed([row for row in rows if row not in left_out], named))


def listed(passed: Iterable[Passed]) -> list[str]:
    """A line for each reason: how many files, and the first of them."""
    files: dict[str, list[Path]] = {}
    for path, why in passed:
        files.setdefault(why, []).append(path)
    return [
        f"passed over, {why}: {found[0]}" + f" and {len(found) - 1} more" * (len(found) > 1)
        for why, found in files.items()
    ]


def members(rows: Iterable[Row]) -> dict[str, list[str]]:
    """The ids of each volume's slices, in order."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.volume:
            found.setdefault(row.volume, []).append(row.image_id)
    return found


def chosen(rows: Sequence[Row], within: tuple[int, int] | None, every: int) -> Rows:
    """Of each volume the slices number within[0] up to, not including, within[1], and of these every so-manieth.

    Images of no volume stay. Raises Refusal where there is no volume, or a range leaves nothing of one.
    """
    sizes: dict[str, int] = {}

    def wanted(row: Row) -> bool:
        number = sizes.get(row.volume, 0)
        sizes[row.volume] = number + 1
        low, high = within or (0, number + 1)
        return not row.volume or (low <= number < high and (number - low) % every == 0)

    kept = Rows(filter(wanted, rows))
    volumes = sizes.keys() - {""}
    if not volumes:
        raise Refusal("--slice-range and --every choose slices of volumes, and there is none")
    for name in sorted(volumes - {row.volume for row in kept}):
        raise Refusal(f"--slice-range leaves no slice of {name}, which has {sizes[name]}")
    return kept


def _may_be_dicom(row: Row) -> bool:
    return formats.kind(row.path) in ("dicom", "")


def _header(row: Row) -> Header | None:
    try:
        return dicom_series.header(Path(row.path))
    except (Refusal, OSError):  # what is wrong with it is told when it is read
        return None


def _left_out(found: Header, beside: bool) -> str:
    """Why a file is passed over, or "". beside: whether slices of a volume lie in its folder."""
    if found.nothing and (beside or "without" in found.nothing or "DICOMDIR" in found.nothing):
        return found.nothing
    return LOCALIZER if found.localizer and beside else ""


def _named(
    stacks: dict[tuple[str, str], list[Row]], headers: dict[Row, Header]
) -> Iterator[list[Row]]:
    """The slices of each volume in order, with its name, which differs from those of the others."""
    used: dict[str, int] = {}
    for (_, volume), found in stacks.items():
        name = f"series-{volume[:DIGITS]}"
        used[name] = used.get(name, 0) + 1
        name += f"-{used[name]}" * (used[name] > 1)
        order = sorted(found, key=lambda row: (headers[row].position, headers[row].number))
        yield [row._replace(volume=name) for row in order]


def _placed(rows: list[Row], stacks: dict[Row, list[Row]]) -> Iterator[Row]:
    """All rows, each volume's together where its first file stood."""
    seen: set[str] = set()
    for row in rows:
        slices = stacks.get(row, [row])
        if slices[0].volume not in seen:
            yield from slices
        seen |= {slices[0].volume} - {""}
