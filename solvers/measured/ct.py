"""CT from the scanner's file: counts or line integrals in their own geometry, their noise known, images in HU."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from data.files import Refusal
from data.formats import sinogram as files
from data.formats.sinogram import Sinogram
from data.formats.sinogram.description import SIDE
from data.ranges import Intensity
from data.seeding import Noise
from solvers.measured import agreement, fit
from solvers.measured.ct_slice import Common, check_cone, geometry_of, measured, meta_of
from solvers.measured.noise_level import estimated_sigma_y
from solvers.measured.scanner import Prepared, Scanner, blank
from solvers.measured.water import good_rays, water
from solvers.operators.ct_fbp import WINDOWS
from solvers.operators.ct_measured import GeometryCT
from solvers.problem import Gaussian, Likelihood, Problem, Varying, from_measurement

CUT_OFF = 0.02  # of the largest integral: what the ends of a view still attenuate if the object is wider than the detector


@dataclass(frozen=True, eq=False)
class ScannerCT(Scanner):
    """Sinograms (NPY, HDF5, TIFF, NRRD) with a geometry in a YAML beside them, and DICOM-CT-PD; one slice after the other."""

    hu: tuple[float, float] = (-1000.0, 400.0)  # what the prior's black and white are
    window: Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"] = (
        "hann"  # of the filtered backprojection
    )
    cutoff: float = 1.0  # its highest frequency, as a fraction of Nyquist's
    center: float | str = ""  # bins, instead of the file's offset; auto: found in the data
    check: bool = True  # refuse data that do not fit what is said of them

    suffixes: ClassVar[tuple[str, ...]] = files.SUFFIXES
    asks: ClassVar[str] = (
        "ct restores what a scanner measured: give a sinogram and its YAML, or DICOM-CT-PD"
    )
    output: ClassVar[str] = "dicom"

    def __post_init__(self) -> None:
        if len(self.hu) != 2 or not -math.inf < self.hu[0] < self.hu[1] < math.inf:
            raise Refusal(f"hu {list(self.hu)}: [LOW, HIGH] in HU is allowed, LOW < HIGH")
        if self.window not in WINDOWS:
            raise Refusal(f"window {self.window!r}: {', '.join(WINDOWS)} are allowed")
        if isinstance(self.center, str) and self.center not in ("", "auto"):
            raise Refusal(f"center {self.center!r}: auto or a number of bins is allowed")

    def known(self, path: Path) -> bool:
        return files.known(path)

    def count(self, path: Path) -> int:
        return files.count(path)

    def prepare(
        self, path: Path, index: int, image_id: str, likelihood: Likelihood, output: str
    ) -> Prepared:
        if not isinstance(likelihood, Gaussian):
            raise Refusal(
                "the noise of a sinogram stands in its YAML; likelihood Gaussian is allowed"
            )
        sinogram = files.read(path, index)
        where = f"{path}, slice {index}" if sinogram.count > 1 else str(path)
        stamps = tuple(
            one.stat().st_mtime_ns for one in (path, path.with_suffix(".yaml")) if one.exists()
        )
        common = self.common(path, stamps)
        if sinogram.said.beam == "cone":
            check_cone(sinogram, common.geometry, max(common.size) * common.geometry.pixel_size)
        p, deviation, notes = measured(sinogram, where)
        posed, more = self.pose(sinogram, common, p, deviation, likelihood.sigma_y, image_id, where)
        meta = replace(
            meta_of(sinogram, common, output, self.hu, path), notes=(*common.notes, *notes, *more)
        )
        return Prepared(
            blank(common.size, meta),
            Intensity(*self.hu, origin="asked"),
            lambda: posed,
            common.size,
        )

    @lru_cache(maxsize=8)  # noqa: B019  (operators are few, and frozen)
    def common(self, path: Path, stamps: tuple[int, ...]) -> Common:
        """The geometry, with its centre found where that is asked for, and what water attenuates. stamps: when files changed."""
        middle = files.read(path, files.count(path) // 2)
        said, (views, bins) = middle.said, middle.values.shape
        rows, columns, pixel = said.image()
        geometry = geometry_of(said, views, bins, pixel)
        p, deviation, _ = measured(middle, str(path))
        weights = np.ones_like(p) if deviation is None else deviation**-2
        weights = weights * good_rays(said, p)
        side = fit.extent(geometry, rows, columns)
        notes: tuple[str, ...] = ()
        if self.center == "auto":
            offset = fit.centred(geometry, p, weights, side, str(path))
            notes = (
                f"the axis is seen {offset:+.2f} bins from the middle (found; its file says {geometry.offset:+.2f})",
            )
            geometry = replace(geometry, offset=offset)
        elif self.center != "":
            geometry = replace(geometry, offset=float(self.center))
        if self.check:
            agreement.direction(geometry, p, weights, side, str(path))
        return Common(geometry, (rows, columns), water(said, geometry, (rows, columns)), notes)

    def pose(
        self,
        sinogram: Sinogram,
        common: Common,
        p: np.ndarray,
        deviation: np.ndarray | None,
        told: float | None,
        image_id: str,
        where: str,
    ) -> tuple[Problem, tuple[str, ...]]:
        """The problem of one slice, and what is to be said of it. told: sigma_y that the task says, if any."""
        notes: list[str] = []
        good = good_rays(sinogram.said, p)
        if lost := int((~good).any(0).sum()):
            notes.append(
                f"{lost} of {p.shape[1]} bins measure nothing or stand out, and are left out"
            )
        ends = np.concatenate([p[:, :3], p[:, -3:]], 1)
        cut = float((np.abs(ends).max(1) > CUT_OFF * p.max() + 5 * _noise(deviation)).mean())
        if cut > 0.02:
            field = common.geometry.field_of_view
            notes.append(
                f"{cut:.0%} of the views are cut off: HU hold within {field:.0f} mm around the axis, and less well there"
            )
        low, high = (common.mu_water * (1 + hu / 1000) for hu in self.hu)
        mask = None if bool(good.all()) else torch.from_numpy(good.astype(np.float32))[None, None]
        operator = GeometryCT(common.geometry, mask, high - low, self.window, self.cutoff)
        shape, wider = self.enlarged(operator, common, p, deviation)
        notes += wider
        bound = operator.draw(shape, Noise((image_id,), "noise"))
        ones = bound.forward(torch.ones(1, *shape)) * (
            2 / (high - low)
        )  # path through the image, mm
        y = torch.from_numpy(p.astype(np.float32))[None, None] - low * ones
        likelihood: Likelihood = Gaussian(told)
        if told is None and deviation is not None:
            likelihood = Varying(torch.from_numpy(deviation.astype(np.float32))[None, None])
        problem = from_measurement(operator, y, likelihood, Noise((image_id,), "noise"), shape)
        if likelihood == Gaussian(None):
            sigma_y = float(estimated_sigma_y(problem))
            notes.append(f"sigma_y {sigma_y:.3g} is estimated from the data")
            problem = replace(problem, likelihood=Gaussian(sigma_y))
        if self.check:
            agreement.check(problem, self.hu, where)
        return problem, tuple(notes)

    def enlarged(
        self, operator: GeometryCT, common: Common, p: np.ndarray, deviation: np.ndarray | None
    ) -> tuple[tuple[int, int, int], list[str]]:
        """The shape of the image, grown where the scan saw more than the picture holds: rays must not pass what is not there."""
        rows, columns = common.size
        bound = operator.bind((1, rows, columns))
        missing = bound.hit(torch.zeros(1)).numpy() == 0
        attenuated = p > CUT_OFF * p.max() + 5 * _noise(deviation)
        if not (missing & attenuated).any(1).mean() > 0.02:
            return (1, rows, columns), []
        g = common.geometry
        due = math.ceil((float(np.abs(g.reach).max()) + math.hypot(*g.centre)) / g.pixel_size)
        larger = [n + 2 * max(0, due - n // 2) for n in (rows, columns)]
        if max(larger) > SIDE:
            raise Refusal(
                f"part of the object lies outside the image, whose pixels of {g.pixel_size:g} mm are too small:"
                f" {larger[0]}×{larger[1]} of them would be restored; up to {SIDE} are allowed"
            )
        said = f"part of the object lies outside the image: {larger[0]}×{larger[1]} pixels are restored, the image is cut out"
        return (1, *larger), [said]  # type: ignore[return-value]


def _noise(deviation: np.ndarray | None) -> float | np.ndarray:
    return 0.0 if deviation is None else float(np.median(deviation))
