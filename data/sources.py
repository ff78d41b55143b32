"""Which images a user means by a folder, a split and a manifest."""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from data import dataset, formats, manifest, series
from data.contracts import Contracts
from data.files import Refusal, nearest
from data.folder import is_image, walk
from data.manifest import Row
from data.ranges import Intensity
from data.rows import ById, Rows
from data.series import Passed

ARRAYS = ("npy", "npz", "hdf5", "mat")  # formats that say nothing about units
LISTINGS = (".csv", ".jsonl", ".txt")  # manifests by their names
NO_IMAGE = "no image by its name"
SINGLE = (
    ".png",
    ".jpg",
    ".jpeg",
)  # never more than one image a file (animations are refused when read)


class Kind(NamedTuple):
    """Which files hold images, by their names, how many one holds (Refusal: it cannot be read).

    none: what is said where there are no such files.
    """

    known: Callable[[Path], bool]
    count: Callable[[str], int]
    none: str = "holds no images that can be read"


IMAGES = Kind(is_image, formats.count)


class Listed(NamedTuple):
    """What a listing says of one file: which slices, and under which windows."""

    slices: array
    windows: set[tuple[float, float] | None]


def find(
    root: str | Path | None = None,
    split: str | None = None,
    listing: str | Path | None = None,
    results: Sequence[Path] = (),
    passed: list[Passed] | None = None,
    kind: Kind = IMAGES,
) -> Rows:
    """The rows of a manifest, of a folder of images or of one image's file (both `root`), one per slice of a volume.

    With a split: the listing's rows of that split, else `<root>/<split>/`, else `<root>/<split>.csv` or
    `<split>_images.txt`, else the split column of `<root>/manifest.csv`. Raises Refusal if there is none, or if two
    images would have one id. results: folders that will be written and may be cleared: below a folder of images they are
    passed over, and an image that lies in one is a Refusal. passed: filled with files that are no images.
    kind: of files that are looked for.
    """
    taken = [path.resolve() for path in results]
    passed = [] if passed is None else passed
    if listing is not None:
        rows: Iterable[Row] = _of_split(listing, split) if split else manifest.read(listing)
    elif root is None:
        raise Refusal("no images are named: give --data-root or --manifest")
    else:
        rows = _in_root(Path(root), split, taken, passed, kind)
    plain = images = Rows(rows)
    if kind is IMAGES and not any(row.line for row in images):
        images = Rows(series.gathered(images, passed))
    found = _slices(images, kind)
    if not found:
        raise Refusal(f"{listing or root}: {kind.none}")
    for folder in {os.path.dirname(row.path) for row in found} if taken else ():
        if _within(Path(folder), taken):
            raise Refusal(
                f"{folder}: holds images to be read, and results go there; choose another --save-dir"
            )
    if (twice := ById(found).twice()) is not None:
        raise Refusal(
            f"{listing or root}: two images have the id {twice!r}; ids name the results and must differ"
        )
    return found if found is plain else _apart(found)  # a manifest itself names no volumes


def measurement(
    row: Row, physical: bool = False, contracts: Contracts = dataset.PLAIN, channels: int = 3
) -> tuple[Tensor, formats.Image, Intensity]:
    """What was measured, as `dataset.load` gives an image: y [C,H,W], the file, and the contract that results are written by.

    Arrays without a window hold y itself, and their results are written in the model range, or if physical in [0, 1] (what
    CT and MRI see). Other files are taken into the model range, not clamped: noise may leave the window. channels: of the prior;
    1 takes the luminance of a coloured file, as `dataset.load` does.
    """
    source = formats.upright(formats.read(row.path, row.slice))
    if row.window is None and contracts.asked is None and source.meta.format in ARRAYS:
        return source.pixels, source, Intensity(0, 1) if physical else Intensity(-1, 1)
    intensity, pixels = contracts.of(row, source), source.pixels
    if channels == 1 and source.meta.photometric.lower() == "rgb":
        pixels = dataset.with_channels(pixels, 1, row.path)
    return (
        dataset.blacken(intensity.to_model(pixels, clamp=False), source),
        source,
        intensity,
    )


def _in_root(
    root: Path, split: str | None, taken: Sequence[Path], passed: list[Passed], kind: Kind
) -> Iterable[Row]:
    if root.is_file() and split is None:
        return (
            manifest.read(root)
            if root.suffix.lower() in LISTINGS
            else [Row(str(root), manifest.identify(root.name))]
        )
    if not root.is_dir():
        raise Refusal(f"{root}: no such folder{' or file' * (split is None)}")
    if split is None:
        return _folder(root, taken, passed, kind)
    if (root / split).is_dir():
        return _folder(root / split, taken, passed, kind)
    for name in (f"{split}.csv", f"{split}_images.txt"):
        if (root / name).is_file():
            return manifest.read(root / name)
    if (root / "manifest.csv").is_file():
        return _of_split(root / "manifest.csv", split)
    names = {
        p.name.removesuffix("_images.txt").removesuffix(".csv")
        for p in root.iterdir()
        if not p.name.startswith(".")
    }
    raise Refusal(
        f"{root}: has no split {split!r} (folder, .csv or _images.txt){nearest(split, names)}"
    )


def _of_split(listing: str | Path, split: str) -> Iterator[Row]:
    others, found = set[str](), False
    for row in manifest.read(listing):
        if row.split == split:
            found = True
            yield row
        else:
            others.add(row.split or "none")
    if not found:
        raise Refusal(f"{listing}: no row of split {split!r}; it has {', '.join(sorted(others))}")


def _folder(folder: Path, taken: Sequence[Path], passed: list[Passed], kind: Kind) -> Iterator[Row]:
    """Every image below, sorted by path. taken: folders of results, no images of the user's unless all this is one."""
    result = cache(lambda parent: _within(parent, taken) and not _within(folder, taken))
    for path in walk(folder):
        if not kind.known(path):
            passed.append(Passed(path, NO_IMAGE))
        elif not result(path.parent):
            yield Row(str(path), manifest.identify(path.relative_to(folder).as_posix()))


def _within(folder: Path, taken: Sequence[Path]) -> bool:
    return any(folder.resolve().is_relative_to(one) for one in taken)


def _slices(rows: Rows, kind: Kind) -> Rows:
    """A file of several images becomes one row each, unless the row names its slice.

    Either way they are slices of a volume, where a listing names all of them and reads them alike; else images of their own.
    """
    several: dict[str, int] = {}  # images in each file that holds more than one
    listed: dict[str, Listed] = {}
    for row in rows:
        if row.path.lower().endswith(SINGLE):
            continue
        if row.path not in several:
            if (held := _count(row.path, kind)) < 2:
                continue
            several[row.path] = held
        if row.slice is not None:
            known = listed.setdefault(row.path, Listed(array("q"), set()))
            known.slices.append(row.slice)
            known.windows.add(row.window)
    names: dict[str, str] = {}
    for path, known in listed.items():
        if sorted(known.slices) == [*range(several[path])] and len(known.windows) == 1:
            names[path] = _another(path, names.values())
    return Rows(_apiece(rows, several, names)) if several else rows


def _apiece(rows: Rows, several: Mapping[str, int], names: Mapping[str, str]) -> Iterator[Row]:
    """A row for every image. names: of the volumes of which all slices are listed, by their files."""
    for row in rows:
        if row.path in several and row.slice is None:
            yield from (
                row._replace(slice=i, image_id=f"{row.image_id}-{i:04d}", volume=row.image_id)
                for i in range(several[row.path])
            )
        else:
            yield row._replace(volume=names[row.path]) if row.path in names else row


def _another(path: str, taken: Iterable[str]) -> str:
    """The name of a volume of which a manifest lists slices; files of one name in several folders are numbered."""
    name, taken = manifest.identify(os.path.basename(path)), set(taken)
    return next(found for i in count(1) if (found := name + f"-{i}" * (i > 1)) not in taken)


def _apart(rows: Rows) -> Rows:
    """The rows, where no volume has the name of an image."""
    volumes = {row.volume for row in rows} - {""}
    ids = ById(rows)
    clash = {name for name in volumes if name in ids}
    if not clash:
        return rows
    return Rows(
        row._replace(volume=f"{row.volume}-volume") if row.volume in clash else row for row in rows
    )


def _count(path: str, kind: Kind) -> int:
    """Images in a file. One that is broken is one row, which fails alone when it is read, and says why."""
    try:
        return kind.count(path)
    except Refusal:
        return 1
