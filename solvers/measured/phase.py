"""The smooth phase p of an image, with which y = M F S (p x) has a real x >= 0."""

import math

import torch
from torch import Tensor

from solvers.measured.espirit import hann, windowed
from solvers.operators.algebra import conjugate_gradients
from solvers.operators.kspace import fourier, inverse_fourier, to_complex
from solvers.operators.mri_coils import CoilImages

STEPS = 8  # of conjugate gradients for the complex image
ROUNDS = 3  # after which the phase hardly changes
COSINES = 12  # along each side, that a smooth phase is made of: half waves, 0 to 11
RIDGE = 1e-3  # on their squares, as a share of what the data weigh them by on average
ROUGH = 0.12  # radians, that a phase may be off the smooth one by: twice what noise makes of the page's scan at x 4

Equations = tuple[Tensor, Tensor, Tensor, Tensor]
"""Y^T c X = d of pixels [h,w] with weights w, for sums c [K,K] of rows Y [K,h] and columns X [K,w]: (Y, X, w, d)."""


def shown(calibration: Tensor, maps: Tensor) -> Tensor:
    """p [H,W] of modulus 1 as the calibration region shows it, coils combined by their maps [C,H,W].

    It leans towards bright neighbours where the phase is steep: about 0.05 radians of the simulated scans.
    """
    return _unit((maps.conj() * windowed(calibration, tuple(maps.shape[-2:]))).sum(0))


def refined(p: Tensor, A: CoilImages, y: Tensor, lines: int) -> Tensor:
    """p after all of k-space was looked at, y [1,2C,...] of complex images by A: what is left of the phase of the complex image,
    made smooth and added.

    The complex image z is that of SENSE by a few conjugate gradients. z conj(p) is nearly real; its phase, weighted by its own
    size and smoothed by a window of `lines` frequencies, leans nowhere once it is small, so a few rounds do. This halves the
    error that `shown` leaves; what is left of it is in its fine detail, near edges and where it is dark, and `smooth` ends that.
    """
    z = to_complex(
        conjugate_gradients(lambda x: A.adjoint(A.forward(x)), A.adjoint(y), cap=STEPS).x
    )[0, 0]
    for _ in range(ROUNDS):
        left = z * p.conj()
        p = p * _unit(smoothed(left.real.clamp_min(0) * left, lines))
    return smooth(p, z.abs().square())


def smooth(p: Tensor, weight: Tensor) -> Tensor:
    """exp(i phi) [H,W], phi the slope and the sum of cosines nearest to the phase of p, each pixel with its weight.

    A phase that is more than ROUGH away from any such sum is no smooth one: p itself.
    """
    weight = weight.double()
    rows, columns = (cosines(n).to(weight) for n in p.shape)
    phi = unwrapped(p, weight, rows, columns)
    for _ in range(ROUNDS):
        phi = phi + (weight * p * torch.exp(-1j * phi)).sum().angle()
        left = (p * torch.exp(-1j * phi)).angle()
        phi = phi + rows.mT @ coefficients([(rows, columns, weight, left)]) @ columns
    left = (p * torch.exp(-1j * phi)).angle()
    off = ((weight * left.square()).sum() / weight.sum()).sqrt()
    return torch.exp(1j * phi).to(p) if off < ROUGH else p


def unwrapped(p: Tensor, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[H,W] the slope and the sum of cosines whose neighbours differ as the phase of p does, which has no turns to count.

    Weighted phase unwrapping by least squares (Ghiglia & Romero 1994). The slope, that of an image out of the middle or of an
    echo, may be of many turns, which cosines are not.
    """
    down, right = p[1:] * p[:-1].conj(), p[:, 1:] * p[:, :-1].conj()
    below = torch.minimum(weight[1:], weight[:-1])
    beside = torch.minimum(weight[:, 1:], weight[:, :-1])
    fall, run = (below * down).sum().angle(), (beside * right).sum().angle()
    c = coefficients(
        [
            (rows.diff(dim=1), columns, below, (down * torch.exp(-1j * fall)).angle()),
            (rows, columns.diff(dim=1), beside, (right * torch.exp(-1j * run)).angle()),
        ]
    )
    height, width = p.shape
    slope = fall * torch.arange(height)[:, None] + run * torch.arange(width)
    return slope + rows.mT @ c @ columns


def coefficients(equations: list[Equations]) -> Tensor:
    """c [K,K] that solves all of the equations best."""
    normal: Tensor | float = 0.0
    right: Tensor | float = 0.0
    for Y, X, w, d in equations:
        along = torch.einsum("ky,my,yx->kmx", Y, Y, w)
        normal = normal + torch.einsum("kmx,lx,nx->klmn", along, X, X)
        right = right + Y @ (w * d) @ X.mT
    n = COSINES**2
    normal = normal.reshape(n, n)  # type: ignore[union-attr]
    ridge = RIDGE * normal.trace() / n * torch.eye(n).to(normal)
    return torch.linalg.solve(normal + ridge, right.flatten()).reshape(COSINES, COSINES)  # type: ignore[union-attr]


def cosines(n: int) -> Tensor:
    """[COSINES,n]: half waves over n pixels, of even differences at both ends."""
    place = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.cos(math.pi * torch.arange(COSINES)[:, None] * place)


def smoothed(image: Tensor, lines: int) -> Tensor:
    """[H,W] of its lowest frequencies alone, under a Hann window."""
    window = torch.zeros(image.shape, dtype=image.real.dtype)
    h, w = image.shape
    rows, columns = min(lines, h), min(lines, w)
    top, left = h // 2 - rows // 2, w // 2 - columns // 2
    window[top : top + rows, left : left + columns] = (hann(rows)[:, None] * hann(columns)).to(
        window
    )
    return inverse_fourier(window * fourier(image))


def _unit(z: Tensor) -> Tensor:
    """z / |z|, and 1 where z is 0."""
    return torch.where(z.abs() > 0, z / z.abs().clamp_min(torch.finfo(z.real.dtype).tiny), 1)
