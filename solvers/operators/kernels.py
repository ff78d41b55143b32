"""Blur kernels: Gaussian, uniform, motion, or the user's own file. The image of a point is the kernel."""

import math
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from data import formats
from data.files import Refusal
from data.seeding import Noise


@lru_cache(maxsize=32)
def gaussian_taps(size: int, std: float) -> tuple[float, ...]:
    """A Gaussian cut at 4 std, mirrored back into a window of `size` pixels if that is smaller, normalised; the zeros
    around it are cropped. size 61, std 3 has 25 taps (DPS, DAPS, ReSample); size 9, std 3 is CoDPS's folded one."""
    odd(size)
    if not std > 0:
        raise Refusal(f"std of a Gaussian blur must be > 0, not {std}")
    radius = int(4 * std + 0.5)
    x = np.arange(-radius, radius + 1)
    weight = np.exp(-0.5 * (x / std) ** 2)
    position = (x + size // 2) % (2 * size)
    position = np.where(position < size, position, 2 * size - 1 - position)
    taps = np.bincount(position, weight / weight.sum(), minlength=size)
    margin = max(0, size // 2 - radius)
    return tuple(taps[margin : size - margin].tolist())


@lru_cache(maxsize=32)
def uniform_taps(size: int) -> tuple[float, ...]:
    """A moving average over an odd number of pixels (PaDIS)."""
    odd(size)
    return (1 / size,) * size


@lru_cache(maxsize=32)
def product(taps: tuple[float, ...]) -> Tensor:
    """The square kernel [1,1,k,k] of a separable one."""
    line = torch.tensor(taps, dtype=torch.float64)
    return torch.outer(line, line)[None, None]


def odd(size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise Refusal(f"kernel of {size} pixels has no centre pixel: sizes are odd and positive")


def checked(kernel: Tensor | str, *, any_size: bool = False) -> Tensor:
    """A user's kernel as float64 [1,1,k1,k2] or [B,1,k1,k2], from a tensor or a file; warns if it does not sum to one."""
    name = f"kernel {kernel}" if isinstance(kernel, (str, Path)) else "kernel"
    taps = formats.read(kernel).pixels if isinstance(kernel, (str, Path)) else kernel
    taps = taps[None] if taps.ndim == 3 else taps[None, None] if taps.ndim == 2 else taps
    if taps.ndim != 4 or taps.shape[1] != 1:
        raise Refusal(
            f"{name} has shape {list(taps.shape)}; allowed: [k,k], [1,k,k] or [images,1,k,k]"
        )
    if taps.is_complex() or not bool(torch.isfinite(taps).all()):
        raise Refusal(f"{name} holds values that are complex or not finite")
    if not bool(taps.flatten(1).any(1).all()):
        raise Refusal(f"{name} measures nothing: every tap is 0")
    if not any_size:
        for size in taps.shape[-2:]:
            odd(size)
    totals = taps.double().sum((-2, -1))
    if not torch.allclose(totals, torch.ones_like(totals), atol=1e-3):
        warnings.warn(
            f"{name} sums to {float(totals.flatten()[0]):.4g}, not to 1: it changes brightness",
            stacklevel=3,
        )
    return taps.double()


def off_centre(kernels: Tensor) -> list[tuple[int, int]]:
    """How many whole pixels each kernel's centre of mass [B,1,k,k] lies below and right of the middle one."""
    mass = kernels.double()
    offsets = []
    for axis in (-1, -2):
        line = mass.sum((1, axis))
        place = torch.arange(line.shape[-1], device=line.device) - line.shape[-1] // 2
        offsets.append(((line * place).sum(-1) / line.sum(-1)).round().int().tolist())
    return list(zip(*offsets))


def in_the_middle(kernels: Tensor) -> Tensor:
    """Kernels [B,1,k,k] moved by whole pixels, so that the centre of mass is in the middle one."""
    rows = zip(kernels, off_centre(kernels))
    return torch.stack([kernel.roll((-down, -right), (-2, -1)) for kernel, (down, right) in rows])


def motion(size: int, intensity: float, noise: Noise) -> Tensor:
    """One camera-shake kernel per image, [B,1,size,size], from its own "kernel" stream.

    The random walk of LeviBorodenko's motionblur, which DPS, DAPS, ReSample and CoDPS use. intensity: 0 a straight
    line, 1 very curved.
    """
    odd(size)
    if not 0 <= intensity <= 1:
        raise Refusal(f"intensity of a motion blur is between 0 and 1, not {intensity}")
    seeds = (noise.uniform((len(noise), 1), torch.float64)[:, 0] * 2**53).long().tolist()
    kernels = [drawn(walk(size, intensity, np.random.default_rng(seed)), size) for seed in seeds]
    return torch.stack(kernels)[:, None]


def walk(size: int, intensity: float, rng: np.random.Generator) -> np.ndarray:
    """The path of the camera on a canvas of twice the size, as complex points."""
    diagonal = 2 * size * math.sqrt(2)
    length = 0.75 * diagonal * (rng.uniform() + rng.uniform(0, intensity**2))
    steps: list[float] = []
    while sum(steps) < length:
        step = rng.beta(1, 30) * (1 - intensity + 0.1) * diagonal
        if step < length:
            steps.append(step)
    largest, flip = rng.uniform(0, intensity * math.pi), rng.beta(2, 20)
    angles = [rng.uniform(-largest, largest)]
    for _ in steps[1:]:
        sign = math.copysign(1, angles[-1]) * (-1 if rng.uniform() < flip else 1)
        angles.append(sign * rng.triangular(0, intensity * largest, largest + 0.1))
    path = np.cumsum(
        np.array([0.0, *(step * np.exp(1j * angle) for step, angle in zip(steps, angles))])
    )
    return (path - path.mean()) * np.exp(1j * rng.uniform(0, math.pi)) + (1 + 1j) * size


def drawn(path: np.ndarray, size: int) -> Tensor:
    """The path as a thin blurred line, shrunk to the kernel's size and normalised to one."""
    diagonal = 2 * size * math.sqrt(2)
    canvas = Image.new("L", (2 * size, 2 * size))
    ImageDraw.Draw(canvas).line(
        [(p.real, p.imag) for p in path], fill=255, width=max(1, int(diagonal / 150))
    )
    canvas = canvas.filter(ImageFilter.GaussianBlur(int(0.01 * diagonal))).resize(
        (size, size), Image.Resampling.LANCZOS
    )
    kernel = torch.from_numpy(np.asarray(canvas, dtype=np.float64).copy())
    if kernel.sum() == 0:  # the walk left the canvas: no blur
        kernel[size // 2, size // 2] = 1
    return kernel / kernel.sum()
