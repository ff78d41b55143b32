"""Foreign settings read as data: each is taken once, with its type; one that nobody took is an error, not a silence."""

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.files import Refusal, nearest

_REQUIRED = object()


class Options:
    """settings: a mapping from a foreign YAML. ignored: keys that do not change what the weights mean."""

    def __init__(self, settings: Any, path: str | Path, ignored: Iterable[str] = ()):
        if not isinstance(settings, Mapping):
            raise Refusal(f"{path}: expected a mapping of settings, not {reprlib.repr(settings)}")
        self.settings, self.path, self.known = settings, path, set(ignored)

    def take(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The value of `key`, checked to be of `kind` (an int will do for a float); null counts as absent."""
        self.known.add(key)
        value = self.settings.get(key)
        if value is None:
            if default is _REQUIRED:
                raise Refusal(f"{self.path}: the model's description lacks {key!r}")
            return default
        accepted = (int, float) if kind is float else (list, tuple) if kind is list else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise Refusal(
                f"{self.path}: {key} must be of type {kind.__name__}, not {reprlib.repr(value)}"
            )
        return value

    def finish(self) -> None:
        """Complain of the first key that was neither taken nor known to be harmless."""
        stray = [
            key
            for key, value in self.settings.items()
            if key not in self.known and value is not None
        ]
        if stray:
            raise Refusal(
                f"{self.path}: unknown setting {stray[0]!r}{nearest(stray[0], self.known)}"
            )
