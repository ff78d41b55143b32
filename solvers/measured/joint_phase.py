"""The phase of an MRI scan, found together with its image: what k-space alone leaves of its errors, the prior sees."""

from dataclasses import replace

import torch
from torch import Tensor

from data.ranges import to_unit
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.condition import condition
from solvers.measured.phase import cosines
from solvers.operators.algebra import conjugate_gradients
from solvers.operators.base import per_image
from solvers.operators.kspace import to_complex, to_real
from solvers.operators.mri_coils import CoilImages
from solvers.photons import constant
from solvers.pnp import PnP
from solvers.problem import Problem
from solvers.solver import Chain, Solver

STEPS = 10  # noise levels, calls of the network
LEVEL = 0.8  # the first, in units of images in [-1, 1]
ROUNDS = 10  # of conjugate gradients, for the change of the phase at each level
RIDGE = 1e-3  # of the image's power, on each cosine's square: 1e-4 and 1e-2 gave the same
LARGEST = 0.5  # radians that the phase may change by at once, as it is taken to be little


def calls(problem: Problem, prior: Prior, solver: Solver) -> int:
    """Of the network, before the solver's own: only where the phase is open, the solver uses a prior and that is of pixels."""
    operator = problem.operator
    opened = isinstance(operator, CoilImages) and operator.open_phase
    return STEPS if opened and solver.uses_prior and prior.kind == "pixel" else 0


def refined(
    problem: Problem, prior: Prior, solver: Solver, seed: int = 0
) -> tuple[Problem, list[str]]:
    """The problem with its phase corrected where `calls` says so, and what is to be said of each image's."""
    if not calls(problem, prior, solver):
        return problem, []
    found = with_joint_phase(problem, prior, seed)
    return found, [f"phase found with the image: {moved(found, problem):.2g} rad corrected"]


def with_joint_phase(problem: Problem, prior: Prior, seed: int = 0) -> Problem:
    """The problem of an operator with `open_phase`, the phase of its maps S corrected.

    y = M F S exp(i phi) u with a real image u, and phi a small sum of cosines over the image. Image and phase take turns, as in
    half-quadratic splitting (`PnP`): z = D(x, sigma) is what the prior makes of the image; phi is the least-squares solution of
    y - M F S z = M F S (i phi z), linear as phi is small; x is z updated by y under the new phase. An image that has the wrong
    phase explains y only by what no prior expects, and so the phase moves to where it need not.
    """
    pnp = PnP(steps=STEPS, sigma_max=LEVEL)
    levels = pnp.levels(problem, prior)
    chain = Chain(problem, prior, Noise(problem.ids, "solver", seed), levels)
    image = problem.operator.baseline(problem.y, prior.image_shape)
    assert image is not None
    x = prior.to_state(image)
    for sigma in levels[:-1]:
        z = prior.to_image(chain.denoise(x, sigma))
        problem = turned(problem, z)
        x = chain.framed(prior.to_state(condition(z, sigma**2 / pnp.lam, problem)))
    return problem


def turned(problem: Problem, z: Tensor) -> Problem:
    """The problem with the phase of its maps changed so that images z [B,1,H,W] explain y better."""
    A: CoilImages = problem.operator  # type: ignore[assignment]
    height, width = z.shape[-2:]
    u = to_unit(z)
    twin = replace(A, complex_image=True).bind((2, height, width))  # type: ignore[type-var]
    rows, columns = (cosines(n).to(z) for n in (height, width))

    def phase(c: Tensor) -> Tensor:
        return rows.mT @ c @ columns

    def change(c: Tensor) -> Tensor:
        """What y changes by, as u exp(i phi) - u = i phi u."""
        return twin.forward(torch.cat([torch.zeros_like(u), phase(c) * u], 1))

    def back(r: Tensor) -> Tensor:
        return rows @ (u * twin.adjoint(r)[:, 1:]) @ columns.mT

    ridge = per_image(RIDGE * u.square().sum((1, 2, 3)), u)
    b = back(problem.y - A.forward(z))
    c = conjugate_gradients(lambda c: back(change(c)) + ridge * c, b, cap=ROUNDS).x
    phi = phase(c).clamp(-LARGEST, LARGEST)
    S = to_complex(A.sensitivities) * torch.polar(torch.ones_like(phi), phi)  # type: ignore[arg-type]
    return restated(problem, A.bind(A.shape, sensitivities=to_real(S)))


def restated(problem: Problem, operator: CoilImages) -> Problem:
    """The problem of the same samples by another operator, whose constant part is its own."""
    y = operator.restrict(problem.stored() - constant(operator, problem.y))
    return replace(problem, y=y, operator=operator)


def moved(found: Problem, problem: Problem) -> float:
    """Radians that the phase was changed by, the root mean square over where coils see something."""
    S, before = (to_complex(p.operator.sensitivities) for p in (found, problem))  # type: ignore[attr-defined]
    turn = (S * before.conj()).sum(1)
    return float(turn[turn.abs() > 0].angle().square().mean().sqrt())
