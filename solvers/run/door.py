"""What every program does around its work: one line and exit code 2 for the user's mistake, a traceback for a bug."""

import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from data.files import Refusal, first_line, printable
from ldm import plugins

MEMORY = "out of memory"
LOST = (
    "DataLoader worker",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
)  # what torch says of it
SILENT = (
    "Application timeout caused pair closure",
    "Timed out waiting",
    "Timed out after",
    "Connection timed out",
    "client socket has timed out",
    "wait timeout after",
    "No route to host",
    "Network is unreachable",
)  # what torch says where a process does not answer


def run(program: str, argv: Sequence[str], work: Callable[[], int | None], hint: str = "") -> int:
    """The exit code of `work`: what it returns, 2 for what the user can mend, 130 for Ctrl-C. A bug is raised as it is, one in a
    plug-in shown above its line.

    The user's are `Refusal`, `OSError` (files), exhausted memory, and a process of the run that was killed. `--traceback` among
    the arguments shows where in the program they came up. hint: what to do when memory is exhausted.
    """
    usual, warnings.formatwarning = warnings.formatwarning, _plain
    try:
        return work() or 0
    except Exception as error:
        reason = explained(error, hint)
        if not reason and (where := plugins.place(error)):
            plugins.show(error)
            reason = f"{type(error).__name__}: {first_line(error)} ({where})"
        if not reason:
            raise
        if "--traceback" in argv:
            traceback.print_exc()
        complain(program, reason)
        return 2
    except KeyboardInterrupt:
        complain(program, "stopped; the same command goes on from here")
        return 130
    finally:
        warnings.formatwarning = usual


def explained(error: BaseException, hint: str = "") -> str:
    """The one line for an error that is the user's to mend; "" if it is a bug."""
    if isinstance(error, Refusal):
        return _of_worker(str(error)) if str(error).startswith("Caught ") else first_line(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else first_line(error)
    if out_of_memory(error):
        return f"{MEMORY}{hint} ({first_line(error)})"
    if lost(error):
        return f"a process of this run was killed; is the memory full? ({first_line(error)})"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in SILENT):
        said = "another process of this run does not answer; does it hang, or is the network cut?"
        return f"{said} The same command goes on from here ({first_line(error)})"
    return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether the computer or the accelerator had too little memory; for the processor's torch raises a plain RuntimeError."""
    torch = sys.modules.get(
        "torch"
    )  # who did not import it has no error of its kind, and is not made to wait for it
    kinds = (MemoryError, torch.OutOfMemoryError) if torch else MemoryError
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def lost(error: BaseException) -> bool:
    """Whether another process of the run is gone."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in LOST)


def complain(program: str, reason: str) -> None:
    """One line on stderr, whatever a file's name holds."""
    print(f"{program}: {printable(reason)}", file=sys.stderr, flush=True)


def _plain(message: Warning | str, *where: object, **line: object) -> str:
    """A warning as the programs' other remarks: no line of source code."""
    return f"note: {printable(message)}\n"


def _of_worker(text: str) -> str:
    """The reason that a worker process of a loader gave: the last line of the traceback that torch puts around it."""
    return text.splitlines()[-1].partition("Refusal: ")[2]
