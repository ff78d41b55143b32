"""Super-resolution: an image seen through a coarser grid."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.files import Refusal
from solvers.operators.base import LinearOperator, Shape
from solvers.operators.circulant import Circulant
from solvers.operators.convolution import Convolution
from solvers.operators.kernels import checked, gaussian_taps, product
from solvers.operators.separable import Axis, Separable


class Shrinking(Convolution):
    """What all of them share: the cheap answer, which is bicubic interpolation back to the image's size."""

    factor: int

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        assert self.grid is not None
        return self.grid.bicubic(y, *shape[-2:])


@dataclass(frozen=True, eq=False)
class SuperResolution(Shrinking):
    """y = the image shrunk by an integer factor, any H and W divisible by it.

    filter: "bicubic", antialiased (Keys a = -1/2 stretched by the factor, 16 taps at x4, mirrored border with the edge
    pixel repeated), the operator of DPS, DAPS, PSLD and ReSample; or "average" over factor x factor blocks (PaDIS).
    """

    factor: int = 4
    filter: Literal["bicubic", "average"] = "bicubic"

    def __post_init__(self) -> None:
        integer_factor(self.factor)
        if self.filter not in ("bicubic", "average"):
            raise Refusal(f"filter {self.filter!r} is not one of bicubic, average")

    def make_engine(self) -> LinearOperator:
        taps = (
            bicubic_taps(self.factor)
            if self.filter == "bicubic"
            else (1 / self.factor,) * self.factor
        )
        axis = Axis(taps, "symmetric", self.factor, (len(taps) - self.factor) // 2)
        return Separable(axis, axis)


@dataclass(frozen=True, eq=False)
class GaussianSuperResolution(Shrinking):
    """Circular Gaussian blur, then every factor-th pixel from the first (CoDPS: x4, 9x9 window, std 3)."""

    factor: int = 4
    size: int = 9
    std: float = 3.0

    def __post_init__(self) -> None:
        integer_factor(self.factor)
        gaussian_taps(self.size, self.std)

    def make_engine(self) -> LinearOperator:
        return Circulant(product(gaussian_taps(self.size, self.std)), self.factor)


@dataclass(frozen=True, eq=False)
class KernelSuperResolution(Shrinking):
    """Circular blur with the user's kernel (tensor or file), then every factor-th pixel.

    A kernel whose size has the factor's parity is centred on each factor x factor block; an odd one with an even factor
    on the block's first pixel; an even one with an odd factor has no centre and is refused.
    """

    kernel: Tensor | str
    factor: int = 4

    def __post_init__(self) -> None:
        integer_factor(self.factor)
        kernel = checked(self.kernel, any_size=True)
        for k in kernel.shape[-2:]:
            if k % 2 == 0 and self.factor % 2:
                raise Refusal(
                    f"kernel of {k} pixels has no centre for the odd factor {self.factor}: use an odd size"
                )
        object.__setattr__(self, "kernel", kernel)

    def make_engine(self) -> LinearOperator:
        assert isinstance(self.kernel, Tensor)
        d = self.factor
        k1, k2 = (
            (k - d) // 2 if (k - d) % 2 == 0 else (k - 1) // 2 for k in self.kernel.shape[-2:]
        )
        return Circulant(self.kernel, d, (k1, k2))

    def files(self) -> dict[str, Tensor]:
        assert isinstance(self.kernel, Tensor)
        return {"kernel": self.kernel}


def integer_factor(factor: int) -> None:
    if factor < 2 or int(factor) != factor:
        raise Refusal(f"the factor of super-resolution is an integer >= 2, not {factor}")


def bicubic_taps(factor: int) -> tuple[float, ...]:
    """Keys' cubic convolution kernel (a = -1/2) stretched by the factor, at the pixels around a block's centre."""
    reach = 4 * factor if factor % 2 == 0 else 4 * factor - 1
    d = ((torch.arange(reach, dtype=torch.float64) - (reach - 1) / 2) / factor).abs()
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    taps = torch.where(d <= 1, near, far) * (d < 2)
    return tuple((taps / taps.sum()).tolist())
