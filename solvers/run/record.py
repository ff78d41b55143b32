"""What became of one scan, and the numbers that go into its record."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from solvers import metrics
from solvers.operators.base import Axes
from solvers.operators.grid import Grid
from solvers.run.scans import Scan, bug

COLUMNS = {  # the numbers of a record that are averaged -> (heading, digits)
    "psnr": ("PSNR dB", 2),
    "baseline_psnr": ("baseline PSNR dB", 2),
    "psnr_draw": ("PSNR of one draw dB", 2),
    "ssim": ("SSIM", 3),
    "ssim_draw": ("SSIM of one draw", 3),
    "ssim_rows": ("SSIM along rows", 3),
    "ssim_columns": ("SSIM along columns", 3),
    "continuity": ("continuity", 3),
    "nmse": ("NMSE", 4),
    "residual": ("residual", 3),
    "residual_mean": ("residual of the mean", 3),
    "coverage": ("coverage of 90 %", 3),
    "seconds": ("seconds", 1),
}
ROUNDING = 1e-5  # by which draws in [-1, 1] may differ without saying anything
ALIKE = "the draws are alike: they do not say how sure the image is"


@dataclass(frozen=True)
class Outcome:
    """A restored image with everything that is written about it; `image` is None if it failed.

    All tensors are on the CPU, images [C,H,W] in the model range.
    """

    scan: Scan
    record: dict[str, Any]
    image: Tensor | None = None  # the posterior mean, the one draw, or the kept run
    draws: Tensor | None = None  # [K,C,H,W] if several were asked for
    truth: Tensor | None = None
    y: Tensor | None = None  # what was measured, in the units of a user's own file
    baseline: Tensor | None = None  # the operator's classical answer, if it has one
    operator: Mapping[str, Tensor] = field(default_factory=dict)  # masks and kernels
    image_like: bool = True  # y is on the images' scale; sinograms, k-space and amplitudes are not
    axes: Axes | None = None  # what runs along y, where it is no picture
    zoom: bool = False  # panels enlarge where the error is largest
    grid: Grid | None = None  # where in the image the samples of y lie
    folder: str = "recon"  # "samples" for draws from the prior itself
    trace: str = ""  # of a bug in the program that this image met, as Python prints it
    deviation: Tensor | None = None  # the spread of draws that are not at hand any more

    @property
    def image_id(self) -> str:
        return self.scan.image_id

    @property
    def std(self) -> Tensor | None:
        """Spread of the draws, in the model range."""
        return self.deviation if self.draws is None else self.draws.std(0)

    @property
    def spread(self) -> Tensor | None:
        """`std` as something to look at; None where the draws are alike, as those of solvers that give one image."""
        std = self.std
        return None if std is None or float(std.max()) < ROUNDING else std

    @property
    def middle(self) -> "Outcome":
        """Of a volume, what became of its middle slice; an image is its own."""
        image, y = self.image, self.y
        if image is None or image.ndim < 4:
            return self
        k = image.shape[1] // 2

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.select(-3, k)

        seen = cut(y) if y is not None and y.shape == image.shape else None
        masks = {
            name: x.select(-3, k)
            for name, x in self.operator.items()
            if x.shape[-3:] == image.shape[-3:]
        }
        flat = replace(
            self,
            image=cut(image),
            draws=cut(self.draws),
            truth=cut(self.truth),
            baseline=cut(self.baseline),
        )
        return replace(
            flat, deviation=cut(self.deviation), y=seen, operator=masks, grid=None, axes=None
        )


def meaning(record: Mapping[str, Any]) -> str:
    """What the numbers of a record say, for people who do not read tables."""
    value, said = record["residual"], []
    if value < 0.8:
        said.append(
            f"Fits the data more closely than their noise, some of which is in the image (residual {value:.2f})."
        )
    elif value <= 1.2:
        said.append(f"Explains the data to the noise level (residual {value:.2f}).")
    else:
        said.append(f"Leaves part of the data unexplained: {value:.2f} times the noise level.")
    if record.get("psnr") is not None:
        than = record.get("baseline_psnr")
        more = (
            ""
            if than is None
            else f", {abs(record['psnr'] - than):.1f} dB {'above' if record['psnr'] >= than else 'below'} the classical answer"
        )
        said.append(f"PSNR {record['psnr']:.1f} dB{more}.")
    if record.get("coverage") is not None:
        said.append(
            f"The 90 % interval of the draws holds {100 * record['coverage']:.0f} % of the true pixels."
        )
    return " ".join(said)


def failed(scan: Scan, reason: str, trace: str = "") -> Outcome:
    """An image that could not be restored, and why. trace: if the reason is a bug in the program."""
    return Outcome(scan, {"image_id": scan.image_id, "status": f"failed: {reason}"}, trace=trace)


def broken(scan: Scan, error: Exception) -> Outcome:
    """An image on which the program failed. Called where `error` is being handled."""
    return failed(scan, bug(error), traceback.format_exc())


def nearest(draws: Tensor, truth: Tensor, turns: bool) -> int:
    """Which of the draws [K,C,H,W] has the highest PSNR; what only a simulation can know."""
    truth = truth.expand_as(draws)
    return int(metrics.psnr(metrics.aligned(draws, truth) if turns else draws, truth).argmax())


def scores(
    image: Tensor, truth: Tensor, draws: Tensor | None, baseline: Tensor | None, turns: bool
) -> dict[str, float]:
    """psnr, ssim, nmse of the result; with several draws, those of the first one and the coverage of their interval.

    Of volumes [C,D,H,W] psnr and nmse are of all voxels, ssim is the mean of the slices, and with it that of the other planes.
    turns: the measurement cannot tell an image from its half turn and shifts; each image is scored at its best one.
    """
    seen = metrics.aligned if turns else (lambda image, truth: image)
    x, t = seen(image[None], truth[None]), truth[None]
    volume = image.ndim == 4
    values = {"psnr": metrics.psnr(x, t).item()} | (
        of_planes(x, t) if volume else {"ssim": metrics.ssim(x, t).item()}
    )
    values["nmse"] = metrics.nmse(x, t).item()
    if draws is not None:
        first = seen(draws[:1], t)
        values["psnr_draw"] = metrics.psnr(first, t).item()
        values |= {} if volume else {"ssim_draw": metrics.ssim(first, t).item()}
        values["coverage"] = metrics.coverage(image, draws, truth)
    if baseline is not None:
        values["baseline_psnr"] = metrics.psnr(baseline[None], t).item()
    return values


def of_planes(image: Tensor, truth: Tensor) -> dict[str, float]:
    """What only a volume [1,C,D,H,W] has."""
    similar = dict(zip(("ssim", "ssim_rows", "ssim_columns"), metrics.ssim_of_planes(image, truth)))
    apart = {"continuity": metrics.continuity(image, truth).item()} if image.shape[2] > 1 else {}
    return similar | apart
