"""Computed tomography as a scanner measured it: its own geometry, bad channels left out."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.files import Refusal
from data.ranges import from_unit
from solvers.operators.base import LinearOperator, Shape
from solvers.operators.ct_fbp import WINDOWS, filtered_backprojection
from solvers.operators.ct_geometry import Geometry
from solvers.operators.line_integrals import LineIntegrals


@dataclass(frozen=True, eq=False)
class GeometryCT(LineIntegrals):
    """y = A (x/2) mu_max: line integrals [B,C,views,bins] along the rays of a Geometry, of images of any size.

    good: [1,1,views,bins], 1 for rays that are measured.
    """

    geometry: Geometry
    good: Tensor | None = None
    mu_max: float = 1.0  # 1/mm, at u = 1
    window: Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"] = (
        "hann"  # of the filtered backprojection
    )
    cutoff: float = 1.0  # its highest frequency, as a fraction of Nyquist's

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise Refusal(f"window {self.window!r}: {', '.join(WINDOWS)} are allowed")
        if not 0 < self.cutoff <= 1 or not self.mu_max > 0:
            raise Refusal(
                f"0 < cutoff <= 1 and mu_max > 0 are due, not {self.cutoff:g} and {self.mu_max:g}"
            )
        if self.good is not None:
            due = (1, 1, self.geometry.views, self.geometry.bins)
            if tuple(self.good.shape) != due:
                raise Refusal(f"good rays of shape {tuple(self.good.shape)}; {due} is due")

    @property
    def scan(self) -> Geometry:
        return self.geometry

    def shape_out(self, shape: Shape) -> Shape:
        self.scan.check_image(*shape[-2:])
        return super().shape_out(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.kept(super().forward(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(self.kept(y))

    def kept(self, y: Tensor) -> Tensor:
        return y if self.good is None else y * self.good.to(y)

    def hit(self, y: Tensor) -> Tensor:
        hit = super().hit(y)
        return hit if self.good is None else hit * self.good[0, 0].to(y)

    @property
    def exact(self) -> bool:
        return self.good is None and super().exact

    def norm(self) -> float:
        return super().norm() if self.good is None else LinearOperator.norm(self)

    def files(self) -> dict[str, Tensor]:
        return {} if self.good is None else {"good": self.good}

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Filtered backprojection, bad rays filled from their neighbours; not clipped, so that means stay what they are."""
        integrals = y + self.forward(torch.ones(1, *shape, dtype=y.dtype, device=y.device))
        if self.good is not None:
            integrals = filled(integrals, self.good.to(y))
        u = (
            filtered_backprojection(
                self.scan, integrals, shape[-2], shape[-1], self.window, self.cutoff
            )
            / self.mu_max
        )
        return from_unit(u)


def filled(y: Tensor, good: Tensor) -> Tensor:
    """y [...,views,bins] with bad rays interpolated between the nearest good ones of their view; [1,1,views,bins] says which."""
    good = good[0, 0] > 0
    place = torch.arange(y.shape[-1], device=y.device).expand_as(good)
    before = torch.where(good, place, -1).cummax(-1).values
    after = torch.where(good, place, y.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    only = torch.where(before < 0, after, before).clamp_max(y.shape[-1] - 1)
    low, high = (
        torch.where(before < 0, only, before),
        torch.where(after >= y.shape[-1], only, after),
    )
    share = ((place - low) / (high - low).clamp_min(1)).to(y)
    a, b = (y.gather(-1, index.expand(y.shape)) for index in (low, high))
    return a + share * (b - a)
