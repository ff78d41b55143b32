"""Whether a measurement, its noise and images in [-1, 1] can belong together, and the scale that would make them.

What does not belong together is solved to something all the same: k-space of 1e-5 under a sigma_y of 1e-2 comes back as noise
with a residual of 0.7. Every prior's images fill [-1, 1], so one image stands for all: a bright disc on black.
"""

from dataclasses import replace

import torch
from torch import Tensor

from data.files import Refusal
from data.ranges import from_unit, to_unit
from solvers.measured import kspace_agreement
from solvers.operators.base import Operator, Shape, norm, per_image
from solvers.operators.mri import MRI
from solvers.photons import unit_scale
from solvers.problem import Clean, Gaussian, Problem

LEAST_ENTRIES = (
    64  # of which the root mean square of noise is below half its deviation once in 1e10
)
QUIET = 0.5  # y that is this part of its own noise is none
DEAFENING = 4.0  # noise of so many times a typical y leaves nothing to be restored
FAINT, LOUD = (
    1 / 300,
    30.0,
)  # y against a typical one: slices of nearly nothing are ordinary, brighter images than a disc few
BRIGHT = 0.995  # the quantile of an image that `scale` takes to 1


def disc(shape: Shape, like: Tensor) -> Tensor:
    """A disc of 3/4 white on black that covers a third of an image or of each slice, [1,C,H,W] or [1,C,D,H,W] in [-1, 1]."""
    h, w = shape[-2:]
    y, x = (torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in (h, w))
    inside = (y[:, None].square() + x.square() < 0.42).to(like.dtype)
    return from_unit(0.75 * inside).expand(1, *shape)


def check(problem: Problem, simulated: bool = False) -> None:
    """Raise Refusal, in one line that names the scale that would fit, for y or sigma_y that cannot be meant.

    y wholly below its own noise; y orders of magnitude off what the operator makes of an image; noise far above that, of
    which alone a simulated measurement can suffer.
    """
    operator = problem.operator
    if operator.shape is None:
        return
    typical, found = (level(p.stored(), operator) for p in (_of_disc(problem), problem))
    entries = operator.measured(problem.y)
    sigma_y = (
        (problem.likelihood.sigma_y or 0.0) if isinstance(problem.likelihood, Gaussian) else 0.0
    )
    other = "--window full" if pictured(operator) else "auto"
    for usual, rms, count, image_id in zip(
        typical.tolist(), found.tolist(), entries.tolist(), problem.ids
    ):
        if not usual > 0 or count < LEAST_ENTRIES:
            continue
        fit, name = usual / rms if rms > 0 else 1.0, type(operator).__name__
        fits = f"y times {fit:.2g} would fit (--scale {fit:.2g}, or {other})"
        advice = "" if FAINT < rms / usual < LOUD else fits
        empty = rms < 2 * sigma_y  # a slice of hardly more than noise, rightly faint
        said = f"{image_id}: its y has a root mean square of {rms:.2g}"
        if rms < QUIET * sigma_y and not simulated:
            remedy = (advice or _of_bytes(sigma_y)) if rms else "every entry is 0"
            raise Refusal(f"{said}, below its own noise: sigma_y {sigma_y:g}; {remedy}")
        if advice and rms and not simulated and not empty:
            raise Refusal(
                f"{said}, where {name} makes {usual:.2g} of an image in [-1, 1]; {advice}"
            )
        if sigma_y > DEAFENING * usual:
            drowned = f"what {name} makes of images ({usual:.2g})"
            raise Refusal(f"{image_id}: sigma_y {sigma_y:g} drowns {drowned}; {_of_bytes(sigma_y)}")
    if isinstance(operator, MRI) and not simulated:
        kspace_agreement.check(problem)


def pictured(operator: Operator) -> bool:
    """Whether y has the range of an image, whose black and white are no matter of scale alone."""
    return unit_scale(operator) == 2 and not getattr(operator, "complex_image", False)


def scale(operator: Operator, y: Tensor, shape: Shape) -> Tensor:
    """Factors [B] that take stored y [B,...] to what images in [0, 1] measure as: their brightest 0.5 % at 1 and above.

    operator: drawn. Raises Refusal for image-like y, whose range is no matter of scale alone.
    """
    if pictured(operator):
        name = type(operator).__name__
        raise Refusal(
            f"y of {name} is an image: say which values are black and white (--window, or a manifest's), not --scale auto"
        )
    problem = Problem(y, operator, Clean(), tuple(map(str, range(len(y)))))
    usual = level(_of_disc(problem).stored(), operator)
    first = usual / level(y, operator).clamp_min(torch.finfo(y.dtype).tiny)
    small = first / 4  # far from where a cheap answer would be clipped
    scaled = per_image(small, y) * y
    offset = problem.stored()[:1] - y[:1] if operator.unit_range else 0
    answer = operator.baseline(operator.restrict(scaled - offset), shape)
    if answer is None:
        return first
    image = (
        to_unit(answer)
        if operator.unit_range
        else answer.unflatten(1, (-1, 2)).square().sum(2).sqrt()
    )
    bright = image.abs().flatten(1).quantile(BRIGHT, dim=1)
    return torch.where(bright > 0, small / bright.clamp_min(torch.finfo(y.dtype).tiny), first)


def level(y: Tensor, operator: Operator) -> Tensor:
    """Root mean square of the measured entries of each y, [B]."""
    return norm(operator.restrict(y)) / operator.measured(y).clamp_min(1).sqrt()


def _of_disc(problem: Problem) -> Problem:
    """What is measured of the disc, without noise."""
    assert problem.operator.shape is not None
    image = disc(problem.operator.shape, problem.y).expand(
        len(problem.ids), *problem.operator.shape
    )
    return replace(problem, y=problem.operator.forward(image))


def _of_bytes(sigma_y: float) -> str:
    return f"noise of {sigma_y:g} in 0 to 255 is {sigma_y / 127.5:.2g} in [-1, 1]"
