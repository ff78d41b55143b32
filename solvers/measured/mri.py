"""Cartesian MRI from the scanner's file: y = M F S (p x) with coils S, phase p and noise known, and x real."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.files import Refusal
from data.formats import Meta
from data.formats import kspace as files
from data.formats.image import digest
from data.formats.kspace import Raw
from data.ranges import Intensity
from data.seeding import Noise
from solvers.measured import noise, phase
from solvers.measured.espirit import compression, espirit, windowed
from solvers.measured.noise_level import estimated_sigma_y
from solvers.measured.scanner import Prepared, Scanner, blank, centred
from solvers.operators.kspace import fourier_along, inverse_fourier_along, to_real
from solvers.operators.mri import MRI
from solvers.problem import Gaussian, Likelihood, Problem, from_measurement

LOOKED = 5  # slices, evenly spread, that a volume's noise and scale are taken from
BRIGHT, SHOWN = (
    0.995,
    0.75,
)  # the quantile of what the calibration region shows, blurred as it is, that has this share of white
OFF = 3.0  # times the noise that was found, which a user may say instead
FEWEST = 3  # more lines than the kernel is wide, which a calibration region must have
HEADROOM = 4.0  # times white that a DICOM's 15 bits hold


class Calibrated(NamedTuple):
    """What holds for all slices of a file. W: [V,C], prewhitening; sigma: of real entries after it; white: value of u = 1."""

    W: Tensor
    sigma: float
    white: float
    how: str
    sure: bool = True  # False: only what no image explains tells how large sigma is


@dataclass(frozen=True, eq=False)
class ScannerMRI(Scanner):
    """fastMRI and ISMRMRD HDF5, BART .cfl, NPY and NPZ: one slice after the other.

    x is what the root of the sum of squares over the file's own coils would be without noise, in the file's own units.
    """

    coils: int = 8  # virtual coils that more are compressed to
    calibration: int = 24  # lines of the middle of k-space that maps are made of, each way
    kernel: int = 6  # of ESPIRiT, in k-space
    threshold: float = 0.01  # of the largest singular value, below which is no signal
    crop: float = 0.9  # eigenvalue below which coils see nothing
    phase: bool = True  # False: the image is real once the coils' phase is taken off

    suffixes = files.SUFFIXES

    def __post_init__(self) -> None:
        if self.coils < 1 or self.kernel < 2 or self.calibration < self.kernel + FEWEST:
            need = f"coils >= 1, kernel >= 2, calibration >= kernel + {FEWEST}"
            raise Refusal(
                f"ScannerMRI needs {need}, got {self.coils}, {self.kernel} and {self.calibration}"
            )
        if not (0 <= self.threshold < 1 and 0 <= self.crop < 1):
            raise Refusal(
                f"ScannerMRI needs threshold and crop in [0, 1), got {self.threshold} and {self.crop}"
            )

    def count(self, path: Path) -> int:
        return files.count(path)

    def prepare(
        self, path: Path, index: int, image_id: str, likelihood: Likelihood, output: str
    ) -> Prepared:
        if not isinstance(likelihood, Gaussian):
            raise Refusal(
                f"the noise of MRI is Gaussian, not {type(likelihood).__name__}; sigma_y null (from the file) is allowed"
            )
        raw = without_oversampling(files.read(path, index))
        status = path.stat()
        common = self.calibrate(path, status.st_mtime_ns, status.st_size)
        meta = replace(_meta(raw, output, common.white), notes=(*raw.notes, common.how))

        def pose() -> Problem:
            return self.pose(raw, common, likelihood.sigma_y, image_id, f"{path}, slice {index}")

        return Prepared(
            blank(raw.kept, meta),
            Intensity(0, common.white, origin="calibration region"),
            pose,
            raw.kept,
        )

    @lru_cache(maxsize=8)  # noqa: B019  (operators are few, and frozen)
    def calibrate(self, path: Path, changed: int, size: int) -> Calibrated:
        """Noise, virtual coils and scale of all slices, from a few of them. changed, size: a new file is not the old one."""
        total = files.count(path)
        chosen = sorted({round(i * (total - 1) / max(1, LOOKED - 1)) for i in range(LOOKED)})
        raws = [files.read(path, i) for i in chosen]
        psi, how, sure = covariance(raws)
        W, sigma = noise.whitener(psi)
        centres = [
            self.centre(without_oversampling(raw), f"{path}, slice {i}")
            for raw, i in zip(raws, chosen)
        ]
        centres = [noise.mixed(W, centre) for centre in centres]
        fewer = ""
        if self.coils < len(W):
            U, kept = compression(
                torch.cat([centre.flatten(1) for centre in centres], 1), self.coils
            )
            fewer = (
                f"; {len(W)} coils compressed to {self.coils}, which keep {kept:.1%} of the power"
            )
            W, centres = U.to(W) @ W, [noise.mixed(U, centre) for centre in centres]
        shape = tuple(without_oversampling(raws[0]).kspace.shape[-2:])
        back = torch.linalg.pinv(W)
        seen = [
            noise.mixed(back, windowed(centre, shape)).abs().square().sum(0).sqrt()
            for centre in centres
        ]
        white = (
            max(float(centred(image, raws[0].kept).flatten().quantile(BRIGHT)) for image in seen)
            / SHOWN
        )
        said = f"noise of {sigma:.3g} {how}" if sure else f"noise from {how}"
        return Calibrated(W, sigma, white, said + fewer, sure)

    def centre(self, raw: Raw, where: str) -> Tensor:
        """The calibration region [C,h,w], frequency 0 at [h//2, w//2]: of a scan of its own, else the fully sampled middle."""
        mask = raw.mask if raw.calibration is None else (raw.calibration != 0).any(0)
        data = raw.kspace if raw.calibration is None else raw.calibration
        h, w = extent(mask, self.calibration)
        if min(h, w) < self.kernel + FEWEST and len(data) > 1 or min(h, w) < 2:
            need = self.kernel + FEWEST if len(data) > 1 else 2
            raise Refusal(
                f"{where}: no calibration region: the fully sampled middle of k-space is {h}×{w}; {need}×{need} or more is"
                " allowed, or a calibration scan"
            )
        loudest = divmod(int(data.abs().square().sum(0).argmax()), data.shape[-1])
        if any(abs(at - n // 2) > max(n // 8, 2) for at, n in zip(loudest, data.shape[-2:])):
            middle = [n // 2 for n in data.shape[-2:]]
            raise Refusal(
                f"{where}: k-space is loudest at {list(loudest)}; frequency 0 at {middle} is allowed (fftshift)"
            )
        return centred(data, (h, w))

    def pose(
        self, raw: Raw, common: Calibrated, told: float | None, image_id: str, where: str
    ) -> Problem:
        """The problem of one slice. told: sigma of real entries in the file's units, where it is not to be found out."""
        W, sigma = common.W, common.sigma if told is None else told
        if common.sure and not common.sigma / OFF < sigma < common.sigma * OFF:
            raise Refusal(
                f"{where}: sigma_y {sigma:g}, but its noise is {common.sigma:.3g} in the units of the file (sigma_y null)"
            )
        shape = tuple(raw.kspace.shape[-2:])
        centre = noise.mixed(W, self.centre(raw, where))
        if len(W) > 1:
            maps, value = espirit(centre, shape, self.kernel, self.threshold, sigma * 2**0.5)
            seen = maps * (value > self.crop)
        else:
            maps = seen = torch.ones(1, *shape, dtype=centre.dtype)
        seen = seen / noise.mixed(torch.linalg.pinv(W), maps).abs().square().sum(0).sqrt()
        k = noise.mixed(W, raw.kspace)
        if self.phase:
            p = phase.shown(centre, maps)
            seen = seen * phase.refined(p, k, raw.mask, seen, self.calibration)
        y = to_real(k[None]) / common.white
        operator = MRI(raw.mask.float()[None, None], to_real(seen[None]))
        problem = from_measurement(
            operator, y, Gaussian(sigma / common.white), Noise((image_id,), "noise"), (1, *shape)
        )
        if common.sure or told is not None:
            return problem
        found = float(estimated_sigma_y(replace(problem, likelihood=Gaussian(None))))
        return replace(problem, likelihood=Gaussian(found))


def without_oversampling(raw: Raw) -> Raw:
    """k-space of the picture's rows alone, where the readout was oversampled and every line of it is whole.

    A whole line is a profile, of which the middle is kept: nothing of the picture is lost, and its noise stays white.
    """
    (h, w), rows = raw.kspace.shape[-2:], raw.kept[0]
    if rows == h or not bool((raw.mask == raw.mask[:1]).all()):
        return raw

    def shortened(z: Tensor | None) -> Tensor | None:
        if z is None:
            return None
        return fourier_along(centred(inverse_fourier_along(z, -2), (rows, w)), -2)

    mask = raw.mask[:rows]
    kspace = shortened(raw.kspace)
    assert kspace is not None
    calibration = shortened(raw.calibration)
    if calibration is not None and raw.calibration is not None:
        calibration = torch.where((raw.calibration != 0).any(0).any(0), calibration, 0)
    return replace(raw, kspace=torch.where(mask, kspace, 0), mask=mask, calibration=calibration)


def covariance(raws: list[Raw]) -> tuple[Tensor, str, bool]:
    """Psi [C,C], where it comes from, and whether its size can be trusted: the noise scan, else the quietest slice's air."""
    coils = {len(raw.kspace) for raw in raws}
    if len(coils) > 1:
        raise Refusal(f"slices of {sorted(coils)} coils; one number of coils in a file is allowed")
    if raws[0].noise is not None:
        return noise.of_scan(raws[0].noise), "from the noise scan", True
    found = [noise.of_kspace(raw.kspace, raw.mask) for raw in raws]
    psi, sure = min(found, key=lambda one: (not one[1], float(one[0].diagonal().real.sum())))
    return (
        psi,
        "from rows of air" if sure else "what no image explains: its field of view has no air",
        sure,
    )


def extent(mask: Tensor, most: int) -> tuple[int, int]:
    """The largest fully measured rectangle around [H//2, W//2] of at most `most` lines each way, as wide as high if it can."""
    h, w = mask.shape
    best = (0, 0)
    for n in range(1, min(most, max(h, w)) + 1):
        sides = (min(n, h), min(n, w))
        if bool(centred(mask, sides).all()):
            best = max(best, sides)
    return best


def _meta(raw: Raw, output: str, white: float) -> Meta:
    """Of a result: NIfTI with all slices in one file, or one DICOM file a slice; in the units of the scanner's file."""
    meta = Meta(
        "nifti",
        "float32",
        window=(0, white),
        index=raw.index,
        count=raw.count,
        shape=raw.shape,
        spacing=raw.spacing,
        affine=raw.affine,
        modality="MR",
        series=raw.series,
    )
    if output == "nifti":
        return meta
    affine, position = raw.affine, float(raw.index)
    if affine is not None:
        matrix = torch.tensor(affine, dtype=torch.float64)
        matrix[:3, 3] += matrix[:3, 2] * (raw.index % raw.shape[2])
        normal = torch.linalg.cross(
            matrix[:3, 1], matrix[:3, 0]
        )  # across x down, as DICOM's readers sort
        position = float(normal @ matrix[:3, 3] / normal.norm())
        affine = tuple(tuple(row) for row in matrix.tolist())
    return replace(
        meta,
        format="dicom",
        dtype="int16",
        slope=HEADROOM * white / 2**15,
        count=1,
        shape=(),
        affine=affine,
        position=position,
        photometric="MONOCHROME2",
        source=digest("kspace", raw.series or "", str(raw.index)),
    )
