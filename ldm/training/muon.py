"""Muon for matrices and AdamW for the rest in one optimiser, as Lightning's loop, its schedule and its checkpoints want it.

torch.optim.Muon takes only parameters of two dimensions, and convolutions have four.
"""

from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a X + b (X X^T) X + c (X X^T)^2 X, Jordan et al. 2024
STEPS = 5


def orthogonalised(update: Tensor) -> Tensor:
    """The matrix [n,m] with its singular values brought near 1, by Newton and Schulz's iteration.

    As Q(X X^T) X with the product formed once: the iterates are polynomials of that small symmetric matrix, so that a
    convolution's 128 x 1152 costs a third. In float32, which the squares need; processors without bfloat16 gain by it too.
    """
    x = update.float()
    x = x.T if (tall := len(x) > x.shape[1]) else x
    x = x / x.norm().clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    gram, one = x @ x.T, torch.eye(len(x), device=x.device)
    total = one
    for _ in range(STEPS):
        factor = a * one + b * gram + c * (gram @ gram)
        total = factor @ total
        gram = factor @ gram @ factor
    x = total @ x
    return x.T if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Groups of `matrices: True` are updated by Muon, each parameter [n,...] as the matrix n x rest; the others by AdamW.

    Muon: M <- momentum M + G, then the orthogonalised G + momentum M (Nesterov), times sqrt(max(1, n / rest)).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(
            groups, dict(momentum=momentum, betas=betas, eps=eps, weight_decay=weight_decay)
        )

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            update = self.muon if group["matrices"] else self.adamw
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(update(p.grad, self.state[p], group), alpha=group["lr"])
        return loss

    @staticmethod
    def muon(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """The step of one matrix; `state` keeps its momentum."""
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum, mu = state["momentum"], group["momentum"]
        momentum.mul_(mu).add_(gradient)
        ahead = gradient.add(momentum, alpha=mu).flatten(1)
        gain = max(1.0, len(ahead) / ahead.shape[1]) ** 0.5
        return gain * orthogonalised(ahead).reshape(gradient.shape).to(gradient)

    @staticmethod
    def adamw(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """The step of one tensor; `state` keeps its moments, as torch's AdamW has them."""
        if not state:
            state |= dict(
                step=0, exp_avg=torch.zeros_like(gradient), exp_avg_sq=torch.zeros_like(gradient)
            )
        state["step"] += 1
        first, second, (beta1, beta2) = state["exp_avg"], state["exp_avg_sq"], group["betas"]
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (second / (1 - beta2 ** state["step"])).sqrt().add_(group["eps"])
        return first / (1 - beta1 ** state["step"]) / scale
