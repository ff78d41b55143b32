"""The smooth phase p of an image, with which y = M F S (p x) has a real x >= 0."""

import torch
from torch import Tensor

from solvers.measured.espirit import hann, windowed
from solvers.operators.algebra import conjugate_gradients
from solvers.operators.kspace import fourier, inverse_fourier, to_complex
from solvers.operators.mri_coils import CoilImages

STEPS = 8  # of conjugate gradients for the complex image
ROUNDS = 3  # after which the phase hardly changes


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
    error that `shown` leaves.
    """
    z = to_complex(
        conjugate_gradients(lambda x: A.adjoint(A.forward(x)), A.adjoint(y), cap=STEPS).x
    )[0, 0]
    for _ in range(ROUNDS):
        left = z * p.conj()
        p = p * _unit(smoothed(left.real.clamp_min(0) * left, lines))
    return p


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
