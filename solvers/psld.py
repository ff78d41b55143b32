"""PSLD, posterior sampling with latent diffusion (Rout et al. 2023): measurement and gluing terms, by gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isinf, sqrt
from typing import Any

import torch
from torch import Tensor

from data.files import Refusal
from ldm.denoiser import Prior
from ldm.sampling import ddim_step_vp, sigma_at, vp_levels
from solvers.beliefs import IMAGE_DEVIATION, Isotropic
from solvers.condition import CAP, correction
from solvers.gauss_newton import Precision
from solvers.operators.base import LinearOperator, Scalar, norm, per_image
from solvers.problem import Problem
from solvers.recompute import recomputing
from solvers.solver import Chain, Move, Solver, fraction, need_linear, positive

PASTE = 1e-6  # s2 of a pseudo-inverse: singular values below a thousandth are left out


@dataclass(frozen=True)
class PSLD(Solver):
    """VP coordinates of the latent; PSLD algorithm 2: a DDIM step, then z <- z - grad_z (gamma |glue| + omega |y - A x|),
    x = decode(z0), glue = encode(x + B (y - A x)) - z0. Norms are unsquared, as in the code, and per image.

    B pastes no more of y into x than its noise allows: v A^T (sigma_y^2 + v A A^T)^-1. No step is longer than a share of the
    noise in z: a gradient's length follows A's units and the decoder's, and the first of CT at 20 angles led seven times as far
    from 0 as any z lies, from where no network finds back. `solvers.published.psld` has the paper's B and steps.
    """

    steps: int = 1000
    gamma: float = 0.1  # weight of the gluing term, for 1000 steps
    omega: float = 1.0  # weight of the measurement term, likewise
    eta: float = 0.0
    reach: float = 3.0  # of all steps along the gradient together at most, in norms of z's noise
    checkpoint: bool = (
        False  # recompute network, decoder and encoder in the backward pass instead of keeping them
    )
    polish: bool = True  # end with one pixel-space update

    def __post_init__(self) -> None:
        positive(self, "steps", "reach")
        fraction(self, "eta")

    def check(self, problem: Problem, prior: Prior) -> None:
        if prior.kind != "latent":
            raise Refusal(
                "PSLD needs a latent prior: it glues encoder and decoder; use DPS or DAPS on a pixel prior"
            )
        need_linear("PSLD", problem.operator)
        self.levels(problem, prior)

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        return vp_levels(prior, self.steps)

    def sample(self, chain: Chain) -> Iterator[Move]:
        z = chain.start()  # line 1
        for a, a_next in pairwise(chain.levels):
            z0, gradient = self.guidance(chain, z, a)
            z = ddim_step_vp(z, z0, a, a_next, self.eta, chain.noise)  # lines 4 to 7
            z = z - self.bounded(gradient, a_next)  # lines 8 and 9
            yield sigma_at(a), z, z0

    def guidance(self, chain: Chain, z: Tensor, a: float) -> tuple[Tensor, Tensor]:
        """z0_hat(z), and the gradient with respect to z of what it leaves unexplained."""
        prior, y = chain.prior, chain.own.y
        A: LinearOperator = chain.own.operator  # type: ignore[assignment]
        with torch.enable_grad(), recomputing(prior, self.checkpoint):
            z_t = z.detach().requires_grad_()
            z0 = chain.tweedie(z_t, a)
            x = prior.to_image(z0)
            glued = Glue.apply(x, y, A, self.weight(chain.own))
            glue, measurement = norm(prior.to_state(glued) - z0), norm(y - A.forward(x))
            total = self.gamma * glue + self.omega * measurement
            (gradient,) = torch.autograd.grad(total.sum(), z_t)
        return z0.detach(), gradient

    def bounded(self, gradient: Tensor, a: float) -> Tensor:
        """A step of each image, no longer than its share of `reach` at alpha_bar = a."""
        if isinf(self.reach):
            return gradient
        most = self.reach / self.steps * sqrt((1 - a) * gradient[0].numel())
        tiny = torch.finfo(gradient.dtype).tiny
        share = (most / norm(gradient).clamp_min(tiny)).clamp_max(1.0)
        return per_image(share, gradient) * gradient

    def weight(self, problem: Problem) -> Scalar | None:
        """s2 of B = A^T (s2 + A A^T)^-1; None for A^T alone."""
        s2 = (problem.deviations / IMAGE_DEVIATION) ** 2
        return s2.clamp_min(PASTE) if isinstance(s2, Tensor) else max(s2, PASTE)


class Glue(torch.autograd.Function):
    """x + B (y - A x). B A is symmetric, so the backward pass of I - B A is itself, however B is computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, A: LinearOperator, s2: Scalar | None) -> Tensor:
        ctx.A, ctx.s2 = A, s2
        return x + back(A, x, y - A.forward(x), s2)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (g,) = upstream
        return g - back(ctx.A, g, ctx.A.forward(g), ctx.s2), None, None, None


def back(A: LinearOperator, like: Tensor, r: Tensor, s2: Scalar | None) -> Tensor:
    """B r, an image like `like`; without a closed form, with A B r right to a thousandth of r."""
    if s2 is None:
        return A.adjoint(r)
    wanted = Precision(s2, torch.as_tensor(s2).to(r), 0.001 * norm(r), CAP)
    return correction(Isotropic(like, 1.0), A, r, wanted).x
