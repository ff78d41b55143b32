"""What a solver is, what it yields, and what is refused before any network runs."""

import typing
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.operators.base import LinearOperator, Operator
from solvers.problem import Problem


class Step:
    """One step of a solver: x in the solver's own space and scaling; the last x0 is the result, an image in [-1, 1].

    t: step counter from 0. sigma: prior noise level the step started from. x: state [B,...]. x0: the current estimate
    of the image [B,C,H,W], given as a tensor or as a function that makes it, so that nobody decodes what nobody sees.
    """

    def __init__(self, t: int, sigma: float, x: Tensor, x0: Tensor | Callable[[], Tensor]):
        self.t, self.sigma, self.x, self._x0 = t, sigma, x, x0

    @property
    def x0(self) -> Tensor:
        if not isinstance(self._x0, Tensor):
            with torch.no_grad():
                self._x0 = self._x0()
        return self._x0


class Solver(Protocol):
    """A frozen dataclass of settings. `steps` is the number of noise levels, what `--steps` sets.

    A solver may add `check(problem, prior)`, which raises ValueError in one line for what it cannot solve, and
    `posterior(prior, operator)`, True where its draws spread as the posterior does.
    """

    @property
    def steps(self) -> int: ...

    def __call__(self, problem: Problem, prior: Prior, noise: Noise) -> Iterator[Step]: ...


def doubts(solver: Solver, draws: int, prior: Prior, operator: Operator) -> str:
    """A warning that the spread of several draws is less than their uncertainty; "" where it is not (docs/calibration.md)."""
    own = getattr(solver, "posterior", None)
    if draws < 2 or (own is not None and own(prior, operator)):
        return ""
    name, other = type(solver).__name__, "" if own is not None else "; --solver daps draws from the posterior"
    return f"draws of {name} are estimates here, whose spread may be far less than their error{other}"


def lowered(solver: Solver, prior: Prior) -> str:
    """What to know about a solver that would start at more noise than the prior was trained on, or ""."""
    wanted = getattr(solver, "sigma_max", None) or 0.0
    if wanted <= prior.sigma_max:
        return ""
    return f"the solver's sigma_max {wanted:.4g} is lowered to the prior's {prior.sigma_max:.4g}"


def check(solver: Solver, problem: Problem, prior: Prior) -> None:
    """Refuse, in one line and before any network runs, what cannot be solved. Raises ValueError."""
    rows, expected = len(problem.ids), problem.operator.shape_out(prior.image_shape)
    if tuple(problem.y.shape) != (rows, *expected):
        raise Refusal(
            f"measurement of shape {tuple(problem.y.shape[1:])} does not fit the operator,"
            f" which measures {tuple(expected)} of images {tuple(prior.image_shape)}"
        )
    if not bool(torch.isfinite(problem.y).all()):
        bad = [i for i, row in zip(problem.ids, problem.y) if not bool(torch.isfinite(row).all())]
        raise Refusal(f"measurement of {', '.join(bad)} holds values that are not finite")
    own = getattr(solver, "check", None)
    if own is not None:
        own(problem, prior)


def need_linear(name: str, operator: Operator, prior: Prior | None = None) -> None:
    """For solvers that invert A: refuse nonlinear operators and, when the prior is given, those behind a decoder."""
    if not isinstance(operator, LinearOperator):
        raise Refusal(f"{name} needs a linear operator, not {type(operator).__name__}; DAPS, DPS and ReSample take any")
    if prior is not None and prior.kind == "latent":
        raise Refusal(
            f"{name} needs a pixel or patch prior: no operator is linear behind a decoder; DAPS, ReSample and PSLD go there"
        )


def positive(settings: object, *names: str) -> None:
    """Refuse fields that are not positive: whole numbers below 1, others not above 0. None passes: such a field is unset."""
    kinds = typing.get_type_hints(type(settings))
    for name in names:
        value, count = getattr(settings, name), kinds[name] in (int, int | None)
        if value is not None and not (value >= 1 if count else value > 0):
            raise Refusal(f"{name} must be {'at least 1' if count else 'above 0'}, not {value}")


def fraction(settings: object, *names: str) -> None:
    """Refuse numbers outside [0, 1], by their field names."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise Refusal(f"{name} must lie in [0, 1], not {getattr(settings, name)}")
