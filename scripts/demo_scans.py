"""The demo data set: real, openly licensed scans that packages on the Python index carry, cut into slices of 256 x 256.

Trained on: chest CT lung1; heads S1 (three orientations) and brain1, and the MNI average. Held out as `test`, never trained on:
lung2, brain2, s1045, dipy's T1 slice, and other anatomy (abdomen MR, head CT). There is no further subject to validate on:
`val` is a block of neighbouring slices of lung1, brain1 and the average that `train` does not have (nor the slices next to it).
It watches training and measures nothing.
"""

import csv
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pydicom
from archives import WHEEL, Archive, sha256
from PIL import Image

from data.files import commit
from data.manifest import COLUMNS

SIZE = 256
CT_WINDOW = (-1000.0, 400.0)  # HU: air to contrast medium; dense bone saturates, as in any lung display
MR_PERCENTILES = (0.5, 99.8)  # of the whole volume
AXES = {"sag": 0, "cor": 1, "ax": 2}  # in an array ordered (left, posterior, superior)
LABELS = {"CT": 0, "MR": 1}

ARCHIVES = (
    Archive(
        "pyradiomics==3.0.1",
        "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
        {
            "pyradiomics-3.0.1/data/lung1_image.nrrd": "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
            "pyradiomics-3.0.1/data/lung2_image.nrrd": "aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
            "pyradiomics-3.0.1/data/brain1_image.nrrd": "fffdb111ee8b428ede7256707393c927a7d5be912f0604cf3c6f1bd5fc9644cf",
            "pyradiomics-3.0.1/data/brain2_image.nrrd": "d35a1c6a3e1eb72bae97c5515472fbe057fb38ee8e1e199215d1c3c6f292332e",
        },
        ("--no-binary", "pyradiomics", "--no-build-isolation"),
    ),
    Archive(
        "pycortex==1.4.0",
        "9fdb292a2df96bba6087ee07d428969ba1eb07ed03724bcfaca96ec8e28a5fd5",
        {
            "pycortex-1.4.0/filestore/db/S1/anatomicals/raw.nii.gz": (
                "1a480d10e8c07fbca58e069efce2a11d477e180beb43f88bdad825b750055a28"
            )
        },
        ("--no-binary", "pycortex"),
    ),
    Archive(
        "nilearn==0.14.1",
        "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
        {
            "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz": (
                "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6"
            )
        },
        WHEEL,
    ),
    Archive(
        "matplotlib==3.11.2",
        "07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8",
        {"matplotlib/mpl-data/sample_data/s1045.ima.gz": "32b424d64f62b7e71cb24d29fd53938ad5664d608055a67ab2b2af4369f8b89e"},
        WHEEL,
    ),
    Archive(
        "dipy==1.12.1",
        "65013b80f6e61c4c52de7b61da6e36afa76b09ccfe8c456414519b36609d7bb6",
        {"dipy/data/files/t1_coronal_slice.npy": "6ae15c125c97e11e1ba478ff252c1774d2c31db242a8a61daa93e7b43c873c7b"},
        WHEEL,
    ),
    Archive(
        "pydicom==3.0.2",
        "abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b",
        {
            "pydicom/data/test_files/examples_overlay.dcm": "112539bc17c0e281987397e827dff9e99890109866d570f08761f83b8f55c277",
            "pydicom/data/test_files/J2K_pixelrep_mismatch.dcm": (
                "2df92c523d36639e4d88f892f47e4f6616c48ab017a445a6241ffe38b2d07bbf"
            ),
        },
        WHEEL,
    ),
)


@dataclass(frozen=True)
class Scan:
    """One subject: which file, how it is cut, and where its slices go."""

    subject: str
    modality: str
    file: str  # base name among the archive members
    split: str
    orientations: tuple[str, ...] = ("ax",)
    every: int = 1  # take each n-th slice
    validation: tuple[int, ...] = ()  # positions of the axial slices that go to `val` instead; one on either side is dropped


SCANS = (
    Scan("lung1", "CT", "lung1_image.nrrd", "train", validation=tuple(range(22, 27))),
    Scan("brain1", "MR", "brain1_image.nrrd", "train", validation=tuple(range(12, 16))),
    Scan("S1", "MR", "raw.nii.gz", "train", ("ax", "cor", "sag")),
    Scan("mni", "MR", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", "train", every=3, validation=(84, 87, 90)),
    Scan("lung2", "CT", "lung2_image.nrrd", "test"),
    Scan("brain2", "MR", "brain2_image.nrrd", "test"),
    Scan("s1045", "MR", "s1045.ima.gz", "test", ("sag",)),
    Scan("dipy", "MR", "t1_coronal_slice.npy", "test", ("cor",)),
    Scan("abdomen", "MR", "examples_overlay.dcm", "test"),
    Scan("headct", "CT", "J2K_pixelrep_mismatch.dcm", "test"),
)


def volume(path: Path) -> np.ndarray:
    """The scan in stored units, float32, ordered (left, posterior, superior): increasing index goes that way."""
    if path.suffix == ".nrrd":
        stored, header = nrrd.read(str(path))
        for axis, direction in enumerate(header["space directions"]):  # axis-aligned in these files; LPS space
            if direction[axis] < 0:
                stored = np.flip(stored, axis)
    elif path.name.endswith(".nii.gz"):
        canonical = nibabel.as_closest_canonical(nibabel.load(path))  # (right, anterior, superior)
        stored = np.asanyarray(canonical.dataobj)[::-1, ::-1]
    elif path.suffix == ".npy":
        stored = np.load(path, allow_pickle=False)[::-1].T[:, None]  # rows superior to inferior, columns to the left
    elif path.name.endswith(".ima.gz"):
        stored = np.frombuffer(gzip.decompress(path.read_bytes()), "<u2").reshape(1, 256, 256)
        stored = stored[:, ::-1].transpose(0, 2, 1)
    else:
        scan = pydicom.dcmread(path)
        stored = scan.pixel_array * float(scan.get("RescaleSlope", 1)) + float(scan.get("RescaleIntercept", 0))
        stored = stored.T[:, :, None]
    return np.ascontiguousarray(stored, dtype=np.float32)


def slices(scan: Scan, stored: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
    """(orientation, position, picture in [0, 1]) for every slice that shows the subject on more than 8 % of its pixels."""
    low, high = CT_WINDOW if scan.modality == "CT" else np.percentile(stored, MR_PERCENTILES)
    unit = (stored - low) / (high - low)
    for orientation in scan.orientations:
        axis = AXES[orientation]
        for position in range(0, unit.shape[axis], scan.every):
            picture = unit.take(position, axis).T
            picture = picture if orientation == "ax" else picture[::-1]  # superior on top
            if (picture > 0.1).mean() > 0.08:
                yield orientation, position, fit(picture)


def fit(picture: np.ndarray) -> np.ndarray:
    """SIZE x SIZE in [0, 1]: scaled down by Lanczos if larger, clipped, padded or cut about the centre; never enlarged."""
    scale = max(1.0, min(picture.shape) / SIZE)
    if scale > 1:
        height, width = (round(n / scale) for n in picture.shape)
        scaled = Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.LANCZOS)
        picture = np.asarray(scaled)
    picture = picture.clip(0, 1)
    for axis in (0, 1):
        missing = max(0, SIZE - picture.shape[axis])
        widths = [(0, 0), (0, 0)]
        widths[axis] = (missing // 2, missing - missing // 2)
        picture = np.pad(picture, widths)
        start = (picture.shape[axis] - SIZE) // 2
        picture = picture.take(range(start, start + SIZE), axis)
    return picture


def prepare(source: Path, output: Path) -> dict[str, list[dict]]:
    """Cut the fetched scans; writes the pictures and the manifests of all splits and returns the rows of each."""
    rows: dict[str, list[dict]] = {"train": [], "val": [], "test": []}
    for split in rows:
        (output / split).mkdir(parents=True, exist_ok=True)
    for scan in SCANS:
        reserved = {p + d for p in scan.validation for d in (-scan.every, 0, scan.every)}
        for orientation, position, picture in slices(scan, volume(source / scan.file)):
            split = "val" if position in scan.validation else scan.split
            if position in reserved and split == "train":
                continue
            image_id = f"{scan.subject}-{orientation}-{position:03d}"
            name = f"{split}/{image_id}.png"
            save(picture, output / name)
            rows[split].append(row(output, name, image_id, scan.subject, split, (0, 65535), LABELS[scan.modality]))
    write_manifests(output, rows)
    return rows


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
    return dict(zip(COLUMNS, (name, image_id, subject, split, index, bounds, label, sha256(folder / name))))


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
