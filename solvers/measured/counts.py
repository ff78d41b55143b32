"""Photon counts as line integrals of attenuation, and what their noise is; bad channels found."""

import numpy as np

from data.files import Refusal
from data.formats.sinogram import Sinogram

AROUND = (
    np.array([1.0, 4.0, 0.0, 4.0, 1.0]) / 10
)  # a count's neighbours: its expectation, without itself
FEWEST = 0.5  # photons that are expected at least, where a variance is taken
STARVED = 3.0  # photons, below which a logarithm says little
LOUD = 8.0  # deviations by which a bad channel differs from its neighbours


def integrals(
    sinogram: Sinogram, where: str
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """p = -log(photons without dark / I0 without dark) [views,bins], its standard deviation (None: not known), and notes.

    Photons N ~ Poisson(lambda) plus electronic noise of variance s2: -log((N + 1/2) / I0) is unbiased up to 1 / lambda^2, and
    its variance is (lambda + s2) / lambda^2. lambda is taken from the neighbours of a count, not from itself: weights that
    know their own noise would bias every mean.
    """
    said, values = sinogram.said, sinogram.values
    views, bins = values.shape
    if said.values == "integrals":
        if float(np.abs(values).max()) < 1e-6:
            raise Refusal(
                f"{where}: air alone: every line integral is 0; a scan of something is allowed"
            )
        deviation = None if said.sigma_y is None else np.full_like(values, said.sigma_y)
        return values, deviation, ()
    dark, I0 = (
        said.field("dark", views, bins) / said.gain,
        said.field("I0", views, bins) / said.gain,
    )
    photons, flat = values / said.gain - dark, I0 - dark
    if (flat <= 0).any():
        raise Refusal(
            f"{where}: I0 does not exceed the dark field everywhere; more counts without an object are due"
        )
    spread = np.sqrt(np.maximum(dark, 0) + said.electronic_noise**2 + 1)
    if (photons < -6 * spread).any():
        low = int((photons < -6 * spread).sum())
        raise Refusal(
            f"{where}: {low} of {values.size} counts are negative once dark is taken off; is dark of this scan?"
        )
    if (photons > 2 * flat + 10 * np.sqrt(flat)).mean() > 0.01:
        raise Refusal(
            f"{where}: counts reach {values.max():.4g}, far above I0 {said.field('I0', views, bins).max():.4g}"
        )
    p = -np.log(np.maximum(photons + 0.5, FEWEST) / flat)
    expected = np.maximum(_around(np.maximum(photons, 0)), FEWEST)
    variance = (expected + said.electronic_noise**2 + dark) / expected**2
    if float(np.abs(p).max()) < 6 * float(np.sqrt(variance.max())) and float(
        p.mean()
    ) < 3 * np.sqrt(variance.mean() / p.size):
        raise Refusal(f"{where}: air alone: every count is I0's; a scan of something is allowed")
    starved = float((expected < STARVED).mean())
    notes = (
        (f"{starved:.1%} of the rays have fewer than {STARVED:g} photons",)
        if starved > 0.001
        else ()
    )
    return p, np.sqrt(variance), notes


def _around(photons: np.ndarray) -> np.ndarray:
    padded = np.pad(photons, ((0, 0), (2, 2)), mode="edge")
    if photons.shape[1] < 5:
        return photons
    return sum(w * padded[:, k : k + photons.shape[1]] for k, w in enumerate(AROUND))  # type: ignore[return-value]


def bad_channels(p: np.ndarray) -> np.ndarray:
    """Single bins whose line integrals stand out from both their neighbours' in the same way in all views, bool [bins].

    A ring in the image is such a bin. Judged by the median over the views of the second difference, against that of all bins;
    of neighbours that are bad together, those that never change are found.
    """
    if p.shape[1] < 7:
        return np.zeros(p.shape[1], bool)
    bad = np.zeros(p.shape[1], bool)
    dead = np.ptp(p, 0) < 1e-9
    dead &= p.mean(0) > 0  # air is constant too, where there is no noise
    bad |= dead
    for _ in range(4):  # the neighbours of a bad bin stand out too: the worst are taken first
        good = np.flatnonzero(~bad)
        q = p[:, good]
        second = np.median(q[:, 1:-1] - (q[:, :-2] + q[:, 2:]) / 2, 0)
        scale = np.median(np.abs(second)) / 0.6745 + 1e-12
        beside = np.abs(np.stack([np.roll(second, 1), np.roll(second, -1)]) + second / 2)
        alone = (beside < 0.25 * np.abs(second)).all(
            0
        )  # the edge of a round object has no such sides
        worst = (
            (np.abs(second) > LOUD * scale) & alone & (np.abs(second) >= _largest(np.abs(second)))
        )
        if not worst.any():
            break
        bad[good[1:-1][worst]] = True
    return bad


def _largest(values: np.ndarray) -> np.ndarray:
    """Of each value and its two neighbours on either side."""
    padded = np.pad(values, 2, mode="constant")
    return np.max([padded[k : k + len(values)] for k in range(5)], 0)
