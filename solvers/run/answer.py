"""What a call from Python gives back: restored images in the form of the caller's own, and their files."""

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from data import formats
from data.arrays import Form
from data.files import Refusal, commit, replacing
from data.formats import archive
from data.ranges import DEPTH_8, DEPTH_16, Intensity
from solvers import metrics
from solvers.problem import Problem
from solvers.run import report, view, volumes
from solvers.run.outputs import like_source, volume_images
from solvers.run.panels import before, panel
from solvers.run.planes import planes
from solvers.run.record import Outcome, meaning
from solvers.run.results import Results

SHOWN = 8  # panels of one picture
PICTURES = ("png", "jpeg", "bmp", "tiff")
PACKED = zipfile.ZIP_DEFLATED
SINGLE = ("png", "jpeg", "bmp")  # of one image each


@dataclass(frozen=True)
class Measured(Problem):
    """A problem that knows in which form its images were given, so that results come back likewise."""

    form: Form
    intensity: Intensity


class Result:
    """The images of one array, problem or file, restored. Images are in the caller's range, axes and type; those of a file in
    its stored units (Hounsfield for CT), float32 NumPy, [H,W], colours [3,H,W], volumes [D,H,W].

    outcomes: one for each image, none of them failed. results: the folder of results that a path means, as sample.py's.
    """

    def __init__(self, outcomes: Sequence[Outcome], form: Form, results: Callable[[Path], Results]):
        self.outcomes, self.form, self._results = outcomes, form, results

    @property
    def image(self) -> Any:
        """The posterior mean, the one draw, or the kept run; the mean is nearer to the truth than the average of the draws
        where the solver can tell it better (`Solver.mean`)."""
        return self.form.give(torch.stack([self._stored(o, _image(o)) for o in self.outcomes]))

    @property
    def draws(self) -> Any:
        """Draws of the posterior, [K,...] of one image, [B,K,...] of a batch; of --num-runs the kept one."""
        every = [_image(o)[None] if o.draws is None else o.draws for o in self.outcomes]
        stored = [self._stored(o, draws) for o, draws in zip(self.outcomes, every)]
        return self.form.give(torch.stack(stored))

    @property
    def std(self) -> Any:
        """Standard deviation of the draws, in units of the image; None of a single one."""
        spread = [_intensity(o).per_unit * o.std for o in self.outcomes if o.std is not None]
        return self.form.give(torch.stack(spread), whole=False) if spread else None

    def interval(self, level: float = 0.9) -> Any:
        """(low, high): a further draw lies between with probability `level`, if draws are Gaussian; None of a single one.

        image -+ t(K-1) std sqrt(1 + 1/K), in units and axes of the image.
        """
        if any(o.draws is None for o in self.outcomes):
            return None
        lows, highs = [], []
        for outcome in self.outcomes:
            assert outcome.draws is not None
            mean, half = _image(outcome), metrics.half_width(outcome.draws, level)
            lows.append(self._stored(outcome, mean - half))
            highs.append(self._stored(outcome, mean + half))
        return tuple(self.form.give(torch.stack(ends), whole=False) for ends in (lows, highs))

    @property
    def truth(self) -> Any:
        """The images that were measured, where the measurement was simulated, clamped to their window; else None."""
        return self._optional([o.truth for o in self.outcomes])

    @property
    def before(self) -> Any:
        """What the data show by themselves, in units and axes of the image, NaN where nothing was measured.

        Measured pixels at their places; of sinograms, k-space and the like the classical answer, None if there is none.
        """
        return self._optional([before(o) for o in self.outcomes])

    @property
    def words(self) -> Any:
        """What the numbers of the record mean, in a sentence or two."""
        return self._each([meaning(o.record) for o in self.outcomes])

    @property
    def residual(self) -> float | list[float]:
        """|A x - y| / (sigma_y sqrt(m)) of one draw: 1 if it explains the data to the noise level. Of a batch, one each."""
        return self._each([float(o.record["residual"]) for o in self.outcomes])

    @property
    def record(self) -> Any:
        """What sample.py writes into records.jsonl: psnr and ssim (where the truth is known), nfe, seconds, seed, notes."""
        return self._each([dict(o.record) for o in self.outcomes])

    @property
    def picture(self) -> PIL.Image.Image:
        """truth | measurement | restored | error | std, with their scales; of a batch the first images, one below the other."""
        panels = [(planes if o.scan.slices else panel)(o) for o in self.outcomes[:SHOWN]]
        tops = [sum(p.height for p in panels[:i]) for i in range(len(panels) + 1)]
        sheet = PIL.Image.new("RGB", (max(p.width for p in panels), tops[-1]), "white")
        for one, top in zip(panels, tops):
            sheet.paste(one, (0, top))
        return sheet

    def show(self) -> None:
        """Show the picture: below the cell of a notebook, else with the system's viewer."""
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            self.picture.show()
            return
        display(self) if get_ipython() else self.picture.show()

    @property
    def suffix(self) -> str:
        """The ending of one file in the format of the source: .zip of a DICOM series, or of pictures that came so."""
        scan, count = self.outcomes[0].scan, len(self.outcomes)
        assert scan.source is not None
        meta, several = scan.source.meta, count > 1 or bool(scan.slices)
        if several and (archive.held(meta) or (meta.format == "dicom" and meta.count == 1)):
            return ".zip"
        whole = scan.slices or (count == meta.count and meta.format not in SINGLE)
        return formats.suffix(meta) if scan.checksum and (not several or whole) else ".npy"

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write a file, or a folder of results.

        A name with the ending of the source's format: that format, depth, units and geometry; a volume becomes one file, a slice
        of it a file of one, a DICOM series also .zip, pictures of a ZIP .zip. Other endings: .npy, or .png, .tif, .jpg of a
        single image, 16 bits from the low to the high end of its range, 8 for 8-bit images and JPEG. A name without an ending is
        a folder, with all that sample.py writes; an earlier one is replaced only with `overwrite`. Raises Refusal for what a
        format cannot hold.
        """
        path, kind, scan = Path(path), formats.kind(path), self.outcomes[0].scan
        assert scan.source is not None
        meta, file, count = scan.source.meta, bool(scan.checksum), len(self.outcomes)
        native = "zip" if count > 1 and archive.held(meta) else meta.format
        if not path.suffix:
            self._save_folder(path, overwrite)
        elif file and kind == native and (count in (1, meta.count) or scan.slices):
            self._save_like_source(path)
        elif file and kind == "zip" and meta.format == "dicom" and (count > 1 or scan.slices):
            self._save_series(path)
        elif kind == "npy":
            out = BytesIO()
            np.save(out, torch.as_tensor(self.image).cpu().numpy())
            commit(path, out.getvalue())
        elif kind in PICTURES and count == 1 and not scan.slices:
            self._save_picture(path, kind)
        else:
            own = f"{formats.suffix(meta)}, " if file else ""
            others = "a folder, and .png, .tif or .jpg for a single image"
            raise Refusal(f"{path}: {own}.npy, {others} are allowed")

    def _save_like_source(self, path: Path) -> None:
        origin, ids = self._results(path).origin, [o.image_id for o in self.outcomes]
        if self.outcomes[0].scan.slices:
            images, ids = volume_images(self.outcomes[0])
        else:
            images = [like_source(_image(o), o.scan, o.record) for o in self.outcomes]
        if len(images) > 1:
            formats.reassemble(images, path, image_ids=ids, **origin)
        else:
            formats.write(images[0], path, image_id=ids[0], **origin)

    def _save_series(self, path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._save_like_source(Path(folder) / "series")
            with replacing(path) as file, zipfile.ZipFile(file, "w", PACKED) as packed:
                for one in sorted((Path(folder) / "series").iterdir()):
                    packed.write(one, one.name)

    def _save_picture(self, path: Path, kind: str) -> None:
        outcome, image = self.outcomes[0], _image(self.outcomes[0])
        deep = kind in ("png", "tiff") and outcome.scan.intensity != DEPTH_8 and len(image) == 1
        depth, dtype = (DEPTH_16, "uint16") if deep else (DEPTH_8, "uint8")
        meta = formats.Meta(kind, dtype, photometric="rgb" if len(image) == 3 else "gray")
        formats.write(formats.Image(depth.to_stored(image.float()), meta), path)

    def _save_folder(self, path: Path, overwrite: bool) -> None:
        results = self._results(path)
        with results.opened(overwrite):
            for outcome in self.outcomes:
                results.commit(outcome)
            scans = {o.image_id: o.scan for o in self.outcomes}
            members: dict[str, list[str]] = {}
            for name, scan in scans.items():
                members.setdefault("" if scan.slices else scan.volume, []).append(name)
            members.pop("", None)
            volumes.reassemble(results, members, scans.get)
            report.conclude({path.name: results})

    def __repr__(self) -> str:
        return f"Result(image {list(self.image.shape)}, residual {np.mean(self.residual):.3f})"

    def _stored(self, outcome: Outcome, model: Tensor) -> Tensor:
        return _intensity(outcome).to_stored(model.float())

    def _optional(self, images: Sequence[Tensor | None]) -> Any:
        found = [(o, image) for o, image in zip(self.outcomes, images) if image is not None]
        if len(found) < len(images):
            return None
        stored = [self._stored(o, image) for o, image in found]
        return self.form.give(torch.stack(stored), whole=False)

    def _each(self, values: list) -> Any:
        return values if self.form.batched else values[0]

    def html(self, window: tuple[float, float] | None = None) -> str:
        """Measured and restored under one slider, spread, draws and words; of a volume or batch, of the image in its middle.

        window: what is black and what is white, in the image's own units.
        """
        return view.whole(self.middle, window)

    def profile(self, row: int) -> str:
        """The values along a row with the 90 % band of the draws, as HTML."""
        return view.profile(self.middle, row)

    @property
    def middle(self) -> Outcome:
        """Of the image in the middle; of a volume, of its middle slice."""
        return self.outcomes[len(self.outcomes) // 2].middle

    def _repr_png_(self) -> bytes:
        out = BytesIO()
        self.picture.save(out, "PNG")
        return out.getvalue()


def _intensity(outcome: Outcome) -> Intensity:
    assert outcome.scan.intensity is not None
    return outcome.scan.intensity


def _image(outcome: Outcome) -> Tensor:
    assert outcome.image is not None
    return outcome.image
