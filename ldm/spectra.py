"""How wrong a denoiser is, by noise level and frequency: training measures it, solvers take it as Cov[x0 | x].

The errors of networks are smooth, at high noise by six orders of magnitude between the lowest and the highest frequency;
a solver that believed them white would not let a measured pixel say anything about its neighbours.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import exp, inf, log

import numpy as np
import torch
from torch import Tensor

from data.files import Refusal

KNOTS = 2.0 ** np.arange(
    -8, 0, 0.5
)  # cycles per entry, from one over 256 of them to the corner of the band


def check(rows: Sequence[Sequence[float]]) -> None:
    """Raise Refusal for rows that `density` could not read: their logarithms are taken."""
    for row in rows:
        if len(row) not in (2, 1 + len(KNOTS)) or not all(0 < value < inf for value in row):
            raise Refusal(
                f"variances: a row is a noise level and 1 or {len(KNOTS)} variances, finite and above 0, not {[*row][:4]}"
            )


@lru_cache(maxsize=8)
def radius(height: int, width: int) -> np.ndarray:
    """[H,W] |f| in cycles per entry, in the order of `torch.fft.fft2`; the mean is taken for the lowest knot's frequency."""
    rows, columns = np.fft.fftfreq(height), np.fft.fftfreq(width)
    return np.hypot(rows[:, None], columns).clip(KNOTS[0])


@lru_cache(maxsize=8)
def nearest(height: int, width: int) -> Tensor:
    """[H,W] the knot, in octaves, that each frequency counts to."""
    octaves = 2 * np.log2(radius(height, width) / KNOTS[0])
    return torch.from_numpy(octaves.round().astype(np.int64).clip(0, len(KNOTS) - 1))


def power(error: Tensor) -> Tensor:
    """[B,C,H,W] -> [2,knots]: summed power spectrum of the error, and how many frequencies were summed."""
    b, c, height, width = error.shape
    spectrum = torch.fft.fft2(error).abs().square().sum((0, 1)) / (height * width)
    knot = nearest(height, width).flatten().to(error.device)
    total = torch.bincount(knot, spectrum.flatten(), minlength=len(KNOTS))
    return torch.stack([total, b * c * torch.bincount(knot, minlength=len(KNOTS))])


def row(sigma: float, total: Sequence[float], count: Sequence[float]) -> list[float]:
    """Noise level, then Var[x0 | x] per entry at each knot; between knots of which the grid has no frequency, interpolated."""
    held = np.asarray(count) > 0
    density = np.maximum(np.asarray(total)[held] / np.asarray(count)[held], 1e-30)
    known = np.exp(np.interp(np.log(KNOTS), np.log(KNOTS[held]), np.log(density)))
    return [float(f"{value:.5g}") for value in (sigma, *known)]  # people read configurations


def density(rows: Sequence[Sequence[float]], sigma: float, height: int, width: int) -> np.ndarray:
    """[H,W] the power of the error at every frequency of a grid, whose mean is the variance of an entry.

    rows: as `row` makes them, or pairs (level, variance) of white errors. Log-log between levels, constant beyond them.
    """
    table = np.log(np.asarray(sorted(rows, key=lambda one: one[0]), dtype=float))
    levels, knots = table[:, 0], np.broadcast_to(table[:, 1:], (len(table), len(KNOTS)))
    at = [np.interp(log(sigma), levels, column) for column in knots.T]
    return np.exp(np.interp(np.log(radius(height, width)), np.log(KNOTS), at))


def state_density(
    rows: Sequence[Sequence[float]], sigma: float, height: int, width: int
) -> np.ndarray:
    """`density` of the state that the noise was added to: as sigma^2 below the lowest level, and with a mean of at most
    sigma^2, since D(x) = x is no worse.
    """
    below = exp(2 * min(0.0, log(sigma) - log(min(one[0] for one in rows))))
    found = below * density(rows, sigma, height, width)
    return found * min(1.0, sigma**2 / found.mean())
