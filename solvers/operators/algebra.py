"""Arithmetic of batches in which no image ever influences another, and the iterations built on it."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Scalar = float | Tensor  # a number, or one per image [B]


def per_image(value: Scalar, like: Tensor) -> Tensor:
    """A number or [B] as a tensor that broadcasts against like [B,...]; what has like's axes already is left alone."""
    value = torch.as_tensor(
        value, dtype=like.real.dtype if like.is_complex() else like.dtype, device=like.device
    )
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim == 1 else value


def divide(r: Tensor, by: Tensor) -> Tensor:
    """r / by, and 0 where by is 0: the pseudo-inverse as s2 -> 0."""
    return r * torch.where(by > 0, by.reciprocal(), 0)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per image: [B,...] x [B,...] -> [B]"""
    return (a * b).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    """Euclidean norm per image: [B,...] -> [B]"""
    return a.flatten(1).norm(dim=1)


class Orthogonal:
    """Vectors per image [B,...] that are kept, so that later ones can be made orthogonal to all of them."""

    BLOCK = 16  # vectors that are stored, and multiplied, at a time

    def __init__(self) -> None:
        self.blocks: list[
            tuple[Tensor, Tensor]
        ] = []  # vectors [B,BLOCK,n] and their squared norms [B,1,BLOCK]
        self.count = 0

    def keep(self, r: Tensor, square: Tensor) -> None:
        """Keep r, of squared norm `square` [B]; infinite for images whose r is none."""
        at = self.count % self.BLOCK
        if at == 0:
            self.blocks.append(
                (r.new_empty(len(r), self.BLOCK, r[0].numel()), r.new_empty(len(r), 1, self.BLOCK))
            )
        vectors, squares = self.blocks[-1]
        vectors[:, at], squares[:, 0, at] = r.flatten(1), square
        self.count += 1

    def clear(self, r: Tensor) -> Tensor:
        """r without its components along what is kept."""
        row, left = r.flatten(1)[:, None], self.count
        for vectors, squares in self.blocks:
            vectors, squares = vectors[:, :left], squares[..., :left]
            row, left = (
                torch.baddbmm(row, row @ vectors.mT / squares, vectors, alpha=-1),
                left - self.BLOCK,
            )
        return row.reshape(r.shape)


class Solution:
    """What conjugate gradients return: x, the iterations each image took [B], and what error they left [B]."""

    def __init__(self, x: Tensor, iterations: Tensor, residual: Tensor):
        self.x, self.iterations, self.residual = x, iterations, residual


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    x: Tensor | None = None,
    tolerance: Scalar | None = None,
    cap: int = 60,
    look_back: int = 0,
    orthogonal: bool = False,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Solution:
    """Solve apply(x) = b for a symmetric positive apply, each image on its own.

    tolerance: residual norm per image at which that image stops, a number or [B] (default: 1e-6 of |b| in float32,
    1e-12 in float64). An image that has stopped no longer changes, so batches equal single images.
    look_back: if not 0, tolerance is on the error of x in the norm of `apply` instead, that of the iterate so many steps
    ago, which the steps since have shown (Strakos & Tichy 2002). The norm returned is the one tolerance is on.
    orthogonal: keep residuals orthogonal to all earlier ones, for which an image per iteration is stored. Where eigenvalues
    span orders of magnitude rounding would undo it, which costs iterations and grows until batches differ from images.
    precondition: an approximate inverse of `apply`, symmetric and positive; not with orthogonal or look_back.
    """
    if tolerance is None:
        tolerance = (1e-12 if b.dtype == torch.float64 else 1e-6) * norm(b)
    stop = torch.as_tensor(tolerance, dtype=b.dtype, device=b.device).expand(len(b))
    x = torch.zeros_like(b) if x is None else x.clone()
    r = b - apply(x) if bool(x.any()) else b.clone()
    turned = r if precondition is None else precondition(r)
    p, rr = turned.clone(), dot(r, turned)
    iterations = torch.zeros(len(b), dtype=torch.long, device=b.device)
    error = norm(r) if not look_back else torch.where(rr > 0, torch.inf, 0)
    gains: list[Tensor] = []
    earlier = Orthogonal()
    for _ in range(cap):
        active = error > stop
        if not bool(active.any()):
            break
        q = apply(p)
        curvature = dot(p, q)
        alpha = torch.where(
            active & (curvature > 0), rr / curvature.clamp_min(torch.finfo(b.dtype).tiny), 0
        )
        gains.append(alpha * rr)
        x = x + per_image(alpha, b) * p
        if orthogonal:
            earlier.keep(r, torch.where(active & (rr > 0), rr, torch.inf))
        r = earlier.clear(r - per_image(alpha, b) * q)
        turned = r if precondition is None else precondition(r)
        rr, before = dot(r, turned), rr
        beta = torch.where(active, rr / before.clamp_min(torch.finfo(b.dtype).tiny), 0)
        p = torch.where(per_image(active, b).bool(), turned + per_image(beta, b) * p, p)
        iterations = iterations + active
        if not look_back:
            error = norm(r)
        elif len(gains) >= look_back:
            error = torch.where(active, torch.stack(gains[-look_back:]).sum(0).sqrt(), error)
    return Solution(x, iterations, error)


class Pair(Protocol):
    """A linear map and its transpose."""

    def forward(self, x: Tensor) -> Tensor: ...

    def adjoint(self, y: Tensor) -> Tensor: ...


def power_iteration(operator: Pair, like: Tensor, iterations: int = 50) -> float:
    """The largest singular value of A on images shaped like `like` [B,C,H,W], from a fixed start; of B operators the largest."""
    count = like[0].numel()
    start = (
        torch.linspace(0.5, 1.5, count, dtype=like.dtype, device=like.device)
        .mul(count)
        .sin()
        .reshape(1, *like.shape[1:])
    )
    x = (0.1 * start + 1).expand(
        like.shape
    )  # mostly flat: blurs, masks and averages are largest there
    value = x.new_zeros(len(x))
    for _ in range(iterations):
        x = operator.adjoint(
            operator.forward(x / per_image(norm(x).clamp_min(torch.finfo(x.dtype).tiny), x))
        )
        value = norm(x)
    return float(value.max()) ** 0.5
