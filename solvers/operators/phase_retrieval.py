"""Phase retrieval: only the amplitude of a Fourier transform is measured."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from data.files import Refusal
from data.ranges import to_unit
from solvers.operators.base import Axes, Operator, Shape


@dataclass(frozen=True, eq=False)
class PhaseRetrieval(Operator):
    """y = |F pad(u)|, u = (x + 1) / 2, F the centred orthonormal transform (DAPS).

    The frame is oversampling / 8 of the image's side wider on each side: 2.0 makes 384 of 256. Half turns of the image,
    and shifts that keep it inside the frame, give the same y; scores are taken at the best of them (`turns`).
    """

    oversampling: float = 2.0
    amplitude = True
    turns = True
    reading = Axes("vertical frequency", "horizontal frequency", spectral=True)

    def __post_init__(self) -> None:
        if not self.oversampling >= 0:
            raise Refusal(f"oversampling must be >= 0, not {self.oversampling}")

    def margins(self, h: int, w: int) -> tuple[int, int]:
        return int(self.oversampling / 8 * h), int(self.oversampling / 8 * w)

    def shape_out(self, shape: Shape) -> Shape:
        c, h, w = shape
        p, q = self.margins(h, w)
        return (c, h + 2 * p, w + 2 * q)

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.margins(*x.shape[-2:])
        frame = torch.fft.ifftshift(functional.pad(to_unit(x), (q, q, p, p)), (-2, -1))
        return torch.fft.fftshift(torch.fft.fft2(frame, norm="ortho"), (-2, -1)).abs()
