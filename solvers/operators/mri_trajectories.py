"""Trajectories of non-Cartesian MRI, [2,shots,samples]: (k_y, k_x) in cycles per field of view."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.files import Refusal
from data.formats.kspace import trajectory as files
from solvers.operators.kspace import GOLDEN

EDGE = 1e-3  # cycles per field of view, by which a trajectory may leave the matrix: rounding of its file
FINE = 4096  # points along a spiral, by which its length is measured


def radial(h: int, w: int, spokes: int, samples: int) -> Tensor:
    """Lines through the middle, each a golden angle on from the last; sample samples//2 of each is frequency 0."""
    angle = torch.arange(spokes, dtype=torch.float64)[:, None] * GOLDEN
    along = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples
    return torch.stack([along * angle.sin() * h, along * angle.cos() * w])


def spiral(h: int, w: int, shots: int, turns: float, samples: int, density: float) -> Tensor:
    """Spirals from the middle to the edge, of equal speed, turned against each other by equal angles.

    The radius grows as (angle)^density: 1 has all turns equally far apart (Archimedes), more has them closer in the middle.
    """
    fine = torch.linspace(0, 1, FINE, dtype=torch.float64)
    curve = fine**density / 2 * torch.exp(2j * torch.pi * turns * fine)
    length = torch.cat([torch.zeros(1).double(), curve.diff().abs().cumsum(0)])
    even = torch.arange(samples, dtype=torch.float64) / samples * length[-1]
    share = torch.from_numpy(np.interp(even.numpy(), length.numpy(), fine.numpy()))
    angle = (
        2 * torch.pi * (turns * share + torch.arange(shots, dtype=torch.float64)[:, None] / shots)
    )
    return torch.stack([share**density / 2 * angle.sin() * h, share**density / 2 * angle.cos() * w])


def checked(trajectory: Tensor | str) -> Tensor:
    """[1 or B,2,shots,samples] of a tensor with or without its first axis, or of a file. Raises Refusal for others."""
    value = (
        torch.from_numpy(files.load(Path(trajectory)))
        if isinstance(trajectory, str)
        else trajectory
    )
    value = value[None] if value.ndim == 3 else value
    if value.is_complex() or value.ndim != 4 or value.shape[1] != 2 or 0 in value.shape:
        raise Refusal(
            f"a trajectory of shape {list(value.shape)}; real [2,shots,samples] or [1 or images,2,shots,samples] is allowed"
        )
    if not bool(torch.isfinite(value).all()):
        raise Refusal("the trajectory holds values that are not finite")
    return value.double()


def within(trajectory: Tensor, shape: tuple[int, int]) -> None:
    """Raises Refusal for a trajectory in other units than cycles per field of view: one that leaves the matrix H x W, or
    stays within one cycle of its middle."""
    reach = trajectory.abs().amax((0, 2, 3))
    size = "×".join(map(str, shape))
    if any(float(k) > n / 2 + EDGE for k, n in zip(reach, shape)):
        raise Refusal(
            f"a trajectory to {float(reach[0]):.4g} and {float(reach[1]):.4g} cycles per field of view; a matrix of {size} ends"
            f" at {shape[0] / 2:g} and {shape[1] / 2:g}"
        )
    if float(reach.max()) <= 1 < min(shape) / 8:
        raise Refusal(
            f"a trajectory to {float(reach.max()):.3g}: cycles per pixel? {size} times as much, cycles per field of view, is due"
        )
