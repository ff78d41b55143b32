"""A file or folder of images, opened to be looked at: how many there are, their pixels, and the window to see them through."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data import formats, pictures, sources
from data.files import Refusal
from data.formats import archive
from data.manifest import Row


@dataclass(frozen=True)
class Opened:
    """path: what `restore` takes. rows: one for each image."""

    path: Path
    rows: Sequence[Row]

    @classmethod
    def of(cls, path: Path) -> "Opened":
        """Raises Refusal for what cannot be read. A ZIP of one DICOM series is unpacked beside itself, and its folder opened."""
        if path.suffix == ".zip":
            series = path.with_suffix("")
            series.mkdir()
            path = series if archive.unpack_scans(path, series) else path
        opened = cls(path, sources.find(path))
        if path.is_dir() and len({formats.series(row.path) for row in opened.rows}) > 1:
            raise Refusal("the archive holds more than one DICOM series; one is allowed")
        opened.look(0)
        return opened

    def look(self, index: int) -> tuple[Tensor, float, float]:
        """Pixels [1,H,W] or [3,H,W] in stored units, upright, and which values are shown as black and as white.

        The window is the manifest's, else the file's own, else all that the image holds.
        """
        row = self.rows[min(index, len(self.rows) - 1)]
        image = formats.upright(formats.read(row.path, row.slice))
        pixels = pictures.channels(image.pixels).nan_to_num()
        low, high = row.window or image.meta.window or (float(pixels.min()), float(pixels.max()))
        return pixels, low, high if high > low else low + 1
