"""Numbers about images, all in the report range [0, 1] (clamped), one per image: [B,C,H,W] x [B,C,H,W] -> [B].

Volumes [B,C,D,H,W] are taken whole, or plane by plane. Also the mean, spread and interval of posterior draws, and the mean and
interval of a column of records.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy import stats
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from data.ranges import to_report

TOGETHER = 16  # slices whose similarity is taken at once
SMALLEST = 1074  # every float is a multiple of 2^-1074
FLOOR = 1e-10  # smallest mean squared error told apart from zero: PSNR never exceeds 100 dB

Described = dict[str, float | int | None]


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB with data range 1, of model-range images; at most 100."""
    return (
        -10
        * (to_report(image) - to_report(truth)).square().flatten(1).mean(1).clamp_min(FLOOR).log10()
    )


def ssim(image: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang 2004: Gaussian window of 11 pixels and sigma 1.5, mirrored border), data range 1."""
    size = min(
        11, 2 * ((min(image.shape[-2:]) + 1) // 2) - 1
    )  # the largest odd window an image smaller than 11 admits
    settings: Any = {
        "gaussian_kernel": size == 11,
        "kernel_size": size,
        "data_range": 1.0,
        "reduction": "none",
    }
    value = structural_similarity_index_measure(to_report(image), to_report(truth), **settings)
    return value.reshape(len(image))  # type: ignore[union-attr]


def ssim_of_planes(image: Tensor, truth: Tensor) -> list[float]:
    """Of one volume [1,C,D,H,W] the mean similarity of its slices along D, along H and along W."""
    found = []
    for axis in (2, 3, 4):
        a, b = (x.movedim(axis, 1).flatten(0, 1).split(TOGETHER) for x in (image, truth))
        values = torch.cat([ssim(one, other) for one, other in zip(a, b)])
        found.append(float(values.double().mean()))
    return found


def continuity(image: Tensor, truth: Tensor) -> Tensor:
    """Mean |difference of neighbouring slices| over the truth's, [B]: above 1 slices flicker, below they are smeared."""
    change, real = (to_report(x).diff(dim=2).abs().flatten(1).mean(1) for x in (image, truth))
    return change / real.clamp_min(FLOOR)


def nmse(image: Tensor, truth: Tensor) -> Tensor:
    """|x - truth|^2 / |truth|^2 in the report range (fastMRI's definition)."""
    u, t = to_report(image).flatten(1), to_report(truth).flatten(1)
    return (u - t).square().sum(1) / t.square().sum(1).clamp_min(FLOOR)


def aligned(image: Tensor, truth: Tensor) -> Tensor:
    """The half turn and circular shift of each image that come nearest to its truth, for phase retrieval.

    |F x| is blind to both, so a solution is right up to them; used for scoring only. The best shift is the maximum
    of the cross-correlation, by FFT.
    """
    candidates = torch.stack([image, image.flip(-1, -2)])  # [2,B,C,H,W]
    spectrum = torch.fft.fft2(truth) * torch.fft.fft2(candidates).conj()
    match = (
        torch.fft.ifft2(spectrum).real.sum(2).flatten(2)
    )  # [2,B,HW]: correlation summed over channels
    best, where = match.max(2)
    rows = []
    for b, turn in enumerate(best.argmax(0).tolist()):
        at = int(where[turn, b])
        rows.append(
            candidates[turn, b].roll((at // image.shape[-1], at % image.shape[-1]), (-2, -1))
        )
    return torch.stack(rows)


def half_width(draws: Tensor, level: float = 0.9) -> Tensor:
    """Half the width of the prediction interval of K posterior draws [K,...], K >= 2, about their mean or a better one.

    A further draw (and so the truth, if the draws are right) lies in mean +- t(K-1) std sqrt(1 + 1/K) with
    probability `level` when draws are Gaussian and `mean` is their average; with more, if it is nearer to the posterior's.
    """
    k = len(draws)
    return float(stats.t.ppf((1 + level) / 2, k - 1)) * math.sqrt(1 + 1 / k) * draws.std(0)


def coverage(mean: Tensor, draws: Tensor, truth: Tensor, level: float = 0.9) -> float:
    """Share of the truth's entries inside the interval of the draws [K,...] about the posterior mean."""
    return float(((truth - mean).abs() <= half_width(draws, level)).double().mean())


def describe(values: Sequence[float]) -> Described:
    """Mean of a column, half-width of its 95 % interval (Student's t; None for fewer than three values), and n."""
    n = len(values)
    mean = math.fsum(values) / n
    return _described(mean, math.fsum((v - mean) ** 2 for v in values) / max(n - 1, 1), n)


class Column:
    """The same of numbers that come one by one and are not kept.

    Their sum and that of their squares are whole numbers of the smallest float and of its square, so nothing is rounded.
    """

    def __init__(self) -> None:
        self.n = self.sum = self.squares = 0

    def add(self, value: float) -> None:
        """A finite number."""
        top, bottom = float(value).as_integer_ratio()
        units = top << SMALLEST - bottom.bit_length() + 1  # bottom is a power of two
        self.n, self.sum, self.squares = self.n + 1, self.sum + units, self.squares + units**2

    def described(self) -> Described:
        n = self.n
        mean = self.sum / (n << SMALLEST)
        variance = (n * self.squares - self.sum**2) / (n * max(n - 1, 1) << 2 * SMALLEST)
        return _described(mean, variance, n)


def _described(mean: float, variance: float, n: int) -> Described:
    half = None
    if n > 2:
        half = float(stats.t.ppf(0.975, n - 1)) * math.sqrt(variance) / math.sqrt(n)
    return {"mean": mean, "interval_95": half, "n": n}
