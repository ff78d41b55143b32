"""PSLD, posterior sampling with latent diffusion (Rout et al. 2023): measurement and gluing terms, by gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.condition import CAP, correction
from solvers.operators.base import LinearOperator, norm
from solvers.problem import Problem
from solvers.recompute import recomputing
from solvers.state import IMAGE_DEVIATION, result, shown
from solvers.step import Step, fraction, need_linear, positive
from solvers.steps import ddim_step, sigma_at, start, tweedie, vp_levels


@dataclass(frozen=True)
class PSLD:
    """VP coordinates of the latent; PSLD algorithm 2: a DDIM step, then z <- z - grad_z (gamma |glue| + omega |y - A x|),
    x = decode(z0), glue = encode(x + B (y - A x)) - z0. Norms are unsquared, as in the code, and per image.

    B: `adjoint` A^T; `pinv` its pseudo-inverse, which pastes y in; `noise`, the default, pastes no more of y than its noise
    allows: v A^T (sigma_y^2 + v A A^T)^-1. The published B is the identity for blur and pixel repetition for
    super-resolution, and adds fresh noise to A x: neither is kept.
    """

    steps: int = 1000
    gamma: float = 0.1  # weight of the gluing term, for 1000 steps
    omega: float = 1.0  # weight of the measurement term, likewise
    back: Literal["noise", "adjoint", "pinv"] = "noise"  # B
    eta: float = 0.0
    checkpoint: bool = False  # recompute network, decoder and encoder in the backward pass instead of keeping them
    paste: bool = False  # end by pasting the measured part of y into the image (instead of `polish`)
    polish: bool = True  # end with one pixel-space update

    def __post_init__(self) -> None:
        positive(self, "steps")
        fraction(self, "eta")

    def check(self, problem: Problem, prior: Prior) -> None:
        if prior.kind != "latent":
            raise Refusal("PSLD needs a latent prior: it glues encoder and decoder; use DPS or DAPS on a pixel prior")
        need_linear("PSLD", problem.operator)
        vp_levels(prior, self.steps)

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: Prior, noise: Noise) -> Iterator[Step]:
        problem = problem.whitened()
        operator: LinearOperator = problem.operator  # type: ignore[assignment]
        offset = noise.of("offset")
        z = start(prior, noise, problem.y)
        for t, (a, a_next) in enumerate(pairwise(vp_levels(prior, self.steps))):
            with torch.enable_grad(), recomputing(prior, self.checkpoint):
                z_t = z.detach().requires_grad_()
                z0 = tweedie(prior, z_t, a, offset)
                x = prior.to_image(z0)
                glued = Glue.apply(x, problem.y, operator, self.weight(problem))
                glue, measurement = norm(prior.to_state(glued) - z0), norm(problem.y - operator.forward(x))
                (gradient,) = torch.autograd.grad((self.gamma * glue + self.omega * measurement).sum(), z_t)
            z0 = z0.detach()
            z = ddim_step(z, z0, a, a_next, self.eta, noise) - gradient
            if a_next < 1:
                yield Step(t, sigma_at(a), z, shown(prior, z0))
        image = result(prior, z, problem, self.polish and not self.paste)
        yield Step(t, sigma_at(a), z, Glue.apply(image, problem.y, operator, PASTE) if self.paste else image)

    def weight(self, problem: Problem) -> float | None:
        """s2 of B = A^T (s2 + A A^T)^-1; None for A^T alone."""
        if self.back == "adjoint":
            return None
        return PASTE if self.back == "pinv" else max((problem.sigma_y / IMAGE_DEVIATION) ** 2, PASTE)


PASTE = 1e-6  # s2 of a pseudo-inverse: singular values below a thousandth are left out


class Glue(torch.autograd.Function):
    """x + B (y - A x). B A is symmetric, so the backward pass of I - B A is itself, however B is computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, A: LinearOperator, s2: float | None) -> Tensor:
        ctx.A, ctx.s2 = A, s2
        return x + back(A, x, y - A.forward(x), s2)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (g,) = upstream
        return g - back(ctx.A, g, ctx.A.forward(g), ctx.s2), None, None, None


def back(A: LinearOperator, like: Tensor, r: Tensor, s2: float | None) -> Tensor:
    """B r, an image like `like`; without a closed form, with A B r right to a thousandth of r."""
    if s2 is None:
        return A.adjoint(r)
    return A.correct(r, s2, 1.0) if A.exact else correction(A, like, 1.0, r, s2, 0.001 * norm(r), CAP).x
