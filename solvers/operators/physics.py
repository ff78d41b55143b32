"""Any physics object of deepinv (an optional dependency, extra `[physics]`) as an operator, acting on images as they are."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Scalar, Shape
from solvers.operators.grid import Grid, found


def deepinv_physics() -> Any:
    """The module, or one line if it is not installed."""
    try:
        import deepinv.physics
    except ImportError:
        raise Refusal(
            "a deepinv physics needs deepinv: pip install 'palimpsest[physics]'"
        ) from None
    return deepinv.physics


@dataclass(frozen=True, eq=False)
class Physics(Operator):
    """y = physics.A(x), without the physics' own noise model. Drawing it gives a LinearOperator if the physics is linear.

    physics: a deepinv object, whose buffers decide device and precision (see `to`).
    """

    physics: Any

    def __post_init__(self) -> None:
        if not isinstance(self.physics, deepinv_physics().Physics):
            raise Refusal(f"{type(self.physics).__name__} is not a deepinv physics")

    def draw(self, shape: Shape, noise: Noise) -> Operator:
        linear = isinstance(self.physics, deepinv_physics().LinearPhysics)
        operator = LinearPhysics(self.physics) if linear else self
        operator.shape_out(shape)
        return operator.bind(shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.physics.A(x)

    def shape_out(self, shape: Shape) -> Shape:
        buffers = [b for b in self.physics.buffers() if b.is_floating_point()]
        dtype = max(
            (b.dtype for b in buffers), key=lambda dtype: dtype.itemsize, default=torch.float32
        )
        device = buffers[0].device if buffers else "cpu"
        try:
            y = self.physics.A(torch.zeros(1, *shape, dtype=dtype, device=device))
        except (RuntimeError, ValueError, IndexError) as error:
            name, reason = type(self.physics).__name__, str(error).splitlines()[0]
            raise Refusal(
                f"deepinv's {name} cannot measure images of shape {list(shape)}: {reason}"
            ) from None
        if not isinstance(y, Tensor):
            raise Refusal(
                f"deepinv's {type(self.physics).__name__} measures a list of tensors; one tensor is due"
            )
        if len(y) != 1:
            name = type(self.physics).__name__
            raise Refusal(
                f"deepinv's {name} makes {len(y)} measurements of one image; its parameters must serve every image alike"
            )
        return tuple(y.shape[1:])


@dataclass(frozen=True, eq=False)
class LinearPhysics(Physics, LinearOperator):
    """The same with deepinv's adjoint; `solve` is its closed form where it knows a singular value decomposition."""

    def adjoint(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(y)

    @property
    def grid(self) -> Grid | None:
        """deepinv does not say; so it is measured."""
        return None if self.shape is None else found(self.forward, self.shape)

    @property
    def exact(self) -> bool:
        return isinstance(self.physics, deepinv_physics().DecomposablePhysics)

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """From deepinv's proximal step prox(0, r) = g A^T (I + g A A^T)^-1 r, g = v / s2: what it leaves of r, over s2."""
        if not self.exact:
            return super().solve(r, s2, v)
        s2, v = (torch.as_tensor(a, dtype=r.dtype, device=r.device).expand(len(r)) for a in (s2, v))
        rows = [
            (one - self.physics.A(self.physics.prox_l2(0.0, one, float(b / a)))) / a
            for one, a, b in zip(r.split(1), s2, v)
        ]
        return torch.cat(rows)
