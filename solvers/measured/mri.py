"""MRI from the scanner's file: y = F S (p x), on a Cartesian grid or along a trajectory, with coils S, phase p and noise known,
and x real."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from data.files import Refusal
from data.formats import kspace as files
from data.formats.kspace import Raw
from data.ranges import Intensity
from data.seeding import Noise
from solvers.measured import kspace_agreement, noise, phase
from solvers.measured.calibration import Calibrated, calibrate, matrix, middle
from solvers.measured.cartesian import without_oversampling
from solvers.measured.espirit import espirit
from solvers.measured.noise_level import estimated_sigma_y
from solvers.measured.pictures import meta_of
from solvers.measured.scanner import Prepared, Scanner, blank
from solvers.operators.kspace import to_real
from solvers.operators.mri import MRI
from solvers.operators.mri_coils import CoilImages
from solvers.operators.mri_noncartesian import NonCartesianMRI
from solvers.problem import Gaussian, Likelihood, Problem, Varying, from_measurement

OFF = 3.0  # times the noise that was found, which a user may say instead
MODEL = 3.0  # times the noise, that maps and phase may err by
NEAR = 5  # samples each way that the noise of one is judged by, together
TINY = 1e-6  # instead of no sample
FEWEST = 3  # more lines than the kernel is wide, which a calibration region must have


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
    asks = "mri restores what a scanner measured: give k-space as HDF5, MRD or NPY"

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
        meta = replace(meta_of(raw, output, common.white), notes=(*raw.notes, common.how))

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
        """changed, size: a new file is not the old one."""
        return calibrate(path, self.coils, self.calibration, self.kernel + FEWEST)

    def pose(
        self, raw: Raw, common: Calibrated, told: float | None, image_id: str, where: str
    ) -> Problem:
        """The problem of one slice. told: sigma of real entries in the file's units, where it is not to be found out."""
        W, sigma = common.W, common.sigma if told is None else told
        if common.sure and not common.sigma / OFF < sigma < common.sigma * OFF:
            raise Refusal(
                f"{where}: sigma_y {sigma:g}, but its noise is {common.sigma:.3g} in the units of the file (sigma_y null)"
            )
        shape = matrix(raw)
        centre = noise.mixed(W, middle(raw, self.calibration, self.kernel + FEWEST, where))
        if len(W) > 1:
            maps, value = espirit(centre, shape, self.kernel, self.threshold, sigma * 2**0.5)
            seen = maps * (value > self.crop)
        else:
            maps = seen = torch.ones(1, *shape, dtype=centre.dtype)
        seen = seen / noise.mixed(common.back, maps).abs().square().sum(0).sqrt()
        k = noise.mixed(W, raw.kspace)
        y = to_real(k[None])
        if self.phase:
            A, p = operator_of(raw, seen, complex_image=True), phase.shown(centre, maps)
            seen = seen * phase.refined(p, A, y, self.calibration)
        operator, y = operator_of(raw, seen, open_phase=self.phase), y / common.white
        problem = from_measurement(
            operator, y, Gaussian(sigma / common.white), Noise((image_id,), "noise"), (1, *shape)
        )
        if raw.trajectory is not None:
            kspace_agreement.check_trajectory(problem, where)
        if told is not None:
            return problem
        if not common.sure:
            found = float(estimated_sigma_y(replace(problem, likelihood=Gaussian(None))))
            problem = replace(problem, likelihood=Gaussian(found))
        return replace(problem, likelihood=with_model_errors(problem, common.sure))


def with_model_errors(problem: Problem, sure: bool = True) -> Likelihood:
    """The noise of each sample: sigma_y, or what no image explains of the samples near it, where that is more.

    Maps and phase of few lines are smooth, and so are their errors, which are samples that err near the middle of k-space, where
    the image is strong: of the page's scan at x 8 the truth leaves 7 to 19 times the noise at the middle and 1.02 times it 50
    lines away. One sigma_y for all (1.3 to 2 times the noise) trusts the middle too much and the rest too little. Of masks that
    are no whole columns, which take long, it is not found.
    What is more than MODEL times the noise is no error of an estimate but a wrong model: the noise stays what it is then, and
    the residual of the result shows it. sure: sigma_y is of noise alone; else the noise is what is found of the middle sample.
    """
    A, known = problem.operator, problem.sigma_y
    slow = isinstance(A, MRI) and not A.columns
    if slow or not isinstance(A, CoilImages) or not isinstance(A.sensitivities, Tensor):
        return problem.likelihood
    alone = A.noise_alone(problem.y) if A.sensitivities.shape[1] > 2 else None
    if alone is None or alone[alone != 0].square().mean().sqrt() > MODEL * known:
        return problem.likelihood
    samples = nearby(A.restrict(torch.ones_like(alone)))
    near = (nearby(alone.square()) / samples.clamp_min(TINY)).sqrt()
    least = known if sure else float(near[samples > 0].median())
    return Varying(near.clamp_min(least).expand_as(alone))


def nearby(y: Tensor) -> Tensor:
    """[B,2*coils,H,W] averaged over coils and the NEAR x NEAR samples around each: [B,1,H,W]"""
    return avg_pool2d(y.mean(1, keepdim=True), NEAR, stride=1, padding=NEAR // 2)


def operator_of(
    raw: Raw, seen: Tensor, complex_image: bool = False, open_phase: bool = False
) -> CoilImages:
    """What measured a slice, of sensitivities [C,H,W] with or without the phase."""
    shape, maps = (2 if complex_image else 1, *matrix(raw)), to_real(seen[None])
    if raw.trajectory is not None:
        return NonCartesianMRI(raw.trajectory, maps, complex_image, open_phase).bind(shape)
    return MRI(raw.mask.float()[None, None], maps, complex_image, open_phase).bind(shape)
