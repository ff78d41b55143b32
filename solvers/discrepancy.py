"""Morozov's discrepancy principle: how much of a belief's V explains y to the noise level, and no more."""

from collections.abc import Callable

import torch
from torch import Tensor

from solvers.beliefs import Belief
from solvers.condition import condition
from solvers.operators.base import LinearOperator, norm, per_image
from solvers.problem import Problem

CAP, SOLID = 60, 20  # Lanczos vectors at most; of volumes, of which each is as large as all of y
Shrink = Callable[[Tensor], tuple[Tensor, Tensor]]  # t [B] -> rho(t) and -d rho / dt


def meet_noise_level(belief: Belief, problem: Problem) -> Tensor:
    """The mean given y under the smallest share of V that explains y to the noise level."""
    return condition(discrepancy(belief, problem), problem)


def discrepancy(belief: Belief, problem: Problem, *, cap: int = CAP) -> Belief:
    """The belief with the share of V, in [0, 1] for each image, whose conditional mean leaves |A x - y| = sigma_y sqrt(m).

    None of it if the mean already does, all if no share does; a nonlinear operator is linearised at the mean. The residual is
    rho(t) = |(I + t G)^-1 r| with r = y - A mean, G = A V A^T and t = share / s2 (G = A A^T and t = v / s2 where V = v I).
    1/rho is concave and increasing in t: Newton's method from t = 0 climbs to the root without ever passing it, so there is
    nothing to bracket. cap: Lanczos vectors, where `solve` is no closed form.
    """
    cap = min(cap, SOLID) if belief.mean.ndim == 5 else cap
    problem = problem.whitened()
    y = problem.y.to(belief.mean)
    operator = problem.operator.given(y, problem.sigma_y)
    A, r = operator.linearize(belief.mean), y - operator.forward(belief.mean)
    number = belief.variance is not None
    most = torch.as_tensor(
        belief.variance if number else 1.0, dtype=r.dtype, device=r.device
    ).expand(len(r))
    s2, target = problem.sigma_y**2, problem.sigma_y * problem.operator.measured(y).sqrt()
    if s2 == 0:
        found = torch.where(norm(r) > 0, most, 0)
    else:
        found = s2 * root(residuals(belief, A, r, cap), target, most / s2)
    return belief.with_variance(found) if number else belief.scaled(found)


def residuals(belief: Belief, A: LinearOperator, r: Tensor, cap: int) -> Shrink:
    """rho(t) as a function, by the operator's closed form or from one Krylov space."""
    if belief.variance is None:
        return by_lanczos(lambda q: A.forward(belief.apply(A.adjoint(q))), r, cap)
    return by_solve(A, r) if A.exact else by_lanczos(A.gram, r, cap)


def root(shrink: Shrink, target: Tensor, most: Tensor) -> Tensor:
    """The t [B] in [0, most] with rho(t) = target, or the end that is nearest to it."""
    t = torch.zeros_like(most)
    for _ in range(30):  # quadratic once near; 30 is never reached
        rho, slope = shrink(t)
        step = (1 / target - 1 / rho) * rho**2 / slope.clamp_min(torch.finfo(t.dtype).tiny)
        before, t = t, (t + step.nan_to_num(0).clamp_min(0)).clamp_max(most)
        if bool((t - before <= 1e-6 * t).all()):  # what is left is of the order of its square
            break
    return t


def by_solve(A: LinearOperator, r: Tensor) -> Shrink:
    """rho and its slope from the operator's closed form."""

    def shrink(t: Tensor) -> tuple[Tensor, Tensor]:
        left = A.solve(r, 1.0, t)
        rho = norm(left)
        return rho, (left * A.gram(A.solve(left, 1.0, t))).flatten(1).sum(1) / rho

    return shrink


def by_lanczos(gram: Callable[[Tensor], Tensor], r: Tensor, cap: int) -> Shrink:
    """The same for every t from one Krylov space of G, as multi-shift conjugate gradients would: Lanczos coefficients,
    whose eigenvalues and first components are the Gauss quadrature of rho^2 = r^T (I + t G)^-2 r (Golub & Meurant 2010)."""
    tiny = torch.finfo(r.dtype).tiny
    length = norm(r)
    q, before = r / per_image(length.clamp_min(tiny), r), torch.zeros_like(r)
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
        before, q = (
            q,
            torch.where(per_image(beta, r) > 0, w / per_image(beta.clamp_min(tiny), r), 0),
        )
    values, vectors = torch.linalg.eigh(T)
    values = values.clamp_min(0)
    mass = (vectors[:, 0] * length[:, None].double()) ** 2

    def shrink(t: Tensor) -> tuple[Tensor, Tensor]:
        factor = 1 / (1 + t[:, None].double() * values)
        rho = (mass * factor**2).sum(1).sqrt()
        slope = (mass * values * factor**3).sum(1) / rho
        return rho.to(r), slope.to(r)

    return shrink
