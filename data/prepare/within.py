"""Dividing one subject: each volume, series or stack of pictures in blocks of neighbouring slices, with a gap between two.

Neighbouring slices look alike, and the anatomy is one person's: figures on such a split flatter a prior. It is what there is
to do with one scan, and every manifest, card and report says so.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pydicom

from data import formats
from data.files import Refusal
from data.folder import is_dicom
from data.formats.image import decoding

LEAK = "within-subject"  # the mark of such rows
GAP = 0.03  # of the slices, between two blocks, at least one


def blocks(count: int, splits: Sequence[str], shares: Sequence[float]) -> list[str]:
    """The split of each of `count` neighbouring slices, "" in the gaps. Every split that has a share gets a slice, if there
    are enough; the first gets what is left over.
    """
    asked = [(split, share) for split, share in zip(splits, shares) if share > 0]
    gap = max(1, round(GAP * count))
    while gap > 0 and count < len(asked) + gap * (len(asked) - 1):
        gap -= 1
    asked = asked[: max(1, count)]
    left = count - gap * (len(asked) - 1)
    sizes = [max(1, round(share * left)) for _, share in asked]
    sizes[0] = left - sum(sizes[1:])
    while sizes[0] < 1:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[0] = left - sum(sizes[1:])
    places: list[str] = []
    for (split, _), size in zip(asked, sizes):
        places += [""] * gap * bool(places) + [split] * size
    return places


def places(
    found: Iterable[tuple[Path, str]], splits: Sequence[str], shares: Sequence[float], axis: int
) -> dict[Path, list[str]]:
    """Of each file the split of each of its slices. found: files, and whose they are; axis: along which volumes are cut.

    A file of several slices is a stack; so are the DICOM files of a series, in the order of their places, and the other
    pictures of a subject, in the order of their names.
    """
    stacks: dict[str, list[tuple[float, str, Path]]] = {}
    placed = {}
    for path, subject in found:
        count = _count(path, axis)
        if count > 1:
            placed[path] = blocks(count, splits, shares)
        elif is_dicom(path):
            stacks.setdefault(formats.series(path), []).append((_place(path), str(path), path))
        else:
            stacks.setdefault(f"of {subject}", []).append((0.0, str(path), path))
    for stack in stacks.values():
        for (*_, path), split in zip(sorted(stack), blocks(len(stack), splits, shares)):
            placed[path] = [split]
    return placed


def _count(path: Path, axis: int) -> int:
    try:
        return formats.count(path, axis)
    except (Refusal, OSError):  # what is wrong with it is told when it is read
        return 1


def _place(path: Path) -> float:
    """Where a slice lies in its series: along the normal of its plane, else by its number."""
    tags = ["ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber"]
    try:
        with decoding(path, "DICOM", private=True):
            ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            corner, plane = ds.get(tags[0]), ds.get(tags[1])
            if corner is None or plane is None:
                return float(ds.get(tags[2]) or 0)
            a, b = [float(v) for v in plane[:3]], [float(v) for v in plane[3:]]
            normal = (
                a[1] * b[2] - a[2] * b[1],
                a[2] * b[0] - a[0] * b[2],
                a[0] * b[1] - a[1] * b[0],
            )
            return sum(float(c) * n for c, n in zip(corner, normal))
    except Refusal:
        return 0.0
