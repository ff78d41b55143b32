"""k-space with frequency 0 at [H//2, W//2], and which points of it a Cartesian scan measures: masks [B,H,W] of 0 and 1.

Columns are phase-encoding lines, as in fastMRI. Each image's mask is drawn from its own stream of uniform numbers.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise

QUIET = 0.1  # of the rows of the field of view, of which the quietest show what noise is
ALIKE = 3.0  # standard deviations that the quietest tenth of rows may spread, if they are noise
FAR = 4.0  # standard deviations above that still belong to the noise
GOLDEN = math.pi * (
    3 - 5**0.5
)  # about 137.5 degrees; modulo half a turn, any number of spokes covers it evenly


def fourier(z: Tensor) -> Tensor:
    """Centred orthonormal transform of the last two axes."""
    return torch.fft.fftshift(
        torch.fft.fft2(torch.fft.ifftshift(z, dim=(-2, -1)), norm="ortho"), dim=(-2, -1)
    )


def inverse_fourier(z: Tensor) -> Tensor:
    return torch.fft.fftshift(
        torch.fft.ifft2(torch.fft.ifftshift(z, dim=(-2, -1)), norm="ortho"), dim=(-2, -1)
    )


def centred(half: Tensor, width: int) -> Tensor:
    """What is alike at k and -k: [B,1,...,H,width // 2 + 1] at the frequencies of `torch.fft.rfftn` -> [B,1,...,H,width] at all,
    frequency 0 in the middle."""
    axes = tuple(range(2, half.ndim))
    rest = half[..., 1 : (width + 1) // 2].flip(axes).roll([1] * (len(axes) - 1), axes[:-1])
    return torch.fft.fftshift(torch.cat([half, rest], -1), dim=axes)


def fourier_along(z: Tensor, axis: int) -> Tensor:
    """Centred orthonormal transform of one axis."""
    return torch.fft.fftshift(
        torch.fft.fft(torch.fft.ifftshift(z, dim=axis), dim=axis, norm="ortho"), dim=axis
    )


def inverse_fourier_along(z: Tensor, axis: int) -> Tensor:
    return torch.fft.fftshift(
        torch.fft.ifft(torch.fft.ifftshift(z, dim=axis), dim=axis, norm="ortho"), dim=axis
    )


def gapless(columns: Tensor) -> Tensor:
    """How many columns of masks [B,W] lie around frequency 0 without a gap, on both sides as far as on the nearer: [B]."""
    middle = columns.shape[-1] // 2
    left, right = columns[:, :middle].flip(1), columns[:, middle:]
    return 2 * torch.minimum(left.cumprod(1).sum(1), right.cumprod(1).sum(1))


def air(k: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What of k-space [B,C,H,W] is noise alone, [B,2C,H,W], else 0: the quietest rows of the profiles of its whole columns;
    and whether it is, [B]: what rows of an image hold is neither equally loud in each nor in each column.

    A column that is measured from end to end, transformed along itself, tells the rows of the image apart. The quietest
    tenth of them says how loud noise is, and every row that is no louder is taken. columns [1 or B,W] of 0 and 1.
    """
    profiles = inverse_fourier_along(k, -2) * columns[:, None, None]
    power = profiles.abs().square().sum((1, 3))  # [B,H]
    few = max(4, round(QUIET * power.shape[1]))
    lowest = power.sort(1).values[:, :few]
    numbers = k.shape[1] * columns.sum(1, keepdim=True).clamp_min(1)
    floor, spread = lowest.mean(1, keepdim=True), numbers.rsqrt()
    quiet = power < floor * (1 + FAR * spread)
    alike = (lowest < floor * (1 + ALIKE * spread)).all(1)
    noise = profiles * quiet[:, None, :, None]
    return to_real(noise), alike & (
        peaked(noise) < 2 + FAR * (20 / (numbers[:, 0] * quiet.sum(1))).sqrt()
    )


def peaked(z: Tensor) -> Tensor:
    """Mean of |z|^4 over the square of that of |z|^2, [B], where z [B,C,H,W] is not 0, a mean over the coils: 2 of complex
    noise, more where columns are not equally loud, as those of images are not."""
    power = z.abs().square()
    count = (power > 0).sum((2, 3)).clamp_min(1)
    return (
        power.square().sum((2, 3))
        * count
        / power.sum((2, 3)).square().clamp_min(torch.finfo(power.dtype).tiny)
    ).mean(1)


def mirrored(z: Tensor) -> Tensor:
    """z(-k) for a centred z(k)"""
    flipped = torch.fft.ifftshift(z, dim=(-2, -1)).flip(-2, -1).roll((1, 1), (-2, -1))
    return torch.fft.fftshift(flipped, dim=(-2, -1))


def to_complex(x: Tensor) -> Tensor:
    """[B,2n,H,W] -> [B,n,H,W], channels 2i and 2i+1 being real and imaginary part."""
    return torch.complex(x[:, 0::2].contiguous(), x[:, 1::2].contiguous())


def to_real(z: Tensor) -> Tensor:
    """[B,n,H,W] -> [B,2n,H,W]"""
    return torch.stack([z.real, z.imag], 2).flatten(1, 2)


def centre_columns(w: int, fraction: float) -> Tensor:
    """[W], 1 in the fully sampled middle."""
    kept = round(w * fraction)
    start = w // 2 - kept // 2
    return torch.zeros(w, dtype=torch.float64).index_fill(0, torch.arange(start, start + kept), 1)


def equispaced(h: int, w: int, acceleration: float, centre: float, noise: Noise) -> Tensor:
    """The centre and columns at equal distances from a random offset on, 1/acceleration of all together (Zbontar et al. 2018)."""
    middle = centre_columns(w, centre)
    low = float(middle.sum())
    lines = middle.repeat(len(noise), 1)
    if low >= w:
        return lines[:, None].expand(-1, h, -1)
    spacing = (w - low) / max(w / acceleration - low, 1)
    for row, u in zip(lines, noise.uniform((len(noise), 1), torch.float64)):
        columns = torch.arange(
            float(u) * min(spacing, w - 0.5), w - 0.5, spacing, dtype=torch.float64
        )
        row[columns.round().long().clamp_max(w - 1)] = 1
    return lines[:, None].expand(-1, h, -1)


def random_columns(h: int, w: int, acceleration: float, centre: float, noise: Noise) -> Tensor:
    """The centre and columns drawn at random, 1/acceleration of all together."""
    middle = centre_columns(w, centre)
    rank = (
        (noise.uniform((len(noise), w), torch.float64) - 2 * middle).argsort(1).argsort(1)
    )  # the centre comes first
    kept = max(round(w / acceleration), int(middle.sum()), 1)
    return (rank < kept).double()[:, None].expand(-1, h, -1)


def poisson_disc(h: int, w: int, acceleration: float, centre: float, noise: Noise) -> Tensor:
    """Points that keep a distance which grows with |k| (darts, Cook 1986), around a fully sampled square of side
    `centre`; 1/acceleration of all points together, to the point."""
    middle = (centre_columns(h, centre)[:, None] * centre_columns(w, centre)).numpy() > 0
    y, x = np.mgrid[:h, :w]
    reach = 1 + 2 * np.hypot((y - h // 2) / h, (x - w // 2) / w)
    masks = []
    for u in noise.uniform((len(noise), h * w), torch.float64):
        order = u.argsort().numpy()
        low, high = 0.0, math.sqrt(acceleration) * 1.5
        for _ in range(7):
            distance = (low + high) / 2
            points = thrown(order, distance * reach) | middle
            low, high = (distance, high) if points.mean() > 1 / acceleration else (low, distance)
        masks.append(torch.from_numpy(_counted(points, middle, order, round(h * w / acceleration))))
    return torch.stack(masks).double()


def thrown(order: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Darts thrown at the grid's points in this order; one sticks unless it falls within the radius of an earlier one."""
    h, w = radius.shape
    free, points = np.ones((h, w), bool), np.zeros((h, w), bool)
    for index in order:
        i, j = divmod(int(index), w)
        if not free[i, j]:
            continue
        points[i, j] = True
        r = radius[i, j]
        k = int(r)
        top, left = max(i - k, 0), max(j - k, 0)
        rows, columns = np.ogrid[top - i : min(k, h - 1 - i) + 1, left - j : min(k, w - 1 - j) + 1]
        free[top : i + k + 1, left : j + k + 1] &= rows**2 + columns**2 >= r**2
    return points


def _counted(points: np.ndarray, middle: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    """Exactly `count` points (or the whole middle): some dropped, or some added, outside the middle in this order."""
    flat, fixed = points.flatten(), middle.flatten()
    surplus = int(flat.sum()) - count
    candidates = order[(flat if surplus > 0 else ~flat)[order] & ~fixed[order]]
    flat[candidates[: abs(surplus)]] = surplus < 0
    return flat.reshape(points.shape)


def spokes(h: int, w: int, count: int) -> Tensor:
    """[1,H,W]: lines through the centre, each a golden angle on from the last, on the nearest grid points."""
    angle = torch.arange(count, dtype=torch.float64)[:, None] * GOLDEN
    along = torch.linspace(-1, 1, 4 * max(h, w) + 1, dtype=torch.float64) / 2
    return positions(
        h,
        w,
        torch.stack([(along * angle.sin()).flatten() * h, (along * angle.cos()).flatten() * w], 1),
    )


def positions(h: int, w: int, k: Tensor) -> Tensor:
    """[1,H,W] from a table [n,2] of (ky, kx) in cycles per field of view, each moved to the nearest grid point."""
    at = k.round().long() + torch.tensor([h // 2, w // 2])
    at = at[((at >= 0) & (at < torch.tensor([h, w]))).all(1)]
    mask = torch.zeros(h, w, dtype=torch.float64)
    mask[at[:, 0], at[:, 1]] = 1
    return mask[None]


def table(path: str) -> Tensor:
    """k-space positions [n,2] from a .npy file or a text file with two numbers in each line."""
    try:
        k = (
            np.load(path, allow_pickle=False)
            if Path(path).suffix == ".npy"
            else np.loadtxt(path, delimiter=None)
        )
    except (OSError, ValueError) as error:
        raise Refusal(f"k-space table {path}: {str(error).splitlines()[0]}") from None
    if k.ndim != 2 or k.shape[1] != 2:
        raise Refusal(
            f"k-space table {path} has shape {list(k.shape)}; due is one line of ky and kx for each point"
        )
    return torch.from_numpy(k).double()
