"""The update in whitened coordinates, x = u + S xi with S = V^(1/2): |y - A(u + S xi)|^2 / s2 + |xi|^2 at its minimum.

One step for an operator that is linear, Gauss-Newton for one that is so only at a point.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from solvers.operators.base import LinearOperator, Operator, Scalar, Solution, conjugate_gradients, dot, norm, per_image

Root = Callable[[Tensor], Tensor]  # V^(1/2), or V, of images

LOOK_BACK = 3  # steps of conjugate gradients by which the error of an earlier one is judged
HALVINGS = 6  # of a step that does not descend; 2^-6 of a Gauss-Newton step is as good as none


def whitened_step(
    A: LinearOperator, S: Root, s2: Scalar, r: Tensor, xi: Tensor, accuracy: Tensor, cap: int, clean: bool = False
) -> Solution:
    """The d that minimises |r - A S d|^2 / s2 + |xi + d|^2, by conjugate gradients in the image.

    S: of images, symmetric. accuracy [B]: A S d is known to this, in y's units: the error in the cost, which bounds
    it, is what conjugate gradients minimise. Returned is the error they left, in the same units.
    clean: s2 is no noise but rounding error. In the image, divided by it, rounding would become as large as xi wherever y
    sees nothing; among the measurements it cannot, as S A^T goes last.
    """
    if clean:
        found = dual_step(A, lambda z: S(S(z)), s2, r + A.forward(S(xi)), accuracy, cap)
        return Solution(S(A.adjoint(found.x)) - xi, found.iterations, found.residual)
    back = A.adjoint(r)
    s2 = per_image(s2, back)
    found = conjugate_gradients(
        partial(_hessian, A, S, s2),
        S(back) / s2 - xi,
        tolerance=accuracy / s2.flatten().sqrt(),
        cap=cap,
        look_back=LOOK_BACK,
        orthogonal=True,
    )
    return Solution(found.x, found.iterations, found.residual * s2.flatten().sqrt())


def dual_step(A: LinearOperator, V: Root, s2: Scalar, r: Tensor, accuracy: Tensor, cap: int) -> Solution:
    """The p of (s2 I + A V A^T) p = r, by conjugate gradients among the measurements. V: of images."""
    weight = per_image(s2, r)
    return conjugate_gradients(lambda p: weight * p + A.forward(V(A.adjoint(p))), r, tolerance=accuracy, cap=cap, orthogonal=True)


def gauss_newton(
    u: Tensor,
    S: Root,
    operator: Operator,
    y: Tensor,
    s2: Scalar,
    accuracy: Tensor,
    target: Tensor,
    *,
    cap: int,
    steps: int,
    clean: bool,
) -> Solution:
    """Linearise, step, and halve the step until the cost falls; each image on its own.

    An image stops when A x moves by less than `accuracy` [B], when no step descends, or when |A x - y| has reached
    `target` [B]. Returned are the iterations of conjugate gradients and |A x - y|.
    """
    weight = per_image(s2, u).flatten()
    xi, value = torch.zeros_like(u), operator.forward(u)
    cost = dot(y - value, y - value) / weight
    iterations = torch.zeros(len(u), dtype=torch.long, device=u.device)
    active = torch.ones(len(u), dtype=torch.bool, device=u.device)
    for _ in range(steps):
        slack = torch.where(active, accuracy, torch.inf)
        full = whitened_step(operator.linearize(u + S(xi)), S, s2, y - value, xi, slack, cap, clean)
        iterations = iterations + torch.where(active, full.iterations, 0)
        length = active.to(u)
        for _ in range(HALVINGS):
            trial = xi + per_image(length, u) * full.x
            trial_value = operator.forward(u + S(trial))
            trial_cost = dot(y - trial_value, y - trial_value) / weight + dot(trial, trial)
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
        active = better & (moved > accuracy) & (norm(y - value) > target)
        if not bool(active.any()):
            break
    return Solution(u + S(xi), iterations, norm(y - value))


def _hessian(A: LinearOperator, S: Root, s2: Tensor, d: Tensor) -> Tensor:
    return d + S(A.adjoint(A.forward(S(d)))) / s2
