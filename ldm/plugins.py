"""Modules of users' own, whose classes configuration files may name."""

import importlib
import os
import sys
import traceback

from data.files import Refusal, first_line

NAMES: set[str] = set()  # of the modules that were admitted


def admit(module: str) -> None:
    """Let targets come from a user's own module (`--plugin my_module`); it is imported, that is, executed.

    It is looked for in the working directory too, after the program's own and what is installed. Its errors are shown whole.
    The name of its file means it too.
    """
    module = module.removesuffix(".py")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        importlib.import_module(module)
    except Exception as error:  # the user's own code
        show(error)
        kind = "" if isinstance(error, (ImportError, SyntaxError)) else f"{type(error).__name__}: "
        raise Refusal(f"--plugin {module}: {kind}{first_line(error)}") from error
    NAMES.add(module.split(".")[0])


def place(error: BaseException) -> str:
    """The file and line of a user's own module that were running when an error came up; "" if none were."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).split(".")[0] in NAMES:
            found = f"{frame.f_code.co_filename}, line {line}"
    return found


def show(error: Exception) -> None:
    """Print the traceback of an error in a user's own code, from its first line on; nothing of a module that is not there."""
    machinery = (__file__, importlib.__file__, "<frozen importlib")
    place = error.__traceback__
    while place and place.tb_frame.f_code.co_filename.startswith(machinery):
        place = place.tb_next
    if place or isinstance(error, SyntaxError):
        traceback.print_exception(type(error), error, place)
