"""What holds for all slices of a file of k-space, taken from a few of them: noise, virtual coils and scale."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.files import Refusal
from data.formats import kspace as files
from data.formats.kspace import Raw
from solvers.measured import cartesian, noise, noncartesian
from solvers.measured.cartesian import without_oversampling
from solvers.measured.espirit import compression, windowed
from solvers.measured.scanner import centred

LOOKED = 5  # slices, evenly spread
BRIGHT, SHOWN = (
    0.995,
    0.75,
)  # the quantile of what the calibration region shows, blurred as it is, that has this share of white


class Calibrated(NamedTuple):
    """What holds for all slices of a file. W: [V,C], prewhitening and compression; back: [C,V], the file's own coils of virtual
    ones; sigma: of real entries after W; white: value of u = 1."""

    W: Tensor
    back: Tensor  # W0^-1 U^H of W = U W0, and not W's pseudo-inverse, which makes coils as weak as it can
    sigma: float
    white: float
    how: str
    sure: bool = True  # False: only what no image explains tells how large sigma is


def calibrate(path: Path, coils: int, lines: int, fewest: int) -> Calibrated:
    """coils: that more are compressed to. lines: of the calibration region, each way; fewest: that it must have."""
    total = files.count(path)
    chosen = sorted({round(i * (total - 1) / max(1, LOOKED - 1)) for i in range(LOOKED)})
    raws = [files.read(path, i) for i in chosen]
    try:
        psi, how, sure = covariance(raws)
        W, sigma = noise.whitener(psi)
    except Refusal as error:
        raise Refusal(f"{path}: {error}") from None
    back = torch.linalg.inv(W)
    centres = [
        middle(without_oversampling(raw), lines, fewest, f"{path}, slice {i}")
        for raw, i in zip(raws, chosen)
    ]
    centres = [noise.mixed(W, centre) for centre in centres]
    fewer = ""
    if coils < len(W):
        U, kept = compression(torch.cat([centre.flatten(1) for centre in centres], 1), coils)
        fewer = f"; {len(W)} coils compressed to {coils}, which keep {kept:.1%} of the power"
        W, back = U.to(W) @ W, back @ U.mH.to(W)
        centres = [noise.mixed(U, centre) for centre in centres]
    shape = matrix(without_oversampling(raws[0]))
    seen = [
        noise.mixed(back, windowed(centre, shape)).abs().square().sum(0).sqrt()
        for centre in centres
    ]
    white = (
        max(float(centred(image, raws[0].kept).flatten().quantile(BRIGHT)) for image in seen)
        / SHOWN
    )
    said = f"noise of {sigma:.3g} {how}" if sure else f"noise from {how}"
    return Calibrated(W, back, sigma, white, said + fewer, sure)


def middle(raw: Raw, lines: int, fewest: int, where: str) -> Tensor:
    """The calibration region [C,h,w], frequency 0 at [h//2, w//2]."""
    if raw.trajectory is not None:
        return noncartesian.middle(raw, lines, where)
    return cartesian.middle(raw, lines, fewest, where)


def matrix(raw: Raw) -> tuple[int, int]:
    """Rows and columns of the image."""
    return raw.matrix or (raw.kspace.shape[1], raw.kspace.shape[2])


def covariance(raws: list[Raw]) -> tuple[Tensor, str, bool]:
    """Psi [C,C], where it comes from, and whether its size can be trusted: the noise scan, else the quietest slice's air."""
    coils = {len(raw.kspace) for raw in raws}
    if len(coils) > 1:
        raise Refusal(f"slices of {sorted(coils)} coils; one number of coils in a file is allowed")
    if raws[0].noise is not None:
        return noise.of_scan(raws[0].noise), "from the noise scan", True
    found = [_of_samples(raw) for raw in raws]
    if raws[0].trajectory is not None:
        return found[0][0], "what no image explains", False
    psi, sure = min(found, key=lambda one: (not one[1], float(one[0].diagonal().real.sum())))
    return (
        psi,
        "from rows of air" if sure else "what no image explains: its field of view has no air",
        sure,
    )


def _of_samples(raw: Raw) -> tuple[Tensor, bool]:
    if raw.trajectory is not None:
        return noncartesian.covariance(raw), False
    return noise.of_kspace(raw.kspace, raw.mask)
