"""CoDPS and CoDPS+, covariance-corrected diffusion posterior sampling (Yismaw et al. 2024): no gradient, one inverse."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

from torch import Tensor

from data.files import Refusal
from ldm.denoiser import Prior
from ldm.sampling import ddim_noise, ddim_step_vp, sigma_at, vp, vp_levels
from solvers.beliefs import Belief, Isotropic
from solvers.problem import Problem
from solvers.solver import Chain, Move, Solver, fraction, need_linear, positive


@dataclass(frozen=True)
class CoDPS(Solver):
    """VP coordinates; CoDPS's update of the ancestral sample x' with p(y | x') = N(A mu(x'), sigma_y^2 I + v_t A A^T).

    v_t = 1 / (a / (1 - a) + lam), lam the inverse prior variance. x' moves by what the DDPM step makes of the update that x0 is
    due, which leaves nothing to tune; the paper's own multiplier c is in `solvers.published.codps`. As in the published
    code, x' (of level t - 1) is updated with a of level t. The noise of a step is the posterior's, not the network's learned.
    V stays one number, as mu weighs x' against x0_hat by precisions: errors by frequency and place belong to `CoDPSPlus`.
    """

    steps: int = 1000
    inv_var: float | None = 4.0  # lam; 1 / 0.5^2 for images in [-1, 1]
    eta: float = 1.0  # 1: DDPM's ancestral step
    clip: bool = True  # clamp x0_hat to [-1, 1]

    def __post_init__(self) -> None:
        positive(self, "steps")
        fraction(self, "eta")
        if self.inv_var is None or not self.inv_var >= 0:
            raise Refusal(f"inv_var must be at least 0, not {self.inv_var}")

    def check(self, problem: Problem, prior: Prior) -> None:
        need_linear(type(self).__name__.removeprefix("Published"), problem.operator, prior)
        self.levels(problem, prior)

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        return vp_levels(prior, self.steps)

    def sample(self, chain: Chain) -> Iterator[Move]:
        x = chain.begin(chain.start)
        for t, (a, a_next) in enumerate(pairwise(chain.levels)):
            x0 = chain.tweedie(x, a, self.clip)
            x = ddim_step_vp(x, x0, a, a_next, self.eta, chain.fresh)
            c = self.weight(len(chain.levels) - 2 - t, a, a_next)
            if c > 0:
                belief = self.belief(chain, x, x0, a)
                x = x + c * (
                    chain.mean(belief) - belief.mean
                )  # V A^T (sigma_y^2 I + A V A^T)^-1 (y - A mu)
            yield sigma_at(a), x, x if a_next == 1 else x0

    def belief(self, chain: Chain, x: Tensor, x0: Tensor, a: float) -> Belief:
        """N(mu, v_t I) of x0 given the new x' and the estimate before it."""
        assert self.inv_var is not None
        v = 1 / (a / (1 - a) + self.inv_var)
        return Isotropic(v * (sqrt(a) / (1 - a) * x + self.inv_var * x0), v)

    def weight(self, step: int, a: float, a_next: float) -> float:
        """What the update of x0 is multiplied by, at this step counted from the end."""
        kept, _ = ddim_noise(vp(a), vp(a_next), self.eta)
        return sqrt(a_next) - kept / sigma_at(a)  # d x' / d x0 of the DDIM step at fixed x_t

    def result(self, chain: Chain, move: Move) -> Tensor:
        return chain.prior.to_image(move[1])


@dataclass(frozen=True)
class CoDPSPlus(CoDPS):
    """VP coordinates; CoDPS+ of the DDIM settings: the residual is taken at x0_hat itself, so that mu = x0_hat.

    With inv_var None V is what training measured of D's errors, by frequency and place; where nobody looked that is lam = 4.
    """

    volumes = True
    resumable = True

    steps: int = 100
    inv_var: float | None = None

    def __post_init__(self) -> None:
        positive(self, "steps")
        fraction(self, "eta")
        if self.inv_var is not None and not self.inv_var >= 0:
            raise Refusal(f"inv_var must be at least 0, not {self.inv_var}")

    def belief(self, chain: Chain, x: Tensor, x0: Tensor, a: float) -> Belief:
        if self.inv_var is None:
            return Belief.of(chain.prior, x0, sigma_at(a), chain.problem)
        return Isotropic(x0, 1 / (a / (1 - a) + self.inv_var))
