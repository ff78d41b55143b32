"""Classical answers, of which no prior is asked: the operator's own cheap one, and least squares by conjugate gradients."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from data.files import Refusal
from ldm.denoiser import Prior
from solvers.operators.base import LinearOperator, Operator, conjugate_gradients
from solvers.operators.weighted import WeightedLinear
from solvers.problem import Problem
from solvers.solver import BLACK, Chain, Move, Solver, need_linear, positive


@dataclass(frozen=True)
class Baseline(Solver):
    """One step: `operator.baseline(y)`; what a reconstruction has to beat."""

    uses_prior = False
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


@dataclass(frozen=True)
class LeastSquares(Solver):
    """argmin |A x - y|^2 + lam |x - black|^2 by conjugate gradients from a black image, stopped after `steps`.

    Of several coils it is SENSE (Pruessmann et al. 2001), of CT CGLS. Stopping early keeps noise out that more steps let in.
    Entries of y weigh alike, whatever their noise is, as they do there; those that say nothing are left out.
    """

    uses_prior = False

    steps: int = 10  # of conjugate gradients
    lam: float = 0.0  # Tikhonov's, times the squared norm of A

    def __post_init__(self) -> None:
        positive(self, "steps")
        if not 0 <= self.lam < float("inf"):
            raise Refusal(f"LeastSquares needs lam >= 0, got {self.lam}")

    def check(self, problem: Problem, prior: Prior) -> None:
        need_linear("LeastSquares", problem.operator)

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """No noise is involved."""
        return [0.0] * 2

    def sample(self, chain: Chain) -> Iterator[Move]:
        A, y = alike(chain.problem)
        black = A.adjoint(y) * 0 + BLACK
        weight = self.lam * A.norm() ** 2 if self.lam else 0.0
        b = A.adjoint(y - A.forward(black))
        x = (
            black
            + conjugate_gradients(
                lambda p: A.adjoint(A.forward(p)) + weight * p, b, cap=self.steps
            ).x
        )
        yield 0.0, x, x

    def result(self, chain: Chain, move: Move) -> Tensor:
        return move[1]


def alike(problem: Problem) -> tuple[LinearOperator, Tensor]:
    """A and y of a whitened problem without the weights of entries; where those are 0, both are."""
    A: LinearOperator = problem.operator  # type: ignore[assignment]
    if not isinstance(A, WeightedLinear):
        return A, problem.y
    return WeightedLinear(A.outer, (A.weights > 0).to(problem.y)), A.unweighted(problem.y)
