"""What became of one scan, and the numbers that go into its record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from solvers import metrics
from solvers.operators.grid import Grid
from solvers.run.scans import Scan


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
    operator: Mapping[str, Tensor] = field(default_factory=dict)  # masks and kernels
    image_like: bool = True  # y is on the images' scale; sinograms, k-space and amplitudes are not
    grid: Grid | None = None  # where in the image the samples of y lie
    folder: str = "recon"  # "samples" for draws from the prior itself

    @property
    def image_id(self) -> str:
        return self.scan.image_id

    @property
    def std(self) -> Tensor | None:
        """Spread of the draws, in the model range."""
        return None if self.draws is None else self.draws.std(0)


def failed(scan: Scan, reason: str) -> Outcome:
    return Outcome(scan, {"image_id": scan.image_id, "status": f"failed: {reason}"})


def nearest(draws: Tensor, truth: Tensor, turns: bool) -> int:
    """Which of the draws [K,C,H,W] has the highest PSNR; what only a simulation can know."""
    truth = truth.expand_as(draws)
    return int(metrics.psnr(metrics.aligned(draws, truth) if turns else draws, truth).argmax())


def scores(image: Tensor, truth: Tensor, draws: Tensor | None, baseline: Tensor | None, turns: bool) -> dict[str, float]:
    """psnr, ssim, nmse of the result; with several draws, those of the first one and the coverage of their interval.

    turns: the measurement cannot tell an image from its half turn and shifts; each image is scored at its best one.
    """
    seen = metrics.aligned if turns else (lambda image, truth: image)
    x, t = seen(image[None], truth[None]), truth[None]
    values = {"psnr": metrics.psnr(x, t).item(), "ssim": metrics.ssim(x, t).item(), "nmse": metrics.nmse(x, t).item()}
    if draws is not None:
        first = seen(draws[:1], t)
        values |= {"psnr_draw": metrics.psnr(first, t).item(), "ssim_draw": metrics.ssim(first, t).item()}
        values["coverage"] = metrics.coverage(draws, truth)
    if baseline is not None:
        values["baseline_psnr"] = metrics.psnr(baseline[None], t).item()
    return values
