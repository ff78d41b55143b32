"""The update in whitened coordinates, x = u + S xi with S = V^(1/2): |y - A(u + S xi)|^2 / s2 + |xi|^2 at its minimum.

One step for an operator that is linear, Gauss-Newton for one that is so only at a point.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solvers.beliefs import Belief
from solvers.operators.base import (
    LinearOperator,
    Operator,
    Scalar,
    Solution,
    conjugate_gradients,
    dot,
    norm,
    per_image,
)

Root = Callable[[Tensor], Tensor]  # V^(1/2), or V, of images

LOOK_BACK = 3  # steps of conjugate gradients by which the error of an earlier one is judged
HALVINGS = 6  # of a step that does not descend; 2^-6 of a Gauss-Newton step is as good as none


@dataclass(frozen=True)
class Precision:
    """How well a system with the matrix s2 I + A V A^T is to be solved.

    dual: iterate among the measurements, as there is hardly any noise: in the image, divided by it, rounding would become as
    large as xi wherever y sees nothing; among the measurements it cannot, since S A^T goes last.
    """

    noise: Scalar  # s2 of closed forms: sigma_y^2, or where there is none the rounding error of V
    s2: Tensor  # of iterations: never below that rounding error where there is hardly any noise. A number, or [B]
    error: Tensor  # [B] A x is to be known to this, in y's units
    cap: int  # iterations
    dual: bool = False


def whitened_step(A: LinearOperator, S: Root, r: Tensor, xi: Tensor, wanted: Precision) -> Solution:
    """The d that minimises |r - A S d|^2 / s2 + |xi + d|^2, by conjugate gradients in the image.

    S: of images, symmetric. What conjugate gradients minimise is the error in the cost, which bounds that of A S d.
    Returned is the error they left, in y's units.
    """
    if wanted.dual:
        found = dual_step(A, lambda z: S(S(z)), r + A.forward(S(xi)), wanted)
        return Solution(S(A.adjoint(found.x)) - xi, found.iterations, found.residual)
    back = A.adjoint(r)
    s2 = per_image(wanted.s2, back)
    scale = s2.flatten().sqrt()

    def hessian(d: Tensor) -> Tensor:
        return d + S(A.adjoint(A.forward(S(d)))) / s2

    found = conjugate_gradients(
        hessian,
        S(back) / s2 - xi,
        tolerance=wanted.error / scale,
        cap=wanted.cap,
        look_back=LOOK_BACK,
        orthogonal=True,
    )
    return Solution(found.x, found.iterations, found.residual * scale)


def dual_step(
    A: LinearOperator, V: Root, r: Tensor, wanted: Precision, near: Root | None = None
) -> Solution:
    """The p of (s2 I + A V A^T) p = r, by conjugate gradients among the measurements. V: of images. near: nearly its inverse."""
    s2 = per_image(wanted.s2, r)

    def matrix(p: Tensor) -> Tensor:
        return s2 * p + A.forward(V(A.adjoint(p)))

    return conjugate_gradients(
        matrix,
        r,
        tolerance=wanted.error,
        cap=wanted.cap,
        orthogonal=near is None,
        precondition=near,
    )


def gauss_newton(
    belief: Belief, operator: Operator, y: Tensor, wanted: Precision, target: Tensor, steps: int
) -> Solution:
    """Linearise, step, and halve the step until the cost falls; each image on its own.

    An image stops when A x moves by less than `wanted.error`, when no step descends, or when |A x - y| has reached `target`
    [B]. Returned are the iterations of conjugate gradients and |A x - y|.
    """
    u, S = belief.mean, belief.root
    s2 = per_image(wanted.s2, u).flatten()
    xi, value = torch.zeros_like(u), operator.forward(u)
    cost = dot(y - value, y - value) / s2
    iterations = torch.zeros(len(u), dtype=torch.long, device=u.device)
    active = torch.ones(len(u), dtype=torch.bool, device=u.device)
    for _ in range(steps):
        slack = replace(wanted, error=torch.where(active, wanted.error, torch.inf))
        full = whitened_step(operator.linearize(u + S(xi)), S, y - value, xi, slack)
        iterations = iterations + torch.where(active, full.iterations, 0)
        length = active.to(u)
        for _ in range(HALVINGS):
            trial = xi + per_image(length, u) * full.x
            trial_value = operator.forward(u + S(trial))
            trial_cost = dot(y - trial_value, y - trial_value) / s2 + dot(trial, trial)
            worse = active & (trial_cost > cost)
            if not bool(worse.any()):
                break
            length = torch.where(worse, length / 2, length)
        better = active & ~worse
        moved = norm(trial_value - value)
        xi, value, cost = (
            torch.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in ((trial, xi), (trial_value, value), (trial_cost, cost))
        )
        active = better & (moved > wanted.error) & (norm(y - value) > target)
        if not bool(active.any()):
            break
    return Solution(u + S(xi), iterations, norm(y - value))
