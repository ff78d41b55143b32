"""Whether a sinogram, its noise, its geometry and its units can belong together: one line that says what does not fit."""

import numpy as np
import torch
from torch import Tensor

from data.files import Refusal
from data.ranges import to_unit
from solvers.measured import fit
from solvers.measured.noise_level import estimated_sigma_y
from solvers.operators.ct_geometry import Geometry
from solvers.problem import Problem

MUCH = 0.15  # of the data, that no image explains: scans of a chest leave 0.03 to 0.05 of it
LITTLE = 0.02  # of the data: what less is left over says nothing
BETTER = 0.75  # of the misfit, that another reading leaves, to be named
OFF = 3.0  # how many times noise may be another than it is said to be
# HU of an object on the whole: lungs and bone with metal lie between, water in cm beyond, though pixels blur what is small
DARK, BRIGHT = -800.0, 2500.0


def direction(
    geometry: Geometry, p: np.ndarray, weights: np.ndarray, side: float, where: str
) -> None:
    """Raise Refusal where the views are explained by no image, naming the reading that would explain them, if one does.

    A scan that is mirrored as a whole, and any parallel one, shows no contradiction.
    """
    own = _misfit(geometry, p, weights, side)
    if own < LITTLE or not (geometry.fan or own > MUCH):
        return
    turned = geometry.with_angles([-angle for angle in geometry.angles])
    others = {"the other direction, or bins_run the other way": (turned, p, weights)}
    if p.shape[0] == p.shape[1]:
        others["axes with view and bin exchanged"] = (geometry, p.T, weights.T)
    for name, reading in others.items():
        if (left := _misfit(*reading, side)) < BETTER * own:
            raise Refusal(
                f"{where}: no image explains {own:.0%} of its views; {name} would leave {left:.0%}"
            )
    if own < MUCH:
        return
    raise Refusal(
        f"{where}: no image explains {own:.0%} of its views: angles, distances, pitch, offset or axes are not this scan's"
        " (operator.params.check=false goes on all the same)"
    )


def _misfit(geometry: Geometry, p: np.ndarray, weights: np.ndarray, side: float) -> float:
    g, few, w, across = fit.reduced(geometry, p, weights, side)
    return fit.misfit(g, few, w, across)


def check(problem: Problem, hu: tuple[float, float], where: str) -> None:
    """Raise Refusal for HU that nothing in a scanner has, and for noise that the data do not have."""
    answer = problem.operator.baseline(problem.y, problem.operator.shape)  # type: ignore[arg-type]
    assert answer is not None
    mu = (hu[0] + 1000 + (hu[1] - hu[0]) * to_unit(answer)).clamp_min(0)
    # weighted by itself: air counts nothing, however small the object is in the picture
    mean = float(mu.square().sum() / mu.sum().clamp_min(1e-30)) - 1000
    if not DARK < mean < BRIGHT:
        raise Refusal(
            f"{where}: its object would have {mean:.0f} HU on the whole: do pitch, distances and mu_water mean mm?"
            " (operator.params.check=false goes on all the same)"
        )
    white = problem.whitened()
    try:
        found = float(estimated_sigma_y(white)) / white.sigma_y
    except Refusal:  # too few bins to tell
        found = 1.0
    if found < 1 / OFF:
        raise Refusal(
            f"{where}: its noise is {found:.2g} times what is said (I0 and gain, or sigma_y); {found:.2g} of that would fit"
        )
    if found > OFF and (left := residual(white)) > OFF:
        raise Refusal(
            f"{where}: its noise is {found:.2g} times what is said, and the best image leaves {left:.2g} times of it:"
            f" sigma_y {found:.2g} times as large, or a gain of {found**2:.2g}, would fit"
        )


def residual(problem: Problem, iterations: int = 12) -> float:
    """|A x - y| / (sigma_y sqrt(m)) of a least-squares answer, by conjugate gradients on the normal equations."""
    A, y = problem.operator, problem.y
    r, d = y.clone(), A.adjoint(y)  # type: ignore[attr-defined]
    g = d.square().sum()
    for _ in range(iterations):
        q = A.forward(d)
        alpha = g / q.square().sum().clamp_min(1e-30)
        r = r - alpha * q
        s: Tensor = A.adjoint(r)  # type: ignore[attr-defined]
        g, before = s.square().sum(), g
        d = s + g / before.clamp_min(1e-30) * d
    return float(r.norm() / (problem.sigma_y * torch.sqrt(A.measured(y))[0]))
