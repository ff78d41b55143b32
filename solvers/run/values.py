"""The values that flags take, as words: numbers within bounds, windows, spans of slices, seeds. Each function is a `type` of
argparse and raises its error, which says what is allowed."""

import argparse
import math

from data.files import Refusal
from data.window import Window, window
from solvers.run.command import whole

MOST = 10_000_000  # seeds in one call


def windowed(word: str) -> Window:
    try:
        return window(word)
    except Refusal as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seconds(word: str) -> float:
    """A lease: from a second to a day."""
    return between(word, 1, 86400)


def hours(word: str) -> float:
    return between(word, 1e-4, 1e5)


def between(word: str, least: float, most: float) -> float:
    value = number(word)
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number from {least:g} to {most:g}")
    return value


def number(word: str) -> float:
    """NaN, which is within no bounds, for a word that is none"""
    try:
        return float(word)
    except ValueError:
        return math.nan


def factor(word: str) -> float | str:
    """auto, or a number > 0"""
    if word == "auto":
        return word
    if not 0 < number(word) < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is neither auto nor a number > 0")
    return number(word)


def centre(word: str) -> float | str:
    """auto, or a number of bins"""
    try:
        return word if word == "auto" else float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is neither auto nor a number of bins") from None


def index(word: str) -> int:
    return 0 if word == "0" else whole(word)


def length(word: str) -> float:
    """Of the coupling between slices."""
    if not 0 <= number(word) < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of mm from 0")
    return number(word)


def span(word: str) -> tuple[int, int]:
    """40:60 -> (40, 60)"""
    low, _, high = word.partition(":")
    low = low or "0"
    if not (low.isdigit() and high.isdigit() and int(low) < int(high)):
        form = "of the form 40:60, from the first to behind the last slice"
        raise argparse.ArgumentTypeError(f"{word!r} is not {form}")
    return int(low), int(high)


def seeds(word: str) -> list[int]:
    """0-3,7 -> [0, 1, 2, 3, 7]"""
    parts = [part.partition("-") for part in word.split(",")]
    try:
        ends = [(int(first), int(last if dash else first)) for first, dash, last in parts]
    except ValueError:
        ends = []
    few = sum(last - first + 1 for first, last in ends) <= MOST
    found = [seed for first, last in ends for seed in range(first, last + 1)] if few else []
    if not found or len(set(found)) < len(found):
        form = f"of the form 0-49999 or 1,5,9-12, each once, at most {MOST:,}"
        raise argparse.ArgumentTypeError(f"{word!r} is not {form}")
    return found
