"""What an operator is: a small frozen value that maps images [B,C,H,W] to measurements.

Linear ones add an exact adjoint and `solve`, the inverse of s2 I + v A A^T that the one update needs. Tensors are set
at construction, shaped [1,...] or [B,...] when each image has its own mask or kernel; device and dtype follow the input.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from data.files import Refusal, first_line
from data.seeding import Noise
from solvers.operators.algebra import (  # with "as" those that operators and solvers take from here
    Scalar,
    conjugate_gradients,
    per_image,
    power_iteration,
)
from solvers.operators.algebra import Solution as Solution
from solvers.operators.algebra import divide as divide
from solvers.operators.algebra import dot as dot
from solvers.operators.algebra import norm as norm
from solvers.operators.grid import Grid

Shape = tuple[int, ...]
COARSE = 20  # pixels: noise of deviation 1 hides no structure that is wider, so D settles it there, told or not


class Axes(NamedTuple):
    """What runs along y where it is no picture of the image, for those who look at it."""

    down: str
    across: str
    spectral: bool = False  # Fourier coefficients or their amplitudes: looked at as logarithms


class Operator:
    """A measurement: `forward` maps images in [-1, 1] to y. Subclasses are frozen dataclasses."""

    unit_range: bool = (
        False  # True: physics sees u = (x+1)/2; the constant part A(ones) is moved out of y
    )
    transmission: bool = (
        False  # True: Poisson photons that pass, expected rate * exp(-y); else emitted, rate * y
    )
    amplitude: bool = (
        False  # True: y is the root of what Poisson photons are counted of, expected rate * y^2
    )
    random: bool = False  # True: draws a mask or kernel for each image, so it cannot describe a real measurement
    turns: bool = False  # True: an image's half turn and shifts measure the same, so scores are taken at the best of them
    neighbours: Literal["plane", "rows", "columns", "none"] = (
        "plane"  # along which axes of y its noise-free values are smooth
    )
    reading: Axes | None = None  # of y, where it is no picture
    identity: bool = False  # True: y = x
    blind: bool = False  # True: what it did is not told to who restores it, but found in y first
    volumetric: bool = False  # True: measures volumes [C,D,H,W] and no images
    gaps: bool = (
        True  # False: y tells something of all frequencies of the image, or of their neighbours
    )
    leaves_coarse: bool = False  # True: y does not tell all structure of COARSE pixels
    shape: Shape | None = None  # [C,H,W] of the images it is bound to, set by `draw`

    def draw(self, shape: Shape, noise: Noise) -> "Operator":
        """Bind to images of shape [C,H,W] and to each image's own random mask or kernel.

        Raises Refusal in one line if the shape cannot be measured (divisibility, kernel larger than the image, ...).
        """
        self.shape_out(shape)
        return self.bind(shape)

    def bind(self, shape: Shape | None, **tensors: Tensor) -> Self:
        """A copy bound to images of this shape, with these fields set."""
        bound = replace(self, **tensors) if is_dataclass(self) else copy.copy(self)  # type: ignore[type-var]
        object.__setattr__(bound, "shape", shape and tuple(shape))
        return bound

    def select(self, indices: Sequence[int]) -> "Operator":
        """The operator of some rows of the batch; per-image tensors are indexed, shared ones ([1,...]) kept."""
        rows = list(indices)
        own = {
            name: value[rows]
            for name, value in settings(self).items()
            if isinstance(value, Tensor) and len(value) > 1
        }
        return self.bind(self.shape, **own) if own else self

    def forward(self, x: Tensor) -> Tensor:
        """x [B,C,H,W] -> y [B,...]"""
        raise Refusal(f"{type(self).__name__} has no `forward`, which every operator needs")

    def shape_out(self, shape: Shape) -> Shape:
        """Shape of y, without the batch axis, for images of shape [C,H,W]; where it is not told, by a trial."""
        try:
            return tuple(self.forward(torch.zeros(1, *shape)).shape[1:])
        except RuntimeError as error:  # torch's, of shapes that do not fit
            name = type(self).__name__
            raise Refusal(f"{name} cannot measure {list(shape)}: {first_line(error)}") from error

    def measurable(self, shape: Shape) -> Shape:
        """The smallest [C,H,W] of at least this size that it measures: images of other sizes are continued to it."""
        return tuple(shape)

    def shape_in(self, measured: Shape) -> Shape | None:
        """The shape of images whose y has this shape, where the operator itself knows; None: what fits is looked for."""
        return None

    @property
    def places(self) -> tuple[float, float]:
        """Of volumes: where the first slice lies among those of y, and how far the next is from it."""
        return 0.0, 1.0

    def measured(self, y: Tensor) -> Tensor:
        """Number of really measured real entries per image, [B]."""
        return torch.full((len(y),), float(y[0].numel()), dtype=y.dtype, device=y.device)

    def restrict(self, y: Tensor) -> Tensor:
        """y with its unmeasured entries set to 0 (a mask's holes carry neither signal nor noise)."""
        return y

    def noise_alone(self, y: Tensor) -> Tensor | None:
        """What of y no image can explain, [B,...]: noise of y's own deviation, 0 where there is none. None: nowhere."""
        return None

    def baseline(self, y: Tensor, shape: Shape) -> Tensor | None:
        """The cheap classical answer (bicubic, FBP, zero-filled, ...) as an image [B,C,H,W], or None."""
        return None

    def files(self) -> dict[str, Tensor]:
        """Tensors worth saving with the result (masks, kernels), by name; [1,...] or [B,...]."""
        return {}

    @property
    def grid(self) -> Grid | None:
        """Where in the image the samples of y lie; None: y is no picture of it (k-space, a sinogram, ...)."""
        return None

    def linearize(self, x: Tensor) -> "Linearization":
        """The operator's derivative at x as a LinearOperator, by jvp and vjp."""
        return Linearization(self.forward, x)

    def given(self, y: Tensor, sigma: float | Tensor) -> "Operator":
        """The same measurement, knowing that y came out with noise of deviation sigma (a number, or shaped like y).

        Operators with flat parts give the continuation of the part that y lies on, which still has a slope where the
        operator itself has none; descents need it, the likelihood is the same to exp(-9/2).
        """
        return self


class LinearOperator(Operator):
    """y = A x. Adds `adjoint` (exact), `solve`, `norm`."""

    elementwise: bool = (
        False  # True: y = a * x entry by entry (masks), so that a diagonal v needs no iteration
    )

    @property
    def exact(self) -> bool:
        """Whether `solve` is a closed form; if not, the update runs conjugate gradients, which can stop at the noise."""
        return type(self).solve is not LinearOperator.solve

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: [B,...] -> [B,C,H,W]"""
        raise Refusal(f"{type(self).__name__} has no `adjoint`, which every LinearOperator needs")

    def gram(self, r: Tensor) -> Tensor:
        """A A^T r; overridden where it is cheaper than the two applications."""
        return self.forward(self.adjoint(r))

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """(s2 I + v A A^T)^-1 r with s2, v numbers or [B]; closed form where there is one, else conjugate gradients."""
        a, b = per_image(s2, r), per_image(v, r)
        return conjugate_gradients(lambda p: a * p + b * self.gram(p), r, cap=500).x

    def correct(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """A^T (s2 I + v A A^T)^-1 r, what a residual says about the image; overridden where one pass gives both."""
        return self.adjoint(self.solve(r, s2, v))

    def inverse_under(self, density: Tensor, s2: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Nearly r -> (s2 I + A C A^T)^-1 r, where that is a closed form; else None.

        C: stationary, of this variance at each frequency (`solvers.beliefs.Spectral`). Errors that are larger in some places than
        in others are not, and this is what preconditions conjugate gradients for them.
        """
        return None

    def norm(self) -> float:
        """The largest singular value of A (of any image's A); closed form where there is one, else by power iteration."""
        if self.shape is None:
            raise Refusal(f"{type(self).__name__}.norm() needs an image shape: call draw first")
        batch = max(
            [len(value) for value in settings(self).values() if isinstance(value, Tensor)],
            default=1,
        )
        return power_iteration(self, torch.zeros(batch, *self.shape))

    def linearize(self, x: Tensor) -> "LinearOperator":  # type: ignore[override]
        return self


class Linearization(LinearOperator):
    """d f / d x at x, for any differentiable f. `value` is f(x), computed once.

    Forward-mode needs the math attention kernel (the flash kernel has no forward derivative on the CPU).
    """

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor):
        self.function, self.x = function, x.detach()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            value, self.pull = torch.func.vjp(function, self.x)  # type: ignore[misc]
        self.value = value.detach()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(self.function, (self.x,), (x,))[1].detach()

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pull(y)[0].detach()

    def shape_out(self, shape: Shape) -> Shape:
        return tuple(self.value.shape[1:])

    def norm(self) -> float:
        return power_iteration(self, self.x)


def one_each(tensor: Tensor, noise: Noise, what: str) -> None:
    """Raises Refusal unless the tensor serves all images of the batch or has one row for each."""
    if len(tensor) not in (1, len(noise)):
        raise Refusal(
            f"{len(tensor)} {what} for a batch of {len(noise)} images; allowed: 1, or one per image"
        )


def settings(operator: Operator) -> dict[str, Any]:
    """The fields of an operator, tensors among them; derived and cached values left out."""
    return (
        {f.name: getattr(operator, f.name) for f in fields(operator)}
        if is_dataclass(operator)
        else {}
    )
