"""A full disk: the first failure ends the run, names the file and how much is missing; nothing is claimed that is not so."""

import errno
import os
from pathlib import Path

import pytest
import tiny
import torch

import sample
from data import files
from ldm.training.saving import AtomicSave, bytes_of
from solvers.run.module import Reconstruction

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture
def no_space(monkeypatch):
    """Whatever is written goes to a device that is always full."""

    def on_full(path: Path) -> Path:
        part = path.with_name(f".{path.name}.part")
        part.symlink_to("/dev/full")
        return part

    monkeypatch.setattr(files, "_part", on_full)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))


@needs_full
def test_what_is_missing_is_told(tmp_path: Path, no_space):
    with pytest.raises(
        files.Unwritable,
        match=r"a.bin: the disk is full, 2,345 bytes are missing \(No space left on device\)",
    ):
        files.commit(tmp_path / "a.bin", b"x" * 3345)
    assert list(tmp_path.iterdir()) == []


@needs_full
def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch):
    path = tmp_path / "records.jsonl"
    files.append(path, b'{"a": 1}\n')
    with pytest.raises(files.Unwritable, match="full: the disk is full, .* bytes are missing"):
        files.append(Path("/dev/full"), b'{"a": 1}\n')
    assert path.read_bytes() == b'{"a": 1}\n'


@needs_full
@pytest.mark.parametrize("before", [False, True])
def test_a_checkpoint_says_it_in_our_words(tmp_path: Path, no_space, before: bool):
    """Not in torch's (enforce fail at ...), and of a previous checkpoint only where there is one."""
    content = {
        "state_dict": {"a": torch.zeros(100_000)},
        "list": [torch.zeros(3), {"b": torch.zeros(2, dtype=torch.uint8)}],
    }
    path = tmp_path / "last.ckpt"
    if before:
        path.write_bytes(b"the one before")
    with pytest.raises(
        files.Unwritable, match=r"last.ckpt: the disk is full, 399,014 bytes are missing"
    ) as error:
        AtomicSave().save_checkpoint(content, path)
    assert bytes_of(content) == 400_014 and "enforce" not in str(error.value)
    assert ("previous checkpoint is intact" in str(error.value)) == before == path.exists()


def test_other_errors_of_a_save_are_bugs(tmp_path: Path):
    with pytest.raises((RuntimeError, AttributeError, TypeError)) as error:
        AtomicSave().save_checkpoint({"a": lambda: 0}, tmp_path / "last.ckpt")
    assert not isinstance(error.value, files.Refusal)


@pytest.mark.parametrize("name", ["recon/scan2.png", "records.jsonl", "panels/scan2.png"])
def test_the_first_failure_ends_a_run(tmp_path: Path, monkeypatch, capsys, name: str):
    """Two of five images are committed; the third cannot be, the others are not computed; with space again all are there."""
    world = tiny.world(tmp_path / "world")
    tiny.scans(world / "scans", 5)
    words = tiny.words(world, tmp_path / "out", "--batch-size", "1", solver="daps")
    write = os.fsync
    hits = [0]

    def fsync(handle: int) -> None:
        target = os.readlink(f"/proc/self/fd/{handle}")
        hits[0] += Path(name).name in target
        if (
            hits[0] >= (4 if name.endswith("jsonl") else 1)
            and Path(name).name in target
            and Path(name).parent.name in target
        ):
            raise FULL
        write(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    computed = []
    monkeypatch.setattr(Reconstruction, "restore", counted(Reconstruction.restore, computed))
    assert sample.main(words) == 2
    assert f"/{name}: the disk is full" in tiny.refusal(capsys)
    assert len(computed) == 3 and set(tiny.records(tmp_path / "out")) >= {"scan0", "scan1"}
    monkeypatch.setattr(files.os, "fsync", write)
    assert sample.main(words) == 0 and len(tiny.records(tmp_path / "out")) == 5


def counted(restore, computed: list):
    def counting(self, cell, scans, problem=None):
        computed.append(scans)
        return restore(self, cell, scans, problem)

    return counting
