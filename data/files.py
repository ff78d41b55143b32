"""What the whole program does with files and with mistakes: refusals, hints. A leaf: it imports nothing of the project."""

import difflib
from collections.abc import Iterable


class Refusal(ValueError):
    """What the user can mend: one line that says what, where, and what is allowed. Doors print it and exit with 2.

    Every other exception is a bug and is shown as one.
    """


def nearest(word: str, allowed: Iterable[str]) -> str:
    """'; did you mean X?' with the nearest valid name, else the list of the valid ones."""
    allowed = sorted(map(str, allowed))
    close = difflib.get_close_matches(word, allowed, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(allowed) or 'none'}"
