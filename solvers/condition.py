"""The one update under five papers: a Gaussian belief N(m, V) meets a measurement (docs/update.md has the algebra).

    mean   m + V A^T (s2 I + A V A^T)^-1 (y - A m),                s2 = sigma_y^2
    draw   u + V A^T (s2 I + A V A^T)^-1 (y + sigma_y z2 - A u),   u = m + sqrt(V) z

The draw is exact for linear operators. Images of a batch never influence each other.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.covariance import ErrorCovariance
from solvers.gauss_newton import Root, dual_step, gauss_newton, whitened_step
from solvers.operators.base import LinearOperator, Scalar, Solution, norm, per_image
from solvers.problem import Problem

Variance = Scalar | LinearOperator  # a number, [B], a diagonal shaped like m, or any covariance
COARSE, FINE = 0.1, 0.01  # of the noise level: how well A x is known; fine for a V by frequency, whose scales differ by far
ROUNDING = 100  # float rounding errors: for a sigma_y^2 of that size those of A^T r, divided by it, are a hundredth of r
CAP = 200  # iterations


def condition(m: Tensor, v: Variance, problem: Problem, noise: Noise | None = None) -> Tensor:
    """The mean of x | y for x ~ N(m, V), y = A x + sigma_y n; with noise, a draw from it.

    m [B,C,H,W], whose dtype is the one computed in. v: a number, [B], a diagonal shaped like m, ErrorCovariance, or another
    LinearOperator (then m must already be a draw u of N(m, V) when noise is given). noise: z is drawn from it first,
    shaped like m (unless m is u), then z2, shaped like y. sigma_y = 0 is the limit: y is met exactly where it can be.
    Operators that are not linear are met by Gauss-Newton, draws then being perturb-and-optimise.
    """
    return conditioned(m, v, problem, noise).x


def conditioned(
    m: Tensor,
    v: Variance,
    problem: Problem,
    noise: Noise | None = None,
    *,
    tolerance: float | None = None,
    cap: int = CAP,
    steps: int = 5,
) -> Solution:
    """`condition` with its account: iterations [B] and the error [B] that conjugate gradients left, in y's units.

    Both are 0 for closed forms. Conjugate gradients stop, each image on its own, when A x is known to
    tolerance * sigma_y * sqrt(m), m the number of measured entries and tolerance 0.1, but 0.01 for a V by frequency; or at
    the cap. steps: of Gauss-Newton, for operators that are not linear; the mean stops at the noise level then, and the
    error is |A x - y|.
    """
    tolerance = tolerance or (FINE if isinstance(v, ErrorCovariance) else COARSE)
    problem = problem.whitened()
    u = m
    if noise is not None:
        u = m + S(noise.like(m)) if (S := root(v, m)) else m
        problem = problem.perturbed(noise)
    operator, y = problem.operator, problem.y.to(m)
    s2 = noise_variance(problem, v, m)
    r = y - operator.forward(u)
    if isinstance(operator, LinearOperator) and operator.exact and is_number(v):
        return Solution(u + spread(v, m) * operator.correct(r, s2, v), *zeros(r))
    level = problem.sigma_y * operator.measured(y).sqrt()
    eps = torch.finfo(m.dtype).eps
    accuracy = (tolerance * level).clamp_min(10 * eps * norm(r)) if problem.sigma_y > 0 else eps**0.5 * norm(r)
    clean = problem.sigma_y**2 < ROUNDING * eps  # rounding errors of A^T r, divided by it, would fill what y does not see
    s2 = torch.maximum(torch.as_tensor(s2).to(r), torch.as_tensor(rounding(v, m)).to(r)) if clean else s2
    if not isinstance(operator, LinearOperator):
        S = root(v, m)
        if S is None:
            raise Refusal("a covariance without a root needs a linear measurement; give a number, [B] or a diagonal")
        operator = operator.given(problem.y.to(m), problem.sigma_y)
        target = level if noise is None else torch.zeros_like(level)  # the noise added to y is to be met too
        return gauss_newton(u, S, operator, y, s2, accuracy, target, cap=cap, steps=steps, clean=clean)
    found = correction(operator, m, v, r, s2, accuracy, cap, clean)
    return Solution(u + found.x, found.iterations, found.residual)


def correction(
    operator: LinearOperator, m: Tensor, v: Variance, r: Tensor, s2: Scalar, accuracy: Tensor, cap: int, clean: bool = False
) -> Solution:
    """V A^T (s2 I + A V A^T)^-1 r for images like m: entry by entry if A and V are diagonal.

    Else by conjugate gradients: in the image, which needs the fewest steps, or among the measurements if V has no root at
    hand or `clean`: there is hardly any noise (`whitened_step`).
    """
    S = root(v, m)
    if S is None:
        assert isinstance(v, LinearOperator)
        found = dual_step(operator, v.forward, s2, r, accuracy, cap)
        return Solution(v.forward(operator.adjoint(found.x)), found.iterations, found.residual)
    if operator.elementwise and not isinstance(v, LinearOperator):
        V = spread(v, m)
        spectrum = operator.forward(V * operator.adjoint(torch.ones_like(r)))
        return Solution(V * operator.adjoint(r / (per_image(s2, r) + spectrum)), *zeros(r))
    found = whitened_step(operator, S, s2, r, torch.zeros_like(m), accuracy, cap, clean)
    return Solution(S(found.x), found.iterations, found.residual)


def discrepancy(m: Tensor, v_max: Variance, problem: Problem, *, cap: int = 60) -> Variance:
    """The v [B] in [0, v_max] whose conditional mean x(v) leaves a residual of sigma_y sqrt(measured) (Morozov). Of a
    V by frequency the share of it that does, as a covariance.

    0 if m already does, v_max if no v up to it does; a nonlinear operator is linearised at m. The residual is
    rho(t) = |(I + t G)^-1 r|, t = v / s2, G = A A^T (of V the share t s2, G = A V A^T), r = y - A m, and 1/rho is concave
    and increasing in t: Newton's method from t = 0 climbs to the root without ever passing it, so there is nothing to
    bracket.
    """
    if isinstance(v_max, ErrorCovariance):
        return v_max.scaled(_explaining(m, 1.0, problem, cap, v_max))
    assert not isinstance(v_max, LinearOperator)
    return _explaining(m, v_max, problem, cap)


def _explaining(m: Tensor, most: Scalar, problem: Problem, cap: int, V: ErrorCovariance | None = None) -> Tensor:
    """The factor [B] of V, at most `most`, that `discrepancy` speaks of; V is the identity if none is given."""
    problem = problem.whitened()
    y = problem.y.to(m)
    known = problem.operator.given(y, problem.sigma_y)
    operator, r = known.linearize(m), y - known.forward(m)
    most = torch.as_tensor(most, dtype=r.dtype, device=r.device).expand(len(r))
    s2, target = problem.sigma_y**2, problem.sigma_y * problem.operator.measured(y).sqrt()
    if s2 == 0:
        return torch.where(norm(r) > 0, most, 0)
    if V is None and operator.exact:
        shrink = _shrink_by_solve(operator, r)
    else:
        gram = operator.gram if V is None else lambda q: operator.forward(V.forward(operator.adjoint(q)))
        shrink = _shrink_by_lanczos(gram, r, cap)
    t = torch.zeros_like(most)
    for _ in range(30):  # quadratic once near; 30 is never reached from a finite v_max
        rho, slope = shrink(t)
        step = (1 / target - 1 / rho) * rho**2 / slope.clamp_min(torch.finfo(r.dtype).tiny)
        before, t = t, (t + step.nan_to_num(0).clamp_min(0)).clamp_max(most / s2)
        if bool((t - before <= 1e-6 * t).all()):  # what is left is of the order of its square
            break
    return t * s2


def is_number(v: Variance) -> TypeGuard[Scalar]:
    """Whether the variance is one number, or one for each image."""
    return isinstance(v, (int, float)) or (isinstance(v, Tensor) and v.ndim <= 1)


def zeros(r: Tensor) -> tuple[Tensor, Tensor]:
    """No iterations, and nothing left over: the account of a closed form."""
    return torch.zeros(len(r), dtype=torch.long, device=r.device), torch.zeros(len(r), dtype=r.dtype, device=r.device)


def spread(v: Scalar, like: Tensor) -> Tensor:
    """v as something that multiplies images: a number or [B] broadcast, a diagonal as it is."""
    v = torch.as_tensor(v, dtype=like.dtype, device=like.device)
    return v if v.ndim == like.ndim else per_image(v, like)


def root(v: Variance, like: Tensor) -> Root | None:
    """V^(1/2) as a function of images, symmetric; None for operators that have none at hand."""
    if isinstance(v, ErrorCovariance):
        return v.half
    return None if isinstance(v, LinearOperator) else partial(torch.mul, spread(v, like).sqrt())


def noise_variance(problem: Problem, v: Variance, like: Tensor) -> Scalar:
    """sigma_y^2, or where there is no noise the rounding error of v, which keeps 0/0 away and is the limit to precision."""
    return problem.sigma_y**2 if problem.sigma_y > 0 else rounding(v, like)


def rounding(v: Variance, like: Tensor) -> Scalar:
    """The rounding error of v, below which noise is none."""
    eps = torch.finfo(like.dtype).eps
    if isinstance(v, LinearOperator):
        return eps
    largest = torch.as_tensor(v, dtype=like.dtype, device=like.device)
    largest = largest.flatten(1).amax(1) if largest.ndim > 1 else largest
    return eps * torch.where(largest > 0, largest, 1)


def _shrink_by_solve(operator: LinearOperator, r: Tensor):
    """t [B] -> rho(t) and -d rho / dt, from the operator's closed form."""

    def shrink(t: Tensor) -> tuple[Tensor, Tensor]:
        left = operator.solve(r, 1.0, t)
        return norm(left), (left * operator.gram(operator.solve(left, 1.0, t))).flatten(1).sum(1) / norm(left)

    return shrink


def _shrink_by_lanczos(gram: Callable[[Tensor], Tensor], r: Tensor, cap: int):
    """The same for every t from one Krylov space of G, as multi-shift conjugate gradients would: Lanczos coefficients,
    whose eigenvalues and first components are the Gauss quadrature of rho^2 = r^T (I + t G)^-2 r (Golub & Meurant)."""
    length = norm(r)
    q, before = r / per_image(length.clamp_min(torch.finfo(r.dtype).tiny), r), torch.zeros_like(r)
    T = torch.zeros(len(r), cap, cap, dtype=torch.float64, device=r.device)
    beta = torch.zeros_like(length)
    for k in range(cap):
        w = gram(q) - per_image(beta, r) * before
        alpha = (w * q).flatten(1).sum(1)
        w = w - per_image(alpha, r) * q
        T[:, k, k] = alpha.double()
        beta = norm(w)
        if k + 1 == cap:
            break
        # an exhausted space (beta ~ rounding) leaves the rest of T decoupled, with no weight on the first component
        beta = torch.where(beta > 1e-10 * T.diagonal(dim1=1, dim2=2).amax(1), beta, 0).to(r)
        T[:, k, k + 1] = T[:, k + 1, k] = beta.double()
        before, q = q, torch.where(per_image(beta, r) > 0, w / per_image(beta.clamp_min(torch.finfo(r.dtype).tiny), r), 0)
    values, vectors = torch.linalg.eigh(T)
    mass = (vectors[:, 0] * length[:, None].double()) ** 2

    def shrink(t: Tensor) -> tuple[Tensor, Tensor]:
        factor = 1 / (1 + t[:, None].double() * values.clamp_min(0))
        rho = (mass * factor**2).sum(1).sqrt()
        slope = (mass * values.clamp_min(0) * factor**3).sum(1) / rho
        return rho.to(r), slope.to(r)

    return shrink
