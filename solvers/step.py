"""What a solver yields."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One step of a solver: x in the solver's own space and scaling; the last x0 is the result, an image in [-1, 1]."""

    t: int  # step counter from 0
    sigma: float  # prior noise level the step started from
    x: Tensor  # state, [B,...]
    x0: Tensor  # current estimate of the image, [B,C,H,W]
