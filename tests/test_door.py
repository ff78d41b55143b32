"""Exit codes: one line and 2 for what the user can mend, 130 for Ctrl-C, and a bug that looks like one."""

import sys
import warnings

import pytest
import torch

from data.files import Refusal
from solvers.run import door

IN_WORKER = "Caught Refusal in DataLoader worker process 0.\nOriginal Traceback:\n  File x\ndata.files.Refusal: a.png: no picture"
NO_MEMORY = (
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."
)


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "error, line",
    [
        (Refusal("--steps 0: from 1\nmore"), "p: --steps 0: from 1"),
        (Refusal("a\x1b[31m\u202e.png: broken"), r"p: a\x1b[31m\u202e.png: broken"),
        (Refusal(IN_WORKER), "p: a.png: no picture"),
        (
            FileNotFoundError(2, "No such file or directory", "x.csv"),
            "p: x.csv: No such file or directory",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            "p: out of memory; less (CUDA out of memory.)",
        ),
        (RuntimeError(NO_MEMORY), f"p: out of memory; less ({NO_MEMORY})"),
        (MemoryError(), "p: out of memory; less (MemoryError)"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "p: a process of this run was killed",
        ),
        (
            RuntimeError("[/gloo/pair.cc:1] Connection closed by peer [::1]:1"),
            "p: a process of this run was killed",
        ),
        (
            RuntimeError("Application timeout caused pair closure"),
            "p: another process of this run does not answer",
        ),
        (
            RuntimeError("Timed out after 9 seconds waiting for clients. 1/2 clients joined."),
            "p: another process of this run does not answer",
        ),
    ],
)
def test_one_line(capsys, error, line):
    assert door.run("p", [], raising(error), "; less") == 2
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1
    assert door.run("p", ["--traceback"], raising(error)) == 2
    assert "in work" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), KeyError("x"), RuntimeError("shapes"), TypeError("t")]
)
def test_a_bug_is_raised(error):
    with pytest.raises(type(error)):
        door.run("p", [], raising(error))


def test_what_is_done_and_what_is_stopped(capsys):
    assert door.run("p", [], lambda: None) == 0 and door.run("p", [], lambda: 1) == 1
    assert door.run("p", [], raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "p: stopped; the same command goes on from here\n"


def test_a_warning_is_one_line_without_source_code(capsys):
    def work():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = shown
            warnings.warn("colours \x1b[31m are gray", stacklevel=1)

    def shown(message, category, filename, lineno, file=None, line=None):
        """As Python does where no test listens."""
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    usual = warnings.formatwarning
    assert door.run("p", [], work) == 0
    assert capsys.readouterr().err == "note: colours \\x1b[31m are gray\n"
    assert warnings.formatwarning is usual
