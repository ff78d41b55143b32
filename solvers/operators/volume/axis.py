"""Dense matrices along one axis of a volume, with their singular value decompositions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from solvers.operators.separable import Factor


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
