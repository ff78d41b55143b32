"""The update for operators that are linear only at a point: Gauss-Newton on |y - A(x)|^2 / s2 + (x - u)^T V^-1 (x - u)."""

from functools import partial

import torch
from torch import Tensor

from solvers.operators.base import LinearOperator, Operator, Scalar, Solution, conjugate_gradients, dot, norm, per_image

HALVINGS = 6  # of a step that does not descend; 2^-6 of a Gauss-Newton step is as good as none


def gauss_newton(
    u: Tensor,
    root: Tensor,
    y: Tensor,
    operator: Operator,
    s2: Scalar,
    target: Tensor,
    *,
    tolerance: float,
    cap: int,
    steps: int,
    fit_all: bool,
) -> Solution:
    """Minimise |y - A(u + S xi)|^2 / s2 + |xi|^2 over xi, S = sqrt(V) elementwise, and return x = u + S xi.

    In the whitened coordinate xi every step solves (I + S J^T J S / s2) d = S J^T (y - A x) / s2 - xi by conjugate
    gradients from d = 0, so that even a truncated solution descends; steps are halved until the cost does.

    root: S, broadcastable to u. target [B]: the noise level sigma_y sqrt(m). An image stops when A x moves by less
    than tolerance * target, when no step descends, or, unless fit_all (draws, whose y carries added noise), when
    |A x - y| has reached the target. Returned iterations are those of conjugate gradients, residual is |A x - y|.
    """
    s2 = per_image(s2, u)
    xi, x = torch.zeros_like(u), u
    value = operator.forward(x)
    cost = _squared(y - value) / _per_row(s2) + dot(xi, xi)
    active = torch.ones(len(u), dtype=torch.bool, device=u.device)
    iterations = torch.zeros(len(u), dtype=torch.long, device=u.device)
    for _ in range(steps):
        J = operator.linearize(x)
        downhill = root * J.adjoint(y - value) / s2 - xi
        found = conjugate_gradients(
            partial(_normal_equations, J, root, s2),
            torch.where(per_image(active, u).bool(), downhill, 0),
            tolerance=tolerance * norm(downhill),
            cap=cap,
        )
        iterations = iterations + found.iterations
        length = active.to(u)
        for _ in range(HALVINGS):
            trial = xi + per_image(length, u) * found.x
            trial_value = operator.forward(u + root * trial)
            trial_cost = _squared(y - trial_value) / _per_row(s2) + dot(trial, trial)
            worse = trial_cost > cost
            if not bool(worse.any()):
                break
            length = torch.where(worse, length / 2, length)
        length = torch.where(worse, 0, length)
        kept = per_image(worse, u).bool()
        moved = torch.where(worse, 0, norm(trial_value - value))
        xi = torch.where(kept, xi, trial)
        value = torch.where(per_image(worse, value).bool(), value, trial_value)
        cost = torch.where(worse, cost, trial_cost)
        x = u + root * xi
        active = active & (moved > tolerance * target)
        if not fit_all:
            active = active & (norm(y - value) > target)
        if not bool(active.any()):
            break
    return Solution(x, iterations, norm(y - value))


def _normal_equations(J: LinearOperator, root: Tensor, s2: Tensor, d: Tensor) -> Tensor:
    return d + root * J.adjoint(J.forward(root * d)) / s2


def _squared(r: Tensor) -> Tensor:
    return dot(r, r)


def _per_row(s2: Tensor) -> Tensor:
    return s2.flatten()
