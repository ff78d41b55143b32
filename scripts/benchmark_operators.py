"""Operators and the update: `python scripts/benchmark.py operators`. One function per row; ratios are of one run."""

import os
from functools import partial
from time import process_time

import torch
from benchmark_rows import Row, seconds
from torch import Tensor
from torch.nn import functional

from data.seeding import Noise
from solvers.condition import condition, conditioned, plain
from solvers.operators import (
    CT,
    CartesianMRI,
    CompressedSensing,
    GaussianBlur,
    GaussianSuperResolution,
    KernelBlur,
    MotionBlur,
    RandomInpainting,
    SuperResolution,
)
from solvers.operators.base import LinearOperator, Operator
from solvers.operators.kernels import gaussian_taps, product
from solvers.operators.projection import joseph
from solvers.problem import Problem, measure

SIZE = 256


def images(batch: int, size: int = SIZE) -> Tensor:
    return (
        Noise([str(i) for i in range(batch)], "augment").normal((batch, 1, size, size)).clamp(-1, 1)
    )


def problem(operator: Operator, x: Tensor) -> Problem:
    """A measurement of other images than x, so that the update has something to do."""
    noise = Noise([str(i) for i in range(len(x))], "noise")
    return measure(operator.draw(tuple(x.shape[1:]), noise), x.flip(-1) / 2, 0.05, noise)


def in_applications(name: str, operator: LinearOperator, limit: float) -> list[Row]:
    x = images(1)
    p = problem(operator, x)
    update, forward = seconds(
        lambda: condition(x, 0.1, p), lambda: p.operator.forward(x), repeat=41
    )
    return [Row(f"condition, {name}, {SIZE}^2", update / forward, limit, "applications")]


def super_resolution() -> list[Row]:
    return in_applications("super-resolution x4", SuperResolution(4), 3)


def super_resolution_gaussian() -> list[Row]:
    return in_applications(
        "super-resolution x4, Gaussian and decimation", GaussianSuperResolution(4), 3
    )


def circular_blur() -> list[Row]:
    return in_applications("circular blur", GaussianBlur(border="circular"), 3)


def inpainting() -> list[Row]:
    x = images(1)
    p = problem(RandomInpainting(), x)
    return [
        Row(
            f"condition, inpainting, {SIZE}^2",
            1e3 * seconds(lambda: condition(x, 0.1, p))[0],
            1,
            "ms",
        )
    ]


def reflected_blur() -> list[Row]:
    """On all cores, unlike the other rows: six products of 256 x 256 matrices."""
    x, threads = images(1), torch.get_num_threads()
    p = problem(GaussianBlur(), x)
    torch.set_num_threads(os.cpu_count() or 1)
    time = seconds(lambda: condition(x, 0.1, p), repeat=41)[0]
    torch.set_num_threads(threads)
    return [
        Row(
            f"condition, separable blur, reflected border, {SIZE}^2, {os.cpu_count()} cores",
            1e3 * time,
            2,
            "ms",
        )
    ]


def motion_blur() -> list[Row]:
    """Has no closed form: preconditioned conjugate gradients, stopped at the noise, two applications and a half a step."""
    x = images(1)
    steps = conditioned(plain(x, 0.1), problem(MotionBlur(), x)).iterations
    return [
        Row(f"condition, motion blur, reflected border, {SIZE}^2", float(steps), 60, "CG steps")
    ]


def dense_convolution() -> list[Row]:
    x, kernel = images(1), functional.pad(product(gaussian_taps(61, 3.0)), (18, 18, 18, 18)).float()
    blur = GaussianBlur(61)
    dense = lambda: functional.conv2d(functional.pad(x, (30, 30, 30, 30), mode="reflect"), kernel)  # noqa: E731
    ours, theirs = seconds(lambda: blur.forward(x), dense, repeat=5)
    return [
        Row(
            f"61x61 Gaussian blur against dense conv2d, {SIZE}^2",
            theirs / ours,
            20,
            "times faster",
            at_least=True,
        )
    ]


def ct() -> list[Row]:
    """torch.sparse in row order; the limits are for one core, so the processor's time is counted."""
    x = images(16)
    operator = CT(60).bind((1, SIZE, SIZE))
    joseph.cache_clear()
    start = process_time()
    y = operator.forward(x)
    build = process_time() - start
    forward, adjoint = seconds(
        lambda: operator.forward(x), lambda: operator.adjoint(y), repeat=5, clock=process_time
    )
    many, one = problem(CT(20), x), problem(CT(20), x[:1])
    t16, t1 = seconds(
        lambda: condition(x, 0.1, many),
        lambda: condition(x[:1], 0.1, one),
        repeat=3,
        clock=process_time,
    )
    return [
        Row(f"CT, 60 views, {SIZE}^2: matrices", build, 2, "s"),
        Row(f"CT, 60 views, {SIZE}^2: forward, 16 images, each", 1e3 * forward / 16, 10, "ms"),
        Row(f"CT, 60 views, {SIZE}^2: adjoint, 16 images, each", 1e3 * adjoint / 16, 10, "ms"),
        Row("condition, CT, 20 views: 16 images against one", t16 / t1, 4, "times"),
    ]


def ct_update() -> list[Row]:
    """A x and A^T r to begin with, then one of each for every step of conjugate gradients."""
    x = images(1)
    p = problem(CT(20), x)
    assert isinstance(p.operator, LinearOperator)
    v = 500 * p.sigma_y**2 / p.operator.norm() ** 2
    m = x.flip(-1) / 2 + v**0.5 * Noise(["0"], "solver").like(x)
    count = 2 + 2 * int(conditioned(plain(m, v), p).iterations)
    return [
        Row(
            f"condition, CT, 20 views, v |A|^2 = 500 sigma_y^2, {SIZE}^2", count, 40, "applications"
        )
    ]


def mri() -> list[Row]:
    return in_applications("MRI x4, one coil", CartesianMRI(), 3)


def mri_coils() -> list[Row]:
    """Exact, by one small system for each row; long enough to be interrupted, so the processor's time is counted."""
    x = images(1)
    p = problem(CartesianMRI(coils=8), x)
    update, forward = seconds(
        lambda: condition(x, 0.1, p), lambda: p.operator.forward(x), clock=process_time
    )
    return [Row(f"condition, MRI x4, 8 coils, {SIZE}^2", update / forward, 30, "applications")]


def compressed_sensing() -> list[Row]:
    return in_applications("compressed sensing", CompressedSensing(), 3)


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
        of_sixteen, of_one = (partial(condition, m, 0.1, of) for m, of in ((x, many), (x[:1], one)))
        t16, t1 = seconds(of_sixteen, of_one, clock=process_time)
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
    ct,
    ct_update,
    mri,
    mri_coils,
    compressed_sensing,
    batches,
]
