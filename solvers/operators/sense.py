"""Several coils and whole columns of k-space: A^T A acts on each row of the image alone, so its systems are small and dense.

With Q = F^H M F along a row and G_y the products of sensitivities there, A^T A on row y is Q o G_y entry by entry, or
its real part for real images (the unaliasing of SENSE, Pruessmann et al. 1999, for any columns).
"""

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

ROWS = 8  # at once, so that their matrices stay near the processor
SAFE = 1e4  # condition number up to which single precision solves to better than a thousandth
LEAST = 1e-12  # of s2 over the entries of v A^T A; below, rounding of b in double precision would fill what y does not see


def solve_rows(b: Tensor, columns: Tensor, S: Tensor, s2: Tensor, v: Tensor) -> Tensor:
    """(s2 I + v A^T A)^-1 b by Cholesky's decomposition, in double precision where single does not do.

    b [B,1,H,W], real or complex as the images are; columns [1 or B,W] of 0 and 1; S [1 or B,coils,H,W] complex;
    s2, v [B].
    """
    result, alike = torch.empty_like(b), defaultdict(list)
    for i, (a, c) in enumerate(zip(s2.tolist(), v.tolist())):
        alike[i % len(columns), i % len(S), a, c].append(i)  # images that share one decomposition
    for (mask, maps, a, c), images in alike.items():
        precision = s2.dtype if c <= SAFE * a else torch.float64
        for rows, H in row_grams(columns[mask].to(precision), S[maps], not b.is_complex()):
            right = b[images, 0, rows].permute(1, 2, 0).to(H.dtype)
            diagonal = H.mul_(c).diagonal(dim1=1, dim2=2)
            diagonal.add_((LEAST * diagonal.real.amax(1, keepdim=True)).clamp_min(a))
            solved = torch.cholesky_solve(right, torch.linalg.cholesky(H))
            result[images, 0, rows] = solved.permute(2, 0, 1).to(b.dtype)
    return result


def largest(columns: Tensor, S: Tensor, real: bool) -> float:
    """The largest eigenvalue of A^T A of any image."""
    images = range(max(len(columns), len(S)))
    grams = (
        H for i in images for _, H in row_grams(columns[i % len(columns)], S[i % len(S)], real)
    )
    return max(float(torch.linalg.eigvalsh(H).max()) for H in grams)


def row_grams(columns: Tensor, S: Tensor, real: bool) -> Iterator[tuple[slice, Tensor]]:
    """A^T A on a few rows of one image at a time, [rows,W,W], in the precision of columns [W]; S [coils,H,W]."""
    x = torch.arange(len(columns), device=columns.device)
    q = torch.fft.ifft(torch.fft.ifftshift(columns))  # Q is circulant
    Q, S = q[(x[:, None] - x) % len(columns)], S.to(q.dtype)
    for start in range(0, S.shape[1], ROWS):
        rows = slice(start, start + ROWS)
        part = S[:, rows].transpose(0, 1)  # [rows,coils,W]
        if not real:
            yield rows, Q * (part.mH @ part)
            continue
        both = torch.cat([part.real, part.imag], 1)  # the same in real numbers, at half the cost
        G_real, G_imag = both.mT @ both, both.mT @ torch.cat([part.imag, -part.real], 1)
        yield rows, G_real.mul_(Q.real).addcmul_(Q.imag, G_imag, value=-1)
