"""Killed where it hurts: in a validation, and in the middle of every file's write. Gone on with, all ends bit-equal."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from runs import arguments, data, same  # noqa: F401  data is a fixture

import main
from data import files
from ldm.training.diffusion import PixelDiffusion

pytestmark = pytest.mark.forks

MORE = (
    "--limit_val_batches",
    "2",
    "--val_check_interval",
    "2",
    "--log_every_n_steps",
    "1",
    "save_every=2",
    "--max_steps",
    "8",
)


def killed(function, count: int, matching=lambda *_: True, after: bool = False):
    """The function, which kills the process at its count-th call that matches, before it does anything or after."""
    calls = [0]

    def hooked(*arguments, **named):
        calls[0] += bool(matching(*arguments))
        now = calls[0] == count and matching(*arguments)
        if now and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return hooked


def of(name: str):
    """Whether a rename is to this file."""
    return lambda source, target: Path(target).name == name


class Cut:
    """A file that holds half of what it is given when the process is killed."""

    def __init__(self, file):
        self.file = file

    def write(self, content) -> int:
        self.file.write(bytes(content)[: len(content) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def __getattr__(self, name):
        return getattr(self.file, name)


def cut_at(count: int):
    """torch.save, which gets no further than half of its first write."""
    save, calls = torch.save, [0]

    def hooked(content, file):
        calls[0] += 1
        save(content, Cut(file) if calls[0] == count else file)

    return hooked


def points(patch):
    """Where the run is killed, one after the other; each starts from what the one before has left."""
    step, replace, fsync = PixelDiffusion.validation_step, os.replace, os.fsync
    return [
        lambda: patch(
            PixelDiffusion, "validation_step", killed(step, 2)
        ),  # in the first validation
        lambda: patch(
            files.os, "replace", killed(replace, 1, of("best.ckpt"))
        ),  # best.ckpt written, not renamed
        lambda: patch(files.os, "replace", killed(replace, 1, of("last.ckpt"), after=True)),
        lambda: patch(PixelDiffusion, "validation_step", killed(step, 1)),
        lambda: patch(files.os, "fsync", killed(fsync, 1)),
        lambda: patch(torch, "save", cut_at(2)),  # last.ckpt, in the middle of its content
        lambda: patch(files.os, "replace", killed(replace, 1, of("last.ckpt"))),
        lambda: None,
    ]


def child(words: list[str], hook) -> int:
    """The signal or exit code of a run in a process of its own, whose hook has been set."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            hook()
            code = main.main(words)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Of TensorBoard, by name and step, without speeds; what was logged twice must agree."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        events = EventAccumulator(str(path))
        events.Reload()
        for name in events.Tags()["scalars"]:
            if name.endswith("per second"):
                continue
            for event in events.Scalars(name):
                assert found.setdefault(name, {}).setdefault(event.step, event.value) == event.value
    return found


def test_killed_in_validations_and_in_writes_a_run_ends_as_if_nothing_had_been(
    data,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    words, folder = arguments(data, tmp_path, "pixel", *MORE), tmp_path / "p" / "pixel"
    assert child(words, lambda: None) == 0
    shutil.move(folder, tmp_path / "whole")
    *deadly, free = points(monkeypatch.setattr)
    for place, hook in enumerate(deadly):
        assert child(words, hook) == -signal.SIGKILL, place
    assert child(words, free) == 0
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (
            torch.load(f / "checkpoints" / name, weights_only=True)
            for f in (tmp_path / "whole", folder)
        )
        assert a.keys() == b.keys()
        assert [key for key in a if not same(a[key], b[key])] == []
    assert (folder / "config.yaml").read_bytes() == (tmp_path / "whole/config.yaml").read_bytes()
    assert scalars(folder) == scalars(tmp_path / "whole")
    left = {p.name for p in (folder / "checkpoints").iterdir() if not p.name.startswith(".")}
    assert left == {"last.ckpt", "best.ckpt"}
