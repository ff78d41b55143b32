"""k-space along a trajectory: its middle on the Cartesian grid, and the noise of its outermost samples."""

from torch import Tensor

from data.files import Refusal
from data.formats.kspace import Raw
from solvers.measured import noise
from solvers.measured.scanner import centred
from solvers.operators.algebra import conjugate_gradients
from solvers.operators.kspace import fourier, to_complex, to_real
from solvers.operators.mri_noncartesian import NonCartesianMRI

WIDER = 2  # times the lines of the middle, that are solved for: what is not periodic is wrong at the edge
STEPS = 15  # of conjugate gradients
DENSE = 0.5  # samples in the middle for each point of the grid there, at least
OUTER = 0.1  # of the samples, those farthest out, that noise is taken from


def middle(raw: Raw, lines: int, where: str) -> Tensor:
    """[C,n,n] of k-space, frequency 0 at [n//2, n//2], n = lines at most: what images of a coarse grid that explain the samples
    there have on the Cartesian grid."""
    assert raw.trajectory is not None and raw.matrix is not None
    k = raw.trajectory.flatten(1)
    kept = (min(lines, raw.matrix[0]), min(lines, raw.matrix[1]))
    wide = (min(WIDER * kept[0], raw.matrix[0]), min(WIDER * kept[1], raw.matrix[1]))
    inside = _within(k, kept)
    if int(inside.sum()) < DENSE * kept[0] * kept[1]:
        raise Refusal(
            f"{where}: no calibration region: {int(inside.sum())} samples in the middle {kept[0]}×{kept[1]} of k-space;"
            f" {round(DENSE * kept[0] * kept[1])} or more are allowed"
        )
    _loudest(raw, k, where)
    inside = _within(k, wide)
    A = NonCartesianMRI(k[None, :, None, inside], complex_image=True).bind((2, *wide))
    y = to_real(raw.kspace.flatten(1)[:, None, None, inside])  # coils as images of one each
    found = conjugate_gradients(lambda x: A.adjoint(A.forward(x)), A.adjoint(y), cap=STEPS).x
    return centred(fourier(to_complex(found)[:, 0]), kept)


def covariance(raw: Raw) -> Tensor:
    """Psi [C,C] of the outermost samples, where images have little."""
    assert raw.trajectory is not None
    radius = raw.trajectory.flatten(1).norm(dim=0)
    far = radius >= radius.sort().values[round((1 - OUTER) * (len(radius) - 1))]
    return noise.of_scan(raw.kspace.flatten(1)[:, far])


def _within(k: Tensor, size: tuple[int, int]) -> Tensor:
    return (k[0].abs() <= size[0] / 2) & (k[1].abs() <= size[1] / 2)


def _loudest(raw: Raw, k: Tensor, where: str) -> None:
    """Raises Refusal where the loudest sample is far from frequency 0: shots in another order than their trajectory."""
    assert raw.matrix is not None
    at = k[:, int(raw.kspace.flatten(1).abs().square().sum(0).argmax())]
    if any(float(a.abs()) > max(n / 8, 2) for a, n in zip(at, raw.matrix)):
        raise Refusal(
            f"{where}: k-space is loudest at {float(at[0]):.1f} and {float(at[1]):.1f} cycles; near frequency 0 is allowed:"
            " are trajectory and samples in one order?"
        )
