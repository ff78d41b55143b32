"""A file or folder, opened to be looked at: what it holds, how many, and the window to see them through."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data import formats, pictures, sources
from data.bounded_yaml import read_yaml
from data.files import Refusal
from data.formats import archive, kspace, sinogram
from data.manifest import Row

SUFFIXES = (*formats.SUFFIXES, ".mrd")  # that may be opened
FAINT = -80.0  # dB below the largest sample of k-space: what is shown as black


@dataclass(frozen=True)
class Opened:
    """path: what `restore` takes. rows: one for each image."""

    path: Path
    rows: Sequence[Row]
    holds: str = "images"  # or of what was measured one of KINDS

    @classmethod
    def of(cls, path: Path) -> "Opened":
        """Raises Refusal for what cannot be read.

        A ZIP of one DICOM series, or of measured data with their YAML or header, is unpacked beside itself.
        """
        path = _unpacked(path) if path.suffix == ".zip" else path
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        holds = next(
            (name for name, kind in KINDS.items() if any(map(kind.known, files))), "images"
        )
        opened = cls(path, sources.find(path, kind=KINDS.get(holds, sources.IMAGES)), holds)
        several = len({formats.series(row.path) for row in opened.rows}) if path.is_dir() else 1
        if several > 1 and holds == "images":
            raise Refusal("the archive holds more than one DICOM series; one is allowed")
        opened.look(0)
        return opened

    def look(self, index: int) -> tuple[Tensor, float, float]:
        """Pixels [1,H,W] or [3,H,W], upright, and which values are shown as black and as white.

        Images are in stored units; their window is the manifest's, else the file's own, else all that the image holds.
        k-space is the logarithm of its magnitude over the coils, in dB below its largest sample.
        """
        row = self.rows[min(index, len(self.rows) - 1)]
        if self.holds == "k-space":
            power = kspace.read(row.path, row.slice).kspace.abs().square().sum(0, keepdim=True)
            return 10 * (power / power.max()).clamp(10 ** (FAINT / 10)).log10(), FAINT, 0.0
        if self.holds == "sinogram":
            values = sinogram.read(Path(row.path), row.slice or 0).values
            pixels, own = Tensor(values)[None], None
        else:
            image = formats.upright(formats.read(row.path, row.slice))
            pixels, own = pictures.channels(image.pixels).nan_to_num(), image.meta.window
        low, high = row.window or own or (float(pixels.min()), float(pixels.max()))
        return pixels, low, high if high > low else low + 1


def _unpacked(path: Path) -> Path:
    """The folder of the DICOM files of a ZIP, or the measured data in it, or else the ZIP itself, of pictures."""
    folder = path.with_suffix("")
    folder.mkdir()
    if archive.unpack_scans(path, folder):
        return folder
    if data := archive.unpack_described(path, folder, {*kspace.SUFFIXES, *sinogram.SUFFIXES}):
        said = data.with_suffix(".yaml")
        if said.is_file():
            _check_names(read_yaml(said.read_text("utf-8", "replace"), said))
        return data
    if not archive.count(path):
        raise Refusal(
            "the archive holds no DICOM files, no pictures, and no measured data beside their YAML"
        )
    return path


def _check_names(said: object) -> None:
    """Raise Refusal where a YAML of unknown origin names a file that is not beside it."""
    if isinstance(said, str) and re.search(r"[/\\]|\.\.", said):
        raise Refusal(f"the YAML names {said[:40]!r}; names without a folder are allowed")
    parts = said.values() if isinstance(said, dict) else said if isinstance(said, list) else ()
    for one in parts:
        _check_names(one)


def _is_kspace(path: Path) -> bool:
    """Whether a file holds complex numbers, or is of a format that holds nothing else."""
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return formats.read(path, 0).meta.dtype.startswith("complex")
    return suffix in kspace.SUFFIXES and (suffix not in (".h5", ".hdf5") or _counted(path, kspace))


def _is_sinogram(path: Path) -> bool:
    """Whether a file has a YAML beside it, or is a projection among the DICOM files of its folder."""
    if not sinogram.known(path):
        return False
    return path.with_suffix(".yaml").is_file() or _counted(path, sinogram)


def _counted(path: Path, format: Any) -> bool:
    """Whether a format that shares its files' names with others knows this one; what is broken is said by the others."""
    try:
        return bool(format.count(path))
    except Refusal:
        return False


KINDS = {  # of measured data: which files hold them, and how many a file; both may have a YAML beside them
    "k-space": sources.Kind(_is_kspace, kspace.count),
    "sinogram": sources.Kind(_is_sinogram, lambda path: sinogram.count(Path(path))),
}
