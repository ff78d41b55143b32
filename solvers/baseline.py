"""The cheap classical answer of the operator itself: bicubic, adjoint, FBP, zero-filled. No prior is asked."""

from collections.abc import Iterator
from dataclasses import dataclass

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.operators.base import Operator
from solvers.problem import Problem
from solvers.step import Step


@dataclass(frozen=True)
class Baseline:
    """One step: `operator.baseline(y)`; what a reconstruction has to beat."""

    steps: int = 1

    def check(self, problem: Problem, prior: Prior) -> None:
        kind = type(problem.operator)
        if kind.baseline is Operator.baseline:
            raise Refusal(f"{kind.__name__} has no classical answer to show")

    def __call__(self, problem: Problem, prior: Prior, noise: Noise) -> Iterator[Step]:
        x = problem.operator.baseline(problem.y, prior.image_shape)
        assert x is not None
        yield Step(0, 0.0, x, x)
