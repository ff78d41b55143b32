"""CoDPS and CoDPS+ as published (Yismaw et al. 2024): the same inverse, a multiplier c per task."""

from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from ldm.denoiser import Prior
from ldm.sampling import vp_levels
from ldm.schedule import linear_alpha_bar
from solvers.beliefs import Belief, Isotropic
from solvers.codps import CoDPS
from solvers.problem import Problem
from solvers.solver import Chain, positive


@dataclass(frozen=True)
class PublishedCoDPS(CoDPS):
    """VP coordinates; x' <- x' + c sqrt(a) / (1 - a) V A^T (sigma_y^2 I + A V A^T)^-1 (y - A mu(x')), V = v_t I.

    Levels are those of the prior's table, or of DDPM's own where it has none. The published DDPM noise has the network's learned
    variance, here the posterior's.
    """

    scale: float = 0.01  # c; published 0.01 to 0.4
    t_div: int = 0  # below this (respaced) step c is divided ...
    div_ratio: float = 1.0  # ... by this

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "scale", "div_ratio")

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        return vp_levels(prior, self.steps, "strided", linear_alpha_bar())

    def weight(self, step: int, a: float, a_next: float) -> float:
        c = self.scale / (self.div_ratio if step < self.t_div else 1)
        return c * sqrt(a) / (1 - a)


@dataclass(frozen=True)
class PublishedCoDPSPlus(PublishedCoDPS):
    """VP coordinates; CoDPS+: mu = x0_hat, and v_t sqrt(a) / (1 - a) is d mu / d x_t of a Gaussian prior of variance 1 / lam.

    The last step is left alone.
    """

    steps: int = 100
    scale: float = 0.05

    def belief(self, chain: Chain, x: Tensor, x0: Tensor, a: float) -> Belief:
        assert self.inv_var is not None
        return Isotropic(x0, 1 / (a / (1 - a) + self.inv_var))

    def weight(self, step: int, a: float, a_next: float) -> float:
        return 0.0 if step == 0 else super().weight(step, a, a_next)
