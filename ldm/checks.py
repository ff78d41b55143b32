"""Refusing numbers and states that mean nothing, by their names, where the thing that they describe is built."""

import math
from collections.abc import Sequence
from typing import Any

from data.files import Refusal


def counts(**values: int | Sequence[int] | None) -> None:
    """Raise Refusal for the first that is a number below 1, or holds one, or is an empty list; None is no number."""
    for name, value in values.items():
        numbers = [1] if value is None else [value] if isinstance(value, int) else value
        if min(numbers, default=0) < 1:
            raise Refusal(f"{name} must be at least 1, not {value}")


def positive(**values: float) -> None:
    """Raise Refusal for the first that is not finite and above 0."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise Refusal(f"{name} must be finite and above 0, not {value}")


def natural(**values: float) -> None:
    """Raise Refusal for the first that is not finite and at least 0."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise Refusal(f"{name} must be finite and at least 0, not {value}")


def fraction(**values: float) -> None:
    """Raise Refusal for the first that lies outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise Refusal(f"{name} must lie in [0, 1], not {value}")


def state(x: Any, shape: Sequence[int], kind: str, placed: bool) -> None:
    """Raise Refusal for a tensor that cannot be a state of such a prior, by its axes, its channels or, if `placed`, its size."""
    fits = x.ndim == len(shape) + 1 and x.shape[1] == shape[0]
    if not fits or (placed and tuple(x.shape[1:]) != tuple(shape)):
        wanted = f"a {kind} prior has states [B,{','.join(map(str, shape))}]"
        raise Refusal(
            f"a state of shape {list(x.shape)}: {wanted}, which prior.to_state makes of images"
        )
