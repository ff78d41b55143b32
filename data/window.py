"""The words for which stored values become -1 and +1, as a user says them. A leaf: nothing heavy is imported to read them."""

import math
from typing import Literal, NamedTuple

from data.files import Refusal


class Window(NamedTuple):
    """What the user asks for: two stored values, two percentiles of the volume, its display window, or all that it holds."""

    how: Literal["values", "percentiles", "header", "full"]
    low: float = 0.0
    high: float = 0.0


def window(word: str) -> Window:
    """`LOW:HIGH`, `pLOW:pHIGH`, `header` or `full`. Raises Refusal for any other word."""
    if word in ("full", "header"):
        return Window("full" if word == "full" else "header")
    low, _, high = word.partition(":")
    percent = low.startswith("p") and high.startswith("p")
    try:
        a, b = (float(end[percent:]) for end in (low, high))
    except ValueError:
        a = b = math.nan
    inside = 0 <= a and b <= 100 if percent else True
    if not (a < b and math.isfinite(b - a) and inside):
        allowed = "LOW:HIGH, pLOW:pHIGH (percentiles, 0 to 100, LOW < HIGH), header or full"
        raise Refusal(f"window {word[:80]!r}: {allowed} is allowed")
    return Window("percentiles" if percent else "values", a, b)
