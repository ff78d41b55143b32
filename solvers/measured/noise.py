"""The noise of receiver coils: its covariance, from a noise scan or from where no signal is; coils made alike and independent.

Covariances are of complex samples, Psi = E[n n^H]; a real or imaginary part of coil c has the variance Psi_cc / 2.
"""

import torch
from torch import Tensor

from data.files import Refusal
from solvers.operators.kspace import air, to_complex

OUTER = 0.1  # of the measured points, those farthest from the middle, where rows of k-space are not whole
SAMPLES = 4  # times as many samples as coils, at least


def of_scan(noise: Tensor) -> Tensor:
    """Psi [C,C] of samples of noise alone, complex [C,n]."""
    coils, n = noise.shape
    if n < SAMPLES * coils:
        raise Refusal(
            f"a noise scan of {n} samples for {coils} coils; at least {SAMPLES * coils} are allowed"
        )
    noise = noise.to(torch.complex128)
    return noise @ noise.mH / n


def of_kspace(kspace: Tensor, mask: Tensor) -> tuple[Tensor, bool]:
    """Psi [C,C] of k-space [C,H,W] from the rows of the field of view that hold air alone, and whether there are such rows.

    A column of k-space that is measured from end to end becomes a profile along the readout; the quietest tenth of its rows
    says what noise is, and all rows that are no louder are taken. Where columns are not whole: the outermost points.
    """
    if not bool(mask.any(1).all()) and bool(mask.any(0).all()):  # rows are the phase encoding
        kspace, mask = kspace.mT, mask.mT
    rows, columns = mask.any(1), mask.any(0)
    if not bool((mask == rows[:, None] & columns).all()):
        return _outermost(kspace, mask), False
    quiet, sure = air(kspace[None].to(torch.complex128), columns.double()[None])
    quiet = to_complex(quiet)[0]
    found = quiet[:, (quiet != 0).all(0)] / rows.double().mean().sqrt()
    return found @ found.mH / found.shape[1], bool(sure)


def _outermost(kspace: Tensor, mask: Tensor) -> Tensor:
    h, w = mask.shape
    y, x = torch.meshgrid(torch.arange(h) - h // 2, torch.arange(w) - w // 2, indexing="ij")
    radius = torch.hypot(2 * y / h, 2 * x / w)[mask]
    far = (
        radius >= radius.quantile(1 - OUTER)
        if len(radius) < 2**24
        else radius >= float(radius.max()) * 0.9
    )
    found = kspace[:, mask][:, far].to(torch.complex128)
    return of_scan(found)


def whitener(psi: Tensor) -> tuple[Tensor, float]:
    """W [C,C] that makes the coils' noise independent and alike, and sigma of each real entry after it.

    W = sigma Psi^-1/2 sqrt(2) with sigma^2 half the mean of the coils' variances, so that the units of k-space stay.
    Raises Refusal for a covariance that no independent coils have.
    """
    values, vectors = torch.linalg.eigh(psi)
    if not float(values[0]) > 1e-8 * float(values[-1]):
        raise Refusal(
            "the coils' noise is not independent: one of them is a sum of others, or measured nothing"
        )
    sigma = float(values.mean() / 2) ** 0.5
    return (vectors * (sigma * (2 / values).sqrt())) @ vectors.mH, sigma


def mixed(matrix: Tensor, kspace: Tensor) -> Tensor:
    """Linear combinations of coils: matrix [V,C] times [C,...]."""
    return (matrix.to(kspace.dtype) @ kspace.flatten(1)).unflatten(1, kspace.shape[1:])
