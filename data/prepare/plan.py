"""What a preparation will do: which files there are, whose they are, which split each goes to, and what it will be called.

Subjects are told by a regular expression over the path, or by the DICOM PatientID (kept only as a pseudonym). No
subject may be in two splits; with a division in shares a subject goes whole into one of them.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import permutations
from math import floor
from pathlib import Path

import pydicom

from data import formats
from data.files import Refusal, digest
from data.folder import is_dicom, is_image, walk
from data.formats.dicom_identity import pseudonym
from data.formats.image import decoding
from data.manifest import identify
from data.prepare.within import places

SPLITS = ("train", "val", "test")
STUDY = "StudyInstanceUID"

UNREAD = "\0"  # in the place of a subject: a file that cannot be read, which takes no share

Found = tuple[str, Path, str, str]  # split, path, name, subject


@dataclass(frozen=True)
class Source:
    """One file."""

    path: Path
    name: str  # path relative to its folder
    split: str
    subject: str  # pseudonym; "" if not known
    image_id: str  # of its only picture; volumes add the slice
    places: tuple[
        str, ...
    ] = ()  # within a subject: the split of each slice, "" where it is left out; else all go to `split`

    def place(self, index: int) -> str:
        """The split of a slice, "" if it is left out."""
        return self.places[index] if index < len(self.places) else self.split


@dataclass(frozen=True)
class Plan:
    """All files in order, and what was passed over."""

    sources: list[Source]
    splits: list[str]
    folders: dict[str, str]  # what was asked: split -> folder, and how it is divided
    divided: bool  # by shares
    ignored: int  # files that are no images by their name
    unreadable: list[tuple[str, str]]  # folders that may not be looked into, and why
    within: bool = False  # subjects are divided too, which is a leak


def plan(
    folders: dict[str, Path],
    shares: tuple[float, ...] | None = None,
    subject: str | None = None,
    seed: int = 0,
    within: int | None = None,
) -> Plan:
    """folders: of each split. shares: how "train"'s folder is divided into train, val and test, by subject (else by file).

    subject: regular expression; its first group, or all that it finds in the relative path, is the subject. Or the word
    StudyInstanceUID: each DICOM study counts as a subject, where the PatientIDs say nothing. within: subjects are divided
    themselves, by blocks of their slices (data/prepare/within.py), those of volumes along this axis.
    Raises Refusal in one line.
    """
    keyword = STUDY if subject == STUDY else "PatientID"
    pattern = None if subject == STUDY else _compiled(subject)
    _check_shares(shares, folders)
    _check_apart(folders)
    asked = {split: str(folder.resolve()) for split, folder in folders.items()}
    asked |= {"shares": str(shares), "subject": str(subject), "seed": str(seed)}
    asked |= {} if within is None else {"within": str(within)}
    ignored = 0
    unreadable: list[tuple[str, str]] = []
    found: list[Found] = []
    for split, folder in folders.items():
        if not folder.is_dir():
            raise Refusal(f"{folder}: no such folder")
        for path in walk(folder, unreadable):
            name = path.relative_to(folder).as_posix()
            if not is_image(path):
                ignored += 1
            else:
                found.append((split, path, name, _subject(path, name, pattern, keyword)))
    if not found:
        raise Refusal(
            f"{', '.join(map(str, folders.values()))}: no image in it ({', '.join(formats.SUFFIXES)})"
        )
    if within is not None:
        return _within(found, shares, within, asked, ignored, unreadable)
    if shares:
        place = _divide(
            {s or name for split, _, name, s in found if split == "train" and s != UNREAD},
            shares,
            seed,
        )
        found = [
            (place.get(s or name, split) if split == "train" else split, path, name, s)
            for split, path, name, s in found
        ]
    found = [(split, path, name, s.strip(UNREAD)) for split, path, name, s in found]
    _check_subjects(found)
    sources = _named(found)
    present = {source.split for source in sources}
    return Plan(
        sources,
        [split for split in SPLITS if split in present],
        asked,
        bool(shares),
        ignored,
        unreadable,
    )


def _within(
    found: list[Found],
    shares: tuple[float, ...] | None,
    axis: int,
    asked: dict[str, str],
    ignored: int,
    unreadable: list,
) -> Plan:
    """The plan where subjects are divided: every file with the splits of its slices."""
    if shares is None:
        raise Refusal("--within-subject says how --split divides; give both")
    found = [(split, path, name, s.strip(UNREAD)) for split, path, name, s in found]
    mine = [(path, subject) for split, path, _, subject in found if split == "train"]
    placed = places(mine, SPLITS, shares, axis)
    sources = [
        replace(source, places=tuple(placed[source.path])) if source.split == "train" else source
        for source in _named(found)
    ]
    present = {source.place(i) for source in sources for i in range(max(1, len(source.places)))}
    return Plan(
        sources,
        [split for split in SPLITS if split in present],
        asked,
        True,
        ignored,
        unreadable,
        within=True,
    )


def _compiled(subject: str | None) -> re.Pattern | None:
    try:
        return re.compile(subject) if subject else None
    except re.error as error:
        raise Refusal(f"subject {subject!r} is no regular expression: {error}") from None


def _check_shares(shares: tuple[float, ...] | None, folders: dict[str, Path]) -> None:
    if shares is None:
        return
    if (
        len(shares) not in (2, 3)
        or not all(share >= 0 for share in shares)
        or abs(sum(shares) - 1) > 1e-6
    ):
        raise Refusal(
            f"split {'/'.join(f'{s:g}' for s in shares)} must be two or three shares that sum to 1"
        )
    for split, share in zip(SPLITS[1:], shares[1:]):
        if share and split in folders:
            raise Refusal(
                f"split gives {share:g} to {split}, which has a folder of its own, {folders[split]}"
            )


def _check_apart(folders: dict[str, Path]) -> None:
    for (split, folder), (other, outer) in permutations(folders.items(), 2):
        if folder.resolve().is_relative_to(outer.resolve()):
            raise Refusal(
                f"{folder} ({split}) lies in {outer} ({other}): the same images would be in both, a leak"
            )


def _subject(path: Path, name: str, pattern: re.Pattern | None, keyword: str) -> str:
    if pattern:
        match = pattern.search(name)
        if not match:
            raise Refusal(
                f"{path}: the subject pattern {pattern.pattern!r} is not found in {name!r}"
            )
        return (match.group(match.re.groups and 1) or "").strip()
    if not is_dicom(path):
        return ""
    try:
        with decoding(path, "DICOM", private=True):
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", keyword])
            if "Rows" not in header:
                return UNREAD
            return pseudonym(str(header.get(keyword) or "")) or ""
    except Refusal:  # what is wrong with the file is told when it is read
        return UNREAD


def _divide(subjects: set[str], shares: tuple[float, ...], seed: int) -> dict[str, str]:
    """Each subject's split. Their order is drawn by digest, so it depends on the names and the seed only."""
    order = sorted(subjects, key=lambda subject: digest(str(seed), subject))
    counts = [
        max(1, floor(share * len(order))) if share else 0 for share in shares
    ]  # nobody goes empty, if there are enough
    while sum(counts) > len(order):
        counts[max(range(len(counts)), key=lambda i: (counts[i], i))] -= 1
    while sum(counts) < len(order):
        counts[max(range(len(counts)), key=lambda i: shares[i] * len(order) - counts[i])] += 1
    places = [split for split, count in zip(SPLITS, counts) for _ in range(count)]
    return dict(zip(order, places))


def _check_subjects(found: list[Found]) -> None:
    home: dict[str, tuple[str, Path]] = {}
    for split, path, _, subject in found:
        other, where = home.setdefault(subject, (split, path))
        if subject and other != split:
            raise Refusal(
                f"{path}: subject {subject!r} is in {split} and, as {where}, in {other}: a leak"
            )


def no_formula(cell: str) -> str:
    """A cell of a CSV file that no spreadsheet computes: those that begin with = + - @ get a letter before."""
    return f"x{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def _named(found: list[Found]) -> list[Source]:
    """Ids from the relative path; for DICOM, whose names and folders may be people's, from digests of it. Never two the same."""
    found = [(split, path, name, no_formula(subject)) for split, path, name, subject in found]
    ids = []
    for _, path, name, subject in found:
        mark = digest(name)[:10]
        ids.append(
            f"{subject[:8] or 'dicom'}-{mark}" if is_dicom(path) else no_formula(identify(name))
        )
    taken: dict[str, int] = defaultdict(int)
    for image_id in ids:
        taken[image_id.lower()] += 1  # file systems that do not tell case apart
    sources = []
    for (split, path, name, subject), image_id in zip(found, ids):
        if (
            taken[image_id.lower()] > 1
            or not image_id.isprintable()
            or len(image_id.encode()) > 150
        ):
            mark = digest(f"{split}/{name}")[:10]
            image_id = f"{''.join(c if c.isascii() and c.isprintable() else '_' for c in image_id[:120])}-{mark}"
        sources.append(Source(path, name, split, subject, image_id))
    return sources
