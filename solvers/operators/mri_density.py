"""Density compensation: the area of k-space that each sample of a trajectory stands for (Pipe & Menon 1999)."""

import torch
from torch import Tensor

from solvers.operators.nufft import NonuniformFourier

ROUNDS = 20  # gridding of 64 spokes gains 0.5 dB from 10 to 20, and 0.2 dB from there to 40
LEAST = 1e-6  # that a window sees


def areas(points: NonuniformFourier) -> Tensor:
    """[n], in squared cycles per field of view, so that samples at all whole numbers stand for 1 each.

    w is divided by what a window of k-space sees of it, w <- w / (C w), until each window sees 1. C is the convolution with
    sinc^2(k/2) along both axes, nowhere negative: the product with a triangle in the image. Samples farther apart than that
    is wide stand for 4 at most, which leaves streaks of undersampling weaker than areas do that grow without bound.
    """
    h, w = points.shape
    tent = (triangle(h)[:, None] * triangle(w)).to(torch.complex64)
    weight = torch.ones(points.k.shape[1], dtype=torch.complex64)
    for _ in range(ROUNDS):
        weight = weight / points.forward(tent * points.adjoint(weight)).real.clamp_min(LEAST)
    return weight.real.double()


def triangle(n: int) -> Tensor:
    """[n], 1 at n//2 and falling to 0 half a field of view away."""
    return 1 - (torch.arange(n, dtype=torch.float64) - n // 2).abs() / (n / 2 + 1)
