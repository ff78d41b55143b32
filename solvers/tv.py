"""Total variation by ADMM (Boyd et al. 2011, section 6.4.1): the classical answer that knows that edges are sparse."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.denoiser import Prior
from solvers.operators.base import LinearOperator, Scalar, conjugate_gradients, per_image
from solvers.problem import Problem
from solvers.solver import Chain, Move, Solver, need_linear, positive


@dataclass(frozen=True)
class TV(Solver):
    """Minimises |A u - y|^2 / 2 + lam TV(u) over images u in [0, 1] units, as PaDIS's baseline states it; needs no prior
    (only the shape of its images). TV is isotropic, of volumes in three dimensions, and has no differences across the border.
    """

    uses_prior = False
    volumes = True

    steps: int = 100  # of ADMM
    lam: float = 0.001  # published: 0.001 CT, 0.002 deblurring, 0.006 super-resolution
    rho: float = 0.05  # of the splitting: speed, not the answer
    cg: int = 10  # conjugate gradients of each x-update, from the last x

    def __post_init__(self) -> None:
        positive(self, "steps", "cg", "lam", "rho")

    def check(self, problem: Problem, prior: Prior) -> None:
        need_linear("TV", problem.operator)

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """No noise is involved."""
        return [0.0] * (self.steps + 1)

    def sample(self, chain: Chain) -> Iterator[Move]:
        A: LinearOperator = chain.own.operator  # type: ignore[assignment]
        weight = (
            self.lam / 2 if A.unit_range else 2 * self.lam
        )  # x = 2u - 1: TV doubles, and so does A x unless A takes u
        rho = self.rho * weight / self.lam
        back = A.adjoint(chain.own.y)

        def normal(p: Tensor) -> Tensor:
            return A.adjoint(A.forward(p)) + rho * gradient_adjoint(gradient(p))

        x = back * 0
        z = gradient(x)
        u = torch.zeros_like(z)
        for _ in range(self.steps):
            b = back + rho * gradient_adjoint(z - u)
            x = conjugate_gradients(normal, b, x=x, cap=self.cg).x
            slopes = gradient(x) + u
            length = slopes.square().sum(1, keepdim=True).sqrt()
            z = slopes * (1 - weight / rho / length.clamp_min(weight / rho))
            u = slopes - z
            yield 0.0, x, x

    def shown(self, chain: Chain, x0: Tensor) -> Tensor:
        return x0

    def result(self, chain: Chain, move: Move) -> Tensor:
        return move[1]


def gradient(x: Tensor) -> Tensor:
    """Forward differences along the axes behind the channels, [B,2,C,H,W] or [B,3,C,D,H,W]; zero across the border."""
    found = torch.zeros(len(x), x.ndim - 2, *x.shape[1:], dtype=x.dtype, device=x.device)
    for i, axis in enumerate(range(2, x.ndim)):
        n = x.shape[axis] - 1
        found[:, i].narrow(axis, 0, n).copy_(x.diff(dim=axis))
    return found


def gradient_adjoint(g: Tensor) -> Tensor:
    """The transpose of `gradient`: minus the divergence."""
    x = torch.zeros_like(g[:, 0])
    for i, axis in enumerate(range(2, x.ndim)):
        n = x.shape[axis] - 1
        step = g[:, i].narrow(axis, 0, n)
        x.narrow(axis, 1, n).add_(step)
        x.narrow(axis, 0, n).sub_(step)
    return x


def smoothed_along_slices(x: Tensor, weight: Scalar, steps: int = 30) -> Tensor:
    """argmin_u |u - x|^2 / 2 + weight TV_z(u) of a volume [B,C,D,H,W], TV_z the sum of |differences along D|. weight: a
    number, or one for each volume [B].

    By projected gradients on the dual, which 1/4 times its step makes converge (Chambolle 2004).
    """
    if x.shape[2] < 2:
        return x
    bound = per_image(weight, x)
    p = torch.zeros_like(x.diff(dim=2))
    for _ in range(steps):
        p = (p + 0.25 * _less(x, p).diff(dim=2)).clamp(-bound, bound)
    return _less(x, p)


def _less(x: Tensor, p: Tensor) -> Tensor:
    """x - D^T p, D the differences along the slices."""
    u = x.clone()
    u[:, :, 1:] -= p
    u[:, :, :-1] += p
    return u
