"""What the command lines of all programs share: one spelling of a flag, one kind of mistake, help as it is written.

Nothing heavy is imported here: help and mistakes come before torch does.
"""

import argparse
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from data.bounded_yaml import read_yaml
from data.files import Refusal, nearest

HOME = Path(__file__).resolve().parents[2]
REFUSED = HOME / "configs/flags.yaml"
OVERRIDE = re.compile(r"[\w.]+=")
VALUE = re.compile(r"-\.?\d")  # -1000:400 follows a flag, and is none


class Allow(argparse.Action):
    """Sets the bound on images as soon as the flag is read: every reader of this program and of its workers knows it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, flag: str | None = None) -> None:
        from data import formats  # which imports torch

        formats.allow(values)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """Mistakes are Refusals, flags may be spelt with - or _, --help shows the text as it is written, and every program has
    --traceback, --max-image-bytes and completion by the shell (argcomplete).
    """

    def __init__(self, prog: str, about: str):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=about, formatter_class=raw, allow_abbrev=False)
        self._negative_number_matcher = VALUE
        self.completing = False
        self.switch("--traceback", "show where in the program a mistake was found")
        does = "the greatest image that is read, unpacked (2 GiB); a volume may have eight times as much"
        self.flag("--max-image-bytes", "N", does, action=Allow, type=whole)

    def flag(
        self, names: str, value: str | None, does: str | None = None, **how: Any
    ) -> argparse.Action:
        """Add a flag: its name and the former ones behind it, what help calls its value (None: the choices), and what it does."""
        return self.add_argument(*names.split(), metavar=value, help=does, **how)

    def switch(self, name: str, does: str) -> None:
        """Add a flag that takes no value."""
        self.add_argument(name, action="store_true", help=does)

    def error(self, message: str):
        """Of a flag without its value, argparse does not name those that there are."""
        names, _, missing = message.removeprefix("argument ").partition(": expected one ")
        action = self._option_string_actions.get(names.split("/")[0])
        if missing and action and action.choices:
            message += f": {', '.join(map(str, action.choices))}"
        raise Refusal(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """argparse's, of words whose flags are spelt in one way; every other method that parses calls this one."""
        if "_ARGCOMPLETE" in os.environ and not self.completing:
            import argcomplete  # the shell asks, and only wants to know how words go on

            self.completing = True  # it parses too
            argcomplete.autocomplete(self)
        words = None if args is None else [dashes(word) for word in args]
        return super().parse_known_args(words, namespace)

    def flags(self) -> list[str]:
        """Every flag that is understood."""
        return list(self._option_string_actions)

    def refuse_unknown(self, rest: Sequence[str]) -> None:
        """Raise Refusal for the first word that was left over, with the nearest flag."""
        for word in rest[:1]:
            near = nearest(word.partition("=")[0], self.flags()) if word.startswith("-") else ""
            raise Refusal(f"unknown argument {word!r}{near}")

    def overrides(self, argv: Sequence[str]) -> list[str]:
        """The words of the form key=value; a file, or what follows a flag that takes a value, is none (epoch=3.ckpt)."""
        takers = [action for action in self._actions if action.nargs is None]
        asking = {name for action in takers for name in action.option_strings}
        free = [word for before, word in pairwise(["", *argv]) if dashes(before) not in asking]
        return [word for word in free if OVERRIDE.match(word) and not Path(word).exists()]

    def refuse(self, argv: Sequence[str]) -> None:
        """Raise Refusal for an empty word, and for a flag of the published scripts that has another name here, which it tells."""
        if "" in argv:
            raise Refusal("an argument is empty; is a variable of the shell not set?")
        instead = read_yaml(REFUSED.read_text(), REFUSED)[self.prog]
        if "--measurements" in map(dashes, argv):
            instead.pop("--scale", None)  # the units of y here, elsewhere a guidance
        for word in argv:
            flag = dashes(word).split("=")[0]
            of_another = not word.startswith("-") and "=" not in word  # the value of another flag
            if flag in instead and not of_another:
                raise Refusal(f"{flag} of the published scripts: {instead[flag]}")


def dashes(word: str) -> str:
    """--Save_dir=A_b -> --save-dir=A_b: the one spelling of a flag in this program."""
    name, sign, value = word.partition("=")
    return name.replace("_", "-").lower() + sign + value if name.startswith("--") else word


def whole(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 1")
    return int(word)
