"""Operators and the update: `python scripts/benchmark.py operators`. One function per row; ratios are of one run."""

import torch
from benchmark_rows import Row, seconds
from torch import Tensor
from torch.nn import functional

from data.seeding import Noise
from solvers.condition import condition
from solvers.operators import GaussianBlur, GaussianSuperResolution, KernelBlur, MotionBlur, RandomInpainting, SuperResolution
from solvers.operators.base import LinearOperator, Operator
from solvers.operators.kernels import gaussian_taps, product
from solvers.problem import Gaussian, Problem

SIZE = 256


def images(batch: int, size: int = SIZE) -> Tensor:
    return Noise([str(i) for i in range(batch)], "augment").normal((batch, 1, size, size)).clamp(-1, 1)


def problem(operator: Operator, x: Tensor) -> Problem:
    ids = tuple(str(i) for i in range(len(x)))
    drawn = operator.draw(tuple(x.shape[1:]), Noise(ids, "mask"))
    return Problem(drawn.forward(x), drawn, Gaussian(0.05), ids)


def in_applications(name: str, operator: LinearOperator, limit: float) -> list[Row]:
    x = images(1)
    p = problem(operator, x)
    update, forward = seconds(lambda: condition(x, 0.1, p), lambda: p.operator.forward(x), repeat=41)
    return [Row(f"condition, {name}, {SIZE}^2", update / forward, limit, "applications")]


def super_resolution() -> list[Row]:
    return in_applications("super-resolution x4", SuperResolution(4), 3)


def super_resolution_gaussian() -> list[Row]:
    return in_applications("super-resolution x4, Gaussian and decimation", GaussianSuperResolution(4), 3)


def circular_blur() -> list[Row]:
    return in_applications("circular blur", GaussianBlur(border="circular"), 3)


def inpainting() -> list[Row]:
    x = images(1)
    p = problem(RandomInpainting(), x)
    return [Row(f"condition, inpainting, {SIZE}^2", 1e3 * seconds(lambda: condition(x, 0.1, p))[0], 1, "ms")]


def reflected_blur() -> list[Row]:
    x = images(1)
    p = problem(GaussianBlur(), x)
    return [
        Row(f"condition, separable blur, reflected border, {SIZE}^2", 1e3 * seconds(lambda: condition(x, 0.1, p))[0], 2, "ms")
    ]


def motion_blur() -> list[Row]:
    """No limit was set for it: conjugate gradients at most at their cap of 60, two applications each."""
    x = images(1)
    p = problem(MotionBlur(), x)
    update, forward = seconds(lambda: condition(x, 0.1, p), lambda: p.operator.forward(x), repeat=5)
    return [Row(f"condition, motion blur, reflected border, {SIZE}^2", update / forward, 120, "applications")]


def dense_convolution() -> list[Row]:
    x, kernel = images(1), functional.pad(product(gaussian_taps(61, 3.0)), (18, 18, 18, 18)).float()
    blur = GaussianBlur(61)
    dense = lambda: functional.conv2d(functional.pad(x, (30, 30, 30, 30), mode="reflect"), kernel)  # noqa: E731
    ours, theirs = seconds(lambda: blur.forward(x), dense, repeat=5)
    return [Row(f"61x61 Gaussian blur against dense conv2d, {SIZE}^2", theirs / ours, 20, "times faster", at_least=True)]


def batches() -> list[Row]:
    rows = []
    for name, operator, size in (
        ("super-resolution x4", SuperResolution(4), SIZE),
        ("circular blur", GaussianBlur(border="circular"), SIZE),
        ("separable blur", GaussianBlur(), SIZE),
        ("user kernel, zero border", KernelBlur(torch.ones(9, 9).tril() / 45, "zero"), 128),
        ("inpainting", RandomInpainting(), SIZE),
    ):
        x = images(16, size)
        many, one = problem(operator, x), problem(operator, x[:1])
        t16, t1 = seconds(lambda: condition(x, 0.1, many), lambda: condition(x[:1], 0.1, one), repeat=5)  # noqa: B023
        rows.append(Row(f"condition, {name}: 16 images against one", t16 / t1, 60, "times"))
    return rows


ROWS = [
    super_resolution,
    super_resolution_gaussian,
    circular_blur,
    inpainting,
    reflected_blur,
    motion_blur,
    dense_convolution,
    batches,
]
