"""Blurs: y = kernel * x, with a choice of what stands outside the image.

Circular borders are solved exactly by Fourier transforms, kernels that are one outer product exactly for every border
by dense factors, anything else by conjugate gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Shape, settings
from solvers.operators.circulant import Circulant
from solvers.operators.convolution import Bordered, Convolution, engine
from solvers.operators.kernels import (
    checked,
    gaussian_taps,
    in_the_middle,
    motion,
    odd,
    product,
    uniform_taps,
)
from solvers.operators.separable import BORDERS, Axis, Border, Kept, Separable


class Blur(Convolution):
    """What all of them share: the border, and the cheap answer, which is the blurred image itself."""

    border: Border
    gaps = False

    def __post_init__(self) -> None:
        if self.border not in BORDERS:
            raise Refusal(f"border {self.border!r} is not one of {', '.join(BORDERS)}")

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """The blurred image; after a valid border its edge is repeated outwards."""
        up, left = ((n - m) // 2 for n, m in zip(shape[-2:], y.shape[-2:]))
        down, right = shape[-2] - y.shape[-2] - up, shape[-1] - y.shape[-1] - left
        return functional.pad(y, (left, right, up, down), mode="replicate") if up or left else y


class SquareBlur(Blur):
    """A kernel that is the outer product of one line of taps with itself."""

    @property
    def taps(self) -> tuple[float, ...]:
        raise NotImplementedError

    def make_engine(self) -> LinearOperator:
        if self.border == "circular":
            return Circulant(product(self.taps))
        axis = Axis(self.taps, self.border, 1, 0 if self.border == "valid" else len(self.taps) // 2)
        return Separable(axis, axis)

    def files(self) -> dict[str, Tensor]:
        return {"kernel": product(self.taps)}


@dataclass(frozen=True, eq=False)
class GaussianBlur(SquareBlur):
    """61x61 window, std 3, reflected border in DPS, DAPS, PSLD and ReSample; circular in CoDPS."""

    size: int = 61  # window, pixels
    std: float = 3.0  # pixels
    border: Border = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        gaussian_taps(self.size, self.std)

    @property
    def taps(self) -> tuple[float, ...]:
        return gaussian_taps(self.size, self.std)


@dataclass(frozen=True, eq=False)
class UniformBlur(SquareBlur):
    """A moving average, 9x9 or 17x17 in PaDIS."""

    size: int = 9  # pixels
    border: Border = "circular"

    def __post_init__(self) -> None:
        super().__post_init__()
        odd(self.size)

    @property
    def taps(self) -> tuple[float, ...]:
        return uniform_taps(self.size)


@dataclass(frozen=True, eq=False)
class KernelBlur(Blur):
    """The user's kernel: a file, [k,k], or [B,1,k,k] with one for each image; odd sizes."""

    kernel: Tensor | str
    border: Border = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kernel", checked(self.kernel))

    def make_engine(self) -> LinearOperator:
        assert isinstance(self.kernel, Tensor)
        return engine(self.kernel, self.border)

    def files(self) -> dict[str, Tensor]:
        assert isinstance(self.kernel, Tensor)
        return {"kernel": self.kernel}

    def select(self, indices: Sequence[int]) -> Operator:
        chosen = super().select(indices)
        return chosen if chosen is self else KernelBlurs(**settings(chosen)).bind(self.shape)


@dataclass(frozen=True, eq=False)
class KernelBlurs(KernelBlur):
    """A kernel for each image. None is factored, even if it could be: how an image is solved may not depend on the others."""

    def make_engine(self) -> LinearOperator:
        assert isinstance(self.kernel, Tensor)
        return (
            Circulant(self.kernel)
            if self.border == "circular"
            else Bordered(self.kernel, self.border)
        )


@dataclass(frozen=True, eq=False)
class MotionBlur(Operator):
    """Camera shake, another one for each image; `draw` gives the KernelBlurs. 61x61 and intensity 0.5 in all five systems."""

    random = True
    size: int = 61  # pixels
    intensity: float = 0.5  # 0 straight .. 1 very curved
    border: Border = "reflect"

    def __post_init__(self) -> None:
        odd(self.size)
        if self.border not in BORDERS:
            raise Refusal(f"border {self.border!r} is not one of {', '.join(BORDERS)}")
        if not 0 <= self.intensity <= 1:
            raise Refusal(f"intensity of a motion blur is between 0 and 1, not {self.intensity}")

    def shape_out(self, shape: Shape) -> Shape:
        c, h, w = shape
        if self.size > min(h, w):
            raise Refusal(
                f"kernel of {self.size}x{self.size} pixels is larger than the image of {h}x{w}"
            )
        return (c, h - self.size + 1, w - self.size + 1) if self.border == "valid" else (c, h, w)

    def measurable(self, shape: Shape) -> Shape:
        c, h, w = shape
        return (c, max(h, self.size), max(w, self.size))

    def draw(self, shape: Shape, noise: Noise) -> KernelBlurs:
        self.shape_out(shape)
        return KernelBlurs(motion(self.size, self.intensity, noise.of("kernel")), self.border).bind(
            shape
        )


@dataclass(frozen=True, eq=False)
class BlindBlurs(KernelBlurs):
    """Blurs whose kernels made y, or stand for those that did, and are not told to who restores it."""

    blind = True

    def select(self, indices: Sequence[int]) -> Operator:
        return Operator.select(self, indices)


@dataclass(frozen=True, eq=False)
class BlindBlur(MotionBlur):
    """Camera shake that nobody knows: its kernel is sought in y, in a window of this size (`solvers.measured.kernel`).

    Simulations draw one as `MotionBlur` does, with its centre of mass in the middle, where the one that is found has it too.
    """

    random = False
    blind = True
    size: int = 15  # pixels
    border: Kept = "reflect"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.border == "valid":
            raise Refusal("border valid: a blind blur measures as many pixels as the image has")

    def draw(self, shape: Shape, noise: Noise) -> BlindBlurs:
        self.shape_out(shape)
        kernels = motion(self.size, self.intensity, noise.of("kernel"))
        return BlindBlurs(in_the_middle(kernels), self.border).bind(shape)
