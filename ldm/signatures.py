"""Whether the values of a configuration are those that a constructor takes: names, and types as its signature states them."""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

from data.files import Refusal, nearest


class Setting(NamedTuple):
    """What can be set of an object."""

    key: str  # dotted, as overrides have it: operator.params.factor
    # file: anything that no form can hold, such as a mask.
    kind: Literal["whole", "number", "wholes", "numbers", "choice", "truth", "file"]
    value: Any  # what the file says, else the default; None: not set
    choices: tuple = ()  # of a choice
    about: str = ""  # the comment beside the field
    said: bool = False  # by the file
    optional: bool = False  # None is allowed

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    @property
    def text(self) -> str:
        """The value as it is typed: numbers of a list with commas between, nothing where it is not set."""
        value = () if self.value is None else self.value
        return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    def override(self, answer: Any) -> str:
        """The override that an answer in a form means; "" where it changes nothing.

        An empty text means None where that is allowed, else what the file says. Raises Refusal for other text than numbers.
        """
        if self.kind in NUMBERS and isinstance(answer, str):
            answer = self._typed(answer)
        same = list(answer) == list(self.value or ()) if _several(answer) else answer == self.value
        if same or (answer is None and not self.optional):
            return ""
        spelled = str(answer).replace(" ", "") if _several(answer) else answer
        return f"{self.key}={'null' if answer is None else spelled}"

    def _typed(self, text: str) -> Any:
        read, allowed = NUMBERS[self.kind]
        words = re.sub(r"[\s,;]+", " ", text.strip("[]() ")).split()
        try:
            found = [read(word) for word in words]
        except ValueError:
            found = [math.nan]
        if not all(map(math.isfinite, found)) or (self.kind in KINDS.values() and len(found) > 1):
            raise Refusal(f"{self.name} {text!r}: {allowed} allowed")
        if self.kind in ("wholes", "numbers"):
            return found or None
        return found[0] if found else None


READING = Lock()  # getsource parses, and the parser of CPython 3.11 is not safe between threads
KINDS = {bool: "truth", int: "whole", float: "number"}
LISTS = {int: "wholes", float: "numbers"}
NUMBERS: dict[str, tuple[Callable[[str], float], str]] = {  # how they are read, and what is allowed
    "whole": (int, "a whole number is"),
    "number": (float, "a number is"),
    "wholes": (int, "whole numbers with commas between are"),
    "numbers": (float, "numbers with commas between are"),
}


def settings(cls: type, given: Mapping[str, Any], where: str) -> list[Setting]:
    """The parameters of a constructor. given: what a file says of them. where: put before their names.

    Those that take neither numbers, a word of a list, nor yes or no are left out where nothing need be said of them.
    """
    hints, comments, found = typing.get_type_hints(cls.__init__), _comments(cls), []  # type: ignore[misc]
    for name, parameter in inspect.signature(cls).parameters.items():
        value = given.get(name, None if parameter.default is parameter.empty else parameter.default)
        needed = value is None and parameter.default is parameter.empty
        kind, choices = _kind(hints[name])
        if kind != "file" or (needed and name not in given):
            optional = type(None) in typing.get_args(hints[name])
            own = (choices, comments.get(name, ""), name in given, optional)
            found.append(Setting(f"{where}.{name}", kind, value, *own))
    return found


def _kind(hint: Any) -> tuple[Any, tuple]:
    """The kind of setting that a type hint means, and of a choice its words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "choice", arguments
    if origin in (typing.Union, types.UnionType):
        inner = [one for one in arguments if one is not type(None)]
        return _kind(inner[0]) if len(inner) == 1 else ("file", ())
    if origin in (Sequence, list, tuple):
        held = {one for one in arguments if one is not Ellipsis}
        return LISTS.get(held.pop(), "file") if len(held) == 1 else "file", ()
    return KINDS.get(hint, "file"), ()


def _several(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _comments(cls: type) -> dict[str, str]:
    """The comments that stand beside the fields of a class and of those it inherits from."""
    with READING:
        lines = [line for base in reversed(cls.__mro__[:-1]) for line in _source(base)]
    fields = (re.match(r"    (\w+): .*?  # (.*)", line) for line in lines)
    return {found[1]: found[2] for found in fields if found}


@lru_cache
def _source(cls: type) -> list[str]:
    return inspect.getsource(cls).splitlines()


def check(
    cls: type, arguments: Mapping[str, Any], extra: Mapping[str, Any], locate: Callable[[str], str]
) -> None:
    """Raise Refusal unless names and types are those of the constructor's signature, without the `extra` ones.

    locate: from a parameter's name to the place in the configuration that errors name.
    """
    signature = inspect.signature(cls)
    kinds = [p.kind for p in signature.parameters.values()]
    allowed = [
        n
        for n, p in signature.parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n not in extra
    ]
    try:
        hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        hints = {}
    for name, value in arguments.items():
        if name not in allowed and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise Refusal(
                f"{locate(name)}: {cls.__name__} has no parameter {name!r}{nearest(name, allowed)}"
            )
        if name in hints and not _fits(value, hints[name]):
            raise Refusal(f"{locate(name)}: {value!r} is not of type {_spell(hints[name])}")
    for name, parameter in signature.parameters.items():
        needed = parameter.default is parameter.empty and name in allowed
        if needed and name not in arguments:
            raise Refusal(f"{locate(name)}: {cls.__name__} needs a value for {name!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a built value may be passed for a type hint; hints it does not know are let through."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (str, typing.TypeVar)):
        return True
    if origin is typing.Annotated:
        return _fits(value, arguments[0])
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, inner) for inner in arguments)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, (str, Path))
    if origin in (list, tuple, Sequence, Iterable) or hint in (list, tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if (
            origin is tuple and len(arguments) > 1 and Ellipsis not in arguments
        ):  # tuple[int] is foreign for "ints"
            return len(value) == len(arguments) and all(
                _fits(v, a) for v, a in zip(value, arguments)
            )
        return all(_fits(v, arguments[0]) for v in value) if arguments else True
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        fits = lambda pair: all(map(_fits, pair, arguments))  # noqa: E731
        return isinstance(value, Mapping) and all(map(fits, value.items()))
    if inspect.isclass(hint) and not getattr(hint, "_is_protocol", False):
        return isinstance(value, hint)
    return True


def _spell(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")
