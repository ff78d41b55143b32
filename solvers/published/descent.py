"""What the published inner optimisations share: the data misfit with its gradient, and AdamW, each image on its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solvers.operators.base import LinearOperator, dot, per_image
from solvers.problem import Problem
from solvers.solver import positive

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # torch's defaults


def misfit(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """r = A x - y and A'(x)^T r, the gradient of |r|^2 / 2, for any operator."""
    operator = problem.operator
    if isinstance(operator, LinearOperator):
        r = operator.forward(x) - problem.y
        return r, operator.adjoint(r)
    local = operator.linearize(x)
    r = local.value - problem.y
    return r, local.adjoint(r)


@dataclass(frozen=True)
class AdamW:
    """ReSample's descents of the mean squared residual (Loshchilov & Hutter 2019, algorithm 2), with its settings.

    An image stops, and no longer changes, when its loss is below `stop` or, in the latent, larger than it was `patience`
    iterations ago.
    """

    lr_pixel: float = 1e-2
    iterations_pixel: int = 2000
    lr_latent: float = 5e-3
    iterations_latent: int = 500
    patience: int = 200
    stop: float | None = (
        None  # mean squared residual; default the noise of what is measured, published 1e-6 whatever it is
    )
    weight_decay: float = 0.0  # published 0.01, which pulls what y does not see to mid-grey

    def __post_init__(self) -> None:
        positive(self, "iterations_pixel", "iterations_latent", "patience", "lr_pixel", "lr_latent")

    def __call__(self, x: Tensor, problem: Problem, stage: str) -> Tensor:
        pixel = stage == "pixel"
        lr, iterations = (
            (self.lr_pixel, self.iterations_pixel)
            if pixel
            else (self.lr_latent, self.iterations_latent)
        )
        share = problem.operator.measured(problem.y) / problem.y[0].numel()  # of the entries of y
        stop = problem.deviations**2 * share if self.stop is None else self.stop
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        active, history = torch.ones(len(x), dtype=torch.bool, device=x.device), []
        for k in range(iterations):
            r, gradient = misfit(problem, x)
            loss, gradient = dot(r, r) / r[0].numel(), 2 / r[0].numel() * gradient
            history.append(loss)
            first = BETA1 * first + (1 - BETA1) * gradient
            second = BETA2 * second + (1 - BETA2) * gradient**2
            step = first / (1 - BETA1 ** (k + 1)) / ((second / (1 - BETA2 ** (k + 1))).sqrt() + EPS)
            x = torch.where(
                per_image(active, x).bool(), (1 - lr * self.weight_decay) * x - lr * step, x
            )
            active = active & ~(loss < stop)  # after the step, as in the released code
            if not pixel and k >= self.patience:
                active = active & ~(loss > history[k - self.patience])
            if not bool(active.any()):
                break
        return x
