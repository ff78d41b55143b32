"""Dense matrices along one axis of a volume, with their singular value decompositions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from solvers.operators.algebra import per_image
from solvers.operators.separable import Factor

ROWS = 8  # of frequencies whose small systems are set up at once
HELD = 2**29  # bytes of small systems that are kept; those of many slices would outgrow the volume


def along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """matrix [m,n] applied to an axis of n entries of x, given as a negative number."""
    return (x.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)


def decomposed(matrix: Tensor) -> Factor:
    """A float64 matrix [m,n] with its thin decomposition; singular values that are rounding alone are exactly 0."""
    U, s, Vt = torch.linalg.svd(matrix, full_matrices=False)
    s = torch.where(s > 1e-15 * len(s) * s[0], s, 0)
    return Factor(matrix, U, s, Vt.mT.contiguous())


def like(factor: Factor, x: Tensor) -> Factor:
    """The factor in the precision of x, where x lies."""
    return Factor(*(part.to(x) for part in factor))


def products(values: Sequence[Tensor]) -> Tensor:
    """All products of one singular value of each axis, [n1,n2,...]."""
    total = values[0]
    for s in values[1:]:
        total = total[..., None] * s
    return total


def inverse_of_mixing(M: Tensor, density: Tensor, s2: Tensor) -> Callable[[Tensor], Tensor] | None:
    """(s2 I + A C A^T)^-1 for A that mixes slices by M [m,D], C stationary with this density [1 or B,1,D,H,K] (`Spectral`).

    Each frequency in the plane is a small system of its own, of the m slices: what CG needs as a preconditioner where errors are
    larger in some places than in others. None where rounding leaves no such inverse, or where it would be larger than HELD.
    """
    height, width = density.shape[-2:]
    if len(density) * height * width * len(M) ** 2 * density.element_size() > HELD:
        return None
    basis = torch.fft.fft(M, norm="ortho")
    basis = torch.cat(
        [basis.real, basis.imag], 1
    )  # [m,2D]: M C M^T = basis diag(density twice) basis^T
    L = density.new_empty(len(density), height, width, len(M), len(M))
    along_depth = density[:, 0].movedim(1, -1)
    for some, part in zip(along_depth.split(ROWS, 1), L.split(ROWS, 1)):  # [.,rows,K,D]
        system = (basis * torch.cat([some, some], -1)[..., None, :]) @ basis.mT
        system.diagonal(dim1=-2, dim2=-1).add_(per_image(s2, system[..., 0]))
        factor, bad = torch.linalg.cholesky_ex(system)
        if bool(bad.any()):
            return None
        part.copy_(factor)

    def solve(r: Tensor) -> Tensor:
        columns = torch.view_as_real(torch.fft.rfft2(r).permute(0, 3, 4, 2, 1)).flatten(
            -2
        )  # [B,H,K,m,2C]
        found = torch.cholesky_solve(columns, L.expand(len(r), *L.shape[1:]))
        spectrum = torch.view_as_complex(found.unflatten(-1, (-1, 2)).contiguous())
        return torch.fft.irfft2(spectrum.permute(0, 4, 3, 1, 2), r.shape[-2:])

    return solve
