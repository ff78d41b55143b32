"""Computed tomography as it is simulated: views at equal angles, a centred flat detector, lengths in any one unit."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, ones

from data.files import Refusal
from data.ranges import from_unit
from solvers.operators.base import Axes, Shape
from solvers.operators.line_integrals import LineIntegrals
from solvers.operators.projection import Scan, filtered_backprojection


@dataclass(frozen=True, eq=False)
class CT(LineIntegrals):
    """y = A (x/2) mu_max: line integrals [B,C,views,bins], those of a constant u = 1/2 moved out of them.

    The defaults are PaDIS's geometry (Hu et al. 2024): a box [-20,20]^2 seen by 512 cells on [-40,40], angles at
    (i + 1/2) arc / views; its fan beam has source and detector 40 from the axis. Rays that miss the image are not
    measured. Noise: `Gaussian` with the standard deviation of the stored line integrals, or `Poisson`, whose rate is
    then the photons sent along each ray.
    """

    views: int = 20
    beam: Literal["parallel", "fan"] = "parallel"
    arc: float = 180.0  # degrees covered by the views
    bins: int = 512
    detector: float = 80.0  # width of the detector, in the length unit of `box`
    box: float = 40.0  # side of the image
    radius: float = 40.0  # fan beam: distance of source and detector from the axis
    mu_max: float = 1.0  # attenuation at u = 1, in 1/length
    window: Literal["hann", "ramp"] = "hann"  # of the filtered backprojection, the baseline
    cutoff: float = (
        0.9  # its highest frequency, as a fraction of Nyquist's; PaDIS: 0.9 parallel, 0.3 fan
    )

    def __post_init__(self) -> None:
        if self.views < 1 or self.bins < 2:
            raise Refusal(
                f"CT needs at least 1 view and 2 bins, got views={self.views}, bins={self.bins}"
            )
        if self.beam not in ("parallel", "fan") or self.window not in ("hann", "ramp"):
            raise Refusal(
                f"CT beams are parallel or fan and windows hann or ramp, not {self.beam!r}, {self.window!r}"
            )
        if not 0 < self.arc <= 360:
            raise Refusal(f"the views of a CT cover 0 < arc <= 360 degrees, not {self.arc}")
        if not (
            all(0 < length < math.inf for length in (self.detector, self.box, self.mu_max))
            and 0 < self.cutoff <= 1
        ):
            raise Refusal("CT needs finite detector, box, mu_max > 0 and 0 < cutoff <= 1")
        if self.beam == "fan" and not self.box / 2**0.5 < self.radius < math.inf:
            raise Refusal(
                f"the source at radius {self.radius} lies inside the image of side {self.box}, or nowhere"
            )

    @property
    def scan(self) -> Scan:
        radius = self.radius if self.beam == "fan" else None
        return Scan(self.views, math.radians(self.arc), self.bins, self.detector, self.box, radius)

    @property
    def reading(self) -> Axes:  # type: ignore[override]
        return Axes(f"{self.views} views over {self.arc:g} degrees", f"{self.bins} detector cells")

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Filtered backprojection, clipped to the range of images."""
        integrals = y + self.forward(ones(1, *shape, dtype=y.dtype, device=y.device))
        h, w = shape[-2:]
        u = (
            filtered_backprojection(self.scan, integrals, h, w, self.window, self.cutoff)
            / self.mu_max
        )
        return from_unit(u.clamp(0, 1))
