"""The Markov chains of published DAPS: what they draw from is p(x0) ~ N(x0_hat, sigma^2) exp(-|A x0 - y|^2 / 2 tau^2)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from data.seeding import Noise
from solvers.operators.base import dot, per_image

Score = Callable[[Tensor], Tensor]


def langevin(x: Tensor, score: Score, lr: float, M: int, noise: Noise) -> Tensor:
    """x <- x + lr s(x) + sqrt(2 lr) z, M times."""
    for _ in range(M):
        x = x + lr * score(x) + math.sqrt(2 * lr) * noise.like(x)
    return x


def hmc(x: Tensor, score: Score, lr: float, M: int, momentum: float, noise: Noise) -> Tensor:
    """DAPS's "HMC", which is underdamped Langevin: no leapfrog, nothing rejected. momentum = 0 is `langevin`."""
    h, velocity = math.sqrt(lr), noise.like(x)
    for _ in range(M):
        velocity = momentum * velocity + h * score(x) + math.sqrt(2 * (1 - momentum)) * noise.like(x)
        x = x + h * velocity
    return x


def metropolis(x: Tensor, energy: Callable[[Tensor], Tensor], lr: float, M: int, noise: Noise) -> Tensor:
    """Random-walk Metropolis-Hastings with proposals of deviation sqrt(lr); each image accepts for itself."""
    now = energy(x)
    for _ in range(M):
        proposal = x + math.sqrt(lr) * noise.like(x)
        then = energy(proposal)
        accept = noise.uniform((len(x),), torch.float64, x.device).log() < now - then
        x, now = torch.where(per_image(accept, x).bool(), proposal, x), torch.where(accept, then, now)
    return x


def squared(r: Tensor) -> Tensor:
    """|r|^2 per image."""
    return dot(r, r)
