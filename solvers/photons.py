"""Photon counts as measurements: how many are due, how they are stored as y, and how much an entry of y then errs."""

import math

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator
from solvers.operators.composed import Composition


def unit_scale(operator: Operator) -> float:
    """y units per unit of the physical A u: 1 where forward is A u less its constant part, 2 where y is image-like."""
    return 1.0 if operator.unit_range or operator.amplitude else 2.0


def constant(operator: Operator, like: Tensor) -> Tensor:
    """The part of y that does not depend on the image: A(ones), as x = 2u - 1; 1 for operators that are not linear, but
    none of amplitudes, and after a map that is not linear the last operator's."""
    if operator.amplitude:
        return torch.zeros_like(like[:1])
    if isinstance(operator, Composition) and not isinstance(operator, LinearOperator):
        return constant(operator.operators[-1], like)
    if not isinstance(operator, LinearOperator):
        return torch.ones_like(like[:1])
    if operator.shape is None:
        raise Refusal(f"{type(operator).__name__} needs an image shape: call draw first")
    return operator.forward(torch.ones(1, *operator.shape, dtype=like.dtype, device=like.device))


def level(operator: Operator, y: Tensor) -> Tensor:
    """The physical A u behind y: what emits, how much is absorbed, or an amplitude.

    Raises Refusal in one line if it has both signs, as nothing that photons are counted of has.
    """
    value = (y + constant(operator, y)) / unit_scale(operator)
    negative = value.clamp_max(0).flatten(1).abs().sum(1) / value.flatten(1).abs().sum(1).clamp_min(
        1e-30
    )
    if not operator.transmission and bool(
        (negative > 0.01).any()
    ):  # bicubic lobes make 0.0005 of a scan
        raise Refusal(
            f"{type(operator).__name__} measures values of both signs, which are no counts: give Gaussian noise"
        )
    return value


def counted(operator: Operator, clean: Tensor, rate: float, noise: Noise) -> Tensor:
    """Photon counts of a noise-free y, stored in y's units; at least one count where a logarithm is taken."""
    light = level(operator, clean)
    if operator.transmission:
        light = (-light).exp()
    elif operator.amplitude:
        light = light.square()
    counts = [
        torch.poisson(rate * one.double().clamp_min(0).cpu(), generator=g)
        for one, g in zip(light, noise.generators)
    ]
    share = torch.stack(counts).to(clean) / rate
    if operator.transmission:
        share = -share.clamp_min(1 / rate).log()
    elif operator.amplitude:
        share = share.sqrt()
    return unit_scale(operator) * share - constant(operator, clean)


def count_deviation(operator: Operator, y: Tensor, rate: float) -> Tensor:
    """Standard deviation of every entry of a counted y: a count's variance is the count, estimated by itself."""
    if operator.amplitude:  # the root of any count has variance 1/4
        return torch.full_like(y, 0.5 / math.sqrt(rate))
    scale = unit_scale(operator)
    value = (y + constant(operator, y)) / scale
    if operator.transmission:  # -log(counts) has variance 1 / counts
        return scale * (rate * (-value).exp()).clamp_min(1).rsqrt()
    return scale * (rate * value).clamp_min(1).sqrt() / rate
