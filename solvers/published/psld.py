"""PSLD as published (Rout et al. 2023): y is glued in by the adjoint or a pseudo-inverse, and may be pasted in at the end."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ldm.denoiser import Prior
from ldm.sampling import vp_levels
from ldm.schedule import scaled_linear_alpha_bar
from solvers.operators.base import Scalar
from solvers.problem import Problem
from solvers.psld import PASTE, PSLD, Glue
from solvers.solver import Chain, Move, final_image


@dataclass(frozen=True)
class PublishedPSLD(PSLD):
    """VP coordinates of the latent; PSLD algorithm 2, as `PSLD` has it, with another B.

    The published B is the identity for blur and pixel repetition for super-resolution, and adds fresh noise to A x: neither is
    kept.
    """

    back: Literal["noise", "adjoint", "pinv"] = (
        "adjoint"  # B: as much of y as its noise allows; A^T; its pseudo-inverse
    )
    reach: float = math.inf
    spacing: Literal["even", "leading"] = (
        "leading"  # of the times; `leading` is latent diffusion's own
    )
    paste: bool = (
        False  # end by pasting the measured part of y into the image (instead of `polish`)
    )

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        return vp_levels(prior, self.steps, self.spacing, scaled_linear_alpha_bar())

    def weight(self, problem: Problem) -> Scalar | None:
        if self.back == "noise":
            return super().weight(problem)
        return PASTE if self.back == "pinv" else None

    def result(self, chain: Chain, move: Move) -> Tensor:
        image = final_image(chain.prior, move[1], chain.problem, self.polish and not self.paste)
        if not self.paste:
            return image
        return Glue.apply(image, chain.own.y, chain.own.operator, PASTE)  # type: ignore[no-any-return]
