"""Refusing numbers that mean nothing, by their names, where the thing that they describe is built."""

import math
from collections.abc import Sequence

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
