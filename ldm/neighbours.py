"""How the errors of neighbouring slices go together, by noise level and frequency: measured of volumes, taken by volume priors.

A denoiser of slices errs by two things. What its slice's own noise caused is nothing to the slice beside it; what the noise
hid is anatomy, and goes on there. So the coherence of slices d pixels apart, the correlation of their errors at one frequency
of the plane, is taken to be c q^d: c is the second share, and q falls with the frequency, as structures are as long as wide.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import inf, log

import numpy as np
import torch
from torch import Tensor

from data.files import Refusal
from ldm import spectra

KNOTS = len(spectra.KNOTS)
APART = 5  # slices, up to which the coherence is measured
FALLS = np.linspace(0.02, 0.98, 49)  # q that are tried


def check(rows: Sequence[Sequence[float]]) -> None:
    """Raise Refusal for rows that are none of `row`."""
    for one in rows:
        level, shares, falls = one[:1], one[1 : 1 + KNOTS], one[1 + KNOTS :]
        known = all(0 < x < inf for x in level) and all(0 <= x <= 1 for x in shares)
        if len(one) != 1 + 2 * KNOTS or not (known and all(0 <= x < 1 for x in falls)):
            raise Refusal(
                f"coherence: a row is a noise level above 0, {KNOTS} shares from 0 to 1 and {KNOTS} falls from 0 to below 1,"
                f" not {[*one][:4]}"
            )


def measured(errors: Iterable[Tensor]) -> np.ndarray:
    """[APART,knots] of stacks of errors [N,C,H,W] in neighbouring slices, N > APART: by distance and frequency."""
    total = np.zeros((2, APART, KNOTS))
    for error in errors:
        spectrum = torch.fft.fft2(error.double())
        knot = spectra.nearest(*error.shape[-2:]).flatten()
        for d in range(1, APART + 1):
            one, other = spectrum[d:], spectrum[:-d]
            both = (one * other.conj()).real
            each = (one.abs().square() + other.abs().square()) / 2
            for kind, power in enumerate((both, each)):
                summed = power.sum((0, 1)).flatten()
                total[kind, d - 1] += torch.bincount(knot, summed, minlength=KNOTS).numpy()
    return total[0] / np.maximum(total[1], 1e-30)


def row(sigma: float, found: np.ndarray) -> list[float]:
    """The noise level, c at each knot and q at each knot: the least squares of c q^d - found [APART,knots], 0 <= c <= 1."""
    distance = np.arange(1, len(found) + 1)
    powers = FALLS[:, None] ** distance  # [falls,APART]
    share = (powers @ found / np.square(powers).sum(1)[:, None]).clip(0, 1)  # [falls,knots]
    left = np.square(share[:, None] * powers[..., None] - found).sum(1)
    best = left.argmin(0)
    values = (sigma, *share[best, np.arange(found.shape[1])], *FALLS[best])
    return [float(f"{value:.3g}") for value in values]  # people read configurations


def along(
    rows: Sequence[Sequence[float]],
    sigma: float,
    depth: int,
    distance: float,
    height: int,
    width: int,
) -> Tensor:
    """[D,H,W] the power of errors along D slices, `distance` pixels apart, at every frequency of the plane, of mean 1 each.

    Linear between levels and knots, of logarithms, and constant beyond them.
    """
    table = np.asarray(sorted(rows, key=lambda one: one[0]), dtype=float)
    at = [np.interp(log(sigma), np.log(table[:, 0]), column) for column in table[:, 1:].T]
    frequency, knots = np.log(spectra.radius(height, width)), np.log(spectra.KNOTS)
    share, fall = (np.interp(frequency, knots, part) for part in (at[:KNOTS], at[KNOTS:]))
    c, rho = torch.from_numpy(share), torch.from_numpy(fall**distance)
    return torch.stack([c * power + (1 - c) for power in autoregression(depth, rho)])


def autoregression(depth: int, rho: Tensor) -> Iterator[Tensor]:
    """The spectrum of mean 1 of what correlates as rho^d along slices, at each frequency of `torch.fft.fft`; d wraps around."""
    total = (1 - rho**2) * (1 - rho**depth) / (1 + rho**depth)
    for turn in 2 * torch.pi * torch.fft.fftfreq(depth, dtype=torch.float64):
        yield total / (1 - 2 * rho * turn.cos() + rho**2)
