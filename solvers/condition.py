"""The one update under five papers: a Gaussian belief N(m, V) meets a measurement (docs/update.md has the algebra).

    mean   m + V A^T (s2 I + A V A^T)^-1 (y - A m),                s2 = sigma_y^2
    draw   u + V A^T (s2 I + A V A^T)^-1 (y + sigma_y z2 - A u),   u = m + V^(1/2) z

The draw is exact for linear operators. Images of a batch never influence each other.
"""

from typing import overload

import torch
from torch import Tensor

from data.seeding import Noise
from solvers.beliefs import Belief, Diagonal, Isotropic, Spectral
from solvers.gauss_newton import Precision, dual_step, gauss_newton, whitened_step
from solvers.operators.base import LinearOperator, Scalar, Solution, norm, per_image
from solvers.problem import Problem

ROUNDING = 100  # float rounding errors: for a sigma_y^2 of that size those of A^T r, divided by it, are a hundredth of r
CAP, NEWTON = 200, 5  # conjugate gradients, and Gauss-Newton steps where y is not linear


@overload
def condition(m: Belief, v: Problem, problem: Noise | None = None) -> Tensor: ...


@overload
def condition(m: Tensor, v: Scalar, problem: Problem, noise: Noise | None = None) -> Tensor: ...


def condition(m, v, problem=None, noise=None):
    """The mean of x | y for x ~ N(m, V), y = A x + sigma_y n; with noise, a draw from it. [B,C,H,W], in m's dtype.

    Called as condition(belief, problem, noise), or as condition(m, v, problem, noise) with v a number, one per image [B], or a
    diagonal shaped like m. noise: z is drawn from it first, shaped like m, then z2, shaped like y. sigma_y = 0 is the limit:
    y is met exactly where it can be. Operators that are not linear are met by Gauss-Newton, draws being perturb-and-optimise.
    """
    if isinstance(m, Belief):
        return conditioned(m, v, problem if noise is None else noise).x
    return conditioned(plain(m, v), problem, noise).x


def plain(m: Tensor, v: Scalar) -> Belief:
    """N(m, v I), or N(m, diag(v)) of a v shaped like m."""
    entries = isinstance(v, Tensor) and v.ndim > 1
    return Diagonal(m, v) if entries else Isotropic(m, v)  # type: ignore[arg-type]


def conditioned(
    belief: Belief,
    problem: Problem,
    noise: Noise | None = None,
    *,
    cap: int = CAP,
    newton: int = NEWTON,
    accuracy: float | None = None,
) -> Solution:
    """`condition` with its account: iterations [B] and the error [B] that conjugate gradients left, in y's units.

    Both are 0 for closed forms. Conjugate gradients stop, each image on its own, when A x is known to
    accuracy * sigma_y * sqrt(m), m the number of measured entries and the accuracy the belief's own; or at the cap.
    newton: steps of Gauss-Newton, for operators that are not linear; the mean stops at the noise level then, and the error is
    |A x - y|.
    """
    problem = problem.whitened()
    if noise is not None:
        belief = belief.around(belief.draw(noise))  # u
        problem = problem.perturbed(noise)  # y'
    A, u, y = problem.operator, belief.mean, problem.y.to(belief.mean)
    r = y - A.forward(u)
    share = belief.accuracy if accuracy is None else accuracy
    if isinstance(A, LinearOperator):
        found = correction(belief, A, r, precision(belief, problem, r, share, cap))
        return Solution(u + found.x, found.iterations, found.residual)
    A = A.given(y, problem.sigma_y)
    level = problem.sigma_y * A.measured(y).sqrt()
    target = (
        level if noise is None else torch.zeros_like(level)
    )  # the noise added to y is to be met too
    return gauss_newton(belief, A, y, precision(belief, problem, r, share, cap), target, newton)


def correction(belief: Belief, A: LinearOperator, r: Tensor, wanted: Precision) -> Solution:
    """V A^T (s2 I + A V A^T)^-1 r, an image: what the residual r = y - A m says about x.

    The operator's own closed form where V is a number, entry by entry where A and V are diagonal. Else conjugate gradients: in
    the image, which needs the fewest steps, or among the measurements.
    """
    if belief.variance is not None and A.exact:
        v = per_image(belief.variance, belief.mean)
        return closed(v * A.correct(r, wanted.noise, belief.variance), r)
    if belief.diagonal is not None and A.elementwise:
        V = belief.diagonal
        spectrum = A.forward(V * A.adjoint(torch.ones_like(r)))
        return closed(V * A.adjoint(r / (per_image(wanted.s2, r) + spectrum)), r)
    near = A.inverse_under(belief.density, wanted.s2) if isinstance(belief, Spectral) else None
    if near is not None or not belief.rooted:
        found = dual_step(A, belief.apply, r, wanted, near)
        return Solution(belief.apply(A.adjoint(found.x)), found.iterations, found.residual)
    found = whitened_step(A, belief.root, r, torch.zeros_like(belief.mean), wanted)
    return Solution(belief.root(found.x), found.iterations, found.residual)


def precision(belief: Belief, problem: Problem, r: Tensor, share: float, cap: int) -> Precision:
    """How well the update is to be solved: to a share of the noise level, or to what rounding lets through."""
    s2, eps = problem.sigma_y**2, torch.finfo(r.dtype).eps
    level = problem.sigma_y * problem.operator.measured(r).sqrt()
    error = (share * level).clamp_min(10 * eps * norm(r)) if s2 > 0 else eps**0.5 * norm(r)
    noise = s2 if s2 > 0 else belief.rounding  # keeps 0/0 away and is the limit to precision
    hardly = s2 < ROUNDING * eps
    iterated = torch.as_tensor(noise, dtype=r.dtype, device=r.device)
    if hardly:
        iterated = iterated.clamp_min(belief.rounding)
    return Precision(noise, iterated, error, cap, dual=hardly)


def closed(x: Tensor, r: Tensor) -> Solution:
    """A solution that took no iterations and left nothing over."""
    nothing = torch.zeros(len(r), dtype=r.dtype, device=r.device)
    return Solution(x, nothing.long(), nothing)
