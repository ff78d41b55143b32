"""The one update under five papers: a Gaussian belief N(m, V) meets a measurement (docs/update.md has the algebra)."""

from torch import Tensor

from data.seeding import Noise
from solvers.operators.base import LinearOperator, Scalar
from solvers.problem import Problem


def condition(m: Tensor, v: Scalar | LinearOperator, problem: Problem, noise: Noise | None = None) -> Tensor:
    """The mean of x | y for x ~ N(m, V), y = A x + sigma_y n; with noise, an exact draw from it.

    m [B,C,H,W]; v a number, [B], a diagonal shaped like m, or a LinearOperator (then m must already be a draw u of
    N(m, V) when noise is given).
    """
    raise NotImplementedError
