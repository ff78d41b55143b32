"""The cheap classical answer of the operator itself: bicubic, adjoint, FBP, zero-filled. No prior is asked."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from data.files import Refusal
from ldm.denoiser import Prior
from solvers.operators.base import Operator
from solvers.problem import Problem
from solvers.solver import Chain, Move, Solver


@dataclass(frozen=True)
class Baseline(Solver):
    """One step: `operator.baseline(y)`; what a reconstruction has to beat."""

    volumes = True

    steps: int = 1

    def check(self, problem: Problem, prior: Prior) -> None:
        kind = type(problem.operator)
        if kind.baseline is Operator.baseline:
            raise Refusal(f"{kind.__name__} has no classical answer to show")

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """No noise is involved."""
        return [0.0, 0.0]

    def sample(self, chain: Chain) -> Iterator[Move]:
        x = chain.problem.operator.baseline(chain.problem.y, chain.prior.image_shape)
        assert x is not None
        yield 0.0, x, x

    def result(self, chain: Chain, move: Move) -> Tensor:
        return move[1]
